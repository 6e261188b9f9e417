package build

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// syncSample is a random project with sync rules, on disk.
type syncSample struct {
	*rand.Rand
	t     *testing.T
	image Image
	count int
}

func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// folder is one of few, so that copies meet.
func (p *syncSample) folder() string {
	return pick(p.Rand, "src", "src", "src/a", "src/b", "src/a/c", "conf", "conf/a", "conf/b/c")
}

func (p *syncSample) file() string {
	return path.Join(p.folder(), pick(p.Rand, "", "", "", "new"), pick(p.Rand, "x.py", "y.py", "z.txt", "run"))
}

func (p *syncSample) write(name string) error {
	p.count++
	full := filepath.Join(p.image.Context, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	_ = os.Remove(full) // a link
	if p.IntN(10) == 0 && path.Base(name) != "keep" {
		return os.Symlink(pick(p.Rand, "keep", "../keep", "/src/keep"), full)
	}
	err := os.WriteFile(full, fmt.Appendln(nil, p.count), 0o600)
	return errors.Join(err, os.Chmod(full, pick[fs.FileMode](p.Rand, 0o644, 0o644, 0o755, 0o600)))
}

func (p *syncSample) line() string {
	flags := pick(p.Rand, "COPY", "COPY", "ADD", "COPY --chown=7:8", "ADD --chmod=750", "COPY --link",
		"COPY --exclude=**/c", "COPY --exclude=*.txt", "COPY --parents", "COPY --chmod=u=rwX,go=", "COPY --link --chown=9")
	sources := ""
	for range pick(p.Rand, 1, 1, 1, 2) {
		sources += " " + p.folder() + pick(p.Rand, "", "", "/", "/.", "/*", "/*.py", "/?.*", "/keep")
	}
	return flags + sources + " " + pick(p.Rand, "/app/", "/app/", "/app/a/", "/srv/", "./", "/app/src/", "/app/keep/")
}

func newSyncSample(t *testing.T, seed uint64) *syncSample {
	dir := t.TempDir()
	p := &syncSample{Rand: rand.New(rand.NewPCG(seed, 1)), t: t, image: Image{Name: "worker", Context: dir,
		Dockerfile: filepath.Join(dir, "Dockerfile")}}
	for range 30 {
		if err := errors.Join(p.write(p.file()), p.write(p.folder()+"/keep")); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	stages := 1 + p.IntN(3)
	for i := range stages {
		lines = append(lines, fmt.Sprintf("FROM %s AS s%d", pick(p.Rand, "scratch", fmt.Sprintf("s%d", i-1)), i))
		if i == 0 {
			lines[0] = "FROM scratch AS s0"
		}
		for range 1 + p.IntN(4) {
			lines = append(lines, p.line())
		}
		if p.IntN(3) == 0 {
			lines = append(lines, "WORKDIR /app/"+pick(p.Rand, "", "a", "n"))
		}
		if i > 0 && p.IntN(2) == 0 {
			lines = append(lines, fmt.Sprintf("COPY --from=s%d %s %s", p.IntN(i), pick(p.Rand, "/app*", "/app/*", "/srv*", "/"),
				pick(p.Rand, "/opt", "/app/", "/app/b/")))
		}
	}
	for range 1 + p.IntN(2) {
		from := pick(p.Rand, "src", "**/*.py", "src/**/*.py", "src/*", "src/a/*.py", "conf/", "**", "*/c/*", "src/x.py")
		p.image.Sync = append(p.image.Sync, SyncRule{From: from})
	}
	text := strings.Join(lines, "\n") + "\n"
	if err := errors.Join(os.WriteFile(p.image.Dockerfile, []byte(text), 0o644),
		os.WriteFile(p.image.Dockerfile+".dockerignore", []byte("Dockerfile*\n**/run\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %q\n%s", seed, p.image.Sync, text)
	return p
}

// change edits, adds, removes or renames a file.
func (p *syncSample) change() string {
	name := p.file()
	full := filepath.Join(p.image.Context, name)
	switch p.IntN(5) {
	case 0:
		return fmt.Sprint("remove ", name, os.Remove(full))
	case 1:
		dir := pick(p.Rand, path.Dir(name), path.Dir(name)+"/new")
		return fmt.Sprint("remove all of ", dir, os.RemoveAll(filepath.Join(p.image.Context, dir)))
	case 2:
		to := p.file()
		return fmt.Sprint("rename ", name, " to ", to, os.Rename(full, filepath.Join(p.image.Context, to)))
	default:
		return fmt.Sprint("write ", name, p.write(name))
	}
}

// TestSyncedAgrees: in random projects, the synced files are in the image as a build puts them
// there. After a change that leaves Rest as it was, syncing makes of the old image the new one.
func TestSyncedAgrees(t *testing.T) {
	same, other := 0, 0
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			p := newSyncSample(t, seed)
			var last *Synced
			var lastState map[string]string
			for range 4 {
				root, broken := assemble(t, p.image)
				input, err := newSyncBuilder(t).Hash(t.Context(), p.image)
				if broken != nil || err != nil {
					t.Logf("build: %v; sync: %v", broken, err)
				} else {
					compare(t, input.Synced.Files, root)
					state := imageState(t, root)
					if last != nil && last.Rest == input.Synced.Rest {
						same++
						syncState(lastState, last, input.Synced, root)
						if !maps.Equal(lastState, state) {
							t.Errorf("synced:\n%s\nbuilt:\n%s", listed(lastState, state), listed(state, lastState))
						}
					} else if last != nil {
						other++
					}
					last, lastState = input.Synced, state
				}
				t.Log(p.change())
			}
		})
	}
	t.Logf("Rest: %d times the same, %d times another", same, other)
	if same < 3 || other < 3 {
		t.Error("too few of one kind")
	}
}

// syncState does what a sync does to an image.
func syncState(state map[string]string, from, to *Synced, root string) {
	wanted := map[string]bool{}
	for _, file := range to.Files {
		wanted[file.Path] = true
	}
	for _, file := range slices.Backward(from.Files) {
		if !wanted[file.Path] {
			delete(state, file.Path)
		}
	}
	for _, file := range to.Files {
		state[file.Path] = stateOf(file, root)
	}
}

// listed are the lines of a state that another one does not have.
func listed(state, other map[string]string) string {
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(state)) {
		if state[path] != other[path] {
			lines = append(lines, path+" "+state[path])
		}
	}
	return strings.Join(lines, "\n")
}
