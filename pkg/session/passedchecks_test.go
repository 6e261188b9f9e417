package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
)

// TestPassedChecks: what has passed is known to the next devloop, until the image is built again.
func TestPassedChecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checks", "demo.json")
	check := deploy.CheckPod{Image: "worker:1", Command: []string{"python", "-c", "import dask"}}
	passed := readPassedChecks(path, "here v1", event.Stage{})
	if passed.has(check) {
		t.Error("a check has passed before anything was tried")
	}
	passed.add(check)
	otherImage, otherCommand, otherNamespace := check, check, check
	otherImage.Image, otherCommand.Args, otherNamespace.Namespace = "worker:2", []string{"-v"}, "apps"
	for _, other := range []deploy.CheckPod{otherImage, otherCommand, otherNamespace} {
		if passed.has(other) {
			t.Errorf("%+v has passed", other)
		}
	}
	passed.add(otherCommand)
	if other := readPassedChecks(path, "elsewhere v1", event.Stage{}); other.has(check) {
		t.Error("a check has passed on another cluster")
	}
	if later := readPassedChecks(path, "here v1", event.Stage{}); !later.has(check) || !later.has(otherCommand) {
		t.Errorf("the next devloop knows %+v", later.images)
	}
	tag, err := name.NewTag(check.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := passed.forget(tag); err != nil {
		t.Fatal(err)
	}
	later := readPassedChecks(path, "here v1", event.Stage{})
	if passed.has(check) || later.has(check) || later.has(otherCommand) {
		t.Errorf("of an image that is built again, the next devloop knows %+v", later.images)
	}
}

// TestPassedChecksAreBounded: the newest images are remembered. What cannot be read is forgotten.
func TestPassedChecksAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "demo.json")
	passed := readPassedChecks(path, "here v1", event.Stage{})
	check := func(i int) deploy.CheckPod { return deploy.CheckPod{Image: fmt.Sprintf("worker:%d", i)} }
	for i := range checkedImages + 5 {
		passed.add(check(i))
	}
	later := readPassedChecks(path, "here v1", event.Stage{})
	if len(later.images) != checkedImages || later.has(check(4)) || !later.has(check(5)) {
		t.Errorf("%d images are remembered, the first is %+v", len(later.images), later.images[0])
	}
	if err := os.WriteFile(path, []byte(`{"cluster": "here v1", "images": {}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if later := readPassedChecks(path, "here v1", event.Stage{}); later.has(check(5)) {
		t.Error("a check has passed that is not in the file")
	}
}

// TestPassedChecksThatCannotBeForgotten: what stays in the file would count for another image.
func TestPassedChecksThatCannotBeForgotten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "checks")
	passed := readPassedChecks(filepath.Join(dir, "demo.json"), "here v1", event.Stage{})
	tag, err := name.NewTag("worker:1")
	if err != nil {
		t.Fatal(err)
	}
	passed.add(deploy.CheckPod{Image: tag.String()})
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := passed.forget(tag); err == nil {
		t.Error("it is forgotten, and the file cannot be written")
	}
}
