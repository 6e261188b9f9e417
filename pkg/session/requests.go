package session

import (
	"context"
	"slices"

	"github.com/devloop/devloop/pkg/control"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/watch"
)

// KeyHelp is what each key does, in the order in which the help tells it.
const KeyHelp = "r: run now, p: pause and resume, o: the page, s: a shell, l: logs of the pods, q: quit, ?: this help"

// requests merges what asks for a run: changed files, keys, SIGHUP, the page and other terminals.
type requests struct {
	Inputs
	refresh func() // has the next run ask registries for base images again
	stage   event.Stage
	batches <-chan watch.Batch // they merge while no one receives
	// rollouts has a token once the image of synced files is there that pods are to be replaced by.
	rollouts <-chan struct{}

	// Kept if a panic restarts run.
	paused bool
	logs   bool // of pods are shown
	next   loop.Change
	due    bool // next waits for the loop
}

// run sends changes until ctx ends.
func (c *requests) run(ctx context.Context, changes chan<- loop.Change) {
	ask := func() {
		c.next.Asked, c.next.Releases, c.due = true, nil, true
		c.refresh()
	}
	for {
		batches, rollouts, out := c.batches, c.rollouts, changes
		if c.paused || c.due {
			batches = nil
		}
		if c.paused { // such a run would deploy what was saved meanwhile
			rollouts = nil
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
		case <-rollouts:
			c.stage.Note("replacing the pods", "why", "the image of the synced files is ready")
			c.next.Asked, c.next.Releases, c.due = true, nil, true
		case asked := <-c.Requests:
			switch {
			case asked.Release != "":
				c.askForRelease(asked.Release)
			case c.obey(asked.What):
				ask()
			}
		case key := <-c.Keys:
			if c.press(key) {
				ask()
			}
		}
	}
}

// askForRelease asks for a run of one release. One of all releases that waits for the loop is
// enough.
func (c *requests) askForRelease(name string) {
	c.stage.Note("running now", "release", event.Name(name))
	if !c.due {
		c.next = loop.Change{Asked: true, Releases: []string{name}}
		c.due = true
	} else if c.next.Asked = true; c.next.Releases != nil && !slices.Contains(c.next.Releases, name) {
		c.next.Releases = append(c.next.Releases, name)
	}
}

// obey does what was asked for. It returns true if that is a run.
func (c *requests) obey(what control.Action) (asked bool) {
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
	case 'o', 'O':
		c.OpenPage()
	case 's', 'S':
		c.OpenShell()
	case 'l', 'L':
		c.toggleLogs()
	case 'q', 'Q':
		c.Quit()
	case '?', 'h', 'H':
		c.stage.Note(KeyHelp)
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
