package build

import (
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// TestReadDockerfile: what a Dockerfile is built from and copies from, stages of its own left out.
func TestReadDockerfile(t *testing.T) {
	for dockerfile, want := range map[string][]BaseImage{
		"FROM scratch": nil,
		"FROM python:3.12 AS a\nFROM a\nCOPY --from=0 / /\nCOPY --from=team/tools /x /": {
			{"python:3.12", ""}, {"team/tools", ""}},
		"ARG BASE=team/base\nFROM ${BASE}":              {{"team/base", "BASE"}},
		"ARG BASE\nFROM $BASE":                          {{"", "BASE"}},
		"FROM ${BASE:-team/base}":                       {{"team/base", "BASE"}},
		"ARG TAG=1\nFROM team/base:$TAG":                {{"team/base:1", ""}},
		"FROM a\nRUN docker inspect --format '{{.Id}}'": {{"a", ""}},
	} {
		folder := tree{"Dockerfile": dockerfile}.write(t)
		got, err := ReadDockerfile(filepath.Join(folder, "Dockerfile"))
		if err != nil || !reflect.DeepEqual(got.Bases, want) {
			t.Errorf("%q: %v, %v, not %v", dockerfile, got, err, want)
		}
	}
	for _, text := range []string{"", "flask==3.0", "# a comment", "FROM {{ base }}", "FROM <%= base %>", "ARG A=b"} {
		folder := tree{"Dockerfile": text}.write(t)
		if got, err := ReadDockerfile(filepath.Join(folder, "Dockerfile")); err == nil {
			t.Errorf("%q is a Dockerfile with %v", text, got)
		}
	}
}

// TestDockerfileSources: what of its context a Dockerfile copies, binds and adds, and its stages.
func TestDockerfileSources(t *testing.T) {
	folder := tree{"Dockerfile": "FROM scratch AS a\nCOPY --chown=1 ./app/ *.txt /\nCOPY $X /" +
		"\nADD https://host.example/x /\nRUN --mount=type=bind,source=web,target=/web --mount=type=cache,target=/root true" +
		"\nFROM a\nCOPY --from=a /etc /\nCOPY <<EOF /x\n1\nEOF\nCOPY . ."}.write(t)
	got, err := ReadDockerfile(filepath.Join(folder, "Dockerfile"))
	if want := []string{"app", "*.txt", "web", ""}; err != nil || !slices.Equal(got.Sources, want) {
		t.Errorf("%q, %v, not %q", got.Sources, err, want)
	}
	folder = tree{"Dockerfile": "FROM team/redis:7 AS redis\nFROM redis\nFROM scratch AS api\nFROM api AS worker"}.write(t)
	got, err = ReadDockerfile(filepath.Join(folder, "Dockerfile"))
	if want := []string{"api", "worker"}; err != nil || !slices.Equal(got.Stages, want) {
		t.Errorf("%q, %v, not %q", got.Stages, err, want)
	}
}
