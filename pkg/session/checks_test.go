package session

import (
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/loop"
)

// TestChecksInBuild: a build tries what does not need a pod, each check of each hash anew.
func TestChecksInBuild(t *testing.T) {
	c := &config.Config{Images: []config.Image{{Name: "worker"}, {Name: "client"}}, Verify: []config.Verify{
		{Image: "worker", Command: []string{"python", "-c", "import dask"}, Timeout: 3 * time.Second},
		{Image: "worker", Args: []string{"check"}, Timeout: time.Minute},
		{Image: "worker", Args: []string{"check"}, Namespace: "apps", Timeout: time.Minute},
		{Image: "client", Command: []string{"true"}, Timeout: time.Minute},
	}}
	tag, err := name.NewTag("worker:1")
	if err != nil {
		t.Fatal(err)
	}
	input := build.Input{Image: build.Image{Name: "worker"}, Tag: tag}
	pods := &podOnly{}
	checks := pods.inBuild(c, input)
	if len(checks) != 2 || checks[0].Limit != 3*time.Second || checks[1].Limit != checkLimit {
		t.Fatalf("a build tries %+v", checks)
	}
	input.Checks = checks
	image := &loop.Image{Name: "worker", Tag: tag, Input: input}
	all := checksOf(c, "worker", "worker:1")
	for i, want := range []*build.Check{checks[0], checks[1], nil} {
		if triedInBuild(image, all[i]) != want {
			t.Errorf("%q is taken for another check", all[i].Command)
		}
	}

	pods.add(all[1])
	if checks := pods.inBuild(c, input); len(checks) != 1 || checks[0] == input.Checks[0] {
		t.Errorf("once a check needed a pod, a build tries %+v", checks)
	}
	client := build.Input{Image: build.Image{Name: "client"}, Tag: tag}
	if checks := pods.inBuild(c, client); len(checks) != 1 || checks[0].Passed() || checks[0].Failed() {
		t.Errorf("of another image, a build tries %+v", checks)
	}
}
