{{- define "part" }}
text: {{ .Values.no.such.value }}
{{- end }}
