package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// TestAvailability: a state is said once, and what follows from it is a detail until it is over.
func TestAvailability(t *testing.T) {
	var sent []event.Event
	a := newAvailability(func(e event.Event) { sent = append(sent, e) })
	filtered := a.filter(func(e event.Event) { sent = append(sent, e) })
	forward, local := filtered.Stage("forward"), filtered.Stage("local")
	is := func(state event.ClusterState) error {
		away := &kube.AwayError{Context: "minikube", Cluster: event.Cluster{State: state, Reason: "it is " + string(state)}}
		return fmt.Errorf("wrapped: %w", away)
	}
	there, end := a.whileUsable(t.Context())
	defer end()
	errRaw := errors.New("connection refused")
	forward.Warn(event.ForwardFails, errRaw)
	a.set("minikube", nil)
	a.set("minikube", is(event.ClusterStopped))
	<-there.Done()
	forward.Warn(event.ForwardFails, errRaw)
	forward.Note(event.ForwardWaits)
	local.Warn("requirements could not be installed", errRaw)
	a.set("minikube", is(event.ClusterStopped))
	a.set("minikube", errors.New("no answer: the question was given up")) // says nothing of the cluster
	a.set("minikube", is(event.ClusterDeleted))
	a.set("minikube", nil)
	forward.Note(event.ForwardReady)
	var got []string
	for _, e := range sent {
		got = append(got, strings.TrimSpace(fmt.Sprint(e.Phase, " ", e.Message, " ", e.Field("state"))))
	}
	want := []string{
		"warned " + event.ForwardFails + " <nil>",
		"warned " + event.ClusterAway + " stopped",
		"detailed " + event.ForwardFails + " <nil>",
		"detailed " + event.ForwardWaits + " <nil>",
		"warned requirements could not be installed <nil>",
		"warned " + event.ClusterAway + " deleted",
		"noted " + event.ClusterBack + " running",
		"noted " + event.ForwardReady + " <nil>",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
