package deploy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"

	"github.com/devloop/devloop/pkg/event"
)

func shell(script string) Command {
	return Command{Args: []string{"sh", "-c", script}, Timeout: time.Minute}
}

// Releases are written side by side, and each asks for the commands before all of them.
func TestCommandsBeforeAllReleases(t *testing.T) {
	for name, test := range map[string]struct {
		script  string
		wantErr string
	}{
		"that succeed": {"echo ran; echo \"[$DEVLOOP_RELEASE]\"", ""},
		"that fail":    {"echo ran; exit 3", "command before all releases: sh -c"},
	} {
		t.Run(name, func(t *testing.T) {
			d, stage, lines := commands(t)
			all := &around{Around: Around{Before: []Command{shell(test.script)}}}
			var group sync.WaitGroup
			errs := make([]error, 4)
			for i := range errs {
				group.Go(func() { errs[i] = d.beforeAll(t.Context(), stage, all) })
			}
			group.Wait()
			if n := strings.Count(lines(), "ran"); n != 1 || test.wantErr == "" && !strings.Contains(lines(), "[]") {
				t.Errorf("they ran %d times: %s", n, lines())
			}
			shown := 0
			for _, err := range errs {
				if (err == nil) != (test.wantErr == "") {
					t.Errorf("%v", err)
				}
				if err != nil && !errors.Is(err, errNotBegun) {
					shown++
					if !strings.Contains(err.Error(), test.wantErr) || !strings.Contains(event.Hint(err), "the releases are") {
						t.Errorf("%v, %s", err, event.Hint(err))
					}
				}
			}
			if test.wantErr != "" && shown != 1 {
				t.Errorf("of %v, %d are shown", errs, shown)
			}
		})
	}
}

// What is due is read from the releases: another devloop may have written them.
func TestCommandsAfterAllReleases(t *testing.T) {
	due := map[string]string{labelProject: "demo", labelRevision: "1", labelAfterAll: labelDue}
	for name, test := range map[string]struct {
		labels map[string]string
		script string
		runs   bool
		left   string // the mark afterwards
	}{
		"that are due":             {due, "true", true, ""},
		"that fail, and stay due":  {due, "exit 1", true, labelDue},
		"of releases as they were": {map[string]string{labelProject: "demo", labelRevision: "1"}, "true", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, _, _ := commands(t)
			d.journal = permits{}
			d.cluster.Metadata = records(t, permits{}, record(1, release.StatusDeployed, test.labels)).cluster.Metadata
			d.revisionContents[revisionID(demoRelease, 1)] = contents{} // without workloads
			ran := filepath.Join(t.TempDir(), "ran")
			all := &around{Around: Around{After: []Command{shell("echo >> " + ran + "; " + test.script)}}}
			last, err := d.last(t.Context(), demoRelease)
			if err != nil {
				t.Fatal(err)
			}
			err = d.afterAll(t.Context(), nil, all, []Release{demoRelease}, []revision{last}, time.Minute)
			if (err != nil) != (test.left != "") {
				t.Error(err)
			}
			if _, err := os.Stat(ran); (err == nil) != test.runs {
				t.Errorf("that they ran is %t", err == nil)
			}
			if last, err := d.last(t.Context(), demoRelease); err != nil || last.labels[labelAfterAll] != test.left {
				t.Errorf("%v, %v", last.labels, err)
			}
		})
	}
}
