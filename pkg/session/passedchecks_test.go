package session

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/devloop/devloop/pkg/deploy"
)

// TestPassedChecks: what has passed is known to the next devloop, until the image is built again.
func TestPassedChecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checks", "demo.json")
	check := deploy.CheckPod{Image: "worker:1", Command: []string{"python", "-c", "import dask"}}
	passed := readPassedChecks(path)
	if passed.has(check) {
		t.Error("a check has passed before anything was tried")
	}
	if err := passed.add(check); err != nil {
		t.Fatal(err)
	}
	otherImage, otherCommand, otherNamespace := check, check, check
	otherImage.Image, otherCommand.Args, otherNamespace.Namespace = "worker:2", []string{"-v"}, "apps"
	for _, other := range []deploy.CheckPod{otherImage, otherCommand, otherNamespace} {
		if passed.has(other) {
			t.Errorf("%+v has passed", other)
		}
	}
	if err := passed.add(otherCommand); err != nil {
		t.Fatal(err)
	}
	if later := readPassedChecks(path); !later.has(check) || !later.has(otherCommand) {
		t.Errorf("the next devloop knows %+v", later.images)
	}
	if err := passed.forget(check.Image); err != nil {
		t.Fatal(err)
	}
	if later := readPassedChecks(path); passed.has(check) || later.has(check) || later.has(otherCommand) {
		t.Errorf("of an image that is built again, the next devloop knows %+v", later.images)
	}
}

// TestPassedChecksAreBounded: the newest images are remembered. What is no list of them is forgotten.
func TestPassedChecksAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "demo.json")
	passed := readPassedChecks(path)
	check := func(i int) deploy.CheckPod { return deploy.CheckPod{Image: fmt.Sprintf("worker:%d", i)} }
	for i := range checkedImages + 5 {
		if err := passed.add(check(i)); err != nil {
			t.Fatal(err)
		}
	}
	later := readPassedChecks(path)
	if len(later.images) != checkedImages || later.has(check(4)) || !later.has(check(5)) {
		t.Errorf("%d images are remembered, the first is %+v", len(later.images), later.images[0])
	}
	if err := os.WriteFile(path, []byte(`{"ref": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if later := readPassedChecks(path); later.has(check(5)) {
		t.Error("a check has passed that is not in the file")
	}
}
