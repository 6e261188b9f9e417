package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeArchive writes the image, named target, as an OCI layout in a tar that a runtime imports.
// It leaves out the layers whose chain IDs are in unpacked.
func (r *Registry) writeArchive(ctx context.Context, w io.Writer, image *storedImage, target string,
	unpacked map[string]bool) error {
	manifestDigest, err := image.single()
	if err != nil {
		return err
	}
	manifest := image.manifests[manifestDigest]
	rawConfig, err := r.readBlob(manifest.Config.Digest)
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	var config ocispecs.Image
	if err := json.Unmarshal(rawConfig, &config); err != nil {
		return fmt.Errorf("image registry: %s: %w", manifest.Config.Digest, err)
	}
	chainIDs := identity.ChainIDs(config.RootFS.DiffIDs)
	missing := map[digest.Digest]bool{} // by layer; one that occurs twice may be unpacked once
	for i, layer := range manifest.Layers {
		id := digest.Digest(layer.Digest.String())
		missing[id] = missing[id] || i >= len(chainIDs) || !unpacked[chainIDs[i].String()]
	}
	err = archive.Export(ctx, r.blobs, w, archive.WithSkipDockerManifest(),
		archive.WithManifest(ocispecs.Descriptor{MediaType: string(manifest.MediaType),
			Digest: digest.Digest(manifestDigest.String()), Size: int64(len(manifest.raw))}, target),
		archive.WithBlobFilter(func(blob ocispecs.Descriptor) bool {
			missing, isLayer := missing[blob.Digest]
			return missing || !isLayer
		}))
	if err != nil {
		return fmt.Errorf("image registry: %w", err)
	}
	return nil
}

// counter counts the bytes written to it.
type counter struct{ *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}
