package build

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	bkclient "github.com/moby/buildkit/client"

	"github.com/devloop/devloop/pkg/event"
)

// Two devloops that build the same image for two clusters do not mix their output.
func TestOutputOfTheSameBuildTwice(t *testing.T) {
	tag, err := name.NewTag("worker:0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "builds")
	var outputs []*os.File
	for range 2 {
		output, err := createLog(folder, Input{Image: Image{Name: "worker"}, Tag: tag})
		if err != nil {
			t.Fatal(err)
		}
		defer output.Close()
		outputs = append(outputs, output)
	}
	for i, text := range []string{"the first one's output", "second"} {
		if _, err := outputs[i].WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(outputs[1].Name())
	if err != nil || string(content) != "second" {
		t.Errorf("%q, %v", content, err)
	}
	if info, err := outputs[0].Stat(); err != nil || info.Size() != int64(len("the first one's output")) {
		t.Errorf("%v, %v", info, err)
	}
}

// A build that ends while Docker stores its image has no answer, but the image is there.
func TestImageOfACancelledBuild(t *testing.T) {
	const id = "sha256:8ab5ff1f6ed5a6e1e0d1c8b8b5a7e0a6d7c9e2f3a4b5c6d7e8f9a0b1c2d3e4f5"
	p := newProgress(event.Sink(func(event.Event) {}).Stage("build"), Input{}, nil)
	p.update(&bkclient.SolveStatus{Statuses: []*bkclient.VertexStatus{{ID: "exporting layers"}}})
	if found := exported(p.answer); len(found) != 0 {
		t.Errorf("before it is stored, it is known as %v", found)
	}
	p.update(&bkclient.SolveStatus{Statuses: []*bkclient.VertexStatus{{ID: "writing image " + id}}})
	if found := exported(p.answer); len(found) != 1 || found[0] != id {
		t.Errorf("it is known as %v, not %s", found, id)
	}
}
