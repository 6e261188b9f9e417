package session

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
)

// TestCleanupWithoutTheCluster: what is on a cluster that is away stays, and is named; of one that
// is deleted nothing stays, nor does the journal, if minikube has no profile of it any more.
func TestCleanupWithoutTheCluster(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	profiles := filepath.Join(t.TempDir(), "profiles")
	if err := os.MkdirAll(filepath.Join(profiles, "there"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		state      event.ClusterState
		deployed   bool
		profile    string // where the journal has the cluster, "" for not in minikube
		text, hint string // of the error, "" for none
		noted      string
		journals   int // that are left
	}{
		{event.ClusterStopped, true, "",
			`clean up: kube context "minikube": it is away; still there: release web/web, namespace web`,
			"minikube start; then devloop delete", "", 1},
		{event.ClusterStopped, false, "", "", "", "nothing left behind", 1},
		{event.ClusterReplaced, true, "", "", "",
			"nothing is removed: what was deployed is not on the cluster that answers now", 1},
		{event.ClusterDeleted, true, "gone", "", "", "nothing to remove, the cluster is deleted", 0},
		{event.ClusterDeleted, true, "there", "", "", "nothing to remove, the cluster is deleted", 1},
		{event.ClusterDeleted, true, "", "", "", "nothing to remove, the cluster is deleted", 1}, // says Docker
	} {
		dir := t.TempDir()
		j, err := journal.Open(dir, "uid", "demo")
		if err != nil {
			t.Fatal(err)
		}
		if test.deployed {
			for kind, name := range map[journal.Kind]string{journal.Release: "web/web", journal.Namespace: "web"} {
				if err := j.Record(kind, name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if test.profile != "" {
			err := recordPlace(j, node.ProfileID{Host: host, Folder: filepath.Join(profiles, test.profile)})
			if err != nil {
				t.Fatal(err)
			}
		}
		noted := ""
		s := &Session{journal: j, options: Options{Sink: func(e event.Event) { noted = e.Message }}}
		err = s.cannotCleanUp(&kube.AwayError{Context: "minikube",
			Cluster: event.Cluster{State: test.state, Reason: "it is away", Hint: "minikube start"}})
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != test.text || event.Hint(err) != test.hint || noted != test.noted {
			t.Errorf("%s: %q (%s), %q", test.state, text, event.Hint(err), noted)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if err != nil || len(left) != test.journals {
			t.Errorf("%s: journals left: %s (%v)", test.state, strings.Join(left, " "), err)
		}
	}
}
