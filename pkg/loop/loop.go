// Package loop decides when a run starts and when it is superseded: the latest change wins.
//
// A change cancels the run under way (cause event.ErrSuperseded); the next run starts only after
// that one has returned. run.go is what a run does, filter.go what a change is worth, sync.go
// when files go into what runs, narrow.go when a run may be of some releases alone.
package loop

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

const (
	// burstGap is how close together the changes of a burst are: someone saves file after file, or
	// a tool does. The first one starts a run at once, since most changes come alone. Those that
	// follow wait until none came for burstQuiet, or each would begin a build that the next one
	// throws away.
	burstGap   = 2 * time.Second
	burstQuiet = time.Second
	// burstLimit bounds that wait: then a run may be superseded, but it fills the build caches.
	burstLimit = 10 * time.Second

	// retryMin is the time from the start of a run that failed with a transient error to the start
	// of the next. It doubles up to retryMax: a daemon restarts within seconds, and a laptop that
	// is carried to another network recovers by itself. It counts from the start, since a run may
	// take long to fail; after a longer one there is still a pause of retryMin.
	retryMin = time.Second
	retryMax = 30 * time.Second

	// rerunPause is the pause after a run that saw its inputs change, since they may go on
	// changing.
	rerunPause = 100 * time.Millisecond
)

// Change is a reason for another run.
type Change struct {
	watch.Batch
	Asked    bool     // by the user, who wants a run whatever the files hold
	Releases []string // that the user wants a run of, nil for all
}

// cause is why a run starts: all changes since the last run that was not superseded. A retry has
// those of the run that failed first, since the user waits since then.
type cause struct {
	why      string // start, change, asked, retry
	asked    bool   // by the user, now or before it failed
	files    []string
	releases []string  // that are enough, nil for all
	since    time.Time // the first of them changed; of a retry without changes, the first run began
	settled  time.Duration
}

func (c *cause) add(change Change) {
	if c.why == "" {
		c.releases = change.Releases
	} else {
		c.releases = merge(c.releases, change.Releases)
	}
	if c.why == "retry" { // it was reported as failed, this is another attempt
		*c = cause{asked: c.asked, releases: c.releases}
	}
	c.asked = c.asked || change.Asked
	switch {
	case change.Asked:
		c.why = "asked"
	case c.why == "":
		c.why = "change"
	}
	for _, path := range change.Paths {
		if !slices.Contains(c.files, path) {
			c.files = append(c.files, path)
		}
	}
	if c.since.IsZero() && !change.Since.IsZero() {
		c.since, c.settled = change.Since, change.Until.Sub(change.Since)
	}
}

// report reports that a run starts. changes are what it brings.
func (c *cause) report(sink event.Sink, changes event.FileChanges) {
	sink.Stage("loop").Detail(event.RunStarts, event.RunStart{Why: event.Name(c.why), Files: baseNames(c.files),
		Changes: changes, Since: c.since, Settled: event.Seconds(c.settled)})
}

// Loop runs the stages again and again. It must not be copied.
type Loop struct {
	load    func(ctx context.Context) (Stages, error)
	watch   watcher
	differ  differ
	changes <-chan Change
	sink    event.Sink

	lastRead atomic.Pointer[reading] // that of the run under way, or of the last good one; nil if unsure
	deployed deployment              // belongs to the run under way

	roots []string // the run's own: files and folders of the configuration, values and charts
}

// New returns a Loop. load reads devloop.yaml and is called at the start of each run; changes are
// of paths that were given to watch, or requests of the user.
func New(
	load func(ctx context.Context) (Stages, error), watch watcher, differ differ, changes <-chan Change, sink event.Sink,
) *Loop {
	return &Loop{load: load, watch: watch, differ: differ, changes: changes, sink: sink}
}

// Run runs the stages now and after every change, until ctx ends. After a failed run it waits for
// the next change, or tries again if the error is transient. When Run returns, no run is under way.
func (l *Loop) Run(ctx context.Context) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	s := &scheduler{
		Loop: l, pending: true, due: time.NewTimer(0), ended: make(chan error), next: cause{why: "start"},
	}
	defer s.due.Stop()
	defer func() {
		if s.cancel != nil {
			end()
			<-s.ended //nolint:errcheck // already reported
			s.cancel(nil)
		}
	}()
	for {
		var due <-chan time.Time
		if s.pending && s.cancel == nil {
			due = s.due.C
		}
		select {
		case <-due:
			s.start(ctx)
		case c := <-l.changes:
			s.handle(ctx, c)
		case err := <-s.ended:
			s.finish(err)
		case <-ctx.Done():
			return
		}
	}
}

// scheduler decides when the next run starts. It belongs to the goroutine of Run.
type scheduler struct {
	*Loop
	pending bool                    // something changed that no run has looked at
	due     *time.Timer             // when the next run starts, if one is pending
	next    cause                   // of the next run
	cancel  context.CancelCauseFunc // of the run under way, nil if there is none
	ended   chan error              // how it went
	unsure  bool                    // files changed and changed back during the run

	number   int            // of the last run
	began    time.Time      // the last run
	retries  int            // runs in a row that failed with a transient error
	reported *event.Changes // by these runs
	changed  time.Time      // last
	burst    time.Time      // began
}

func (s *scheduler) plan(wait time.Duration) { s.pending = true; s.due.Reset(wait) }

func (s *scheduler) start(ctx context.Context) {
	s.pending, s.unsure = false, false
	s.number++
	s.began = time.Now()
	ctx, s.cancel = context.WithCancelCause(ctx)
	sink := s.markRepeated(s.sink.InRun(s.number))
	var changes event.FileChanges
	_ = sink.Stage("loop").Guard("compare files", func() error { changes = s.differ.Changes(s.next.files); return nil })
	s.next.report(sink, changes)
	request := request{s.next.asked, s.next.releases}
	go func() {
		s.ended <- sink.Stage("loop").Guard("run", func() error { return s.once(ctx, sink, request) })
	}()
}

// markRepeated marks events that an earlier try of the same run has sent.
func (s *scheduler) markRepeated(to event.Sink) event.Sink {
	if s.retries == 0 {
		s.reported = &event.Changes{}
	}
	reported, retry := s.reported, s.retries > 0
	return func(e event.Event) {
		key := event.MaskVarying(fmt.Sprint(e.Stage, e.Phase, e.Message, e.Payload, e.Fields, e.Err))
		e.Repeated = !reported.Changed(key, true) && retry
		to(e)
	}
}

func (s *scheduler) handle(ctx context.Context, c Change) {
	stage := s.sink.Stage("loop")
	worth := worthRun // also after a panic, which the run will meet again and report
	if !c.Asked {
		_ = stage.Guard("look at a change", func() error { worth = s.weigh(ctx); return nil })
		if worth == worthNothing {
			stage.Detail("files hold what they held before", "files", baseNames(c.Paths))
			s.unsure = s.cancel != nil
			return
		}
	}
	if len(c.Paths) > 0 {
		stage.Note(event.ChangeSeen, "files", baseNames(c.Paths))
	}
	s.next.add(c)
	now := time.Now()
	if now.Sub(s.changed) > burstGap || now.Sub(s.burst) >= burstLimit {
		s.burst = now
	}
	wait := time.Duration(0)
	if !c.Asked && worth != worthSync && s.burst != now && (s.pending || s.cancel != nil) {
		wait = min(burstQuiet, s.burst.Add(burstLimit).Sub(now))
	}
	s.changed, s.retries = now, 0
	s.plan(wait)
	if s.cancel != nil {
		s.cancel(event.ErrSuperseded)
	}
}

func (s *scheduler) finish(err error) {
	s.cancel(nil)
	s.cancel = nil
	if err == nil {
		s.differ.Succeeded()
	}
	switch {
	case s.pending: // for a newer change
	case errors.Is(err, event.ErrSuperseded): // a stage noticed first
		s.plan(rerunPause)
	case event.IsTransient(err):
		s.next.why = "retry"
		if s.next.since.IsZero() {
			s.next.since = s.began
		}
		wait := max(min(retryMin<<min(s.retries, 10), retryMax)-time.Since(s.began), retryMin)
		if s.retries++; s.retries == 1 {
			s.sink.Stage("loop").Note("trying again until it works, or a file changes")
		}
		s.plan(wait)
	case s.unsure: // a stage may have read what the files no longer hold
		s.plan(rerunPause)
	default:
		s.retries, s.next = 0, cause{}
	}
}

// Once runs the stages one time and returns how that went.
func (l *Loop) Once(ctx context.Context) error {
	sink := l.sink.InRun(1)
	(&cause{why: "asked"}).report(sink, nil)
	return l.once(ctx, sink, request{asked: true})
}

// request is what a run was asked for.
type request struct {
	asked    bool     // by the user: pods are replaced, even if syncing files would do
	releases []string // of these alone, or of all if that is nil
}

// once reports a run as one step.
func (l *Loop) once(ctx context.Context, sink event.Sink, request request) error {
	lastGood := l.lastRead.Swap(nil)
	err := sink.Stage("loop").Step(ctx, event.RunComplete, func(ctx context.Context) ([]any, error) {
		return nil, l.run(ctx, sink, request, lastGood)
	})
	if err != nil {
		l.lastRead.Store(nil) // so that saving again, even the same, tries again
	}
	if errors.Is(context.Cause(ctx), event.ErrSuperseded) {
		return event.ErrSuperseded
	}
	return err
}

// baseNames shortens paths for a log line.
func baseNames(paths []string) string {
	const most = 5
	short := make([]string, 0, most+1)
	for i, path := range paths {
		if i == most {
			short = append(short, "…")
			break
		}
		short = append(short, filepath.Base(path))
	}
	return strings.Join(short, " ")
}
