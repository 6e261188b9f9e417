package portforward

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// The states of a forward, which are what happens to a new connection.
const (
	stateWaiting     event.Name = "waiting"     // it waits, since no pod is ready
	stateUnreachable event.Name = "unreachable" // it waits, since no tunnel to a ready pod can be made
	stateReady       event.Name = "ready"       // it goes to a pod
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
	stage    event.Stage
	bugs     event.Stage // the same, but marks a repeated panic as such
	address  func() event.Address
	reported event.Changes

	open, waiting  atomic.Int64 // connections
	sent, received atomic.Int64 // bytes, to and from pods

	mu      sync.Mutex
	state   event.Name
	pods    []string                 // that get new connections
	reason  error                    // why there are none
	failing map[string]time.Duration // for how long dials have failed, by pod
}

func newStatus(stage event.Stage, address func() event.Address) *status {
	return &status{stage: stage, bugs: stage.ReportOnce(), address: address, state: stateWaiting,
		failing: map[string]time.Duration{}}
}

// setPods takes the pods that get new connections, or the reason why none does.
func (s *status) setPods(pods []string, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldReason := s.reason
	s.pods, s.reason = pods, reason
	maps.DeleteFunc(s.failing, func(pod string, _ time.Duration) bool { return !slices.Contains(pods, pod) })
	added, removed := s.reported.ChangedSet("pods", pods)
	switch {
	case len(added) > 0:
		s.reported.Forget(heldTooLong)
		s.setState(s.reachable(), true, nil)
	case reason != nil:
		if s.state == stateWaiting && oldReason != nil && oldReason.Error() != reason.Error() {
			s.stage.Detail(event.ForwardWaits, s.event())
		}
		s.setState(stateWaiting, oldReason == nil, nil)
	case len(removed) > 0:
		s.setState(s.reachable(), false, nil)
		s.stage.Detail(event.ForwardLeaves, s.event())
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
func (s *status) reachable() event.Name {
	for _, pod := range s.pods {
		if s.failing[pod] < unreachableAfter {
			return stateReady
		}
	}
	return stateUnreachable
}

// setState reports the state if it is another one, or always.
func (s *status) setState(state event.Name, always bool, err error) {
	if state == s.state && !always {
		return
	}
	s.state = state
	switch state {
	case stateReady:
		s.stage.Note(event.ForwardReady, s.event())
	case stateWaiting:
		s.stage.Note(event.ForwardWaits, s.event())
	case stateUnreachable:
		s.stage.Warn(event.ForwardFails, err, s.event())
	}
}

// event is the whole state. The caller holds mu.
func (s *status) event() event.Forward {
	f := s.counts()
	f.State, f.Pods = s.state, s.pods
	if s.reason != nil {
		f.Reason = s.reason.Error()
	}
	return f
}

func (s *status) counts() event.Forward {
	return event.Forward{Address: s.address(), Open: s.open.Load(), Waiting: s.waiting.Load(),
		Sent: s.sent.Load(), Received: s.received.Load()}
}

// reportCounts reports the counts until ctx ends, when they have changed.
func (s *status) reportCounts(ctx context.Context) {
	s.reported.Changed("counts", s.counts())
	for sleep(ctx, countInterval) {
		if s.reported.Changed("counts", s.counts()) {
			s.mu.Lock()
			now := s.event()
			s.mu.Unlock()
			s.stage.Progress(event.ForwardCounts, now)
		}
	}
}

// warnOnce warns about a subject ("" for the forward itself), unless it has and the cause is not
// resolved.
func (s *status) warnOnce(message, subject string, err error, fields ...any) {
	if s.reported.Changed(message+subject, true) {
		s.stage.Warn(message, err, append([]any{s.address()}, fields...)...)
	}
}

// resolved makes warnOnce warn again.
func (s *status) resolved(message, subject string) { s.reported.Forget(message + subject) }
