// An image of the registry as an archive that a runtime can load, without the layers that it has: for nodes that cannot pull.
package node

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	chain "github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is the annotation by which containerd names what it imports (containerd's images.AnnotationImageName).
const imageName = "io.containerd.image.name"

// writeArchive writes the image as an OCI layout in a tar, named target, without the layers whose chain IDs are in unpacked.
func (r *Registry) writeArchive(w io.Writer, tag name.Tag, target string, unpacked map[string]bool) error {
	raw, err := r.single(manifestKey{inside(tag), tag.TagStr()})
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return fmt.Errorf("image registry: %s: %w", tag, err)
	}
	rawConfig, err := r.readBlob(manifest.Config.Digest)
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	var config ocispecs.Image
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return fmt.Errorf("image registry: %s: %w", tag, err)
	}
	digest := digest.FromBytes(raw)
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"mediaType": typeOf(raw), "digest": digest, "size": len(raw),
		"annotations": map[string]string{imageName: target},
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
		if err := r.addBlob(out, layer); err != nil {
			return err
		}
	}
	return out.Close()
}

func (r *Registry) addBlob(out *tar.Writer, layer v1.Descriptor) error {
	reader, err := r.blob(layer.Digest, layer.Size)
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	defer func() { _ = reader.Close() }() // only read
	header := &tar.Header{Name: "blobs/sha256/" + layer.Digest.Hex, Mode: 0o644, Size: layer.Size}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(reader, 0, layer.Size))
	return err
}

// counter counts what is written to it, in bytes.
type counter struct{ *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}
