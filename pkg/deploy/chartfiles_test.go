package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/devloop/devloop/pkg/event"
)

// inTime fails the test if work does not end: a pipe would block it forever.
func inTime(t *testing.T, work func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- work() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("it does not return")
		return nil
	}
}

func TestChartFolderOfAnything(t *testing.T) {
	fifo := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(target, name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	large := func(name string, size int64) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name    string
		ignore  string // .helmignore
		make    func(t *testing.T, dir string)
		wantErr string // of the error, "" if the chart can be read
	}{
		{"pipe", "", fifo("pipe"), "pipe: it is a named pipe"},
		{"pipe that is left out", "pipe\n", fifo("pipe"), ""},
		{"pipe for .helmignore", "", fifo(".helmignore"), ".helmignore: it is a named pipe"},
		{"pipe for Chart.lock", "", fifo("Chart.lock"), "Chart.lock: it is a named pipe"},
		{"link to a device", "", link("/dev/zero", "zero"), "zero: it is a device"},
		{"link to a device that is left out", "zero\n", link("/dev/zero", "zero"), ""},
		{"link to nothing", "", link("nothing", "values.prod.yaml"),
			"values.prod.yaml is a link to nothing, which cannot be read"},
		{"link to nothing that is left out", "*.prod.yaml\n", link("nothing", "values.prod.yaml"), ""},
		{"lock of Emacs", "", link("me@host.42:17", ".#values.yaml"), ""},
		{"link in a circle", "", link("..", "templates/above"), "a link to a folder that it is in"},
		{"large file", "", large("dump", 2<<30),
			"dump has 2048 MiB, and a file of a chart may have 5; .helmignore can leave it out"},
		{"large file that is left out", "*.dump\n", large("a.dump", 2<<30), ""},
		{"large folder that is left out", "data/\n", func(t *testing.T, dir string) {
			t.Helper()
			write(t, dir, map[string]string{"data/a": ""})
			large("data/a", 2<<30)(t, dir)
		}, ""},
		{"many large files", "", func(t *testing.T, dir string) {
			t.Helper()
			for i := range 21 {
				large(fmt.Sprint("part", i), loader.MaxDecompressedFileSize)(t, dir)
			}
		}, "the chart has more than 100 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			content := maps.Clone(demo)
			if test.ignore != "" {
				content[".helmignore"] = test.ignore
			}
			dir := chartFolder(t, content)
			test.make(t, dir)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := inTime(t, func() error {
				_, _, err := new(charts).opened(t, source{chart: dir})
				return err
			})
			runtime.ReadMemStats(&after)
			if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 600 {
				t.Errorf("it took %d MiB", took)
			}
			if test.wantErr == "" && err != nil || test.wantErr != "" &&
				(err == nil || !strings.Contains(err.Error(), test.wantErr) ||
					event.Hint(err) == "") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// The files are those that Helm's own loader finds.
func TestChartFolderIsReadAsHelmDoes(t *testing.T) {
	dir := chartFolder(t, map[string]string{
		"Chart.yaml": "\ufeff" + demo["Chart.yaml"], "values.yaml": "a: 1\n", "templates/a.yaml": "a",
		"templates/.hidden.yaml": "b", "templates/sub/b.yaml": "c",
		"charts/inner/Chart.yaml": "apiVersion: v2\nname: inner\nversion: 1.0.0\n", "charts/inner/templates/a.yaml": "d",
		"crds/a.yaml": "e", "notes/a.txt": "f",
		"notes/b.md": "g", "left/out": "h", ".helmignore": "left/\n*.md\n",
	})
	shared := t.TempDir()
	write(t, shared, map[string]string{"c.yaml": "i", "deep/d.yaml": "j"})
	for link, target := range map[string]string{"templates/shared": shared, "one.txt": filepath.Join(shared, "c.yaml")} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "charts/packed-1.0.0.tgz"), archive(t, demo), 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := loader.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := loadChart(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if digestOf(got) != digestOf(want) || len(got.Raw) != len(want.Raw) || len(got.Dependencies()) != 2 {
		t.Errorf("%d files and %d charts, Helm finds %d and %d", len(got.Raw), len(got.Dependencies()), len(want.Raw),
			len(want.Dependencies()))
	}
}

// Whatever .helmignore says, what editors and other tools leave in a chart is not rendered, is not
// in .Files, and makes no other chart of it.
func TestChartHasNoToolFiles(t *testing.T) {
	dir := chartFolder(t, map[string]string{"Chart.yaml": demo["Chart.yaml"] +
		"dependencies: [{name: sub, version: 1.0.0, repository: \"file://sub\"}]\n",
		"values.yaml": "a: 1\n", "templates/a.yaml": "a: new\n", "files/a.txt": "a",
		"sub/Chart.yaml":  "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
		"sub/values.yaml": "b: 1\n"})
	cache := new(charts)
	_, before, err := cache.opened(t, source{chart: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"", "sub/"} {
		write(t, dir, map[string]string{folder + "values.yaml~": "a: 0\n", folder + ".values.yaml.swp": "b0VIM",
			folder + "templates/a.yaml~": "a: old\n", folder + "templates/#a.yaml#": "a: half\n", folder + "4913": "",
			folder + "templates/a.yaml___jb_old___": "a: old\n", folder + "files/.DS_Store": "\x00",
			folder + ".git/index": "DIRC", folder + ".idea/workspace.xml": "<project/>"})
		if err := os.Symlink("me@host.42:17", filepath.Join(dir, folder, "templates", ".#a.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	loaded, after, err := cache.opened(t, source{chart: dir})
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		var names []string
		for _, file := range loaded.Raw {
			names = append(names, file.Name)
		}
		t.Errorf("it is another chart: %q", names)
	}
	write(t, dir, map[string]string{"templates/a.yaml": "a: newer\n"})
	if _, saved, err := cache.opened(t, source{chart: dir}); err != nil || saved == before {
		t.Errorf("a template does not count: %v", err)
	}
}

// packed returns an archive of files that all have the content.
func packed(t *testing.T, content []byte, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	tape := tar.NewWriter(compressed)
	add := func(name string, content []byte) {
		if err := tape.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tape.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add("demo/Chart.yaml", []byte(demo["Chart.yaml"]))
	for _, name := range names {
		add("demo/"+name, content)
	}
	if err := errors.Join(tape.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestArchiveThatUnpacksToMore(t *testing.T) {
	var bomb bytes.Buffer // gigabytes of nothing, in megabytes
	compressed := gzip.NewWriter(&bomb)
	if _, err := io.CopyN(compressed, zeros{}, maxUnpacked+1); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	five := packed(t, make([]byte, 5<<20), "a", "b", "c", "d", "e", "f", "g", "h") // 40 MiB
	several := packed(t, five, "charts/a.tgz", "charts/b.tgz", "charts/c.tgz", "charts/d.tgz", "charts/e.tgz",
		"charts/f.tgz")
	deep := packed(t, nil)
	for range maxDepth + 1 {
		deep = packed(t, deep, "charts/a.tgz")
	}
	for name, test := range map[string]struct {
		archive []byte
		wantErr string
	}{
		"all headers":                {bomb.Bytes(), "unpacks to more than 200 MiB"},
		"in the charts that it has":  {several, "unpacks to more than 200 MiB"},
		"charts deep in one another": {deep, "hold each other more than 10 deep"},
	} {
		file := filepath.Join(t.TempDir(), "demo.tgz")
		if err := os.WriteFile(file, test.archive, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadChart(t.Context(), file); err == nil || !strings.Contains(err.Error(), test.wantErr) {
			t.Errorf("%s: %v", name, err)
		}
	}
	folder := chartFolder(t, demo)
	write(t, folder, map[string]string{"charts/a.tgz": string(several)})
	if _, err := loadChart(t.Context(), folder); err == nil || !strings.Contains(err.Error(), "charts/a.tgz: charts/") {
		t.Errorf("in a folder: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadingAChartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(event.ErrSuperseded)
	file := filepath.Join(t.TempDir(), "demo.tgz")
	if err := os.WriteFile(file, archive(t, demo), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, chart := range []string{chartFolder(t, demo), file} {
		if _, err := new(charts).open(ctx, event.Stage{}, source{chart: chart}); !errors.Is(err, event.ErrSuperseded) {
			t.Errorf("%s: %v", chart, err)
		}
	}
}
