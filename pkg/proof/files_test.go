package proof

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

func TestCompareFiles(t *testing.T) {
	const path, first, second = "/app/a.py", "file 0644 1", "file 0644 2"
	want := map[string]string{path: first, "/app/b.py": second, "/app/gone.py": ""}
	for name, test := range map[string]struct {
		is     map[string]string
		differ []string
	}{
		"the same":             {want, nil},
		"nothing known of one": {map[string]string{path: first, "/app/b.py": second}, nil},
		"content":              {map[string]string{path: "file 0644 9", "/app/b.py": second}, []string{path + " changed"}},
		"permissions":          {map[string]string{path: "file 0600 1", "/app/b.py": second}, []string{path + " changed"}},
		"missing":              {map[string]string{"/app/b.py": second}, []string{path + " missing"}},
		"left over": {map[string]string{path: first, "/app/b.py": second, "/app/gone.py": "file 0644 3"},
			[]string{"/app/gone.py left over"}},
		"nothing": {nil, []string{path + " missing", "/app/b.py missing"}},
	} {
		files := CompareFiles(mainOf("p"), "worker", test.is, want)
		if !slices.Equal(files.Differ, test.differ) || files.right() != (test.differ == nil) ||
			files.Want != "" && files.Want != hashFiles(want) {
			t.Errorf("%s: %+v", name, files)
		}
	}
}

// The chain of images whose synced files were written into containers of an older image.
func TestChainOfSyncedFiles(t *testing.T) {
	const before, now, older = "worker:00000000000000a0", "worker:00000000000000b0", "worker:00000000000000c0"
	const idBefore, idNow = "sha256:a", "sha256:b"
	pod := func(name event.Name, image, id string) Container {
		return Container{ContainerRef: mainOf(name), Node: "n", Image: image, ID: id}
	}
	dask := func(name event.Name, image, id string) Container {
		c := pod(name, image, id)
		c.Cluster = "ada"
		return c
	}
	right := func(name event.Name) Files { return Files{mainOf(name), "worker", "sha256:f1", "", nil, false} }
	wrong := func(name event.Name) Files {
		return Files{mainOf(name), "worker", "sha256:f0", "sha256:f1", []string{"/app/a.py changed", "/app/b c.py missing",
			"/app/d.py left over", "/app/e.py changed", "/app/f.py changed"}, false}
	}
	hidden := func(name event.Name) Files { return Files{mainOf(name), "worker", "", "sha256:f1", nil, false} }
	covered := func(name event.Name) Files {
		files := wrong(name)
		files.Refused = true
		return files
	}
	for _, test := range []struct {
		name   string
		ref    string // that is deployed; the inputs are those of now
		runs   Container
		files  []Files
		links  []string // of the container
		broken string   // what the error says
		old    bool     // a cluster of the container's image is outdated
	}{
		{name: "synced", ref: before, runs: pod("p", before, idBefore), files: []Files{right("p")},
			links: []string{"pod ns/p/main: sha256:a", "files ns/p/main: sha256:f1"}},
		{name: "changed by hand", ref: before, runs: pod("p", before, idBefore), files: []Files{wrong("p")},
			links: []string{"pod ns/p/main: sha256:a", "files ns/p/main: sha256:f0, not sha256:f1"},
			broken: "container ns/p/main holds other files than the disk: /app/a.py changed, /app/b c.py missing, " +
				"/app/d.py left over, … and 2 more"},
		{name: "started a moment ago", ref: before, runs: pod("p", before, idBefore), files: []Files{right("other")},
			links:  []string{"pod ns/p/main: sha256:a", "files ns/p/main: unknown, not sha256:f1"},
			broken: "what files container ns/p/main holds is not known"},
		{name: "alone, started a moment ago", ref: before, runs: pod("p", before, idBefore),
			links:  []string{"pod ns/p/main: sha256:a", "files ns/p/main: unknown, not 00000000000000b0"},
			broken: "what files container ns/p/main holds is not known"},
		{name: "nobody can look", ref: before, runs: pod("p", before, idBefore), files: []Files{hidden("p")},
			links:  []string{"pod ns/p/main: sha256:a", "files ns/p/main: unknown, not sha256:f1"},
			broken: "what files container ns/p/main holds is not known"},
		{name: "another image under the tag", ref: before, runs: pod("p", before, "sha256:x"), files: []Files{right("p")},
			links:  []string{"pod ns/p/main: sha256:x, not sha256:a", "files ns/p/main: sha256:f1"},
			broken: "pod ns/p/main runs sha256:x, not sha256:a"},
		{name: "restarted in the image of the inputs", ref: before, runs: pod("p", now, idNow), files: []Files{right("p")},
			links: []string{"pod ns/p/main: " + now, "files ns/p/main: sha256:f1"}},
		{name: "and another image has its tag", ref: before, runs: pod("p", now, "sha256:x"), files: []Files{right("p")},
			links:  []string{"pod ns/p/main: sha256:x, not sha256:b", "files ns/p/main: sha256:f1"},
			broken: "pod ns/p/main runs sha256:x, not sha256:b"},
		{name: "and changed by hand", ref: before, runs: pod("p", now, idNow), files: []Files{wrong("p")},
			links:  []string{"pod ns/p/main: " + now, "files ns/p/main: sha256:f0, not sha256:f1"},
			broken: "container ns/p/main holds other files than the disk: "},
		{name: "deployed", ref: now, runs: pod("p", now, idNow), files: []Files{right("p")},
			links: []string{"pod ns/p/main: sha256:b", "files ns/p/main: sha256:f1"}},
		{name: "deployed and changed by hand", ref: now, runs: pod("p", now, idNow), files: []Files{wrong("p")},
			links:  []string{"pod ns/p/main: sha256:b", "files ns/p/main: sha256:f0, not sha256:f1"},
			broken: "container ns/p/main holds other files than the disk: "},
		{name: "deployed, and nobody can look", ref: now, runs: pod("p", now, idNow), files: []Files{hidden("p")},
			links: []string{"pod ns/p/main: sha256:b"}},
		{name: "deployed, and a volume covers the files", ref: now, runs: pod("p", now, idNow), files: []Files{covered("p")},
			links: []string{"pod ns/p/main: sha256:b"}},
		{name: "a volume covers them in an older image", ref: before, runs: pod("p", before, idBefore),
			files:  []Files{covered("p")},
			links:  []string{"pod ns/p/main: sha256:a", "files ns/p/main: sha256:f0, not sha256:f1"},
			broken: "container ns/p/main holds other files than the disk: "},
		{name: "deployed, started a moment ago", ref: now, runs: pod("p", now, idNow),
			links: []string{"pod ns/p/main: sha256:b"}},
		{name: "kept on an older image, with the files", ref: now, runs: pod("p", older, "sha256:c"),
			files: []Files{right("p")}, links: []string{"pod ns/p/main: " + older, "files ns/p/main: sha256:f1"}},
		{name: "kept on an older image, without", ref: now, runs: pod("p", older, "sha256:c"), files: []Files{wrong("p")},
			links: []string{"pod ns/p/main: " + older + ", not " + now},
			broken: "pod ns/p/main runs " + older + " with other files than the disk (/app/a.py changed, /app/b c.py missing, " +
				"/app/d.py left over, … and 2 more), not " + now},
		{name: "of other inputs", ref: now, runs: pod("p", older, "sha256:c"),
			links:  []string{"pod ns/p/main: " + older + ", not " + now},
			broken: "pod ns/p/main runs " + older + ", not " + now},
		{name: "an older Dask cluster with the files", ref: now, runs: dask("p", older, "sha256:c"),
			files: []Files{right("p")}, links: []string{"pod ns/p/main: " + older, "files ns/p/main: sha256:f1"}},
		{name: "one without", ref: now, runs: dask("p", older, "sha256:c"), files: []Files{wrong("p")}, old: true},
		{name: "one that nobody can look into", ref: now, runs: dask("p", older, "sha256:c"),
			files: []Files{hidden("p")}, old: true},
		{name: "one of other inputs", ref: now, runs: dask("p", older, "sha256:c"), old: true},
		{name: "one whose other container lacks them", ref: now, runs: dask("p", older, "sha256:c"),
			files: []Files{right("p"), wrong("worker")},
			links: []string{"pod ns/p/main: " + older, "files ns/p/main: sha256:f1"}, old: true},
		{name: "a Dask cluster of the image, changed by hand", ref: before, runs: dask("p", before, idBefore),
			files:  []Files{wrong("p")},
			links:  []string{"pod ns/p/main: sha256:a", "files ns/p/main: sha256:f0, not sha256:f1"},
			broken: "container ns/p/main holds other files than the disk: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			image := Image{Name: "worker", Ref: test.ref, Hash: "00000000000000b0"}
			stores := map[string][]Store{before: {{event.AtNode, "n", []string{idBefore}}},
				now: {{event.AtNode, "n", []string{idNow}}}}
			if image.Stores = stores[test.ref]; test.ref != now {
				image.Renewed = stores[now]
			}
			containers := []Container{test.runs}
			for _, f := range test.files {
				if f.ContainerRef != test.runs.ContainerRef {
					beside := test.runs
					beside.ContainerRef, beside.Image = f.ContainerRef, test.ref
					if f.Pod == "worker" {
						beside.Image = older
					}
					containers = append(containers, beside)
				}
			}
			found := Findings{Images: []Image{image}, Containers: containers, Files: test.files}
			links := Chain(found)
			var own []string
			for _, link := range links {
				if link.Container == test.runs.ContainerRef {
					own = append(own, strings.TrimPrefix(link.String(), "worker, "))
				}
			}
			if !slices.Equal(own, test.links) {
				t.Errorf("links %q, not %q", own, test.links)
			}
			err := Broken(links)
			if (err != nil) != (test.broken != "") || err != nil && !strings.Contains(err.Error(), test.broken) {
				t.Errorf("broken: %v, not %q", err, test.broken)
			}
			if err != nil && strings.Contains(err.Error(), "container ns/p") &&
				!strings.Contains(event.Hint(err), "run again (r)") {
				t.Errorf("hint %q", event.Hint(err))
			}
			old := Old(found, event.DaskClusters{{Namespace: "ns", Name: "ada", Image: test.runs.Image, Since: time.Now()}})
			if test.runs.Cluster != "" && (len(old) == 1) != test.old {
				t.Errorf("outdated: %v", old)
			}
			if synced := links[0].SyncedInto; (synced == "00000000000000a0") != (test.ref == before) {
				t.Errorf("the inputs are %s", links[0])
			}
		})
	}
}

// Links name a bounded number of files.
func TestManyFilesDiffer(t *testing.T) {
	differ := slices.Repeat([]string{"/app/with space/a.py changed"}, 5000)
	f := Files{mainOf("p"), "worker", "sha256:f0", "sha256:f1", differ, false}
	link := filesLink(f)
	if len(link.Differ) != keptDiffering || link.More != 5000-keptDiffering {
		t.Errorf("%d, and %d more", len(link.Differ), link.More)
	}
	if err := Broken(event.Links{link}); !strings.HasSuffix(err.Error(), "… and 4997 more") {
		t.Error(err)
	}
	for _, how := range []string{isMissing, isChanged, isLeftOver} {
		link.Differ[0] = "/app/with space/a.py" + how
		hint := event.Hint(Broken(event.Links{link}))
		if !strings.HasSuffix(hint, "kubectl exec -n ns p -c main -- ls -l '/app/with space/a.py'") {
			t.Error(hint)
		}
	}
}
