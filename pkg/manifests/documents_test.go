package manifests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// parse returns the documents of a file called web.yaml, and what is wrong with it.
func parse(content string) (found []object, wrong string) {
	return parseFile("web.yaml", content)
}

func parseFile(name, content string) (found []object, wrong string) {
	var p problems
	found = p.parse(name, []byte(content))
	if err := p.asError(); err != nil {
		return found, err.Error()
	}
	return found, ""
}

func TestDocuments(t *testing.T) {
	a, b := manifest("a"), manifest("b")
	json := func(name string) string {
		return `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "` + name + `"}}`
	}
	for name, test := range map[string]struct {
		content string
		want    []string // file:line of each
	}{
		"one":                  {a, []string{"a 1"}},
		"two":                  {a + "---\n" + b, []string{"a 1", "b 6"}},
		"separators all round": {"---\n---\n" + a + "---\n\n---\n" + b + "---\n", []string{"a 3", "b 10"}},
		"comments":             {"# head\n---\n# nothing\n---\n# a\n" + a + "--- # the next\n" + b, []string{"a 5", "b 10"}},
		"spaces after ---":     {"---  \n" + a + "---\t\n" + b, []string{"a 2", "b 7"}},
		"on the line of ---": {"--- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n---\n" + b, []string{"a 1",
			"b 3"}},
		"end marks":            {a + "...\n" + b + "...\n---\n", []string{"a 1", "b 6"}},
		"directives":           {"%YAML 1.1\n---\n" + a, []string{"a 3"}},
		"no last line end":     {strings.TrimSpace(a), []string{"a 1"}},
		"byte order mark":      {"\ufeff" + a, []string{"a 1"}},
		"line ends of Windows": {strings.ReplaceAll("---\n"+a+"---\n"+b, "\n", "\r\n"), []string{"a 2", "b 7"}},
		"dashes in a text":     {a + "data:\n  x: |\n    ---\n    ... a\n---\n" + b, []string{"a 1", "b 10"}},
		"longer dashes":        {a + "data:\n  x: a\n#----\n", []string{"a 1"}},
		"nothing":              {"", []string{}},
		"null":                 {"null\n---\n~\n---\n" + a, []string{"a 5"}},
		"json":                 {json("a"), []string{"a 1"}},
		"json after json":      {json("a") + "\n" + json("b") + json("c"), []string{"a 1", "b 2", "c 2"}},
		"json with tabs": {"{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"X\", \"metadata\": {\"name\": \"a\"}\n}",
			[]string{"a 1"}},
		"flow style": {"{apiVersion: v1, kind: X, metadata: {name: a}}", []string{"a 1"}},
		"anchors": {"apiVersion: v1\nkind: X\nmetadata: &m\n  name: a\nspec:\n  x: *m\n  <<: *m\n  y: {<<: [*m]}\n",
			[]string{"a 1"}},
		"metadata merged": {"x: &m {metadata: {name: a}}\napiVersion: v1\nkind: X\n<<: *m\n", []string{"a 1"}},
		"list": {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: X\n  metadata: {name: a}\n" +
			"- {apiVersion: v1, kind: X, metadata: {name: b}}\n", []string{"a 4", "b 7"}},
		"list of a kind": {"apiVersion: v1\nkind: ConfigMapList\nitems:\n- " + strings.ReplaceAll(a, "\n", "\n  ") + "\n",
			[]string{"a 4"}},
		"list in a list": {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items:\n  - " +
			"{apiVersion: v1, kind: X, metadata: {name: a}}\n", []string{"a 7"}},
		"empty list":               {"apiVersion: v1\nkind: List\nitems: []\n---\napiVersion: v1\nkind: List\n", []string{}},
		"a kind that ends in List": {"apiVersion: a.b/v1\nkind: AllowList\nmetadata: {name: a}\n", []string{"a 1"}},
		"name and generateName":    {"apiVersion: v1\nkind: X\nmetadata: {name: a, generateName: b-}\n", []string{"a 1"}},
		"Flux's Kustomization": {"apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: a}\n",
			[]string{"a 1"}},
		"others' templates": {"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: a}\n" +
			"spec: {x: '{{ .Values }} {{ $labels.x }}'}\n", []string{"a 1"}},
		"a template in data": {a + "data: {x: '{{ .Values.x }}'}\n", []string{"a 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			found, wrong := parse(test.content)
			got := []string{}
			for _, o := range found {
				got = append(got, fmt.Sprint(o.id.name, " ", o.Line))
				if strings.Contains(o.Text, "\r") {
					t.Errorf("line ends: %q", o.Text)
				}
			}
			if wrong != "" || !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q; wrong: %s", got, test.want, wrong)
			}
		})
	}
}

func TestWhatIsWrongWithADocument(t *testing.T) {
	for name, test := range map[string]struct{ file, content, want string }{
		"a second document": {"", manifest("a") + "---\napiVersion: v1\nkind: X\nmetadata:\n  labels: {}\n",
			"web.yaml:9:3: X: metadata.name is missing"},
		"no apiVersion":   {"", "kind: X\nmetadata: {name: a}\n", "web.yaml:1:1: apiVersion is missing"},
		"no kind":         {"", "apiVersion: v1\nmetadata: {name: a}\n", "web.yaml:1:1: kind is missing"},
		"neither":         {"", "a: 1\n", "web.yaml:1:1: is no manifest: apiVersion and kind are missing"},
		"empty mapping":   {"", "{}\n", "web.yaml:1:1: is no manifest"},
		"no metadata":     {"", "apiVersion: v1\nkind: X\n", "web.yaml:1:1: X: metadata with a name is missing"},
		"kind is no text": {"", "apiVersion: v1\nkind: 5\n", "web.yaml:2:7: kind must be text, but is 5"},
		"a number as a name": {"", "apiVersion: v1\nkind: X\nmetadata:\n  name: 5\n",
			`web.yaml:4:9: metadata.name must be text, but is 5; write "5"`},
		"a name of YAML 1.1": {"", "apiVersion: v1\nkind: X\nmetadata:\n  name: no\n",
			`web.yaml:4:9: metadata.name must be text, but is no; write "no"`},
		"an empty name": {"", "apiVersion: v1\nkind: X\nmetadata:\n  name:\n",
			"web.yaml:4:8: metadata.name must be text, but is empty"},
		"generateName": {"", "apiVersion: v1\nkind: Job\nmetadata:\n  generateName: a-\n",
			"web.yaml:4:17: generateName: each run would make another Job"},
		"an annotation": {"", "apiVersion: v1\nkind: X\nmetadata: {name: a, annotations: {x: true}}\n",
			`web.yaml:3:38: metadata.annotations: x must be text, but is true; write "true"`},
		"in a list": {"", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: X\n  metadata: {generateName: a}\n",
			"web.yaml:6:28: generateName"},
		"an item that is no object": {"", "apiVersion: v1\nkind: List\nitems:\n- a\n",
			"web.yaml:4:3: must be an object with apiVersion and kind, but is text \"a\""},
		"items that are no list": {"", "apiVersion: v1\nkind: List\nitems: {a: b}\n",
			"web.yaml:3:8: items must be a list, but is a mapping"},
		"a key twice": {"",
			"apiVersion: v1\nkind: X\nmetadata:\n  name: a\nspec:\n  - a: 1\n    b: 2\n    a: 3\n",
			`web.yaml:8:5: "a" is here twice; first on line 6`},
		"a key twice in JSON": {"", "{\"apiVersion\": \"v1\",\n \"kind\": \"X\", \"kind\": \"Y\"}",
			`web.yaml:2:15: "kind" is here twice; first on line 2`},
		"a list": {"", "- a\n", "web.yaml:1:1: must be an object with apiVersion and kind, but is a list"},
		"text": {"", "hello\n",
			"web.yaml:1:1: must be an object with apiVersion and kind, but is text \"hello\""},
		"no YAML":          {"", manifest("a") + "---\na: b: c\n", "web.yaml:6: mapping values are not allowed"},
		"tabs":             {"", "---\na:\n\tb: c\n", "web.yaml:3: found character that cannot start any token"},
		"an unknown alias": {"", "a: *b\n", "web.yaml:1: unknown anchor 'b' referenced"},
		"UTF-16":           {"", "\xff\xfea\x00", "web.yaml: is not UTF-8 text; save it as UTF-8"},
		"Helm's template": {"", "apiVersion: v1\nkind: X\nmetadata:\n  name: {{ .Values.name }}\n",
			"web.yaml:4:9: {{ .Values.name }} is a template of a Helm chart; write chart:"},
		"Helm's block": {"", "{{- if .Values.x }}\napiVersion: v1\n{{- end }}\n",
			"web.yaml:1:1: {{- if .Values.x }} is a template of a Helm chart"},
		"Helm's template in quotes": {"",
			"apiVersion: apps/v1\nkind: X\nmetadata: {name: a}\nspec: {x: '{{ .Values.x }}'}\n",
			"web.yaml:4:11: \"{{ .Values.x }}\" is a template of a Helm chart"},
		"a kustomization": {"k8s/kustomization.yaml", "resources: [a.yaml]\n",
			"k8s/kustomization.yaml:1:1: is a kustomization, and no manifest; write kustomize: k8s instead of manifests"},
		"a kustomization of another name": {"k8s/k.yaml",
			"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n", "is a kustomization, and no manifest"},
		"a component": {"c/kustomization.yaml",
			"apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n", "is a component of a kustomization"},
		"a chart": {"web/Chart.yaml", "apiVersion: v2\nname: web\n",
			"web/Chart.yaml:1:1: describes a Helm chart, and is no manifest; write chart: web instead"},
		"values":         {"web/values-dev.yaml", "a: 1\n", "these are values of a Helm chart"},
		"a compose file": {"docker-compose.yml", "services: {}\n", "is a file of Docker Compose"},
		"a skaffold.yaml": {"skaffold.yaml", "apiVersion: skaffold/v2\nkind: Config\n",
			"is a configuration of skaffold, and no manifest"},
		"a devloop.yaml": {"devloop.yaml", "apiVersion: devloop/v1\nname: a\n",
			"is a configuration of devloop, and no manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.file == "" {
				test.file = "web.yaml"
			}
			_, wrong := parseFile(test.file, test.content)
			if !strings.Contains(wrong, test.want) || strings.Contains(wrong, "\n") {
				t.Errorf("%s\nwant %s", wrong, test.want)
			}
		})
	}
}

// Whatever a file holds: each of its documents is one, and can be read alone.
func FuzzDocuments(f *testing.F) {
	f.Add(manifest("a") + "---\n" + manifest("b"))
	f.Add("%YAML 1.2\r\n---\r\n{\"a\": 1}{\"b\":\n2}\n...\n--- |\n ---\n")
	f.Add("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: X, metadata: {name: &a b}}, *a]\n")
	f.Add("a: &a [b, *a]\n--- !!map\n? {a: b}\n: {{ .Values.x }}\n")
	f.Fuzz(func(t *testing.T, content string) {
		parts := split([]byte(content))
		last := 0
		for _, p := range parts {
			if p.line < last || p.line > strings.Count(content, "\n")+1 {
				t.Errorf("line %d after %d", p.line, last)
			}
			last = p.line
			if len(split([]byte(p.text))) != 1 && !strings.Contains(content, "\r") {
				t.Errorf("%q is not one document", p.text)
			}
		}
		found, _ := parse(content)
		for _, o := range found {
			again, wrong := parse(o.Text)
			if wrong != "" || len(again) != 1 || again[0].id != o.id {
				t.Errorf("%q is %v, then %v: %s", o.Text, o.id, again, wrong)
			}
		}
	})
}
