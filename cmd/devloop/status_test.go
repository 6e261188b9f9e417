package main

import (
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// What runs, and where, comes before what it is made of.
func TestStatusSaysFirstWhatRuns(t *testing.T) {
	now := time.Now()
	ended := now
	state := status.State{Project: "shop", Cluster: "minikube", Health: status.Healthy,
		Chain: &status.Chain{Checked: now.Add(-12 * time.Second)},
		Releases: []status.Release{{Namespace: "shop", Name: "web", Revision: 7, State: status.ReleaseDeployed,
			Changed: now}},
		Pods: []status.Pod{
			{Name: "web-1", Release: "web", Phase: "Running", Ready: true},
			{Name: "web-2", Release: "web", Phase: "Pending"},
			{Name: "migrate", Release: "web", Phase: "Succeeded"},
		},
		Clusters: []status.DaskCluster{
			{DaskCluster: event.DaskCluster{Namespace: "shop", Name: "1234", Owner: "ada", Since: now, Wanted: 4, Running: 2,
				Image: "worker:1", Reason: "2 workers wait",
				Dashboard: "http://localhost:8001/clusters/shop.1234/status"}, Old: true},
			{DaskCluster: event.DaskCluster{Namespace: "shop", Name: "gone"}, Ended: &ended},
		},
		Forwards: []status.Forward{{Address: event.Address{Target: "service shop/web", Local: "127.0.0.1:8001",
			URL: "http://localhost:8001"}, State: "ready"}},
		Runs: []status.Run{{Number: 3, Started: now, Why: "change", Outcome: status.Succeeded, Changes: event.FileChanges{
			{File: "requirements.txt", Lines: []event.LineChange{{Name: "tabulate", After: "0.9.0", Change: event.Added}}}}}},
		Images: []status.Image{{Name: "worker", State: status.ImageOnNode}, {Name: "web", State: status.ImageOnNode, Tag: "1",
			Synced: &status.Synced{Run: 3, Containers: 2, Renewed: "2"}}},
	}
	var out strings.Builder
	if err := writeStatus(&out, state); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"shop on minikube: healthy",
		"what runs was proven 12s ago",
		"RELEASE NAMESPACE REVISION STATE PODS READY CHANGED web shop 7 deployed 1/2 0s ago",
		"CLUSTER OWNER IMAGE WORKERS DASHBOARD AGE shop.1234 ada worker:1 stale 2/4 http://localhost:8001/clusters/",
		"FORWARD TO STATE CONNECTIONS SENT RECEIVED http://localhost:8001 service shop/web ready",
		"RUN ENDED WHY OUTCOME 3 0s ago requirements.txt + tabulate 0.9.0 succeeded",
		"IMAGE STATE TAG ON THE NODES worker on node - - web on node, rollout pending (r) 1 + files of run 3",
		"POD OF READY STATE RESTARTS AGE web-1",
	} {
		_, rest, found := strings.Cut(text, want)
		if !found {
			t.Fatalf("%q is missing, or stands too late:\n%s", want, &out)
		}
		text = rest
	}
	if strings.Contains(out.String(), "shop.gone") {
		t.Errorf("a cluster that is gone is shown:\n%s", &out)
	}
	out.Reset()
	state.Chain.Outdated = true
	if err := writeStatus(&out, state); err != nil || strings.Contains(out.String(), "proven") {
		t.Errorf("what a newer run changes is said to be proven: %v\n%s", err, &out)
	}
}
