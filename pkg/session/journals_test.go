package session

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
)

func TestJournalsOfClustersThatAreGone(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dir, profiles := t.TempDir(), filepath.Join(t.TempDir(), "profiles")
	if err := os.MkdirAll(filepath.Join(profiles, "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	profile := func(name, certificate string) node.ProfileID {
		return node.ProfileID{Host: host, Certificate: certificate, Folder: filepath.Join(profiles, name)}
	}
	record := func(cluster string, places ...node.ProfileID) {
		t.Helper()
		j, err := journal.Open(dir, cluster, "demo")
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		for _, place := range places {
			if err := recordPlace(j, place); err != nil {
				t.Fatal(err)
			}
		}
	}
	record("deleted", profile("deleted", "1"))
	record("replaced", profile("web", "1"))
	record("in-another-daemon", profile("web", "2"))
	record("now", profile("web", "0"), profile("web", "2")) // its certificate was renewed
	record("unknown")

	tidyJournals(event.Stage{}, dir, "now", profile("web", "2"))
	var left []string
	paths, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	for _, path := range paths {
		left = append(left, filepath.Base(path))
	}
	want := []string{"in-another-daemon_demo.jsonl", "now_demo.jsonl", "unknown_demo.jsonl"}
	if !reflect.DeepEqual(left, want) {
		t.Errorf("left %v, not %v", left, want)
	}
	j, err := journal.Open(dir, "now", "demo")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if got := j.Names(journal.Place); !reflect.DeepEqual(got, []string{profile("web", "2").String()}) {
		t.Errorf("places %v", got)
	}
}

// TestDeletedCluster: the kubeconfig has no context of the project's cluster any more.
func TestDeletedCluster(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	state, profiles := t.TempDir(), filepath.Join(t.TempDir(), "profiles")
	t.Setenv("XDG_STATE_HOME", state)
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "config"))
	if err := os.MkdirAll(filepath.Join(profiles, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	record := func(profile, project string) {
		t.Helper()
		j, err := journal.Open(filepath.Join(state, "devloop"), "uid of "+profile, project)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if err := recordPlace(j, node.ProfileID{Host: host, Folder: filepath.Join(profiles, profile)}); err != nil {
			t.Fatal(err)
		}
	}
	_, noContext := kube.ReadContext("")
	_, noSuch := kube.ReadContext("typo")
	record("there", "web")
	record("deleted", "web")
	for _, test := range []struct {
		project string
		err     error
		want    bool
	}{
		{"web", errors.New("it is stopped"), false},
		{"web", noSuch, false},
		{"web", noContext, true},
		{"web", noContext, false}, // it is known no more
	} {
		if got := IsDeleted(test.project, test.err); got != test.want {
			t.Errorf("%s, %v: %t", test.project, test.err, got)
		}
	}
}
