package build

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// chain hashes base, mid and app, each built from the one before, and returns app.
func chain(t *testing.T, b *Builder, repository, base, app string) Input {
	t.Helper()
	hash := func(name, dockerfile string, from []Input) Input {
		files := tree{"Dockerfile": dockerfile, "a": "a", "b": "b"}
		if strings.Contains(dockerfile, "COPY changed ") {
			files["changed"] = "changed"
		}
		dir := files.write(t)
		image := Image{Name: name, Repository: repository + name, Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir,
			Args: map[string]string{}, From: from}
		for _, input := range from {
			image.Args["BASE"] = input.Tag.String()
		}
		input, err := b.Hash(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		return input
	}
	bottom := hash("base", base, nil)
	mid := hash("mid", "ARG BASE\nFROM $BASE\nCOPY b /\n", []Input{bottom})
	return hash("app", app, []Input{mid})
}

// TestHashCoversFrom: the hash of an image covers those that it is built from, which are looked for
// in no registry, and known before they are built.
func TestHashCoversFrom(t *testing.T) {
	asked := 0
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusNotFound)
	}))
	defer registry.Close()
	repository := strings.TrimPrefix(registry.URL, "http://") + "/team/"
	b := New(emptyDocker(t), t.TempDir())
	const base, from = "FROM scratch\nCOPY a /\n", "ARG BASE\nFROM $BASE\nCOPY a /\n"
	first := chain(t, b, repository, base, from)
	if again := chain(t, b, repository, "# a comment\n"+base, from); again.Hash != first.Hash {
		t.Error("another hash for the same")
	}
	for what, changed := range map[string]string{
		"a file":    "FROM scratch\nCOPY changed /\n",
		"a setting": base + "ENV A=b\n",
	} {
		if other := chain(t, b, repository, changed, from); other.Hash == first.Hash {
			t.Errorf("%s of the lowest image does not count", what)
		}
	}
	unused := chain(t, b, repository, base, "FROM scratch\nCOPY a /\n")
	other := chain(t, b, repository, base+"ENV A=b\n", "FROM scratch\nCOPY a /\n")
	if unused.Hash != other.Hash {
		t.Error("an image counts that nothing is built from")
	}
	for says, dockerfile := range map[string]string{
		"COPY --from": "ARG BASE\nFROM $BASE AS base\nFROM scratch\nCOPY --from=base /a /\n",
		"a mount":     "ARG BASE\nFROM $BASE AS base\nFROM scratch\nRUN --mount=from=base,target=/base true\n",
	} {
		one := chain(t, b, repository, base, dockerfile)
		two := chain(t, b, repository, "FROM scratch\nCOPY changed /\n", dockerfile)
		if one.Hash == two.Hash {
			t.Errorf("what %s takes does not count", says)
		}
	}
	// What the lower image leaves to do reads files of the upper one's context.
	for _, input := range []string{"a", "b"} {
		trigger := "FROM scratch\nONBUILD COPY " + input + " /triggered\n"
		dir := tree{"Dockerfile": trigger, input: "x"}.write(t)
		bottom, err := b.Hash(t.Context(), Image{Name: "base", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
		if err != nil {
			t.Fatal(err)
		}
		dir = tree{"Dockerfile": "ARG BASE\nFROM $BASE\n", input: "x"}.write(t)
		top, err := b.Hash(t.Context(), Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir,
			Args: map[string]string{"BASE": bottom.Tag.String()}, From: []Input{bottom}})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, file := range top.Files {
			found = found || file.Name == filepath.Join(dir, input)
		}
		if !found {
			t.Errorf("%s, which a trigger copies, is not among %v", input, top.Files)
		}
	}
	if asked != 0 {
		t.Errorf("the registry was asked %d times", asked)
	}
}

// TestFromOtherPlatform: an image for another platform cannot be built from.
func TestFromOtherPlatform(t *testing.T) {
	b := New(emptyDocker(t), t.TempDir())
	dir := tree{"Dockerfile": "ARG BASE=scratch\nFROM $BASE\nLABEL a=b\n"}.write(t)
	image := Image{Name: "base", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir, Platform: "linux/riscv64"}
	base, err := b.Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	image.Name, image.Platform = "app", "linux/s390x"
	image.Args, image.From = map[string]string{"BASE": base.Tag.String()}, []Input{base}
	_, err = b.Hash(t.Context(), image)
	const want = "image base is built for linux/riscv64, and is needed here for linux/s390x"
	if err == nil || !strings.Contains(err.Error(), want) || event.Hint(err) != "give both images the same platform" {
		t.Errorf("the error is %v (hint %q)", err, event.Hint(err))
	}
	image.Platform = "linux/riscv64"
	if _, err := b.Hash(t.Context(), image); err != nil {
		t.Error(err)
	}
}

// holdingDocker answers like a daemon that holds images.
func holdingDocker(t *testing.T, images ...string) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		for _, image := range images {
			if strings.HasSuffix(r.URL.Path, "/images/"+image+"/json") {
				_, _ = w.Write([]byte(`{"Id": "sha256:1"}`))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message": "no such image"}`))
	}))
	t.Cleanup(server.Close)
	docker, err := client.New(client.WithHost("tcp://" + server.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	return docker
}

// TestMissingFrom: which of the project's images a place needs before it can build. Only those that
// the image is itself built from count, and none of them is a base image to be looked up.
func TestMissingFrom(t *testing.T) {
	const from = "ARG BASE\nFROM $BASE AS one\nFROM $BASE\nCOPY --from=one /a /\n"
	top := chain(t, New(emptyDocker(t), t.TempDir()), "", "FROM scratch\nCOPY a /\n", from)
	missing, err := New(emptyDocker(t), t.TempDir()).MissingFrom(t.Context(), top)
	if err != nil || len(missing) != 1 || missing[0].Name != "mid" {
		t.Errorf("missing: %v, %v", missing, err)
	}
	holds := New(holdingDocker(t, missing[0].Tag.String()), t.TempDir())
	if missing, err := holds.MissingFrom(t.Context(), top); err != nil || len(missing) > 0 {
		t.Errorf("missing though it is there: %v, %v", missing, err)
	}
	if bases, err := holds.MissingBases(t.Context(), top); err != nil || len(bases) > 0 {
		t.Errorf("base images: %v, %v", bases, err)
	}
}

// fakeRegistry has one image.
type fakeRegistry struct {
	Registry
	tag   name.Tag
	blobs content.Store
}

func (r fakeRegistry) Content() content.Store { return r.blobs }

func (r fakeRegistry) IDs(tag name.Tag) []string {
	if tag != r.tag {
		return nil
	}
	return []string{"sha256:" + strings.Repeat("a", 64)}
}

// TestOffer: a BuildKit elsewhere gets the project's images from devloop's registry.
func TestOffer(t *testing.T) {
	blobs, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	top := chain(t, New(emptyDocker(t), t.TempDir()), "", "FROM scratch\nCOPY a /\n",
		"ARG BASE\nFROM $BASE\nCOPY b /\n")
	registry := &fakeRegistry{tag: top.From[0].Tag, blobs: blobs}
	b := Remote("tcp://127.0.0.1:1", registry, t.TempDir())
	options, err := b.options(top)
	if err != nil {
		t.Fatal(err)
	}
	context := options.FrontendAttrs["context:"+registry.tag.String()]
	if context != "oci-layout://devloop@sha256:"+strings.Repeat("a", 64) || options.OCIStores["devloop"] != blobs {
		t.Errorf("the context is %q, the stores %v", context, options.OCIStores)
	}
	registry.tag = name.Tag{}
	if _, err := b.options(top); !event.IsTransient(err) {
		t.Errorf("it has been removed: %v", err)
	}
}
