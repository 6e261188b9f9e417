//go:build e2e

package build

import (
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/tonistiigi/fsutil"
)

// TestSyncedInBuildKit builds the projects of testdata/synced with a BuildKit of its own, which is
// the program in BUILDKITD. The end-to-end tests run it, as root.
func TestSyncedInBuildKit(t *testing.T) {
	buildkit := startBuildKit(t)
	built := 0
	eachSyncCase(t, func(t *testing.T, _ string, archive *txtar.Archive) {
		image, want := syncCase(t, archive)
		text := string(archive.Files[0].Data)
		if strings.HasPrefix(want, "rule ") || strings.Contains(text, "RUN") || strings.Contains(text, "FROM base") {
			return // there is nothing to compare, or no such image
		}
		input, err := newSyncBuilder(t).Hash(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, input.Synced.Files, unpacked(t, buildkit, image))
		built++
	})
	if built < 20 {
		t.Errorf("only %d images were compared", built)
	}
}

func startBuildKit(t *testing.T) *bkclient.Client {
	t.Helper()
	dir := t.TempDir()
	address := "unix://" + filepath.Join(dir, "socket")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.CommandContext(t.Context(), os.Getenv("BUILDKITD"), "--root", filepath.Join(dir, "root"),
		"--addr", address, "--oci-worker-snapshotter", "native")
	daemon.Stdout, daemon.Stderr = log, log
	daemon.Cancel = func() error { return daemon.Process.Signal(os.Interrupt) }
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Wait() }) // it was interrupted
	client, err := bkclient.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := client.Wait(ctx); err != nil {
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("%v\n%s", err, said)
	}
	return client
}

// unpacked builds an image and returns the folder with its files.
func unpacked(t *testing.T, buildkit *bkclient.Client, image Image) string {
	t.Helper()
	context, err := fsutil.NewFS(image.Context)
	if err != nil {
		t.Fatal(err)
	}
	root, exported := t.TempDir(), filepath.Join(t.TempDir(), "image.tar")
	_, err = buildkit.Solve(t.Context(), nil, bkclient.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: image.frontendOptions(thisMachine(), maps.Clone(image.Args)),
		LocalMounts:   map[string]fsutil.FS{"context": context, "dockerfile": context},
		Exports: []bkclient.ExportEntry{{Type: bkclient.ExporterTar,
			Output: func(map[string]string) (io.WriteCloser, error) { return os.Create(exported) }}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "tar", "--extract", "--preserve-permissions", "--numeric-owner",
		"--file", exported, "--directory", root).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return root
}
