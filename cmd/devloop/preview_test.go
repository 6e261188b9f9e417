package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/status/web"
)

// TestImagesOfTheRunningDevloop: its answer is taken for the same file, cluster and images only.
func TestImagesOfTheRunningDevloop(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	dir := filepath.Dir(s.file)
	for name, content := range map[string]string{
		s.file:                           "apiVersion: devloop/v1\nname: demo\nimages: { app: {} }\n",
		filepath.Join(dir, "Dockerfile"): "FROM scratch\n",
		os.Getenv("KUBECONFIG"): "apiVersion: v1\nkind: Config\ncurrent-context: minikube\n" +
			"clusters: [{ name: a, cluster: { server: 'https://127.0.0.1:1' } }]\n" +
			"contexts: [{ name: minikube, context: { cluster: a } }, { name: other, context: { cluster: a } }]\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.sink(event.Event{Time: time.Now(), Stage: "loop", Phase: event.Noted, Message: event.DevloopStarted,
		Payload: event.DevloopStart{Project: "demo", Cluster: "minikube"}})
	load := func(sets ...string) *config.Config {
		t.Helper()
		source := config.Source{Files: []string{s.file}}
		for _, text := range sets {
			source.Set = append(source.Set, config.Assignment{From: "--set", Text: text})
		}
		c, err := config.Load(source)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ask := func(sets ...string) string {
		t.Helper()
		asking := &process{config: load(sets...), sink: func(event.Event) {}}
		if target := asking.askForImages(t.Context()); target != nil {
			return target.Images[0].Ref
		}
		return "none"
	}
	if got := ask(); got != "none" {
		t.Errorf("while it is only starting: %s", got)
	}
	var failure error
	end := s.views.Answer(map[string]web.Question{"images": func(context.Context) (any, error) {
		key, err := session.ImagesKey(load())
		return session.HashedImages{Of: key, Refs: map[string]string{"app": "app:1"}}, errors.Join(err, failure)
	}})
	defer end()
	if got := ask(); got != "app:1" {
		t.Errorf("it says %s", got)
	}
	for _, other := range []string{"kubeContext=other", "images.app.args.A=b", "buildIn=host"} {
		if got := ask(other); got != "none" {
			t.Errorf("%s: it says %s", other, got)
		}
	}
	if failure = errors.New("image app: no such file"); ask() != "none" {
		t.Error("its error is no answer")
	}
}
