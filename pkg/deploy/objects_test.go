package deploy

import (
	"fmt"
	"testing"
)

func TestParse(t *testing.T) {
	objects, err := parseObjects(`
# Source: nothing here
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
- {apiVersion: v1, kind: Secret, metadata: {name: b, namespace: other}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: c}
spec: {ttlSecondsAfterFinished: 0}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: d}
spec: {volumeClaimTemplates: [{metadata: {name: data}}]}
`, "demo")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", objects)
	if got != "[configmap/a secret/b job/c statefulset/d]" || objects[0].namespace != "demo" ||
		objects[1].namespace != "other" || !objects[2].expires || objects[3].claims[0] != "data" {
		t.Error(got)
	}
}
