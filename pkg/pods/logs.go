// What a container prints, line by line: each is told once, in order, whatever is restarted meanwhile. A log is a stream that may end at
// any time, and nothing in it says whether the container has ended, its node's kubelet, or the API server. So a stream that ended is taken
// up again by the time stamps of its lines, until one that was asked for after the container's end has come to its own.
package pods

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// tailLines is how many lines are told of a container that ran before, and of one that died.
	tailLines = 10
	// keptLines is how many lines are kept for that: while a kubelet is late to tell of a restart, those of the next start are among them.
	keptLines = 10 * tailLines
	// maxLine is how much of a line is told, in bytes.
	maxLine = 8 << 10
	// stampLength is how long a time stamp is at most, in bytes.
	stampLength = len("2006-01-02T15:04:05.000000000+00:00 ")
	// A stream that broke is soon taken up again, ever more seldom while nothing comes of it. One that ended by itself gives the container's
	// end time to become known.
	resumeSoon = 100 * time.Millisecond
	resumeEnd  = time.Second
	resumeLast = 4 * time.Second
	// maxDisorder is by how much the stamps of lines may be out of order: standard output and error are stamped side by side.
	maxDisorder = time.Second
)

// container follows one container of a pod from start to start. What it has read so far outlives a following that is ended.
type container struct {
	client         kubernetes.Interface
	stage          event.Stage
	namespace, pod string
	uid            types.UID // of the pod
	name           string
	startedBefore  map[string]bool // as in pod

	followed bool                // for its owner
	news     chan containerState // the newest state; it holds one at most, and has one sender
	done     chan struct{}       // closed when the last following has ended, nil if there was none

	stream atomic.Pointer[logStream] // that is being read

	// What the goroutine that follows knows.
	state     containerState
	id        string          // of the start whose log is being read
	read      map[string]bool // IDs of those whose log was read to its end
	at        logPosition
	lines     int  // that were told
	resumed   bool // the stream goes on where another one ended, and has brought nothing new yet
	level     leveler
	last      []shownLine // lines of this start
	lastDeath string      // what was said of the last one
}

// containerState is what the cluster says of a container.
type containerState struct {
	status corev1.ContainerStatus
	ending bool // its pod is being deleted
	gone   bool // its pod is
}

// logStream is a log that is being read while its container runs.
type logStream struct {
	id  string // of the start
	end context.CancelFunc
}

// shownLine is a line as it was shown, and when it was printed.
type shownLine struct {
	at   time.Time
	text string
}

// start is one start of a container.
type start struct {
	id       string
	at       time.Time // to the second
	ended    *corev1.ContainerStateTerminated
	previous bool // another one has started since, or is going to
}

// starts are those of which there may be a log, in order.
func starts(status corev1.ContainerStatus) []start {
	var all []start
	if last := status.LastTerminationState.Terminated; last != nil && last.ContainerID != "" {
		all = append(all, start{last.ContainerID, last.StartedAt.Time, last, true})
	}
	if now := status.State.Terminated; now != nil && now.ContainerID != "" {
		all = append(all, start{now.ContainerID, now.StartedAt.Time, now, false})
	}
	if now := status.State.Running; now != nil && status.ContainerID != "" {
		all = append(all, start{status.ContainerID, now.StartedAt.Time, nil, false})
	}
	return all
}

func newContainer(client kubernetes.Interface, stage event.Stage, object *corev1.Pod, name string, before map[string]bool) *container {
	return &container{client: client, stage: stage, namespace: object.Namespace, pod: object.Name, uid: object.UID, name: name, startedBefore: before,
		news: make(chan containerState, 1), read: map[string]bool{}, at: newLogPosition()}
}

// setState takes in the newest state. The log of a start that has ended comes to its end. A stream that goes on is that of the next start,
// which the kubelet gave before the API server knew of it.
func (c *container) setState(s containerState) {
	stream := c.stream.Load()
	if stream != nil && !slices.ContainsFunc(starts(s.status), func(now start) bool { return now.id == stream.id && now.ended == nil }) {
		time.AfterFunc(resumeEnd, stream.end)
	}
	select {
	case <-c.news: // nobody cares any more
	default:
	}
	c.news <- s
}

// follow tells what the container prints until ctx ends, or its pod has gone.
func (c *container) follow(ctx context.Context, running *sync.WaitGroup) {
	former, done := c.done, make(chan struct{})
	c.done = done
	running.Go(func() {
		defer close(done)
		if former != nil {
			<-former
		}
		c.stage.Keep(ctx, "log of a container", c.run)
	})
}

func (c *container) run(ctx context.Context) {
	pause := resumeSoon
	for ctx.Err() == nil {
		next, due := c.due()
		if !due {
			if c.state.gone {
				return
			}
			select {
			case c.state = <-c.news:
			case <-ctx.Done():
			}
			continue
		}
		told := c.lines
		err := c.readLog(ctx, next)
		news := errors.Is(err, errOtherStart)
		select {
		case c.state = <-c.news:
			news = true
		default:
		}
		switch {
		case ctx.Err() != nil:
			return
		case next.ended != nil && (err == nil || apierrors.IsNotFound(err) || apierrors.IsBadRequest(err)): // of an error of these, the log is not kept
			c.read[next.id] = true
			c.reportDeath(next)
			pause = resumeSoon
			continue
		case c.state.gone:
			return
		case c.lines > told:
			pause = resumeSoon
		}
		if err == nil {
			pause = max(pause, resumeEnd)
		}
		if !news {
			c.wait(ctx, pause)
			pause = min(2*pause, resumeLast)
		}
	}
}

// due is the start whose log is to be read now: the earliest that was not read to its end.
func (c *container) due() (next start, due bool) {
	for _, s := range starts(c.state.status) {
		if ended, before := c.startedBefore[s.id]; !c.read[s.id] && (!before || !ended) {
			return s, true
		}
	}
	return start{}, false
}

// wait lets a pause pass, which news end.
func (c *container) wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause + rand.N(pause/4)) // many are interrupted at once
	defer timer.Stop()
	select {
	case c.state = <-c.news:
	case <-ctx.Done():
	case <-timer.C:
	}
}

var errOtherStart = errors.New("the log is that of another start")

// refresh asks how the container is.
func (c *container) refresh(ctx context.Context) error {
	object, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, c.pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && object.UID != c.uid:
		c.state.gone = true
		return errOtherStart
	case err != nil:
		return err
	}
	for _, status := range allContainers(object) {
		if status.Name == c.name {
			c.state = containerState{status: status, ending: object.DeletionTimestamp != nil}
		}
	}
	return nil
}

// readLog tells what a start has printed since it was read last. Without an error the stream has ended by itself, which says nothing but for
// a container that was known to have ended before.
func (c *container) readLog(ctx context.Context, s start) error {
	other := s.id != c.id
	if other {
		c.id, c.last, c.level = s.id, nil, leveler{}
		if since := c.at.since(); !since.IsZero() && !s.at.IsZero() && s.at.Before(since) { // the node's clock was set back
			c.at = newLogPosition()
		}
	}
	options := &corev1.PodLogOptions{Container: c.name, Timestamps: true, Previous: s.previous, Follow: s.ended == nil}
	if since := c.at.since(); !since.IsZero() {
		options.SinceTime = &metav1.Time{Time: since}
	} else if _, before := c.startedBefore[s.id]; before {
		lines := int64(tailLines)
		options.TailLines = &lines
	}
	if s.ended == nil {
		following, end := context.WithCancel(ctx)
		defer end()
		ctx = following
		c.stream.Store(&logStream{s.id, end})
		defer c.stream.Store(nil)
	}
	stream, err := c.client.CoreV1().Pods(c.namespace).GetLogs(c.pod, options).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	if !s.previous {
		// A log cannot be asked for by its start. The kubelet has chosen by now: if it is still the same, it was.
		if err := c.refresh(ctx); err != nil {
			return err
		}
		if !slices.ContainsFunc(starts(c.state.status), func(now start) bool { return now.id == s.id && !now.previous }) {
			return errOtherStart
		}
	}
	c.at.restart(options.TailLines != nil)
	c.resumed = options.SinceTime != nil && !other
	reader := bufio.NewReaderSize(stream, maxLine+stampLength)
	for rest := false; ; {
		line, err := reader.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		// What a broken stream ends with is not a line yet.
		if !rest && len(line) > 0 && (err == nil || long || errors.Is(err, io.EOF) && s.ended != nil) {
			c.line(line)
		}
		rest = long // is left out
		switch {
		case err == nil, long:
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

// line tells one line of a log, unless it was told before.
func (c *container) line(line []byte) {
	stamp, text, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil { // what is left of a line whose beginning was told, or the kubelet's own words
		return
	}
	lost := c.resumed && !c.at.overlapped
	if !c.at.isNew(at.UnixNano()) {
		return
	}
	if lost { // nothing that was told comes again
		c.stage.Detail("the node has put a part of the log away, lines may be missing", "pod", event.Name(c.pod),
			"namespace", event.Name(c.namespace), "container", event.Name(c.name))
	}
	c.resumed = false
	if before := bytes.LastIndexByte(text, '\r'); before >= 0 {
		text = text[before+1:] // the line was written over
	}
	said := event.Printable(string(text[:min(len(text), maxLine)]))
	c.lines++
	if c.last = append(c.last, shownLine{at, said}); len(c.last) > keptLines {
		c.last = c.last[1:]
	}
	c.stage.Note(event.PodLog, "pod", event.Name(c.pod), "namespace", event.Name(c.namespace),
		"container", event.Name(c.name), "level", event.Name(string(c.level.of(said))), "line", said)
}

// reportDeath tells of a container that did not end well. What it said last is a warning; the same again is not.
func (c *container) reportDeath(s start) {
	if s.ended.ExitCode == 0 && s.ended.Reason != kube.ReasonOOMKilled || c.state.ending || c.state.gone {
		return
	}
	var lines []string
	for _, line := range c.last {
		if end := s.ended.FinishedAt; end.IsZero() || line.at.Before(end.Add(time.Second)) { // else it is of the next start
			lines = append(lines, line.text)
		}
	}
	reason, output := deathReason(s.ended), strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
	if output == "" {
		output = printableLines(s.ended.Message) // why it could not be started
	}
	fields := []any{"pod", event.Name(c.pod), "namespace", event.Name(c.namespace), "container", event.Name(c.name),
		"reason", reason, "restarts", int(c.state.status.RestartCount)}
	death := strings.Map(func(r rune) rune { // times and addresses differ
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, output) + "\n" + reason
	if death == c.lastDeath {
		c.stage.Detail(event.PodDied, fields...)
		return
	}
	c.lastDeath = death
	c.stage.Warn(event.PodDied, nil, append(fields, "output", output)...)
}

// deathReason says in a word why a container ended: "exit code 1".
func deathReason(ended *corev1.ContainerStateTerminated) string {
	if ended.Reason == "" || ended.Reason == "Error" || ended.Reason == "Completed" {
		return fmt.Sprintf("exit code %d", ended.ExitCode)
	}
	return ended.Reason
}

// logPosition is how far a log was read. A log is asked for since a second, so the lines of the last ones come again.
type logPosition struct {
	newest int64   // stamp of a line, in nanoseconds since 1970
	seen   []int64 // stamps of the lines since since(), in their order
	before int64   // lines up to this stamp that come before those that were told were not to be

	// Of the stream that is being read.
	expected   map[int64]int // how many lines with a stamp it may bring again
	overlapped bool          // it has
	midStream  bool          // it starts in the middle
}

// never is the stamp of no line.
const never = math.MinInt64

func newLogPosition() logPosition { return logPosition{newest: never, before: never} }

// since is from when a log is to be asked for, to the second; zero for all of it.
func (p *logPosition) since() time.Time {
	if p.newest == never {
		return time.Time{}
	}
	return time.Unix(0, p.newest).Add(-maxDisorder).Truncate(time.Second)
}

// restart begins another stream, of the end of a log alone or since since.
func (p *logPosition) restart(tail bool) {
	p.overlapped, p.midStream, p.expected = false, tail, make(map[int64]int, len(p.seen))
	for _, stamp := range p.seen {
		p.expected[stamp]++
	}
}

// isNew takes in the next line of the stream by its stamp, and reports whether it is a new one.
func (p *logPosition) isNew(stamp int64) bool {
	if n := p.expected[stamp]; n > 0 {
		p.expected[stamp], p.overlapped = n-1, true
		return false
	}
	if !p.overlapped && stamp <= p.before {
		return false
	}
	switch {
	case p.newest == never:
		p.newest = stamp
		if p.midStream {
			p.before = stamp
		}
		p.overlapped = true
	case stamp > p.newest:
		if time.Duration(stamp-p.newest) > maxDisorder {
			p.expected = nil // nothing comes again
		}
		if time.Unix(0, stamp).Unix() != time.Unix(0, p.newest).Unix() {
			p.newest = stamp
			p.forget()
		}
		p.newest = stamp
	case time.Duration(p.newest-stamp) > maxDisorder: // the node's clock was set back
		p.before, p.newest, p.seen, p.overlapped = p.newest, stamp, nil, true
	}
	p.seen = append(p.seen, stamp)
	return true
}

// forget drops the stamps that will not come again.
func (p *logPosition) forget() {
	since, n := p.since().UnixNano(), 0
	for n < len(p.seen) && p.seen[n] < since {
		n++
	}
	p.seen = append([]int64(nil), p.seen[n:]...)
}

// printableLines is event.Printable for the last lines of a text.
func printableLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i := range lines {
		lines[i] = event.Printable(lines[i][:min(len(lines[i]), maxLine)])
	}
	return strings.Join(lines, "\n")
}
