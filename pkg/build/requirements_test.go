package build

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// A requirements file that is copied without what it includes: pip does not find that.
func TestLostIncludes(t *testing.T) {
	folder := t.TempDir()
	for name, content := range map[string]string{
		"requirements.txt": "-r base.txt # the base\n  -c pins.txt\n-r https://host/r.txt\n-r /etc/r.txt\nsix\n",
		"base.txt":         "--requirement=sub/more.txt\n", "pins.txt": "", "sub/more.txt": "-r ../none.txt\n",
		"plain.txt": "six\n",
	} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
			os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	const install, all = "\nRUN pip install -r /requirements.txt", "requirements.txt base.txt pins.txt "
	const copied, both = "\nCOPY requirements.txt /", "base.txt pins.txt"
	for _, test := range []struct {
		dockerfile string
		want       string // the missing files
	}{
		{"FROM python\nCOPY requirements.txt /" + install, "base.txt pins.txt"},
		{"FROM python\nCOPY ./requirements.txt base.txt /\nADD pins.txt /" + install, "sub/more.txt"},
		{"FROM python\nCOPY " + all + "sub/more.txt /" + install, "none.txt"},
		{"FROM python\nCOPY . /" + install, ""},
		{"FROM python\nCOPY *.txt sub /" + install, ""},
		{"FROM python\nCOPY requirements.txt $MORE /" + install, ""},
		{"FROM python\nCOPY plain.txt /\nRUN pip install -r plain.txt", ""},
		{"FROM python\nCOPY requirements.txt /\nRUN grep six /requirements.txt", ""},
		{"FROM python\nCOPY requirements.txt /\nRUN pip install six", ""},
		{"FROM python" + install, ""},
		{"FROM python AS Base\nCOPY base.txt pins.txt sub/more.txt none.txt /\nFROM base" + copied + install, ""},
		{"FROM python AS other\nCOPY base.txt pins.txt /\nFROM python" + copied + install, both},
		{"FROM python\nRUN --mount=type=bind,source=requirements.txt,target=/r.txt pip install -r /r.txt", both},
		{"FROM python\nCOPY --from=x requirements.txt /" + install, ""},
		{"FROM python AS Stable" + copied + "\nFROM python\nCOPY --from=stable /requirements.txt /" + install, both},
		{"FROM python AS a\nCOPY " + all + "sub /\nFROM python\nCOPY --from=a / /" + install + copied + install, ""},
		{"FROM python" + copied + "\nRUN <<EOF\nset -e\nuv pip install -r requirements.txt\nEOF", both},
	} {
		var got []string
		for _, include := range missingIncludes([]byte(test.dockerfile), folder) {
			got = append(got, include.missing)
		}
		if !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("%s\nlost %q", test.dockerfile, got)
		}
	}

	// The failed build names the missing COPY, if that is what failed.
	dockerfile := filepath.Join(folder, "Dockerfile.worker")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(dockerfile, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	explain := func(output string) error {
		p := newProgress(event.Stage{}, Input{Image: Image{Name: "a", Dockerfile: dockerfile, Context: folder}}, nil)
		p.failed = &step{name: "RUN pip", tail: []byte(output)}
		return p.explain(errors.New("exit code: 1"), hostDocker)
	}
	write("FROM python\nCOPY requirements.txt /" + install)
	const pip = "ERROR: Could not open requirements file: [Errno 2] No such file or directory: '/base.txt'\n"
	const uv = "error: Error parsing included file in `/requirements.txt` at position 0\n" +
		"  cause: failed to read from file `/base.txt`: No such file or directory (os error 2)\n"
	for _, output := range []string{pip, uv} {
		if got, want := event.Hint(explain(output)), "Dockerfile.worker:3: requirements.txt is copied, but not base.txt, "+
			"which it includes: COPY base.txt as well"; got != want {
			t.Errorf("%s: %s", output, got)
		}
	}
	if hint := event.Hint(explain("ERROR: No matching distribution found for six")); strings.Contains(hint, "COPY") {
		t.Error(hint)
	}
	write("FROM python\nCOPY " + all + "sub/more.txt /" + install)
	if got, want := event.Hint(explain(strings.ReplaceAll(pip, "base", "none"))), "Dockerfile.worker:3: "+
		"sub/more.txt includes none.txt, which is not in the build context: make it"; got != want {
		t.Error(got)
	}
}
