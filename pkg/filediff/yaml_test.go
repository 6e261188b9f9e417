package filediff

import (
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestYAML(t *testing.T) {
	const objects = "kind: Service\nmetadata: {name: web}\nspec: {port: 1}\n---\n" +
		"kind: Deployment\nmetadata: {name: web}\nspec: {replicas: 1}\n"
	for _, test := range []struct{ name, before, after, want string }{
		{"changed", "a: {b: {c: 1}}\n", "a:\n  b:\n    c: 2\n", "~ a.b.c"},
		{"added, and not each of its values", "a: {}\n", "a: {b: {c: 1, d: 2}}\n", "+ a.b"},
		{"removed", "a: 1\nb: 2\n", "b: 2\n", "- a"},
		{"the order of the file, then what is gone", "a: 1\nz: 1\n", "z: 2\nb: 1\n", "~ z, + b, - a"},
		{"moved", "a: 1\nb: 2\n", "b: 2\na: 1\n", ""},
		{"a comment", "a: 1\n", "# b\na: 1 # c\n", ""},
		{"written in another way", "a: 'b'\nc: [1, 2]\n", "a: b\nc:\n- 1\n- 2\n", ""},
		{"a number that becomes text", "a: 1\n", "a: '1'\n", "~ a"},
		{"a value that becomes a mapping", "a: 1\n", "a: {b: 1}\n", "~ a"},
		{"from nothing", "", "a: 1\nb: {c: 2}\n", "+ a, + b"},
		{"to nothing but a comment", "a: 1\n", "# a: 1\n", "- a"},
		{"a key with dots", "m: {}\n", "m: {app.kubernetes.io/name: web}\n", `+ m.app\.kubernetes\.io/name`},
		{"an item by its place", "a: [x, y]\n", "a: [x, z]\n", "~ a[1]"},
		{"an item more in front", "a: [x, y]\n", "a: [w, x, y]\n", "+ a[0]"},
		{"an item less", "a: [x, y, z]\n", "a: [x, z]\n", "- a[1]"},
		{"lists of lists", "a: [[1], [2, 3]]\n", "a: [[1], [2, 4]]\n", "~ a[1][1]"},
		{"an item by its name", "env: [{name: A, value: 1}, {name: B, value: 2}]\n",
			"env: [{name: B, value: 3}, {name: C, value: 2}]\n", "~ env[B].value, + env[C], - env[A]"},
		{"items of the same name", "env: [{name: A, value: 1}, {name: A, value: 2}]\n",
			"env: [{name: A, value: 1}, {name: A, value: 3}]\n", "~ env[1].value"},
		{"the first item", "a: []\n", "a: [{name: b}]\n", "+ a[b]"},
		{"all of it", "[1]\n", "a: 1\n", ""},
		{"a list", "- 1\n", "- 2\n", "~ [0]"},
		{"an anchor, and not its aliases", "a: &x {b: 1}\nc: *x\nd: *x\n", "a: &x {b: 2}\nc: *x\nd: *x\n", "~ a.b"},
		{"another alias", "a: &x 1\nb: &y 2\nc: *x\n", "a: &x 1\nb: &y 2\nc: *y\n", "~ c"},
		{"an alias of itself", "a: &x [*x]\n", "a: &x [*x, 1]\n", "+ a[1]"},
		{"objects", objects, strings.Replace(objects, "replicas: 1", "replicas: 2", 1), "~ Deployment/web spec.replicas"},
		{"an object more", "kind: Service\nmetadata: {name: web}\nspec: {port: 1}\n", objects, "+ Deployment/web"},
		{"documents", "a: 1\n---\nb: 1\n", "a: 1\n---\nb: 2\n---\nc: 1\n", "~ document 2 b, + document 3"},
		{"empty documents", "---\na: 1\n---\n", "a: 2\n", "~ a"},
		{"invalid", "a: 1\n", "a: [\n", ""},
		{"invalid before", "a: [\n", "a: 1\n", ""},
		{"a template", "a: {{ .Values.a }}\n{{- if .b }}\n", "a: {{ .Values.c }}\n{{- if .b }}\n", ""},
		{"what a terminal obeys", "a: 1\n", "a: 1\n\"\\e[2Jb\\u202e\": 1\n", `+ b\u202e`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := text(yamlChanges([]byte(test.before), []byte(test.after))); got != test.want {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
}

func TestNoValueOfYAMLIsShown(t *testing.T) {
	for _, c := range yamlChanges([]byte("a: {password: hunter1, list: [hunter1]}"),
		[]byte("a: {password: hunter2, list: [hunter2], more: hunter3}")) {
		if c.Before != "" || c.After != "" || strings.Contains(c.Name, "hunter") {
			t.Errorf("%#v", c)
		}
	}
}

func TestDeepYAMLTakesNoTime(t *testing.T) {
	deep := func(value string) []byte {
		return []byte(strings.Repeat("[", 9000) + value + strings.Repeat("]", 9000))
	}
	if got := yamlChanges(deep("1"), deep("2")); len(got) != 1 || got[0].Change != event.Changed {
		t.Errorf("%v", got)
	}
}

func FuzzYAML(f *testing.F) {
	f.Add("a: {b: [1, {name: c}]}\n", "a: &x {b: [2, *x]}\n---\nkind: A\nmetadata: {name: b}\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		if changes := yamlChanges([]byte(before), []byte(before)); len(changes) > 0 {
			t.Errorf("a text differs from itself: %v", changes)
		}
		for _, c := range yamlChanges([]byte(before), []byte(after)) {
			if c.Name == "" || c.Before != "" || c.After != "" || event.Printable(c.Name) != c.Name {
				t.Errorf("%#v", c)
			}
		}
	})
}
