package node

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	chain "github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestArchive leaves out the layers that a node has unpacked, by their place and not by their content alone.
func TestArchive(t *testing.T) {
	image := newImage(t, 1000, 3)
	tag := newTag(t, "worker:1")
	r := openRegistry(t, t.TempDir())
	stored, err := r.receive(t.Context(), built{tag: image}, tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	diffs := make([]digest.Digest, len(config.RootFS.DiffIDs))
	for i, id := range config.RootFS.DiffIDs {
		diffs[i] = digest.Digest(id.String())
	}
	second := diffs[1].String()
	chains := chain.ChainIDs(diffs)
	for says, test := range map[string]struct {
		unpacked map[string]bool
		layers   int
	}{
		"nothing":                     {nil, 3},
		"the first two":               {map[string]bool{chains[0].String(): true, chains[1].String(): true}, 1},
		"the second's content, alone": {map[string]bool{second: true}, 3},
		"all":                         {map[string]bool{chains[0].String(): true, chains[1].String(): true, chains[2].String(): true}, 0},
	} {
		var out bytes.Buffer
		if err := r.writeArchive(t.Context(), &out, stored, "docker.io/library/worker:1", test.unpacked); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for reader := tar.NewReader(&out); ; {
			header, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if header.Typeflag == tar.TypeDir {
				continue
			}
			if files[header.Name], err = io.ReadAll(reader); err != nil {
				t.Fatal(err)
			}
		}
		var index ocispecs.Index
		if err := json.Unmarshal(files[ocispecs.ImageIndexFile], &index); err != nil {
			t.Fatal(err)
		}
		if name := index.Manifests[0].Annotations[images.AnnotationImageName]; name != "docker.io/library/worker:1" {
			t.Errorf("%s: named %q", says, name)
		}
		if content := files["blobs/sha256/"+index.Manifests[0].Digest.Encoded()]; digest.FromBytes(content) != index.Manifests[0].Digest || int64(len(content)) != index.Manifests[0].Size {
			t.Errorf("%s: the manifest is another one", says)
		}
		if layers := len(files) - 4; layers != test.layers { // layout, index, manifest, configuration
			t.Errorf("%s: %d layers, not %d", says, layers, test.layers)
		}
	}
}
