package node

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// outputs is a node that prints these outputs of commands. Others fail.
type outputs struct {
	transport
	of      map[string]string // without "image"
	failure string
}

func (o outputs) run(_ context.Context, _ io.Reader, args ...string) (string, error) {
	out, ok := o.of[args[0]+" "+strings.Join(args[2:], " ")]
	if !ok {
		return "", errors.New(o.failure)
	}
	return out + "\n", nil
}

// TestCommandRuntimes: Docker and podman differ in how they print an image's IDs.
func TestCommandRuntimes(t *testing.T) {
	const full = "docker.io/library/worker:1"
	for runtime, test := range map[*commandRuntime]struct {
		node outputs
		same string // what it calls the image that it has already
		ids  []string
	}{
		dockerRuntime: {outputs{failure: "Error: No such image: x", of: map[string]string{
			"docker ls --format {{.Repository}}:{{.Tag}}":                   "worker:1\n<none>:<none>",
			"docker inspect --format {{.Id}} " + full:                       "sha256:1",
			"docker inspect --format {{.Id}} sha256:1":                      "sha256:1",
			"docker inspect --format " + dockerRuntime.digests + " " + full: "worker@sha256:2",
		}}, "sha256:1", []string{"sha256:1", "sha256:2"}},
		crioRuntime: {outputs{failure: "Error: x: image not known", of: map[string]string{
			"podman ls --format {{.Repository}}:{{.Tag}}":                 full + "\n<none>:<none>",
			"podman inspect --format {{.Id}} " + full:                     "1",
			"podman inspect --format {{.Id}} 1":                           "1",
			"podman inspect --format " + crioRuntime.digests + " " + full: "@sha256:2 worker@sha256:3",
		}}, "1", []string{"sha256:1", "sha256:2", "sha256:3"}},
	} {
		n := &node{transport: test.node}
		if names, err := runtime.names(t.Context(), n); err != nil || !slices.Equal(names, []string{full}) {
			t.Errorf("%s: %v, %v", runtime.name(), names, err)
		}
		if id, err := runtime.digest(t.Context(), n, full); err != nil || id != "sha256:1" {
			t.Errorf("%s: %s, %v", runtime.name(), id, err)
		}
		if id, err := runtime.digest(t.Context(), n, "missing"); err != nil || id != "" {
			t.Errorf("%s: a missing image is %s, %v", runtime.name(), id, err)
		}
		if ids, err := runtime.ids(t.Context(), n, full, "sha256:1"); err != nil || !slices.Equal(ids, test.ids) {
			t.Errorf("%s: %v, %v", runtime.name(), ids, err)
		}
		same, err := runtime.find(t.Context(), n, []string{"sha256:9", "sha256:1"})
		if err != nil || same != test.same {
			t.Errorf("%s: %s, %v", runtime.name(), same, err)
		}
		if err := runtime.remove(t.Context(), n, "missing"); err != nil {
			t.Errorf("%s: %v", runtime.name(), err)
		}
	}
}

// A manifest never changes, so a node is asked for it once.
func TestManifestsAreReadOnce(t *testing.T) {
	list, image := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	config := "sha256:" + strings.Repeat("3", 64)
	holds := outputs{failure: "not found", of: map[string]string{
		"ctr k8s.io content get " + list: `{"manifests": [{"digest": "` + image +
			`", "mediaType": "application/vnd.oci.image.manifest.v1+json"}]}`,
		"ctr k8s.io content get " + image: `{"config": {"digest": "` + config + `"}}`,
	}}
	n := &node{transport: holds}
	for range 2 {
		ids, err := containerdRuntime{}.ids(t.Context(), n, "", list)
		if err != nil || !slices.Equal(ids, []string{config, list}) {
			t.Errorf("%v, %v", ids, err)
		}
		clear(holds.of)
	}
}
