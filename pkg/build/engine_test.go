package build

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// fakeEngine has base images and does nothing else.
type fakeEngine struct {
	engine
	bases
}

type bases map[string]string // configurations by reference

func (e fakeEngine) base(_ context.Context, ref string, _ ocispecs.Platform) (*base, error) {
	if config, ok := e.bases[ref]; ok {
		return &base{Config: []byte(config)}, nil
	}
	return nil, errors.New("no network")
}

// TestMissingBases: which base images a node needs before it builds the same as this machine.
func TestMissingBases(t *testing.T) {
	const ref = "docker.io/library/python:3.11-slim"
	// The registry is gone, and was asked for the second one before.
	const away, asked = "127.0.0.1:1/base:1", "127.0.0.1:1/base:2"
	here := base{Config: []byte(`{"here":true}`)}
	input := func(ref string, local bool) Input {
		return Input{Image: Image{Name: "worker"},
			bases: []resolvedBase{{ref: ref, digest: here.digest(), local: local}}}
	}
	for says, test := range map[string]struct {
		node  bases
		input Input
		tags  string
		err   string // a part of it, "" for none
	}{
		"it has the same": {bases{ref: `{"here":true}`}, input(ref, true), "", ""},
		"it has none":     {nil, input(ref, true), "python:3.11-slim", ""},
		"it has another one": {bases{ref: `{"there":true}`}, input(ref, true), "python:3.11-slim",
			""},
		"two stages begin with it": {nil, Input{Image: Image{Name: "worker"},
			bases: append(input(ref, true).bases, input("python:3.11-slim", true).bases...)},
			"python:3.11-slim", ""},
		"one of a registry": {nil, input("registry.example/team/base:1", true),
			"registry.example/team/base:1", ""},
		"another one, as the registry now": {bases{away: `{"there":true}`}, input(away, false), "",
			"superseded"},
		"an outdated one": {bases{asked: `{"there":true}`}, input(asked, false), "",
			"another version of base image"},
		"one that is named by digest": {nil,
			input("docker.io/library/python@sha256:"+strings.Repeat("0", 64), true), "", "in Docker on this machine"},
		"one that no registry could be asked of": {nil, input(ref, false), "", "no network"},
	} {
		b := newBuilder(fakeEngine{bases: test.node}, t.TempDir())
		answer, err := json.Marshal(here)
		if err == nil {
			err = errors.Join(os.MkdirAll(b.bases.dir, 0o755),
				os.WriteFile(b.bases.file(asked, ocispecs.Platform{}), answer, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
		tags, err := b.MissingBases(t.Context(), test.input)
		var got []string
		for _, tag := range tags {
			got = append(got, tag.String())
		}
		if joined := strings.Join(got, " "); joined != test.tags {
			t.Errorf("%s: %q, not %q", says, joined, test.tags)
		}
		switch {
		case test.err == "" && err != nil, test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: the error is %v, not %q", says, err, test.err)
		case err != nil && !event.IsTransient(err) && !errors.Is(err, event.ErrSuperseded):
			t.Errorf("%s: the build could go elsewhere: %v", says, err)
		}
	}
}

// TestRepository: an image's repository is in its name and not in its hash.
func TestRepository(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nLABEL a=b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	plain, err := New(emptyDocker(t), t.TempDir()).Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	image.Repository = "registry.example:5000/team/worker"
	pushed, err := New(emptyDocker(t), t.TempDir()).Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if pushed.Hash != plain.Hash || pushed.Tag.String() != "registry.example:5000/team/"+plain.Tag.String() {
		t.Errorf("%s, %s", pushed.Tag, plain.Tag)
	}
}
