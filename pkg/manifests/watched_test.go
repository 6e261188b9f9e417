package manifests

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func names(documents []Document) (names []string) {
	for _, d := range documents {
		_, name, _ := strings.Cut(d.Text, "name: ")
		names = append(names, strings.TrimSpace(name))
	}
	return names
}

func TestPatterns(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"k8s/b.yaml", "k8s/a.yml", "k8s/c.json", "k8s/sub/d.yaml", "k8s/sub/deep/e.yaml",
		"k8s/.hidden.yaml", "k8s/.git/f.yaml", "k8s/a.yml~", "k8s/.b.yaml.swp", "k8s/#b.yaml#", "k8s/[x]/g.yaml",
		"other/h.yaml", "k8s/README.md", "k8s/i.yaml.bak"} {
		files[name] = manifest(strings.Trim(filepath.Base(name), ".#~"))
	}
	files["k8s/c.json"] = `{"apiVersion": "v1", "kind": "X", "metadata": {"name": "c"}}`
	folder := write(t, files)
	for _, test := range []struct {
		patterns []string
		want     string
	}{
		{[]string{"k8s/b.yaml"}, "b.yaml"},
		{[]string{"k8s/*.yaml"}, "b.yaml"},
		{[]string{"k8s/?.y*ml"}, "a.yml b.yaml"},
		{[]string{"k8s/[ab].*"}, "a.yml b.yaml"},
		{[]string{"k8s/**/*.yaml"}, "g.yaml b.yaml d.yaml e.yaml"},
		{[]string{"k8s/**/deep/*.yaml"}, "e.yaml"},
		{[]string{"k8s/**/e.yaml"}, "e.yaml"},
		{[]string{"**/h.yaml"}, "h.yaml"},
		{[]string{"*/h.yaml"}, "h.yaml"},
		{[]string{"k8s/s*"}, "d.yaml e.yaml"},
		{[]string{"k8s/sub/**"}, "d.yaml e.yaml"},
		{[]string{"k8s/[x]"}, "g.yaml"},
		{[]string{"./k8s/sub/../b.yaml"}, "b.yaml"},
		{[]string{"other", "k8s/b.yaml", "k8s/*.yaml", "other/"}, "h.yaml b.yaml"},
		{[]string{"k8s/sub", "other/*"}, "d.yaml e.yaml h.yaml"},
		{[]string{filepath.Join(folder, "other")}, "h.yaml"},
		{[]string{"k8s/README.md"}, "README.md"}, // named one by one, it is one
		{[]string{"k8s/.hidden.yaml"}, "hidden.yaml"},
		{[]string{"k8s/.h*.yaml"}, "hidden.yaml"},
	} {
		documents, _, err := Source{Folder: folder, Patterns: test.patterns}.Read(t.Context())
		if got := strings.Join(names(documents), " "); err != nil || got != test.want {
			t.Errorf("%q: %q, want %q (%v)", test.patterns, got, test.want, err)
		}
	}
	documents, _, err := Source{Folder: folder, Patterns: []string{"k8s"}}.Read(t.Context())
	if got := len(documents); err != nil || got != 6 {
		t.Errorf("the folder has %q (%v)", names(documents), err)
	}
	for pattern, want := range map[string]string{
		"k8s/*.yml.x":   `manifests "k8s/*.yml.x": no file matches in k8s`,
		"k8/*.yaml":     `manifests "k8/*.yaml": no file matches in .`,
		"k8s/none.yaml": `manifests "k8s/none.yaml": no file matches in k8s`,
		"k8s/.git":      "", // named one by one
		"k8s/[":         "syntax error in pattern",
	} {
		_, read, err := Source{Folder: folder, Patterns: []string{pattern}}.Read(t.Context())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, read %q", pattern, err, read)
		}
	}
}

func TestLinks(t *testing.T) {
	folder := write(t, map[string]string{"k8s/a.yaml": manifest("a"), "real/b.yaml": manifest("b")})
	for link, to := range map[string]string{"k8s/link": "../real", "k8s/round": ".", "k8s/again.yaml": "a.yaml"} {
		if err := os.Symlink(to, filepath.Join(folder, link)); err != nil {
			t.Fatal(err)
		}
	}
	documents, _, err := Source{Folder: folder, Patterns: []string{"k8s"}}.Read(t.Context())
	if got := strings.Join(names(documents), " "); err != nil || got != "a b" {
		t.Errorf("%q (%v)", got, err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(folder, "k8s/zero.yaml")); err != nil {
		t.Fatal(err)
	}
	_, _, err = Source{Folder: folder, Patterns: []string{"k8s"}}.Read(t.Context())
	if err == nil || !strings.Contains(err.Error(), "manifest k8s/zero.yaml: it is a device") {
		t.Errorf("a device: %v", err)
	}
}

func TestTheSameObject(t *testing.T) {
	folder := write(t, map[string]string{"a.yaml": manifest("a"), "b.yaml": "# again\n" + manifest("a"),
		"c.yaml": manifest("a") + "data: {x: y}\n"})
	documents, _, err := Source{Folder: folder, Patterns: []string{"a.yaml", "b.yaml"}}.Read(t.Context())
	if err != nil || len(documents) != 1 {
		t.Errorf("%v (%v)", documents, err)
	}
	_, _, err = Source{Folder: folder, Patterns: []string{"*.yaml"}}.Read(t.Context())
	if want := "c.yaml:1: ConfigMap a is in a.yaml:1 already, with other content"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestWatched(t *testing.T) {
	folder := write(t, map[string]string{"k8s/a.yaml": ""})
	for pattern, want := range map[string][]string{
		"k8s/a.yaml":      {"k8s/a.yaml"},
		"k8s/none.yaml":   {"k8s/none.yaml"},
		"k8s/*.yaml":      {"k8s/*.yaml"},
		"none/**/*.yaml":  {"none/**/*.yaml"},
		"k8s/":            {"k8s/**/*.yaml", "k8s/**/*.yml", "k8s/**/*.json"},
		"../x/../k8s/a.*": {"../k8s/a.*"},
	} {
		for i := range want {
			want[i] = filepath.Join(folder, want[i])
		}
		if got := (Source{Folder: folder, Patterns: []string{pattern}}).Watched(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
}
