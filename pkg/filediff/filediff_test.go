package filediff

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// project is files in a folder, and what follows them.
type project struct {
	*Tracker
	dir string
}

func newProject(t *testing.T, contents map[string]string) *project {
	t.Helper()
	p := &project{&Tracker{}, t.TempDir()}
	for name, text := range contents {
		p.write(t, name, text)
	}
	return p
}

func (p *project) at(name string) string { return filepath.Join(p.dir, name) }

func (p *project) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.at(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.at(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run reads files and folders, as a run does.
func (p *project) run(t *testing.T, names ...string) {
	t.Helper()
	var paths []watch.Path
	for _, name := range names {
		paths = append(paths, watch.Path{Name: p.at(name), Base: p.dir, Exclude: []string{"ignored"}})
	}
	p.Read(t.Context(), paths)
}

// expect compares what changed, as text, when files were saved.
func (p *project) expect(t *testing.T, want string, saved ...string) {
	t.Helper()
	for i := range saved {
		saved[i] = p.at(saved[i])
	}
	var all []string
	for _, c := range p.Changes(saved) {
		all = append(all, c.String())
	}
	if got := strings.Join(all, " | "); got != want {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestWhatARunBrings(t *testing.T) {
	p := newProject(t, map[string]string{
		"requirements.txt": "dask==2\n", "values.yaml": "a: 1\n", "Dockerfile": "FROM a\n",
	})
	run := func() { p.run(t, "Dockerfile", "requirements.txt", "values.yaml") }
	p.expect(t, "")
	p.expect(t, "requirements.txt", "requirements.txt") // nothing is known of it
	run()
	p.write(t, "requirements.txt", "dask==3\n")
	p.expect(t, "requirements.txt  ~ dask 2 → 3", "requirements.txt") // no run has succeeded
	run()
	p.Succeeded()
	p.expect(t, "")
	p.expect(t, "requirements.txt", "requirements.txt")

	p.write(t, "requirements.txt", "dask==3\ntabulate==0.9.0\n")
	p.expect(t, "requirements.txt  + tabulate 0.9.0 | Dockerfile", "Dockerfile", "requirements.txt")
	run() // is superseded, or fails
	p.write(t, "values.yaml", "a: 2\n")
	p.expect(t, "values.yaml  ~ a | requirements.txt  + tabulate 0.9.0", "values.yaml")
	p.expect(t, "requirements.txt  + tabulate 0.9.0 | values.yaml  ~ a") // a retry, or a key
	p.write(t, "values.yaml", "a: 1\n")
	p.expect(t, "requirements.txt  + tabulate 0.9.0 | values.yaml", "values.yaml")
	run()
	p.Succeeded()
	p.expect(t, "")

	if err := os.Remove(p.at("requirements.txt")); err != nil {
		t.Fatal(err)
	}
	p.expect(t, "requirements.txt  - dask 3, - tabulate 0.9.0", "requirements.txt")
}

func TestWhichFilesAreUnderstood(t *testing.T) {
	const before, after = "dask==2\n", "dask==3\n"
	for name, understood := range map[string]bool{
		"requirements.txt": true, "dev-requirements.txt": true, "requirements-dev.in": true, "constraints.txt": true,
		"requirements/base.txt": true, "src/deep/requirements.txt": true, "deps.txt": true,
		"app.py": false, "src/words.txt": false, "ignored/requirements.txt": false, ".git/requirements.txt": false,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, map[string]string{name: before})
			read := strings.Split(name, "/")[0]
			if strings.HasPrefix(read, ".") || read == "ignored" {
				read = ""
			}
			p.run(t, read)
			p.write(t, name, after)
			want := filepath.Base(name)
			if understood {
				want += "  ~ dask 2 → 3"
			} else if read == "" {
				want += "  + dask 3" // it has not been read
			}
			p.expect(t, want, name)
		})
	}
}

func TestTextsThatAreNoRequirements(t *testing.T) {
	for _, before := range []string{"a b c\n", "dask\n", "hunter2\n", "aHVudGVyMg==\n", "key = value\n", "kind: Pod\n"} {
		p := newProject(t, map[string]string{"notes.txt": before})
		p.run(t, "notes.txt")
		p.write(t, "notes.txt", before+"x==1\n")
		p.expect(t, "notes.txt", "notes.txt")
	}
}

func TestANewFile(t *testing.T) {
	p := newProject(t, map[string]string{"Dockerfile": ""})
	p.run(t, "")
	p.write(t, "requirements.txt", "a\nb\nc\nd\ne\nf\ng\n")
	p.expect(t, "requirements.txt  + a, + b, + c, + d, + e, … 2 more", "requirements.txt")
	p.run(t, "") // fails
	p.expect(t, "requirements.txt  + a, + b, + c, + d, + e, … 2 more")
}

func TestFilesOfTheSameName(t *testing.T) {
	p := newProject(t, map[string]string{"a/values.yaml": "x: 1", "b/values.yaml": "x: 1", "c/values.yaml": "x: 1"})
	p.run(t, "a/values.yaml", "b/values.yaml", "c")
	p.write(t, "a/values.yaml", "x: 2")
	p.write(t, "b/values.yaml", "y: 1")
	p.expect(t, "a/values.yaml  ~ x | b/values.yaml  + y, - x", "a/values.yaml", "b/values.yaml")
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Run("size", func(t *testing.T) {
		p := newProject(t, map[string]string{"values.yaml": "a: " + strings.Repeat("b", maxFile)})
		p.run(t, "values.yaml")
		p.write(t, "values.yaml", "a: b\n")
		p.expect(t, "values.yaml", "values.yaml")
	})
	t.Run("number", func(t *testing.T) {
		contents := map[string]string{}
		for i := range maxFiles + 1 {
			contents[fmt.Sprintf("%03d.yaml", i)] = "a: 1\n"
		}
		p := newProject(t, contents)
		p.run(t, "")
		p.write(t, "000.yaml", "a: 2\n")
		p.write(t, "200.yaml", "a: 2\n")
		p.expect(t, "000.yaml  ~ a | 200.yaml", "000.yaml", "200.yaml")
	})
	t.Run("compared", func(t *testing.T) { // another branch may change all files, and the run waits for this
		const size = maxCompared / 5
		contents := map[string]string{}
		for i := range 50 {
			contents[fmt.Sprintf("%02d.yaml", i)] = "b: " + strings.Repeat("x", size) + "\na: 1\n"
		}
		p := newProject(t, contents)
		p.run(t, "")
		var all []string
		for i := range 50 {
			all = append(all, fmt.Sprintf("%02d.yaml", i))
			p.write(t, all[i], "b: "+strings.Repeat("x", size)+"\na: 2\n")
		}
		p.expect(t, "00.yaml  ~ a | 01.yaml  ~ a | 02.yaml | 03.yaml | 04.yaml", all...)
	})
	t.Run("shown files", func(t *testing.T) {
		p := newProject(t, nil)
		if got := len(p.Changes([]string{"/a", "/b", "/c", "/d", "/e", "/f"})); got != shownFiles {
			t.Errorf("%d files", got)
		}
	})
	t.Run("kind", func(t *testing.T) {
		p := newProject(t, nil)
		if err := syscall.Mkfifo(p.at("requirements.txt"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.run(t, "", "requirements.txt")
		p.expect(t, "requirements.txt", "requirements.txt")
	})
}

func TestSecretsOfAFileAreHidden(t *testing.T) {
	p := newProject(t, map[string]string{"requirements.txt": ""})
	p.run(t, "requirements.txt")
	p.write(t, "requirements.txt", "a @ https://user:hunter2@host.example/a.whl?token=hunter3\nb==hunter4\n")
	var secrets event.Secrets
	secrets.Hide("hunter4")
	secrets.Filter(func(e event.Event) {
		line, err := e.MarshalJSON()
		if err != nil || strings.Contains(string(line), "hunter") || !strings.Contains(string(line), "host.example") {
			t.Errorf("%s %v", line, err)
		}
	}).Stage("loop").Detail(event.RunStarts, event.RunStart{Changes: p.Changes([]string{p.at("requirements.txt")})})
}
