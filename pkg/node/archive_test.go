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
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// readTar returns the files of a tar by name.
func readTar(from io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for reader := tar.NewReader(from); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err == nil && header.Typeflag == tar.TypeReg {
			files[header.Name], err = io.ReadAll(reader)
		}
		if err != nil {
			return nil, err
		}
	}
}

// TestArchive leaves out the layers that a node has unpacked, by their position and not only their
// content.
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
	chains := identity.ChainIDs(diffs)
	chain := func(n int) map[string]bool {
		ids := map[string]bool{}
		for _, id := range chains[:n] {
			ids[id.String()] = true
		}
		return ids
	}
	for name, test := range map[string]struct {
		unpacked map[string]bool
		layers   int
	}{
		"nothing":                     {nil, 3},
		"the first two":               {chain(2), 1},
		"the second's content, alone": {map[string]bool{second: true}, 3},
		"all":                         {chain(3), 0},
	} {
		var out bytes.Buffer
		if err := r.writeArchive(t.Context(), &out, stored, "docker.io/library/worker:1", test.unpacked); err != nil {
			t.Fatal(err)
		}
		files, err := readTar(&out)
		if err != nil {
			t.Fatal(err)
		}
		var index ocispecs.Index
		if err := json.Unmarshal(files[ocispecs.ImageIndexFile], &index); err != nil {
			t.Fatal(err)
		}
		manifest := index.Manifests[0]
		if got := manifest.Annotations[images.AnnotationImageName]; got != "docker.io/library/worker:1" {
			t.Errorf("%s: named %q", name, got)
		}
		content := files["blobs/sha256/"+manifest.Digest.Encoded()]
		if digest.FromBytes(content) != manifest.Digest || int64(len(content)) != manifest.Size {
			t.Errorf("%s: the manifest is another one", name)
		}
		if layers := len(files) - 4; layers != test.layers { // layout, index, manifest, configuration
			t.Errorf("%s: %d layers, not %d", name, layers, test.layers)
		}
	}
}
