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

// State says what happens to a new connection.
type State string

// The states of a forward.
const (
	Waiting     State = "waiting"     // it is held, since no pod is ready
	Unreachable State = "unreachable" // it is held, since no tunnel to a ready pod can be made
	Ready       State = "ready"       // a pod gets it
)

// Status is what a forward is doing.
type Status struct {
	State     State
	Pods      []string // that get new connections, by name
	Open      int64    // connections that a pod has
	Held      int64    // connections that wait for a pod
	Sent      int64    // bytes, to pods
	Received  int64    // bytes, from pods
	LastError string   // the last thing that went wrong, also if it is over; "" if nothing did
}

// What is told when the state changes.
const (
	isReady       = "forward ready"
	isWaiting     = "no ready pod, new connections wait"
	isUnreachable = "ready pod cannot be reached, new connections wait"
	podLeft       = "pod gets no new connections"
)

// Troubles that are told once until they are over.
const (
	cannotAccept = "connections cannot be accepted, trying again"
	cannotWatch  = "pods cannot be watched, the last known ones are used"
	tunnelLost   = "tunnel to the pod lost"
	podRefuses   = "pod refuses connections, trying again"
	heldTooLong  = "held connection closed, no pod answered in time"
)

// unreachableAfter is how long dials fail before a pod counts as unreachable. A pod that was deleted refuses them a moment before
// the cluster tells that it is gone, which is no trouble.
const unreachableAfter = time.Second

// status tells changes of state, not occurrences: what many connections meet is told once, until it is over.
type status struct {
	stage event.Stage
	bugs  event.Stage // the same, each panic once
	about []any       // fields that every event carries

	open, held, sent, received atomic.Int64
	most                       atomic.Int64 // open and held at a time, since it was asked for last

	mu      sync.Mutex
	state   State
	pods    []string
	why     error                    // there are none
	failing map[string]time.Duration // for how long dials have failed, by pod
	told    map[string]bool
	last    error
}

func newStatus(stage event.Stage, about ...any) *status {
	return &status{stage: stage, bugs: stage.Once(), about: about, state: Waiting,
		failing: map[string]time.Duration{}, told: map[string]bool{}}
}

// arrived counts a connection, which waits for a pod at first.
func (s *status) arrived() {
	n := s.held.Add(1) + s.open.Load()
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
}

func (s *status) now() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := Status{State: s.state, Pods: slices.Clone(s.pods), Open: s.open.Load(), Held: s.held.Load(), Sent: s.sent.Load(), Received: s.received.Load()}
	if s.last != nil {
		now.LastError = s.last.Error()
	}
	return now
}

// leadsTo says which pods get new connections, or why none does.
func (s *status) leadsTo(pods []string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, reason := s.pods, s.why
	s.pods, s.why = pods, why
	maps.DeleteFunc(s.failing, func(pod string, _ time.Duration) bool { return !slices.Contains(pods, pod) })
	joined := slices.ContainsFunc(pods, func(pod string) bool { return !slices.Contains(before, pod) })
	switch {
	case joined:
		delete(s.told, heldTooLong)
		s.become(s.found(), true, nil)
	case why != nil:
		if s.state == Waiting && reason != nil && reason.Error() != why.Error() {
			s.stage.Detail(isWaiting, s.fields()...)
		}
		s.become(Waiting, reason == nil, nil)
	case !slices.Equal(pods, before):
		s.become(s.found(), false, nil)
		s.stage.Detail(podLeft, s.fields()...)
	}
}

// reached says whether a tunnel to the pod could be made, and if not, for how long.
func (s *status) reached(pod string, failing time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.pods, pod) {
		return
	}
	if err == nil {
		delete(s.failing, pod)
	} else {
		s.failing[pod] = failing
		s.last = err
	}
	s.become(s.found(), false, err)
}

// found is the state while there are pods.
func (s *status) found() State {
	for _, pod := range s.pods {
		if s.failing[pod] < unreachableAfter {
			return Ready
		}
	}
	return Unreachable
}

// become tells of a change, or if it is to be told anyway.
func (s *status) become(state State, anyway bool, err error) {
	if state == s.state && !anyway {
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

// fields are the state as an event carries it, so that whoever hears only events knows it, too.
func (s *status) fields() []any {
	fields := append(slices.Clone(s.about), "state", event.Name(string(s.state)))
	if s.why != nil {
		return append(fields, "reason", s.why.Error(), "open", s.open.Load(), "held", s.held.Load())
	}
	return append(fields, "pods", event.Name(strings.Join(s.pods, ",")), "open", s.open.Load(), "held", s.held.Load(),
		"sent", s.sent.Load(), "received", s.received.Load())
}

// trouble warns, unless this was told about the same and is not over.
func (s *status) trouble(message, about string, err error, fields ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = err
	if s.told[message+about] {
		return
	}
	s.told[message+about] = true
	s.stage.Warn(message, err, append(slices.Clone(s.about), fields...)...)
}

// over makes a trouble worth telling again.
func (s *status) over(message, about string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.told, message+about)
}

// leads reports whether a pod gets new connections.
func (s *status) leads(pod string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.pods, pod)
}

// countInterval is how often who looks is told of the counts, in case they have changed.
const countInterval = time.Second

// tellCounts tells them until ctx ends.
func (s *status) tellCounts(ctx context.Context) {
	var told [4]int64
	for sleep(ctx, countInterval) {
		if now := [4]int64{s.open.Load(), s.held.Load(), s.sent.Load(), s.received.Load()}; now != told {
			told = now
			s.stage.Progress(event.ForwardCounts, append(slices.Clone(s.about), "open", now[0], "held", now[1], "sent", now[2], "received", now[3])...)
		}
	}
}
