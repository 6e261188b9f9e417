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
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// swapped pushes an image, and another process pushes another one.
type swapped struct{ mine, other built }

func (s swapped) Push(ctx context.Context, r *Registry, tag name.Tag) (string, error) {
	digest, err := s.mine.Push(ctx, r, tag)
	if err == nil {
		_, err = s.other.Push(ctx, r, tag)
	}
	return digest, err
}

// TestSwapped: what counts is the digest that was pushed, not what the registry has by then.
func TestSwapped(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	tag := newTag(t, "worker:1")
	mine := newImage(t, 1000, 1)
	other := addLayer(t, mine, 1000)
	_, err := r.receive(t.Context(), swapped{built{tag: mine}, built{tag: other}}, tag)
	if err == nil || event.Hint(err) == "" || r.Has(tag) {
		t.Fatalf("%v: the registry has the other image: %t", err, r.Has(tag))
	}
	for _, image := range []v1.Image{mine, other} {
		if digest := digestOf(t, image); !strings.Contains(err.Error(), digest.String()) {
			t.Errorf("%v does not name %s", err, digest)
		}
	}
}

// TestBuiltIntoTheStore writes blobs right into the store, as BuildKit does, and tags the digest
// that BuildKit reports.
func TestBuiltIntoTheStore(t *testing.T) {
	r := openRegistry(t, t.TempDir())
	image := newImage(t, 1000, 2)
	index := attested(t, image)
	write := func(blob []byte) digest.Digest {
		t.Helper()
		d := digest.FromBytes(blob)
		err := content.WriteBlob(t.Context(), r.Content(), d.String(), bytes.NewReader(blob),
			ocispecs.Descriptor{Digest: d, Size: int64(len(blob))})
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
		for _, layer := range layersOf(t, image) {
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
	if err := r.Tag("sha256:"+strings.Repeat("0", 64), tag); err == nil {
		t.Error("a digest that is not there got a tag")
	}
	if err := r.Tag(built.String(), tag); err != nil {
		t.Fatal(err)
	}
	stored, err := r.receive(t.Context(), BuiltSource{}, tag)
	if err != nil || stored.ids[0] != built.String() {
		t.Errorf("%v, not %s (%v)", stored, built, err)
	}
	if r.stop != nil {
		t.Error("it listens without a push")
	}
	file := filepath.Join(r.dir, "blobs", "sha256", built.Encoded())
	changed := strings.Replace(string(raw), "unknown", "unKnown", 1)
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte(changed), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.Tag(built.String(), tag); err == nil {
		t.Error("a manifest with another digest got a tag")
	}
}

// TestDockerPush has a daemon push, which a test server stands for, and reads the digest from its
// messages.
func TestDockerPush(t *testing.T) {
	image := newImage(t, 1000, 1)
	digest := digestOf(t, image)
	tag := newTag(t, "worker:1")
	line := `{"status":"` + ownTag(tag) + `: digest: ` + digest.String() + ` size: 500"}`
	aux := `{"progressDetail":{},"aux":{"Tag":"` + ownTag(tag) + `","Digest":"` + digest.String() + `","Size":500}}`
	for name, test := range map[string]struct {
		messages string
		err      string // a part of it, "" for none
	}{
		"classic store":    {line + aux, ""},
		"containerd store": {`{"status":"Pushed","id":"x"}{"aux":{"ManifestPushedInsteadOfIndex":true}}` + line, ""},
		"another digest": {strings.ReplaceAll(line, digest.Hex, strings.Repeat("0", 64)),
			"which now has " + digest.String()},
		"no digest": {`{"status":"Pushed"}`, "does not say what it pushed"},
		"failure": {`{"errorDetail":{"message":"no basic auth credentials"},"error":"no basic auth credentials"}`,
			"no basic auth credentials"},
	} {
		r := openRegistry(t, t.TempDir())
		auth := ""
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
				auth = req.Header.Get("X-Registry-Auth")
				_, _ = io.WriteString(w, test.messages)
			default:
				_, _ = io.WriteString(w, "[]")
			}
		}))
		docker, err := client.New(client.WithHost("tcp://" + daemon.Listener.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		stored, err := r.receive(t.Context(), DockerSource{docker}, tag)
		switch {
		case test.err == "" && (err != nil || stored.ids[0] != digest.String()):
			t.Errorf("%s: %v, %v", name, stored, err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: the error is %v, not %q", name, err, test.err)
		}
		checkCredentials(t, r, auth)
		_ = docker.Close()
		daemon.Close()
	}
}

// TestOneRepository: images are told apart by their tags only. A tag has at most 128 characters.
func TestOneRepository(t *testing.T) {
	repositories, tags := map[string]bool{}, map[string]bool{}
	for _, image := range []string{"worker:1", "worker:2", "client:1", "team/worker:1", "registry.example:5000/worker:1",
		strings.Repeat("long/", 40) + "worker:" + strings.Repeat("1", 128)} {
		ref, err := name.NewTag(at("127.0.0.1:1", newTag(t, image)))
		if err != nil {
			t.Fatal(err)
		}
		repositories[ref.Context().Name()], tags[ref.TagStr()] = true, true
	}
	if len(repositories) != 1 || len(tags) != 6 {
		t.Errorf("%v, %v", repositories, tags)
	}
}

// checkCredentials uses the credentials that Docker got, as its containerd store does: only for the
// server that they name.
func checkCredentials(t *testing.T, r *Registry, header string) {
	t.Helper()
	decoded, err := base64.URLEncoding.DecodeString(header)
	var auth struct{ Username, Password, ServerAddress string }
	if err := errors.Join(err, json.Unmarshal(decoded, &auth)); err != nil {
		t.Error(err)
	}
	if auth.ServerAddress != r.address {
		t.Errorf("they are for %s", auth.ServerAddress)
	}
	c := registryClient{r.address, func(req *http.Request) { req.SetBasicAuth(auth.Username, auth.Password) }}
	c.expect(t, http.StatusOK, http.MethodGet, "/v2/", "")
}

// dockerNode answers what a node's docker command prints about images.
type dockerNode struct {
	transport
	layers []string // of each image, the IDs of its layers
}

func (d dockerNode) run(_ context.Context, _ io.Reader, args ...string) (string, error) {
	if slices.Contains(args, "ls") {
		return strings.Repeat("sha256:1\n", len(d.layers)), nil
	}
	return strings.Join(d.layers, "\n") + "\n", nil
}

// TestLacked: how much of an image would have to be moved. Layers count where those below are the
// same, and steps that made none do not.
func TestLacked(t *testing.T) {
	layers := make([]string, 4)
	for i := range layers {
		layers[i] = "sha256:" + strings.Repeat(strconv.Itoa(i), 64)
	}
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/images/worker:1/json"):
			_ = json.NewEncoder(w).Encode(map[string]any{"RootFS": map[string]any{"Type": "layers", "Layers": layers}})
		case strings.HasSuffix(r.URL.Path, "/images/worker:1/history"):
			_, _ = io.WriteString(w, `[{"CreatedBy": "CMD run"}, {"Size": 3}, {"CreatedBy": "ENV a=b"}, {"Size": 20},
				{"CreatedBy": "WORKDIR /site"}, {"Size": 100}]`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer daemon.Close()
	docker, err := client.New(client.WithHost("tcp://" + daemon.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	for about, test := range map[string]struct {
		has    []string // images of the node, as their layers
		bytes  int64
		partly bool
	}{
		"a new node":               {nil, 123, false},
		"other images":             {[]string{layers[1] + " " + layers[2]}, 123, false},
		"the base":                 {[]string{layers[0]}, 23, true},
		"the base, with a folder":  {[]string{strings.Join(layers[:2], " ")}, 23, true},
		"all but the last":         {[]string{layers[2], strings.Join(layers[:3], " ") + " " + layers[1]}, 3, true},
		"the same on another base": {[]string{layers[0], layers[1] + " " + strings.Join(layers[1:], " ")}, 23, true},
		"all":                      {[]string{strings.Join(layers, " ")}, 0, true},
	} {
		unpacked := &fakeContainerd{}
		for _, image := range test.has {
			var ids []digest.Digest
			for _, id := range strings.Fields(image) {
				ids = append(ids, digest.Digest(id))
			}
			for _, id := range identity.ChainIDs(ids) {
				unpacked.unpacked = append(unpacked.unpacked, id.String())
			}
		}
		for _, n := range []*node{
			{name: "n", transport: dockerNode{layers: test.has}, runtime: dockerRuntime},
			{name: "n", transport: unpacked, runtime: containerdRuntime{}},
		} {
			bytes, partly, err := DockerSource{docker}.Lacked(t.Context(), &Cluster{nodes: []*node{n}}, newTag(t, "worker:1"))
			if bytes != test.bytes || partly != test.partly || err != nil {
				t.Errorf("%s, %s: %d bytes, %t, %v", about, n.runtime.name(), bytes, partly, err)
			}
		}
	}
	several := &Cluster{nodes: make([]*node, 2)}
	if _, _, err := (DockerSource{docker}).Lacked(t.Context(), several, newTag(t, "worker:1")); err == nil {
		t.Error("one of several nodes is meant")
	}
}
