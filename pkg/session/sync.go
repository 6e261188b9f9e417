package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/venv"
)

// syncer implements local.sync: once the nodes have the images, it installs what they hold into the
// Python environment on this machine. It is no part of a run, so that a failure or a superseded run
// interrupts neither pip nor the deployment.
type syncer struct {
	sink   event.Sink
	images func(context.Context, *target) ([]proof.Libraries, error) // returns the libraries of the images
	woken  chan struct{}                                             // holds a token if there is a new request

	mu        sync.Mutex
	requested *target       // the newest request, nil once its installation has begun
	idle      chan struct{} // closed when no request is left, nil if there was none
	supersede context.CancelCauseFunc

	installed string // fingerprint of what the last installation left
	reported  event.Changes
}

// localStage is what a run does to this machine.
type localStage struct {
	syncer *syncer
	config *config.Config
}

func (l localStage) Sync(made *loop.Target) { l.syncer.request(target{made, l.config}) }

// includedRequirements are the files that local.requirements includes, which are installed, too.
func includedRequirements(c *config.Config) []string {
	if !c.Local.Sync {
		return nil
	}
	found, err := venv.ReadRequirements(c.Abs(c.Local.Requirements))
	if err != nil {
		return nil // its own path is watched, and the installation reports the error
	}
	return found.Files[1:]
}

func newSyncer(sink event.Sink) *syncer {
	return &syncer{sink: sink, woken: make(chan struct{}, 1), supersede: func(error) {}}
}

// request installs what the images hold if this machine has not got it yet. It cancels the reading
// of older images, but no installation. It does not block.
func (y *syncer) request(now target) {
	if !now.config.Local.Sync {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.requested = &now
	y.supersede(event.ErrSuperseded)
	if y.idle == nil {
		y.idle = make(chan struct{})
	}
	select {
	case y.woken <- struct{}{}:
	default:
	}
}

// wait returns when no request is left, or with the cause when ctx ends.
func (y *syncer) wait(ctx context.Context) error {
	y.mu.Lock()
	idle := y.idle
	y.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// run serves requests until ctx ends, which interrupts pip; pip then undoes what it has begun.
func (y *syncer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-y.woken:
		}
		for next := y.next(); next != nil; next = y.next() {
			if ctx.Err() == nil { // a panic is contained, else wait would block forever
				_ = y.sink.Stage("local").Recover("requirements", func() { y.install(ctx, next) })
			}
		}
	}
}

// next returns the request to serve, nil if none is left.
func (y *syncer) next() *target {
	y.mu.Lock()
	defer y.mu.Unlock()
	next := y.requested
	if y.requested = nil; next == nil && y.idle != nil {
		close(y.idle)
		y.idle = nil
	}
	return next
}

func (y *syncer) install(ctx context.Context, now *target) {
	stage := y.sink.Stage("local")
	err := y.bringUp(ctx, now, stage)
	switch {
	case err == nil:
		y.reported.Forget("failure")
	case ctx.Err() == nil && !errors.Is(err, event.ErrSuperseded):
		warnOnce(stage, &y.reported, "what the images hold is not installed on this machine", err)
	}
}

func (y *syncer) bringUp(ctx context.Context, now *target, stage event.Stage) error {
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	y.mu.Lock()
	superseded := y.requested != nil
	y.supersede = cancel
	y.mu.Unlock()
	if superseded {
		return event.ErrSuperseded
	}
	images, err := y.images(reading, now)
	if err != nil {
		return err
	}
	s, err := planSync(now.config, images)
	if err != nil {
		return err
	}
	if s.isDone() || s.fingerprint() == y.installed {
		stage.Detail("this machine has what the images hold", "venv", placeName(now.config, s.environment.Path))
		return nil
	}
	if len(s.wanted.Disputed) > 0 && y.reported.Changed("disputed", s.wanted.Disputed) {
		stage.Note("images differ among themselves; this machine gets what the first of them holds",
			"libraries", few(s.wanted.Disputed))
	}
	if err := s.run(ctx, y.sink); err != nil {
		return err
	}
	y.installed = s.fingerprint()
	return nil
}

// localSync brings the environment on this machine to the libraries of the images.
type localSync struct {
	config       *config.Config
	environment  *venv.Environment
	requirements venv.Requirements // without files if there are none
	wanted       proof.Wanted
}

// planSync reads what an installation needs.
func planSync(c *config.Config, images []proof.Libraries) (*localSync, error) {
	local, err := FindLocal(c)
	if err != nil {
		return nil, err
	}
	if local.Source == venv.SourceCondaBase {
		return nil, event.WithHint(fmt.Errorf("nothing is installed into conda's base, %s, which is not this project's alone",
			local.Place), "activate another environment, or name the one that is meant: "+c.WhereToSet("local.venv"))
	}
	s := &localSync{config: c, environment: local.Environment, wanted: proof.Want(images)}
	s.requirements, err = venv.ReadRequirements(c.Abs(c.Local.Requirements))
	switch {
	case errors.Is(err, os.ErrNotExist) && !c.Local.Sync:
		s.requirements = venv.Requirements{} // devloop skew --fix does without
	case err != nil:
		return nil, event.WithHint(fmt.Errorf("read the requirements: %w", err),
			"name them: local.requirements, or remove local.sync")
	}
	return s, nil
}

// isDone reports whether the environment has what the images hold, and what else the requirements
// name.
func (s *localSync) isDone() bool {
	return len(s.missing(slices.Collect(maps.Keys(s.wanted.Versions)))) == 0 &&
		s.requirements.Met(s.environment.Versions)
}

// missing returns those of the libraries that the environment has not, or in another version. What
// the user edits there, or has from an address, stays.
func (s *localSync) missing(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return s.environment.FromAddress[name] || s.environment.Versions[name] == s.wanted.Versions[name]
	})
}

// constraints are the versions of the images, except of what stays.
func (s *localSync) constraints() []string {
	stays := func(name string) bool { return s.environment.FromAddress[name] }
	return s.wanted.Constraints(slices.DeleteFunc(slices.Collect(maps.Keys(s.wanted.Versions)), stays))
}

// fingerprint identifies the environment, what is wanted of it, and what else decides how that is
// installed.
func (s *localSync) fingerprint() string {
	return fmt.Sprint(*s.environment, s.requirements.Hash, s.wanted)
}

// run installs the requirements in the versions of the images, so that the installer decides what
// this machine needs, and which versions of that only where the images do not have it. Then it
// installs what images have besides, each by itself.
func (s *localSync) run(ctx context.Context, sink event.Sink) error {
	var changed []string
	stage := sink.Stage("local")
	install := func(ctx context.Context, p venv.Packages) error {
		installed, err := venv.Install(ctx, s.environment.Path, s.config.Dir, p,
			func(line string) { stage.Detail("output", "line", line) })
		changed = append(changed, installed...)
		if now, readErr := venv.Read(s.environment.Path); readErr == nil {
			s.environment = now
		}
		return err
	}
	quiet := event.Sink(func(e event.Event) { // an installation that changed nothing is a detail
		if e.Phase == event.Succeeded && len(changed) == 0 {
			e.Phase = event.Detailed
		}
		sink(e)
	})
	details := []any{"venv", placeName(s.config, s.environment.Path)}
	if len(s.requirements.Files) > 0 {
		details = append(details, "file", event.Name(placeName(s.config, s.requirements.Files[0])))
	}
	return quiet.Stage("local").Step(ctx, event.VenvSynced, func(ctx context.Context) (details []any, err error) {
		if len(s.requirements.Files) > 0 {
			err = install(ctx, venv.Packages{Requirements: s.requirements.Files[0],
				Constraints: s.constraints(), Options: s.requirements.Options})
		}
		if rest := s.missing(s.wanted.ByName); err == nil && len(rest) > 0 {
			err = install(ctx, venv.Packages{Exactly: s.wanted.Constraints(rest), Options: s.requirements.Options})
		}
		if len(changed) > 0 {
			details = []any{"installed", few(changed)}
		}
		return details, s.explain(err)
	}, details...)
}

// explain adds to a failed installation which libraries are not the images', and what can be done.
func (s *localSync) explain(err error) error {
	var failed *venv.InstallError
	if !errors.As(err, &failed) {
		return err
	}
	file := filepath.Base(s.config.Local.Requirements)
	switch {
	case len(failed.Conflicts) > 0:
		err = fmt.Errorf("%s excludes what the images hold, %s: %w", file, strings.Join(failed.Conflicts, " "), err)
	case failed.Unavailable != "":
		err = fmt.Errorf("there is no %s for Python %s on this machine: %w", failed.Unavailable, s.environment.Python, err)
	}
	if rest := s.missing(s.wanted.ByName); len(rest) > 0 {
		err = fmt.Errorf("%w\nnot as in the images: %s", err, few(rest))
	}
	hint := "fix " + file + ", then: devloop skew --fix"
	if images, here := proof.Minor(s.wanted.Python), proof.Minor(s.environment.Python); images != "" && images != here {
		hint = fmt.Sprintf("the images have Python %s, and %s has %s: make it with the same Python, then: devloop skew --fix",
			images, placeName(s.config, s.environment.Path), here)
	}
	return event.WithHint(err, hint)
}

// SyncLocal installs what images hold into the environment on this machine, unless it has that.
func SyncLocal(ctx context.Context, sink event.Sink, c *config.Config, images []proof.Libraries) error {
	s, err := planSync(c, images)
	if err != nil || s.isDone() {
		return err
	}
	return s.run(ctx, sink)
}

// warnOnce warns of an error. One that may pass by itself, or that was reported last, is a detail.
func warnOnce(stage event.Stage, reported *event.Changes, message string, err error) {
	if event.IsTransient(err) || !reported.Changed("failure", err.Error()) {
		stage.Detail(message, "reason", err.Error())
		return
	}
	stage.Warn(message, err)
}

// few returns the first of a list, and how many more there are.
func few(list []string) string {
	const most = 6
	if len(list) <= most+1 {
		return strings.Join(list, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], " "), len(list)-most)
}
