package main

import (
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

func TestChainInATerminal(t *testing.T) {
	chain := status.Chain{Checked: time.Now(), Links: event.Links{
		{Image: "worker", Place: event.AtInputs, Is: "ce6fdce58d884543"},
		{Image: "worker", Place: event.AtNode, Name: "minikube", Is: "sha256:e288f392b02749c112d86f1b31434e4c"},
		{Image: "client", Place: event.AtPod, Name: "n/p/main", Is: "client:1", Want: "client:2"},
		{Image: "client", Place: event.AtPod, Name: "n/job/main", Is: "client:1", Want: "client:2", NotReplaced: true},
		{Image: "etl", Place: event.AtInputs, Is: "566dd06af37aff33", SyncedInto: "ce6fdce58d884543"},
		{Image: "etl", Place: event.AtFiles, Is: "sha256:33b02749c112d86f1b31434e4c"},
		{Image: "etl", Place: event.AtFiles, Name: "n/p/etl", Is: "sha256:33b02749c112d86f1b31434e4c"},
		{Image: "etl", Place: event.AtFiles, Name: "n/q/etl", Is: "sha256:44b02749c112d86f1b31434e4c",
			Want: "sha256:33b02749c112d86f1b31434e4c", Differ: []string{"/app/a.py changed"}, More: 4},
		{Image: "etl", Place: event.AtFiles, Name: "n/r/etl", Is: event.Unknown, Want: "sha256:33b02749c112d86f1b31434e4c"},
	}}
	var out strings.Builder
	if err := writeChain(&out, chain); err != nil {
		t.Fatal(err)
	}
	want := `worker
  inputs            ce6fdce58d884543  ok
  on node minikube  e288f392b027      ok

client
  in pod n/p/main    client:1  BROKEN: it should be client:2
  in pod n/job/main  client:1  older than client:2, nothing replaces it

etl
  inputs            566dd06af37aff33  ok: etl:ce6fdce58d884543 with the synced files
  synced files      33b02749c112      ok
  files of n/p/etl  33b02749c112      ok
  files of n/q/etl  44b02749c112      BROKEN: /app/a.py changed, … and 4 more
  files of n/r/etl  unknown           BROKEN: it should be 33b02749c112
`
	if out.String() != want {
		t.Errorf("got\n%s\nnot\n%s", &out, want)
	}
	for health, problem := range map[status.Health]bool{status.Healthy: false, status.Degraded: false, status.Failed: true,
		status.Working: true, status.Starting: true, status.Ending: true} {
		if says, hint := behind(status.State{Health: health}); (says != "") != problem || (hint != "") != problem {
			t.Errorf("%s: %q, %q", health, says, hint)
		}
	}
}
