// local.sync: the requirements are installed into the Python environment on this machine while the images are built, so that one save updates
// all three. It is no part of a run: the platform goes on whatever comes of it.
package session

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/venv"
)

// syncer installs, one at a time: a run that is superseded leaves no pip cut short. It belongs to a session.
type syncer struct {
	sink  event.Sink
	woken chan struct{} // holds something if something is wanted

	mu   sync.Mutex
	next *target       // wanted last, nil if that has begun
	idle chan struct{} // closed when all is done that was wanted, nil if it is

	done     string // what was installed last
	reported event.Changes
}

func newSyncer(sink event.Sink) *syncer { return &syncer{sink: sink, woken: make(chan struct{}, 1)} }

// want has the requirements installed if they, or the images, are not what they were at the last time. It does not block.
func (y *syncer) want(now target) {
	if !now.config.Local.Sync {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.next = &now
	if y.idle == nil {
		y.idle = make(chan struct{})
	}
	select {
	case y.woken <- struct{}{}:
	default:
	}
}

// wait returns when all is done that was wanted, or with the cause when ctx ends.
func (y *syncer) wait(ctx context.Context) error {
	y.mu.Lock()
	idle := y.idle
	y.mu.Unlock()
	if idle == nil {
		return context.Cause(ctx)
	}
	select {
	case <-idle:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run installs what is wanted until ctx ends; a pip that is under way then undoes what it has begun.
func (y *syncer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-y.woken:
		}
		for next := y.take(); next != nil; next = y.take() {
			if ctx.Err() == nil { // who waits for all of it waits for no end if one panics
				_ = y.sink.For("local").Contain("requirements", func() { y.sync(ctx, next) })
			}
		}
	}
}

// take returns what is wanted now, nil if that is nothing more.
func (y *syncer) take() *target {
	y.mu.Lock()
	defer y.mu.Unlock()
	next := y.next
	if y.next = nil; next == nil && y.idle != nil {
		close(y.idle)
		y.idle = nil
	}
	return next
}

func (y *syncer) sync(ctx context.Context, w *target) {
	c := w.config
	dir, found := findVenv(c)
	if !found {
		y.warn(event.WithHint(fmt.Errorf("there is no environment to install into: %s", WhyNoVenv), "make one: python3 -m venv "+venv.DefaultFolder+", or name it in devloop.yaml: local.venv"))
		return
	}
	file := c.Abs(c.Local.Requirements)
	now, err := fingerprint(dir, file, w.Target)
	if err != nil {
		y.warn(err)
		return
	}
	if now == y.done {
		return
	}
	var installed venv.Installed
	quiet := event.Sink(func(e event.Event) { // an installation that had nothing to do is a detail
		if e.Phase == event.Succeeded && installed == "" {
			e.Phase = event.Detailed
		}
		y.sink(e)
	})
	say := quiet.For("local")
	err = say.Step(ctx, event.VenvSynced, func(ctx context.Context) (fields []any, err error) {
		installed, err = venv.Install(ctx, dir, c.Dir, file, func(line string) { say.Detail("output", "line", line) })
		if installed == "" {
			return nil, err
		}
		return []any{"installed", few(strings.Fields(string(installed)))}, err
	}, "venv", placeName(c, dir), "file", event.Name(placeName(c, file)))
	switch {
	case err == nil:
		y.done = now
		y.reported.Forget("failure")
	case ctx.Err() == nil:
		y.warn(err)
	}
}

// warn tells why the environment is not in step; the same once.
func (y *syncer) warn(err error) {
	const message = "requirements are not installed on this machine, the images do not wait for it"
	say := y.sink.For("local")
	if !y.reported.Changed("failure", err.Error()) {
		say.Detail(message, "reason", err.Error())
		return
	}
	say.Warn(message, err)
}

// requirementsLength is how much a requirements file may hold, in bytes.
const requirementsLength = 4 << 20

// fingerprint stands for what is to be installed into which environment: one that was made anew is another one.
func fingerprint(dir, file string, target *loop.Target) (string, error) {
	content, err := files.Read(file, requirementsLength)
	if err != nil {
		return "", event.WithHint(fmt.Errorf("read the requirements: %w", err), "mend local.requirements in devloop.yaml, or leave local.sync out")
	}
	made := ""
	if info, err := os.Stat(filepath.Join(dir, "pyvenv.cfg")); err == nil {
		made = info.ModTime().String()
	}
	return fmt.Sprintf("%s %s %x %s", dir, made, sha256.Sum256(content), tagNames(loop.Tags(target.Images))), nil
}

// few are the first of a list, and how many more there are.
func few(list []string) string {
	const most = 6
	if len(list) <= most+1 {
		return strings.Join(list, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], " "), len(list)-most)
}
