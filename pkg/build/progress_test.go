package build

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
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
