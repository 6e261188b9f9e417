package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// Two devloops of one file on two clusters keep the runs of each apart.
func TestHistoryIsKeptForEachCluster(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", dir)
	t.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
	kubeconfig := "apiVersion: v1\nkind: Config\ncurrent-context: one\n" +
		"clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\n" +
		"contexts: [{name: one, context: {cluster: c}}, {name: two, context: {cluster: c}}]\n"
	if err := os.WriteFile(os.Getenv("KUBECONFIG"), []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(kubeContext string) *status.History {
		t.Helper()
		history, err := openHistory(&config.Config{Path: filepath.Join(dir, "devloop.yaml"), Name: "demo",
			KubeContext: kubeContext})
		if err != nil {
			t.Fatal(err)
		}
		return history
	}
	// Both are open before either writes.
	for run, history := range []*status.History{0: open("one"), 1: open("two")} {
		board := status.NewBoard(history.Runs())
		sink := board.Record(func(event.Event) {}).InRun(run + 1)
		sink.Stage("loop").Note(event.RunStarts, event.RunStart{Why: "start"})
		done := func(context.Context) ([]any, error) { return nil, nil }
		if err := sink.Stage("loop").Step(t.Context(), event.RunComplete, done); err != nil {
			t.Fatal(err)
		}
		over, end := context.WithCancel(t.Context())
		end()
		if err := history.Follow(over, board); err != nil {
			t.Fatal(err)
		}
	}
	for kubeContext, number := range map[string]int{"one": 1, "": 1, "two": 2} {
		if runs := open(kubeContext).Runs(); len(runs) != 1 || runs[0].Number != number {
			t.Errorf("%q: %+v", kubeContext, runs)
		}
	}
}
