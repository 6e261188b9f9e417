// An image of the registry as an archive that a runtime can load, without the layers that it has: for nodes that cannot pull.
package node

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	chain "github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is the annotation by which containerd names what it imports (containerd's images.AnnotationImageName).
const imageName = "io.containerd.image.name"

// writeArchive writes the image as an OCI layout in a tar, named target, without the layers whose chain IDs are in unpacked.
func (r *Registry) writeArchive(w io.Writer, tag name.Tag, target string, unpacked map[string]bool) error {
	raw, err := os.ReadFile(r.manifestFile(inside(tag), tag.TagStr()))
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return fmt.Errorf("image registry: %s: %w", tag, err)
	}
	if manifest.MediaType.IsIndex() {
		return fmt.Errorf("image registry: %s is a list of images, and not one that was built", tag)
	}
	rawConfig, err := os.ReadFile(r.blob(manifest.Config.Digest))
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	var config ocispecs.Image
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return fmt.Errorf("image registry: %s: %w", tag, err)
	}
	mediaType := manifest.MediaType
	if mediaType == "" { // which OCI allows
		mediaType = types.OCIManifestSchema1
	}
	digest := digest.FromBytes(raw)
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"mediaType": mediaType, "digest": digest, "size": len(raw), "annotations": map[string]string{imageName: target},
	}}})
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, file := range []struct {
		name    string
		content []byte
	}{
		{ocispecs.ImageLayoutFile, []byte(`{"imageLayoutVersion":"` + ocispecs.ImageLayoutVersion + `"}`)},
		{ocispecs.ImageIndexFile, index},
		{"blobs/sha256/" + digest.Encoded(), raw},
		{"blobs/sha256/" + manifest.Config.Digest.Hex, rawConfig},
	} {
		if err := out.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))}); err != nil {
			return err
		}
		if _, err := out.Write(file.content); err != nil {
			return err
		}
	}
	chains := chain.ChainIDs(config.RootFS.DiffIDs) // in place
	for i, layer := range manifest.Layers {
		if i < len(chains) && unpacked[chains[i].String()] {
			continue
		}
		if err := r.addBlob(out, layer.Digest); err != nil {
			return err
		}
	}
	return out.Close()
}

func (r *Registry) addBlob(out *tar.Writer, hash v1.Hash) error {
	file, err := os.Open(r.blob(hash))
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	if err := out.WriteHeader(&tar.Header{Name: "blobs/sha256/" + hash.Hex, Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(out, file)
	return err
}

func (r *Registry) blob(hash v1.Hash) string {
	return filepath.Join(r.dir, "blobs", hash.Algorithm, hash.Hex)
}

// counter counts what is written to it, in bytes.
type counter struct{ *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}
