//go:build e2e

package build

import (
	"archive/tar"
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/moby/client"
)

// TestDiscard has the Docker of DOCKER_HOST discard images. The end-to-end tests run it.
func TestDiscard(t *testing.T) {
	docker, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	e := &dockerEngine{docker, hostDocker}
	tag, err := name.NewTag("worker:0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	const kept = "devloop-discard-test:1"
	id := importImage(t, docker)
	discard := func(id string) {
		t.Helper()
		if err := e.discard(t.Context(), map[string]string{exptypes.ExporterImageConfigDigestKey: id}, tag); err != nil {
			t.Error(err)
		}
	}

	if _, err := docker.ImageTag(t.Context(), client.ImageTagOptions{Source: id, Target: kept}); err != nil {
		t.Fatal(err)
	}
	discard(id)
	image, err := docker.ImageInspect(t.Context(), id)
	if err != nil || !slices.Equal(image.RepoTags, []string{kept}) {
		t.Errorf("an image with a name has the names %v: %v", image.RepoTags, err)
	}
	if _, err := docker.ImageRemove(t.Context(), kept, client.ImageRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	discard(id) // it is gone

	id = importImage(t, docker)
	discard(id)
	if _, err := docker.ImageInspect(t.Context(), id); !errdefs.IsNotFound(err) {
		t.Errorf("an image without a name: %v", err)
	}
}

// importImage makes an image without a name, and returns its ID.
func importImage(t *testing.T, docker *client.Client) (id string) {
	t.Helper()
	var files bytes.Buffer
	archive := tar.NewWriter(&files)
	if err := archive.WriteHeader(&tar.Header{Name: t.Name(), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	answer, err := docker.ImageImport(t.Context(), client.ImageImportSource{Source: &files, SourceName: "-"}, "",
		client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(text, []byte("sha256:"))
	if at < 0 || len(text) < at+71 {
		t.Fatalf("no ID in %s", text)
	}
	return string(text[at : at+71])
}
