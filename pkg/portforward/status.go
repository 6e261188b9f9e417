package portforward

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// State is what happens to a new connection.
type State string

// The states of a forward.
const (
	Waiting     State = "waiting"     // it waits, since no pod is ready
	Unreachable State = "unreachable" // it waits, since no tunnel to a ready pod can be made
	Ready       State = "ready"       // it goes to a pod
)

// The messages when the state changes.
const (
	isReady       = "forward ready"
	isWaiting     = "no ready pod, new connections wait"
	isUnreachable = "ready pod cannot be reached, new connections wait"
	podLeft       = "pod gets no new connections"
)

// Warnings that are sent once until their cause is resolved.
const (
	cannotAccept = "connections cannot be accepted, trying again"
	cannotWatch  = "pods cannot be watched, the last known ones are used"
	tunnelLost   = "tunnel to the pod lost"
	podRefuses   = "pod refuses connections, trying again"
	heldTooLong  = "held connection closed, no pod answered in time"
)

const (
	// unreachableAfter is how long dials fail before a pod counts as unreachable. A deleted pod
	// refuses them a moment before the API server reports it gone.
	unreachableAfter = time.Second
	// countInterval is how often changed counts are reported.
	countInterval = time.Second
)

// status is what a forward is doing. It reports changes, not occurrences: what many connections
// meet is reported once.
type status struct {
	stage  event.Stage
	bugs   event.Stage // the same, but reports a repeated panic as such
	common []any       // fields of every event

	open, waiting  atomic.Int64 // connections
	sent, received atomic.Int64 // bytes, to and from pods

	mu      sync.Mutex
	state   State
	pods    []string                 // that get new connections
	reason  error                    // why there are none
	failing map[string]time.Duration // for how long dials have failed, by pod
	warned  map[string]bool          // by message and subject
}

func newStatus(stage event.Stage, common ...any) *status {
	return &status{stage: stage, bugs: stage.Once(), common: common, state: Waiting,
		failing: map[string]time.Duration{}, warned: map[string]bool{}}
}

// setPods takes the pods that get new connections, or the reason why none does.
func (s *status) setPods(pods []string, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldPods, oldReason := s.pods, s.reason
	s.pods, s.reason = pods, reason
	maps.DeleteFunc(s.failing, func(pod string, _ time.Duration) bool { return !slices.Contains(pods, pod) })
	switch {
	case slices.ContainsFunc(pods, func(pod string) bool { return !slices.Contains(oldPods, pod) }):
		delete(s.warned, heldTooLong)
		s.setState(s.reachable(), true, nil)
	case reason != nil:
		if s.state == Waiting && oldReason != nil && oldReason.Error() != reason.Error() {
			s.stage.Detail(isWaiting, s.fields()...)
		}
		s.setState(Waiting, oldReason == nil, nil)
	case !slices.Equal(pods, oldPods):
		s.setState(s.reachable(), false, nil)
		s.stage.Detail(podLeft, s.fields()...)
	}
}

// hasPod reports whether a pod gets new connections.
func (s *status) hasPod(pod string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.pods, pod)
}

// dialFailed takes for how long dials to a pod have failed, and the last error.
func (s *status) dialFailed(pod string, failing time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.pods, pod) {
		s.failing[pod] = failing
		s.setState(s.reachable(), false, err)
	}
}

func (s *status) dialSucceeded(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.pods, pod) {
		delete(s.failing, pod)
		s.setState(s.reachable(), false, nil)
	}
}

// reachable is the state while there are pods.
func (s *status) reachable() State {
	for _, pod := range s.pods {
		if s.failing[pod] < unreachableAfter {
			return Ready
		}
	}
	return Unreachable
}

// setState reports the state if it is another one, or always.
func (s *status) setState(state State, always bool, err error) {
	if state == s.state && !always {
		return
	}
	s.state = state
	switch state {
	case Ready:
		s.stage.Note(isReady, s.fields()...)
	case Waiting:
		s.stage.Note(isWaiting, s.fields()...)
	case Unreachable:
		s.stage.Warn(isUnreachable, err, s.fields()...)
	}
}

// fields are the whole state, so that a reader of events needs no other source.
func (s *status) fields() []any {
	fields := append(slices.Clone(s.common), "state", event.Name(string(s.state)))
	if s.reason != nil {
		return append(fields, "reason", s.reason.Error(), "open", s.open.Load(), "held", s.waiting.Load())
	}
	return append(fields, "pods", event.Name(strings.Join(s.pods, ",")), "open", s.open.Load(),
		"held", s.waiting.Load(), "sent", s.sent.Load(), "received", s.received.Load())
}

// warnOnce warns about a subject ("" for the forward itself), unless it has and the cause is not
// resolved.
func (s *status) warnOnce(message, subject string, err error, fields ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := message + subject; !s.warned[key] {
		s.warned[key] = true
		s.stage.Warn(message, err, append(slices.Clone(s.common), fields...)...)
	}
}

// resolved makes warnOnce warn again.
func (s *status) resolved(message, subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.warned, message+subject)
}

// reportCounts reports the counts until ctx ends, when they have changed.
func (s *status) reportCounts(ctx context.Context) {
	var reported [4]int64
	for sleep(ctx, countInterval) {
		now := [4]int64{s.open.Load(), s.waiting.Load(), s.sent.Load(), s.received.Load()}
		if now != reported {
			reported = now
			s.stage.Progress(event.ForwardCounts, append(slices.Clone(s.common),
				"open", now[0], "held", now[1], "sent", now[2], "received", now[3])...)
		}
	}
}
