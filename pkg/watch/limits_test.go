package watch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/devloop/devloop/pkg/event"
)

func TestLimits(t *testing.T) {
	const unlimited = 1<<63 - 1
	for name, c := range map[string]struct {
		limits
		wantDescriptors       int
		wantText, wantFolders string
	}{
		"inotify": {inotifyLimits(8192, 128), 0, "8192 folders",
			"(fs.inotify.max_user_watches is 8192); raise it: sudo sysctl fs.inotify.max_user_watches=1048576"},
		"large":   {inotifyLimits(1<<20, 128), 0, "1048576 folders", "sudo sysctl fs.inotify.max_user_watches=2097152"},
		"unknown": {inotifyLimits(0, 0), 0, "", "(fs.inotify.max_user_watches)"},
		"kqueue": {kqueueLimits(61440, unlimited, 61440), 61440, "61440 open files",
			"sudo sysctl kern.maxfilesperproc=122880"},
		"shell": {kqueueLimits(1023, 1024, 61440), 1023, "1023 open files",
			"macOS allows 61440 (sysctl kern.maxfilesperproc): raise the limit that this shell has (ulimit -Hn)"},
		"unlimited": {kqueueLimits(unlimited, unlimited, 0), 1 << 30, "1073741824 open files",
			"devloop may have 1073741824 open files"},
	} {
		if c.descriptors != c.wantDescriptors || c.text != c.wantText || !strings.Contains(c.folders, c.wantFolders) {
			t.Errorf("%s: %+v", name, c.limits)
		}
		if strings.Contains(c.folders+c.instances, "inotify") == strings.Contains(c.folders, "open file") {
			t.Errorf("%s: hints of another system: %+v", name, c.limits)
		}
	}
}

// kqueue opens every entry of a watched folder. What does not fit into half of the open files is
// polled, also when it grows too large later; the others keep their events.
func TestTooManyFiles(t *testing.T) {
	few := func(w *Watcher) { w.limits = kqueueLimits(80, 80, 1000) }
	p := open(t, Options{Quiet: 30 * time.Millisecond}, few)
	p.write("small/f", "growing/f")
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprint("large/", i))
	}
	p.write(many...)
	p.watch("small", "large", "growing")
	polls := func(want ...string) func() bool {
		return func() bool { _, polled := p.byEvents(); return slices.Equal(polled, want) }
	}
	if !polls("large")() {
		_, polled := p.byEvents()
		t.Errorf("polled %q", polled)
	}
	p.warnedOnce("devloop may have 80 open files")
	for _, f := range []string{"small/f", many[7], "growing/f"} {
		p.seen(f)
	}
	for _, f := range many[10:] {
		p.remove(f)
	}
	p.until("all by events again", polls())
	for i := range 50 {
		p.write(fmt.Sprint("growing/", i))
	}
	p.until("what grew is polled", polls("growing"))
	for _, f := range []string{"small/f", many[7], "growing/f", "growing/49"} {
		p.seen(f)
	}

	// A file in a folder of many is what is polled, and not the small folders beside it.
	file := open(t, Options{Quiet: 30 * time.Millisecond}, few)
	file.write(append(many, "small/f", "growing/f")...)
	file.watch("small", many[0], "growing/f")
	if _, polled := file.byEvents(); !slices.Equal(polled, many[:1]) {
		t.Errorf("polled %q", polled)
	}
	file.warnedOnce("devloop may have 80 open files")
	for i := range 50 {
		file.write(fmt.Sprint("growing/", i))
	}
	file.until("what grew is polled", func() bool {
		_, polled := file.byEvents()
		return slices.Equal(polled, []string{"growing/f", many[0]})
	})

	strict := open(t, Options{Mode: Events}, few)
	strict.write(many...)
	_, err := strict.w.Watch(paths(strict.dir, "large"))
	if !errors.Is(err, syscall.EMFILE) || !strings.Contains(event.Hint(err), "80 open files") {
		t.Errorf("Watch = %v", err)
	}
}

// With kqueue, fsnotify reports nothing new in a folder after an entry that it cannot open.
func TestLinkToNothing(t *testing.T) {
	p := open(t, Options{Quiet: 30 * time.Millisecond}, func(w *Watcher) { w.limits = kqueueLimits(1000, 1000, 1000) })
	p.write("old/f", "new/f", "sound/f")
	p.link("missing", "old/result")
	p.link("f", "sound/result")
	p.watch("old", "new", "sound")
	polls := func(want ...string) func() bool {
		return func() bool { _, polled := p.byEvents(); return slices.Equal(polled, want) }
	}
	if !polls("old")() {
		t.Error("a folder with a link to nothing gets events")
	}
	p.link("missing", "new/result")
	p.until("the folder where one appeared is polled", polls("new", "old"))
	p.seen("new/f")
	p.seen("sound/f")
}

// An entry that fsnotify reports as new more than once takes no more than it did.
func TestCountedOnce(t *testing.T) {
	p := open(t, Options{Quiet: 30 * time.Millisecond}, func(w *Watcher) { w.limits = kqueueLimits(80, 80, 1000) })
	p.write("f")
	p.watch("f")
	for range 100 {
		p.w.changed(fsnotify.Event{Name: p.path("f"), Op: fsnotify.Create})
	}
	if _, polled := p.byEvents(); len(polled) > 0 {
		t.Errorf("polled %q", polled)
	}
}
