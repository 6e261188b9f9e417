package journal

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// filesIn returns the names of the files in a folder.
func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestRemoveGone(t *testing.T) {
	dir := t.TempDir()
	recorded := func(cluster string, places ...string) *Journal {
		t.Helper()
		j, err := Open(dir, cluster, "web_app")
		must(t, err)
		must(t, j.Record(Release, "web/web"))
		for _, place := range places {
			must(t, j.Record(Place, place))
		}
		return j
	}
	must(t, recorded("gone", "there").Close())
	must(t, recorded("moved", "there", "here").Close()) // minikube's folder was moved
	must(t, recorded("without-a-place").Close())
	must(t, recorded("kept", "here").Close())
	used := recorded("open", "there")
	broken := filepath.Join(dir, "broken_web.jsonl")
	must(t, os.WriteFile(broken, []byte(`{"op":"record","kind":"place","name":"there"}`+"\n{\n"), 0o600))

	asked := map[string]bool{}
	removed, err := RemoveGone(dir, func(cluster, place string) bool {
		asked[cluster] = true
		return place == "there"
	})
	must(t, err)
	if want := []string{"gone_web_app.jsonl"}; !reflect.DeepEqual(removed, want) {
		t.Errorf("removed %v, not %v", removed, want)
	}
	if !asked["gone"] || !asked["kept"] {
		t.Errorf("asked about the clusters %v", asked)
	}
	want := []string{"broken_web.jsonl"}
	for _, cluster := range []string{"kept", "moved", "open", "without-a-place"} {
		want = append(want, cluster+"_web_app.jsonl", cluster+"_web_app.jsonl.lock")
	}
	if got := filesIn(t, dir); !reflect.DeepEqual(got, want) {
		t.Errorf("left: %v\nnot %v", got, want)
	}
	must(t, used.Record(Release, "web/other"))
	must(t, used.Close())
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	must(t, j.Record(Release, "web/web"))

	// Another process has opened the file of the lock, and gets the lock only after it was removed.
	late, err := os.OpenFile(j.path+lockExtension, os.O_RDWR, 0)
	must(t, err)
	defer late.Close()
	must(t, j.Remove())
	if removed, err := lockFile(late, j.path+lockExtension, "p"); !removed || err != nil {
		t.Errorf("the lock of a journal that is gone counts: %v", err)
	}
	if left := filesIn(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := j.Record(Release, "web/web"); err == nil {
		t.Error("a journal that is gone takes records")
	}
	if err := j.Remove(); err == nil {
		t.Error("it is removed twice")
	}
	if got := names(open(t, dir), Release); got != "" {
		t.Errorf("a new journal permits %q", got)
	}
}
