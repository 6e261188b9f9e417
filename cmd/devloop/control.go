// Who may ask for a run besides the files: the keys of a terminal, and SIGHUP. All of them meet here, on their way to the loop.
package main

import (
	"context"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

// keyHelp is what each key does, in the order in which the help tells it.
const keyHelp = "r: run now, p: pause and resume, l: logs of the pods, q: quit, ?: this help"

// atRest is how long after a change memory is given back, and how long after that again: a run may take a while.
var atRest = []time.Duration{15 * time.Second, time.Minute, 5 * time.Minute}

// control passes on what asks for a run.
type control struct {
	session *session
	say     event.Stage
	batches <-chan []string // of changed files; they merge while nobody takes them
	keys    <-chan byte     // nil without a terminal
	reload  <-chan struct{} // SIGHUP
	quit    func()

	paused  bool
	endLogs context.CancelFunc // nil while none are shown
	logs    sync.WaitGroup
}

// run sends to changes until ctx ends.
func (c *control) run(ctx context.Context, changes chan<- loop.Change) {
	defer c.logs.Wait()
	rests := atRest
	resting := time.NewTimer(rests[0])
	defer resting.Stop()
	var next loop.Change
	var out chan<- loop.Change // changes while there is a next one
	ask := func() {
		c.session.builder.Refresh()
		next.Asked, out = true, changes
	}
	for {
		batches := c.batches
		if c.paused || out != nil {
			batches = nil
		}
		select {
		case <-ctx.Done():
			return
		case paths := <-batches:
			next, out = loop.Change{Paths: paths}, changes
		case out <- next:
			next, out = loop.Change{}, nil
			rests = atRest
			resting.Reset(rests[0])
		case <-resting.C:
			giveMemoryBack()
			if rests = rests[1:]; len(rests) > 0 {
				resting.Reset(rests[0])
			}
		case <-c.reload:
			c.say.Note("reloading", "by", "SIGHUP")
			ask()
		case key := <-c.keys:
			if c.press(ctx, key) {
				ask()
			}
		}
	}
}

// press does what a key stands for, and tells whether that is a run.
func (c *control) press(ctx context.Context, key byte) (asked bool) {
	switch key {
	case 'r', 'R':
		c.say.Note("running now")
		return true
	case 'p', 'P':
		c.paused = !c.paused
		if c.paused {
			c.say.Note("paused, changes wait", "resume with", "p")
		} else {
			c.say.Note("resumed")
		}
	case 'l', 'L':
		c.toggleLogs(ctx)
	case 'q', 'Q':
		c.quit()
	case '?', 'h', 'H':
		c.say.Note(keyHelp)
	}
	return false
}

func (c *control) toggleLogs(ctx context.Context) {
	if c.endLogs != nil {
		c.endLogs()
		c.endLogs = nil
		c.say.Note("logs of the pods are off")
		return
	}
	var namespaces []string
	for _, r := range c.session.config.Load().Releases {
		namespaces = append(namespaces, r.Namespace)
	}
	c.say.Note("logs of the pods are on", "off with", "l")
	ctx, c.endLogs = context.WithCancel(ctx)
	c.logs.Go(func() { deploy.FollowLogs(ctx, c.session.cluster.Client, c.session.sink, namespaces) })
}
