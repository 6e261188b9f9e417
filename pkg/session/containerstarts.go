package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/pods"
)

// startsRetry is how soon files are tried again that could not be written between runs. It doubles
// up to startsRetryMost.
const (
	startsRetry     = 2 * time.Second
	startsRetryMost = 30 * time.Second
)

// errInterrupted is the cause with which a sync between runs ends for one of a run.
var errInterrupted = errors.New("a run syncs files")

// starts are the containers that start between runs: in a new pod, in one that is restarted, in a
// Dask worker that scales up. It is an observer of pods.
type starts struct {
	woken chan struct{} // holds a token if there are some

	mu      sync.Mutex
	running map[types.UID][]dask.Container // by pod, as last seen
	queued  map[string]dask.Container      // by ID: those that no sync has looked at
	waiting int                            // syncs of runs
	end     context.CancelCauseFunc        // of the sync between runs
}

func newStarts() *starts {
	return &starts{woken: make(chan struct{}, 1), running: map[types.UID][]dask.Container{},
		queued: map[string]dask.Container{}, end: func(error) {}}
}

// PodSeen remembers which containers have started.
func (s *starts) PodSeen(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil || kube.IsCheckPod(pod) {
		s.PodGone(pod)
		return
	}
	now := dask.RunningContainers(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.running[pod.UID]
	s.running[pod.UID] = now
	for _, c := range now {
		if !slices.ContainsFunc(before, func(b dask.Container) bool { return b.ContainerID == c.ContainerID }) {
			s.queued[c.ContainerID] = c
			s.wake()
		}
	}
	for _, c := range before {
		if !slices.ContainsFunc(now, func(n dask.Container) bool { return n.ContainerID == c.ContainerID }) {
			delete(s.queued, c.ContainerID)
		}
	}
}

// PodGone forgets the containers of a pod.
func (s *starts) PodGone(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.running[pod.UID] {
		delete(s.queued, c.ContainerID)
	}
	delete(s.running, pod.UID)
}

func (s *starts) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// isUnready reports whether a container that runs was last seen as not ready.
func (s *starts) isUnready(c dask.Container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.running[c.PodUID], func(seen dask.Container) bool {
		return seen.ContainerID == c.ContainerID && !seen.Ready
	})
}

// dequeue returns the containers that have started.
func (s *starts) dequeue() (list []dask.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.queued {
		list = append(list, c)
	}
	clear(s.queued)
	return list
}

// requeue has a container looked at again.
func (s *starts) requeue(c dask.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.running[c.PodUID], func(r dask.Container) bool { return r.ContainerID == c.ContainerID }) {
		s.queued[c.ContainerID] = c
	}
}

// forget is for containers that a run's sync has looked at.
func (s *starts) forget(list []dask.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range list {
		delete(s.queued, c.ContainerID)
	}
}

// run has containers that start between runs hold what is in force, until ctx ends.
func (c *containers) run(ctx context.Context) {
	var again <-chan time.Time
	pause := startsRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-c.woken:
		}
		again = nil
		err := c.syncStarted(ctx)
		switch {
		case err == nil:
			pause = startsRetry
		case ctx.Err() == nil:
			again = time.After(pause)
			pause = min(2*pause, startsRetryMost)
			if c.reported.Changed("started", event.MaskVarying(err.Error())) {
				c.sink.Stage("sync").Warn("a container that has started does not have the synced files yet, tried again", err)
			}
		}
	}
}

// syncStarted has the containers that have started hold what is in force.
func (c *containers) syncStarted(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !c.mayBegin(cancel) {
		return nil // the run wakes it
	}
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return nil
	}
	if c.desired == nil {
		return nil
	}
	list := c.dequeue()
	if len(list) == 0 {
		return nil
	}
	_, err := (&pass{containers: c, sink: c.sink, now: c.desired, started: true}).run(ctx, list)
	if ctx.Err() != nil { // a run, which looks at all, or the end
		for _, container := range list {
			c.requeue(container)
		}
		return nil
	}
	if err == nil {
		c.reported.Forget("started")
	}
	return err
}

// mayBegin reports whether no run waits. A run that comes calls cancel.
func (s *starts) mayBegin(cancel context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = cancel
	return s.waiting == 0
}

// interrupt ends a sync between runs, and lets none begin until resume.
func (s *starts) interrupt() (resume func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	s.end(errInterrupted)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting--
	}
}

// observers all see the same pods.
type observers []pods.Observer

func (o observers) PodSeen(pod *corev1.Pod) {
	for _, observer := range o {
		observer.PodSeen(pod)
	}
}

func (o observers) PodGone(pod *corev1.Pod) {
	for _, observer := range o {
		observer.PodGone(pod)
	}
}
