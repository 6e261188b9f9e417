package session

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
)

// writeEmpty writes empty files below a folder.
func writeEmpty(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// syncedTo are the files below a folder, synced to another one.
func syncedTo(t *testing.T, image *loop.Image, dir, to string) {
	t.Helper()
	synced := &build.Synced{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		synced.Files = append(synced.Files, build.SyncedFile{Path: filepath.Join(to, name), Source: path, Mode: entry.Type()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	image.Input = build.Input{Synced: synced}
}

func TestSyncedPackages(t *testing.T) {
	dir := t.TempDir()
	writeEmpty(t, dir, "analysis/__init__.py", "analysis/a.py", "analysis/deep/__init__.py", "analysis/deep/b.py",
		"analysis/data/c.csv", "loose/d.py", "e.py", "src/__init__.py", "src/f.py")
	image := &loop.Image{}
	if got := syncedPackages(image); got != nil {
		t.Errorf("nothing is synced: %+v", got)
	}
	for from, want := range map[string]proof.Package{
		"analysis":      {Name: "analysis", Folder: "/opt/platform/analysis", Source: filepath.Join(dir, "analysis")},
		"analysis/deep": {Name: "analysis", Folder: "/opt/platform/analysis", Source: filepath.Join(dir, "analysis")},
		"analysis/data": {}, "loose": {},
	} {
		syncedTo(t, image, filepath.Join(dir, from), "/opt/platform/"+from)
		if got := syncedPackages(image); want.Name == "" && len(got) > 0 || want.Name != "" &&
			!slices.Equal(got, []proof.Package{want}) {
			t.Errorf("%s: %+v", from, got)
		}
	}
	syncedTo(t, image, filepath.Join(dir, "src"), "/app/orders") // it has another name in the image
	if got := syncedPackages(image); !slices.Equal(got, []proof.Package{{Name: "orders", Folder: "/app/orders"}}) {
		t.Errorf("%+v", got)
	}
}

// A package that is installed, too, is reported once for each place.
func TestShadowedPackages(t *testing.T) {
	c := &config.Config{Dir: t.TempDir(), Images: []config.Image{{Name: "worker"}, {Name: "client"}}}
	l, p, h := comparing(t)
	p.lists = map[string]string{"worker:1": "dask==1", "client:1": "dask==1"}
	now := &target{targetOf(t, "worker:1", "client:1"), c}
	shadows := func() (said []string) {
		_ = l.compare(t.Context(), now) // it is reported
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, e := range h.events {
			if e.Phase == event.Warned {
				said = append(said, e.Message+" in "+e.Field("in").(string))
			}
		}
		h.events = nil
		return said
	}
	writeVenv(t, filepath.Join(c.Dir, ".venv"), "dask==1")
	writeEmpty(t, filepath.Join(c.Dir, ".venv/lib/python3.11/site-packages"), "analysis/__init__.py")
	if said := shadows(); len(said) > 0 {
		t.Errorf("nothing is synced: %q", said)
	}
	writeEmpty(t, c.Dir, "analysis/__init__.py", "analysis/a.py")
	syncedTo(t, now.Images[0], filepath.Join(c.Dir, "analysis"), "/opt/analysis")
	syncedTo(t, now.Images[1], filepath.Join(c.Dir, "analysis"), "/opt/analysis")
	p.take()
	if said := shadows(); len(said) != 1 || said[0] != "a synced Python package is shadowed by an installed one in .venv" {
		t.Errorf("%q", said)
	}
	if asked := p.take(); asked != "client:1 python, worker:1 python" {
		t.Errorf("images of which other files are synced: asked %q", asked)
	}
	if said := shadows(); len(said) > 0 {
		t.Errorf("again: %q", said)
	}
	t.Setenv("PYTHONPATH", strings.Join([]string{"/none", c.Dir}, string(filepath.ListSeparator)))
	local, err := FindLocal(c)
	if err != nil {
		t.Fatal(err)
	}
	found := local.Libraries([]proof.Libraries{{Packages: syncedPackages(now.Images[0])}})
	if len(found.Shadowed) > 0 {
		t.Errorf("Python searches the project first: %+v", found.Shadowed)
	}
}
