package deploy

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

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
		if err := schema(line); !strings.HasPrefix(err.Error(), wantErr) || event.Hint(err) == "" {
			t.Errorf("%s: %v", line, err)
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
