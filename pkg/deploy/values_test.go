package deploy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/devloop/devloop/pkg/files"
)

func TestSecretValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file,
		[]byte("auth: { password: from-file, pin: 12345678, on: true }\nlist: [{ token: first }, { token: second }]\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	r := Release{Name: "web", Namespace: "ns", ValuesFiles: []string{file}, Set: map[string]any{"auth.user": "from-set"},
		SecretValues: []string{"auth", "list[1].token", "nowhere.at.all"}}
	got, err := SecretValues(r)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"1.2345678e+07", "12345678", "from-file", "from-set", "second"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	if none, err := SecretValues(Release{ValuesFiles: []string{"not there"}}); none != nil || err != nil {
		t.Errorf("without any: %q, %v", none, err)
	}
	r.ValuesFiles = []string{file + ".not"}
	if _, err := SecretValues(r); err == nil {
		t.Error("a file that is not there is no error")
	}

	var hidden []string
	d := &Deployer{options: Options{Secret: func(values ...string) { hidden = append(hidden, values...) }}}
	err = d.hideValues(r, map[string]any{"auth": map[string]any{"password": "of the chart"},
		"list": []any{nil, map[string]any{"token": "x"}}})
	var wrong *ValueError
	if !errors.As(err, &wrong) || wrong.In != "secretValues[2]" || wrong.Release != "web" ||
		!slices.Equal(hidden, []string{"of the chart", "x"}) {
		t.Errorf("%v, %q", err, hidden)
	}
}

func TestValues(t *testing.T) {
	want, values := read(t, "v1.34.3", map[string]string{"a.yaml": "a: 1\nb: {c: 2, d: 3}\n", "b.yaml": "b: {c: 4}\n"},
		Release{
			InlineValues: map[string]any{"b": map[string]any{"d": int64(1000680000), "g": "inline"}, "drop": nil},
			Set: map[string]any{
				"b.e":          1000680000,
				"b.f":          "8",
				`labels.x\.y`:  "a,b=c",
				"list[0].name": "first",
				"on":           true,
				"half":         0.5,
				"gone":         nil,
			},
			SetString: map[string]string{"number": "007"},
		})
	if got := fmt.Sprintf("%T %v %v", values["b"].(map[string]any)["e"], values, want.inputs != ""); got !=
		"int64 map[a:1 b:map[c:4 d:1000680000 e:1000680000 f:8 g:inline] drop:<nil> gone:<nil> half:0.5 "+
			"labels:map[x.y:a,b=c] list:[map[name:first]] number:007 on:true] true" {
		t.Error(got)
	}
}

func TestValuesFilesOfAnything(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "large"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]error{filepath.Join(dir, "pipe"): files.ErrNotRegular,
		"/dev/zero": files.ErrNotRegular, filepath.Join(dir, "large"): files.ErrTooLarge} {
		err := inTime(t, func() error {
			position(file, []string{"a"})
			_, err := merge(Release{ValuesFiles: []string{file}})
			return err
		})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
	folder := chartFolder(t, nil)
	if err := syscall.Mkfifo(filepath.Join(folder, "Chart.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := inTime(t, func() error { (Release{Chart: folder}).Files(); return nil }); err != nil {
		t.Error(err)
	}
}

func TestOnlySomeProblemsOfValuesAreReported(t *testing.T) {
	var failure strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&failure, "- at '/a/%d': got string, want integer\n", i)
	}
	want := &desired{Release: Release{Name: "web"}}
	lines := strings.Split(want.schemaErrors(errors.New(failure.String())).Error(), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "release web: and 199950 more" ||
		!slices.Contains(lines, "release web: value a.49: got string, want integer") {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}
