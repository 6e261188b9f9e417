// Tests of the figures.
package web

import (
	"errors"
	"regexp"
	"runtime"
	"slices"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// proof are the figures of the proof that what runs is what is on the disk.
var proof = regexp.MustCompile(`(?m)^devloop_(?:chain_whole|old_clusters|library_differences) .*$`)

func TestMetricsOfTheProof(t *testing.T) {
	board := status.NewBoard(nil)
	handler := NewMetrics(board).Handler(true)
	whole := event.Links{{Image: "worker", Place: event.AtInputs, Is: "1"},
		{Image: "worker", Place: event.AtPod, Name: "ns/web-1/main", Is: "sha256:abc"}}
	broken := event.Links{{Image: "worker", Place: event.AtGateway, Name: "http://x", Is: "worker:0", Want: "worker:1"}}
	send := func(phase event.Phase, message string, err error, payload any) {
		board.Sink(event.Event{Stage: "proof", Phase: phase, Message: message, Err: err, Payload: payload})
	}
	for _, test := range []struct {
		name string
		then func()
		want []string // in the order of the alphabet
	}{
		{"nothing was checked yet", func() {}, []string{"devloop_old_clusters 0"}},
		{"a check begins", func() { send(event.Started, event.ChainChecked, nil, nil) },
			[]string{"devloop_old_clusters 0"}},
		{"the chain is whole", func() { send(event.Succeeded, event.ChainChecked, nil, event.Chain{Links: whole}) },
			[]string{"devloop_chain_whole 1", "devloop_old_clusters 0"}},
		{"it is broken", func() {
			send(event.Failed, event.ChainChecked, errors.New("broken"),
				event.Chain{Links: broken})
		}, []string{"devloop_chain_whole 0", "devloop_old_clusters 0"}},
		{"a place cannot be asked", func() {
			send(event.Failed, event.ChainChecked, errors.New("no answer"),
				event.Chain{Links: whole})
		}, []string{"devloop_chain_whole 0", "devloop_old_clusters 0"}},
		{"a link is broken, whatever is sent of it", func() {
			send(event.Succeeded, event.ChainChecked, nil,
				event.Chain{Links: broken})
		}, []string{"devloop_chain_whole 0", "devloop_old_clusters 0"}},
		{"it was fixed", func() { send(event.Succeeded, event.ChainChecked, nil, event.Chain{Links: whole}) },
			[]string{"devloop_chain_whole 1", "devloop_old_clusters 0"}},
		{"two clusters are old", func() {
			send(event.Warned, event.ClustersOutdated, nil, event.OutdatedClusters{Clusters: event.DaskClusters{{Name: "a"},
				{Name: "b"}}})
		}, []string{"devloop_chain_whole 1", "devloop_old_clusters 2"}},
		{"they are gone", func() { send(event.Detailed, event.ClustersOutdated, nil, event.OutdatedClusters{}) },
			[]string{"devloop_chain_whole 1", "devloop_old_clusters 0"}},
		{"libraries differ", func() {
			send(event.Warned, event.LibrariesDiffer, nil, event.Comparison{Libraries: 53,
				Places:      []string{"worker", ".venv"},
				Differences: event.Differences{{Library: "dask", Versions: []string{"1", ""}}}})
		}, []string{"devloop_chain_whole 1", "devloop_library_differences 1", "devloop_old_clusters 0"}},
		{"libraries are the same", func() {
			send(event.Noted, event.LibrariesSame, nil, event.Comparison{Libraries: 53,
				Places: []string{"worker", ".venv"}})
		}, []string{"devloop_chain_whole 1", "devloop_library_differences 0", "devloop_old_clusters 0"}},
	} {
		test.then()
		got := proof.FindAllString(answer(handler, request("GET", "/metrics")).Body.String(), -1)
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, not %v", test.name, got, test.want)
		}
	}
}

// What devloop itself takes has the names that every program in Go gives it.
func TestMetricsOfTheProcess(t *testing.T) {
	handler := NewMetrics(status.NewBoard(nil)).Handler(false)
	text := answer(handler, request("GET", "/metrics")).Body.String()
	want := []string{"go_goroutines", "go_memstats_next_gc_bytes"}
	if runtime.GOOS == "linux" {
		want = append(want, "process_resident_memory_bytes", "process_open_fds")
	}
	for _, name := range want {
		if !regexp.MustCompile(`(?m)^` + name + ` [1-9]`).MatchString(text) {
			t.Errorf("there is no %s above 0 in\n%s", name, text)
		}
	}
}
