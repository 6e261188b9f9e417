package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// swapped pushes an image, beside which somebody else pushes another one.
type swapped struct{ mine, other built }

func (s swapped) Push(ctx context.Context, r *Registry, tag name.Tag) (string, error) {
	digest, err := s.mine.Push(ctx, r, tag)
	if err == nil {
		_, err = s.other.Push(ctx, r, tag)
	}
	return digest, err
}

// TestSwapped: what counts is what who pushed says, and not what the registry has by then.
func TestSwapped(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "worker:1")
	mine := newImage(t, 1000, 1)
	other := addLayer(t, mine, 1000)
	_, err := r.receive(t.Context(), swapped{built{tag: mine}, built{tag: other}}, tag)
	for _, image := range []v1.Image{mine, other} {
		digest, digestErr := image.Digest()
		if digestErr != nil || err == nil || !strings.Contains(err.Error(), digest.String()) {
			t.Errorf("%v does not name %s", err, digest)
		}
	}
	if err == nil || event.Hint(err) == "" || r.Has(tag) {
		t.Errorf("%v: the other image is kept: %t", err, r.Has(tag))
	}
}

// TestBuiltIntoTheStore writes blobs right into the store, as BuildKit does, and names what
// BuildKit says that it built.
func TestBuiltIntoTheStore(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 2)
	index := attested(t, image)
	write := func(blob []byte) digest.Digest {
		t.Helper()
		d := digest.FromBytes(blob)
		err := content.WriteBlob(t.Context(), r.Content(), d.String(), bytes.NewReader(blob), ocispecs.Descriptor{Digest: d, Size: int64(len(blob))})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range list.Manifests {
		image, err := index.Image(child.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers := layersOf(t, image)
		for _, layer := range layers {
			reader, err := layer.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			blob, err := io.ReadAll(reader)
			if err != nil {
				t.Fatal(err)
			}
			write(blob)
		}
		config, configErr := image.RawConfigFile()
		manifest, manifestErr := image.RawManifest()
		if err := errors.Join(configErr, manifestErr); err != nil {
			t.Fatal(err)
		}
		write(config)
		write(manifest)
	}
	raw, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	built := write(raw)
	tag := newTag(t, "worker:1")
	if err := r.Name("sha256:"+strings.Repeat("0", 64), tag); err == nil {
		t.Error("what is not there got a name")
	}
	if err := r.Name(built.String(), tag); err != nil {
		t.Fatal(err)
	}
	id, err := r.receive(t.Context(), Built{}, tag)
	if err != nil || id.ids[0] != built.String() {
		t.Errorf("%v, not %s (%v)", id, built, err)
	}
	if r.server != nil {
		t.Error("it listens, and nobody pushes")
	}
	file := filepath.Join(r.dir, "blobs", "sha256", built.Encoded())
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte(strings.Replace(string(raw), "unknown", "unKnown", 1)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.Name(built.String(), tag); err == nil {
		t.Error("a manifest got a name that is not what its digest says")
	}
}

// TestDockerPush has a daemon push, which a server in front of the registry stands for, and tells
// what it pushed by what it says.
func TestDockerPush(t *testing.T) {
	image := newImage(t, 1000, 1)
	digest := digestOf(t, image)
	line := `{"status":"1: digest: ` + digest.String() + ` size: 500"}`
	for says, test := range map[string]struct {
		answer string
		err    string // a part of it, "" for none
	}{
		"the classic store":    {line + `{"progressDetail":{},"aux":{"Tag":"1","Digest":"` + digest.String() + `","Size":500}}`, ""},
		"the containerd store": {`{"status":"Pushed","id":"x"}{"aux":{"ManifestPushedInsteadOfIndex":true}}` + line, ""},
		"another one":          {strings.ReplaceAll(line, digest.Hex, strings.Repeat("0", 64)), "which now has " + digest.String()},
		"it does not say":      {`{"status":"Pushed"}`, "does not say what it pushed"},
		"it failed":            {`{"errorDetail":{"message":"no basic auth credentials"},"error":"no basic auth credentials"}`, "no basic auth credentials"},
	} {
		r := openRegistry(t, t.TempDir())
		tag := newTag(t, "worker:1")
		given := ""
		daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case strings.HasSuffix(req.URL.Path, "/_ping"):
				w.Header().Set("Api-Version", "1.44")
			case strings.HasSuffix(req.URL.Path, "/tag"):
				w.WriteHeader(http.StatusCreated)
			case strings.HasSuffix(req.URL.Path, "/push"):
				if _, err := (built{tag: image}).Push(req.Context(), r, tag); err != nil {
					t.Error(err)
				}
				given = req.Header.Get("X-Registry-Auth")
				_, _ = io.WriteString(w, test.answer)
			default:
				_, _ = io.WriteString(w, "[]")
			}
		}))
		docker, err := client.New(client.WithHost("tcp://" + daemon.Listener.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		id, err := r.receive(t.Context(), Docker{docker}, tag)
		switch {
		case test.err == "" && (err != nil || id.ids[0] != digest.String()):
			t.Errorf("%s: %v, %v", says, id, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: the error is %v, not %q", says, err, test.err)
		}
		checkCredentials(t, r, given)
		_ = docker.Close()
		daemon.Close()
	}
}

// checkCredentials uses what Docker was given, as its containerd store does: only for the server
// that it names.
func checkCredentials(t *testing.T, r *Registry, header string) {
	t.Helper()
	decoded, err := base64.URLEncoding.DecodeString(header)
	var auth struct{ Username, Password, ServerAddress string }
	if err := errors.Join(err, json.Unmarshal(decoded, &auth)); err != nil {
		t.Error(err)
	}
	c := caller{r.address, func(req *http.Request) { req.SetBasicAuth(auth.Username, auth.Password) }}
	if status, _, text := c.ask(t, http.MethodGet, "/v2/", nil); status != http.StatusOK || auth.ServerAddress != r.address {
		t.Errorf("%d, %s, for %s", status, text, auth.ServerAddress)
	}
}
