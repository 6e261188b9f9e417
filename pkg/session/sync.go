package session

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/venv"
)

// syncer implements local.sync: while the images are built, it installs the same requirements into
// the Python environment on this machine. It is no part of a run, so that a failure or a superseded
// run interrupts neither pip nor the deployment.
type syncer struct {
	sink  event.Sink
	woken chan struct{} // holds a token if there is a new request

	mu        sync.Mutex
	requested *target       // the newest request, nil once its installation has begun
	idle      chan struct{} // closed when no request is left, nil if there was none

	installed string // fingerprint of the last installation
	reported  event.Changes
}

// localStage is what a run does to this machine.
type localStage struct {
	syncer *syncer
	config *config.Config
}

func (l localStage) Sync(made *loop.Target) { l.syncer.request(target{made, l.config}) }

func newSyncer(sink event.Sink) *syncer { return &syncer{sink: sink, woken: make(chan struct{}, 1)} }

// request installs the requirements if they, the environment or the images have changed since the
// last installation. It does not block.
func (y *syncer) request(now target) {
	if !now.config.Local.Sync {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.requested = &now
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
	c, stage := now.config, y.sink.Stage("local")
	const failed = "requirements are not installed on this machine; images are built anyway"
	warn := func(err error) { warnOnce(stage, &y.reported, failed, err) }
	dir, found := findVenv(c)
	if !found {
		warn(event.WithHint(fmt.Errorf("there is no environment to install into: %s", WhyNoVenv),
			"make one: python3 -m venv "+venv.DefaultFolder+", or name it in devloop.yaml: local.venv"))
		return
	}
	file := c.Abs(c.Local.Requirements)
	wanted, err := fingerprint(dir, file, now.Target)
	if err != nil {
		warn(err)
		return
	}
	if wanted == y.installed {
		return
	}
	var changed []string
	quiet := event.Sink(func(e event.Event) { // an installation that changed nothing is a detail
		if e.Phase == event.Succeeded && len(changed) == 0 {
			e.Phase = event.Detailed
		}
		y.sink(e)
	})
	err = quiet.Stage("local").Step(ctx, event.VenvSynced, func(ctx context.Context) (details []any, err error) {
		changed, err = venv.Install(ctx, dir, c.Dir, file, func(line string) { stage.Detail("output", "line", line) })
		if len(changed) == 0 {
			return nil, err
		}
		return []any{"installed", few(changed)}, err
	}, "venv", placeName(c, dir), "file", event.Name(placeName(c, file)))
	switch {
	case err == nil:
		y.installed = wanted
		y.reported.Forget("failure")
	case ctx.Err() == nil:
		warn(err)
	}
}

// warnOnce warns of an error. One that may pass by itself, or that was reported last, is a detail.
func warnOnce(stage event.Stage, reported *event.Changes, message string, err error) {
	if event.IsTransient(err) || !reported.Changed("failure", err.Error()) {
		stage.Detail(message, "reason", err.Error())
		return
	}
	stage.Warn(message, err)
}

// requirementsLength is the largest requirements file that is read, in bytes.
const requirementsLength = 4 << 20

// fingerprint identifies an installation: the environment (one that was made anew is another), the
// requirements, and the images.
func fingerprint(dir, file string, target *loop.Target) (string, error) {
	content, err := files.Read(file, requirementsLength)
	if err != nil {
		return "", event.WithHint(fmt.Errorf("read the requirements: %w", err),
			"fix local.requirements in devloop.yaml, or remove local.sync")
	}
	var made time.Time
	if info, err := os.Stat(filepath.Join(dir, "pyvenv.cfg")); err == nil {
		made = info.ModTime()
	}
	return fmt.Sprintf("%s %s %x %s", dir, made, sha256.Sum256(content), tagNames(loop.Tags(target.Images))), nil
}

// few returns the first of a list, and how many more there are.
func few(list []string) string {
	const most = 6
	if len(list) <= most+1 {
		return strings.Join(list, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], " "), len(list)-most)
}
