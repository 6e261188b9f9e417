package deploy

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/releaseutil"

	"github.com/devloop/devloop/pkg/event"
)

func TestPlacesInErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"chart/values.yaml": "replicas: one\nimage:\n  tag: 1\n",
		"values.yaml": "a: 1\nimage: {tag: 2}\n"})
	want := &desired{Release: Release{Name: "demo", Chart: filepath.Join(dir, "chart"),
		ValuesFiles:  []string{filepath.Join(dir, "values.yaml")},
		InlineValues: map[string]any{"deep": map[string]any{"list": []any{"a"}}}, Set: map[string]any{`x.y\.z`: int64(1)},
		SetString: map[string]string{"x.s": "1"}}, name: "demo"}
	schema := func(lines ...string) error {
		return want.schemaErrors(errors.New("demo:\n" + strings.Join(lines, "\n") + "\n"))
	}
	for line, wantErr := range map[string]string{
		"- at '/replicas': got string, want integer": filepath.Join(dir, "chart/values.yaml") +
			":1:1: release demo: value replicas: got string",
		"- at '/image/tag': got number, want string": filepath.Join(dir, "values.yaml") +
			":2:9: release demo: value image.tag: got number",
		"- at '/x/y.z': got number":                      "release demo: value x.y.z: got number",
		"- at '/nothing': got number":                    "release demo: value nothing: got number",
		"sub:\n- at '/a': got number, want string":       "release demo: value sub.a: got number",
		"- at '/deep/list/0': got string, want a number": "release demo: value deep.list.0: got string",
	} {
		err := schema(line)
		if !strings.HasPrefix(err.Error(), wantErr) || event.Hint(err) == "" {
			t.Errorf("%s: %v", line, err)
		}
		if !errors.As(err, new(*ValueError)) { // the release is named again
			t.Errorf("%s: %T", line, err)
		}
	}
	for line, in := range map[string]string{"- at '/x/y.z': no": "set", "- at '/x/s': no": "setString",
		"- at '/deep/list/0': no": "inlineValues"} {
		var wrong *ValueError
		if err := schema(line); !errors.As(err, &wrong) || wrong.In != in {
			t.Errorf("%s is given by %v", line, err)
		}
	}
	for text, wantErr := range map[string]string{
		`template: demo/templates/a.yaml:3:14: executing "demo/templates/a.yaml" ` +
			`at <.Values.a.b>: nil pointer evaluating interface {}.b`: "templates/a.yaml:3:14: " +
			"at <.Values.a.b>: nil pointer evaluating interface {}.b",
		`parse error at (demo/templates/a.yaml:7): ` +
			`function "nope" not defined`: `templates/a.yaml:7: function "nope" not defined`,
		`execution error at (demo/templates/a.yaml:2:4): a is needed`: "templates/a.yaml:2:4: a is needed",
		`template: demo/templates/a.yaml:5:3: executing "demo/templates/a.yaml" at <include "x" .>: ` +
			`error calling include: template: demo/templates/_helpers.tpl:9:4: executing "x" ` +
			`at <.Values.b.c>: nil pointer evaluating interface {}.c`: "templates/_helpers.tpl:9:4: " +
			"at <.Values.b.c>: nil pointer evaluating interface {}.c",
	} {
		if got := want.inTemplate(errors.New(text)).Error(); got != filepath.Join(dir, "chart", wantErr) {
			t.Errorf("%s", got)
		}
	}
}

func TestObjectRenderedTwice(t *testing.T) {
	config := func(name, more string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n" + more
	}
	role := "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: a}\n"
	hook := "  annotations: {helm.sh/hook: pre-install}\n"
	for name, test := range map[string]struct {
		files   map[string]string // in templates
		wantErr string
	}{
		"two templates": {map[string]string{"a.yaml": config("a", ""), "a.bak.yaml": config("a", "data: {old: text}\n")},
			"configmap/a is both in /c/templates/a.bak.yaml and in /c/templates/a.yaml"},
		"one template": {map[string]string{"a.yaml": config("a", "") + "---\n" + config("a", "")},
			"configmap/a is twice in /c/templates/a.yaml"},
		"the release's namespace": {map[string]string{"a.yaml": config("a", "  namespace: demo\n"),
			"b.yaml": config("a", "")}, "configmap/a"},
		"another namespace": {map[string]string{"a.yaml": config("a", "  namespace: other\n"),
			"b.yaml": config("a", "  namespace: other\n")}, "configmap/a in namespace other is both in"},
		"in a list": {map[string]string{"a.yaml": config("a", ""), "list.yaml": "apiVersion: v1\nkind: List\nitems:\n" +
			"- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n"}, "/c/templates/list.yaml"},
		"two versions of a kind": {map[string]string{"a.yaml": role, "b.yaml": strings.Replace(role, "/v1", "/v1beta1", 1)},
			"role/a"},
		"two subcharts": {map[string]string{"../charts/x/templates/a.yaml": config("a", ""),
			"../charts/y/templates/a.yaml": config("a", "")}, "/c/charts/y/templates/a.yaml"},

		"other names":      {map[string]string{"a.yaml": config("a", ""), "b.yaml": config("b", "")}, ""},
		"other namespaces": {map[string]string{"a.yaml": config("a", ""), "b.yaml": config("a", "  namespace: other\n")}, ""},
		"other groups":     {map[string]string{"a.yaml": role, "b.yaml": strings.Replace(role, "rbac.", "other.", 1)}, ""},
		"names that the cluster makes": {map[string]string{"a.yaml": "apiVersion: batch/v1\nkind: Job\n" +
			"metadata: {generateName: a-}\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {generateName: a-}\n"}, ""},
		"hooks":              {map[string]string{"a.yaml": config("a", hook), "b.yaml": config("a", hook)}, ""},
		"a hook and no hook": {map[string]string{"a.yaml": config("a", hook), "b.yaml": config("a", "")}, ""},
		"nothing":            {map[string]string{"a.yaml": "# nothing\n", "b.yaml": "---\n---\n"}, ""},
	} {
		files := map[string]string{}
		for file, content := range test.files {
			files[path.Join("demo/templates", file)] = content
		}
		_, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
		if err != nil {
			t.Fatal(err)
		}
		want := &desired{Release: Release{Name: "web", Namespace: "demo", Chart: "/c"}}
		err = want.checkDuplicates(manifests)
		if test.wantErr == "" && err != nil || test.wantErr != "" &&
			(err == nil || !strings.Contains(err.Error(), test.wantErr) || event.Hint(err) == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
