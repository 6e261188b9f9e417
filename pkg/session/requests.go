package session

import (
	"context"

	"github.com/devloop/devloop/pkg/control"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// keyHelp is what each key does, in the order in which the help tells it.
const keyHelp = "r: run now, p: pause and resume, l: logs of the pods, q: quit, ?: this help"

// requests merges what asks for a run: changed files, keys, SIGHUP, the page and other terminals.
type requests struct {
	Inputs
	refresh func() // has the next run ask registries for base images again
	stage   event.Stage
	batches <-chan watch.Batch // they merge while no one receives

	// Kept if a panic restarts run.
	paused bool
	logs   bool // of pods are shown
	next   loop.Change
	due    bool // next waits for the loop
}

// run sends changes until ctx ends.
func (c *requests) run(ctx context.Context, changes chan<- loop.Change) {
	ask := func() {
		c.next.Asked, c.due = true, true
		c.refresh()
	}
	for {
		batches, out := c.batches, changes
		if c.paused || c.due {
			batches = nil
		}
		if !c.due {
			out = nil
		}
		select {
		case <-ctx.Done():
			return
		case batch := <-batches:
			c.next, c.due = loop.Change{Batch: batch}, true
		case out <- c.next:
			c.next, c.due = loop.Change{}, false
		case <-c.Reload:
			c.stage.Note("reloading", "by", "SIGHUP")
			ask()
		case what := <-c.Requests:
			if c.obey(what) {
				ask()
			}
		case key := <-c.Keys:
			if c.press(key) {
				ask()
			}
		}
	}
}

// obey does what was asked for. It returns true if that is a run.
func (c *requests) obey(what control.Request) (asked bool) {
	if what == control.Run {
		c.stage.Note("running now")
		return true
	}
	c.pause(what == control.Pause)
	return false
}

// press does what a key stands for. It returns true if that is a run.
func (c *requests) press(key byte) (asked bool) {
	switch key {
	case 'r', 'R':
		return c.obey(control.Run)
	case 'p', 'P':
		c.pause(!c.paused)
	case 'l', 'L':
		c.toggleLogs()
	case 'q', 'Q':
		c.Quit()
	case '?', 'h', 'H':
		c.stage.Note(keyHelp)
	}
	return false
}

// pause makes changes wait, or ends that.
func (c *requests) pause(paused bool) {
	if paused == c.paused {
		return
	}
	if c.paused = paused; paused {
		c.stage.Note(event.Paused, "resume with", "p")
	} else {
		c.stage.Note(event.Resumed)
	}
}

// toggleLogs shows and hides what pods print, which is followed all the time.
func (c *requests) toggleLogs() {
	c.logs = !c.logs
	c.ShowPods(c.logs)
	if c.logs {
		c.stage.Note("logs of the pods are on", "off with", "l")
	} else {
		c.stage.Note("logs of the pods are off")
	}
}
