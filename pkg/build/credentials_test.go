package build

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/devloop/devloop/pkg/event"
)

// Docker Desktop was removed, and its credential helper is still configured: public images need
// none, and about others the error names the helper and the file.
func TestMissingCredentialHelper(t *testing.T) {
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	before := dockerconfig.Dir() // which reads the environment once
	dockerconfig.SetDir(config)
	t.Cleanup(func() { dockerconfig.SetDir(before) })
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"credsStore": "not-there"}`),
		0o600); err != nil {
		t.Fatal(err)
	}
	var private atomic.Bool
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if private.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	base := server.Listener.Addr().String() + "/base:1"
	ref, err := name.ParseReference(base)
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.Config(empty.Image, v1.Config{Env: []string{"A=b"}})
	if err == nil {
		image, err = mutate.ConfigFile(image, configOf(t, image))
	}
	if err == nil {
		err = remote.Write(ref, image)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := tree{"Dockerfile": "FROM " + base + "\n"}.write(t)
	hash := func() error {
		_, err := New(emptyDocker(t), t.TempDir()).Hash(t.Context(),
			Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
		return err
	}
	if err := hash(); err != nil {
		t.Errorf("a public image: %v", err)
	}
	private.Store(true)
	const helper = "docker-credential-not-there"
	if err := hash(); err == nil || event.IsTransient(err) ||
		!strings.Contains(err.Error(), helper+", which "+filepath.Join(config, "config.json")+" names, is not in PATH") ||
		!strings.HasPrefix(event.Hint(err), "install it, or remove it there") {
		t.Errorf("a private one: %v (hint %q)", err, event.Hint(err))
	}

	// One that is there and fails.
	path := filepath.Join(t.TempDir(), helper)
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho locked; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(path)+":"+os.Getenv("PATH"))
	if err := hash(); err == nil || event.IsTransient(err) || !strings.Contains(err.Error(), "locked") ||
		strings.Contains(event.Hint(err), "network") {
		t.Errorf("one that fails: %v (hint %q)", err, event.Hint(err))
	}
}
