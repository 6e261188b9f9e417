package pods

// The lines of a container are reported once each, in order, whatever is restarted meanwhile. A log
// stream may end at any time, and does not tell whether the container ended, or the kubelet, or the
// API server. So it is resumed by the time stamps of its lines, until a stream that was opened
// after the container's end has been read to its own.

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

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// tailLines is how many lines are reported of a container that ran before, and of one that
	// died.
	tailLines = 10
	// keptLines is how many lines are kept for that: they include those of the next start while a
	// kubelet is late to report a restart.
	keptLines = 10 * tailLines
	// maxLine is how much of a line is reported, in bytes.
	maxLine = 8 << 10
	// stampLength is the maximum length of a time stamp, in bytes.
	stampLength = len("2006-01-02T15:04:05.000000000+00:00 ")
	// A broken stream is resumed soon, with growing pauses while nothing new comes. After one that
	// ended by itself, the pause lets the container's end become known.
	resumeSoon = 100 * time.Millisecond
	resumeEnd  = time.Second
	resumeLast = 4 * time.Second
	// maxDisorder is how much the stamps of lines may be out of order: standard output and error
	// are stamped concurrently.
	maxDisorder = time.Second
)

// container follows one container of a pod from start to start. Its position outlives a goroutine
// that is stopped.
type container struct {
	client         kubernetes.Interface
	stage          event.Stage
	namespace, pod string
	uid            types.UID // of the pod
	name           string
	ref            event.ContainerRef
	startedBefore  map[string]bool // as in pod

	followed bool                // owned by the follower
	news     chan containerState // the newest state only; one sender
	done     chan struct{}       // closed when the last goroutine has ended; nil before the first

	stream atomic.Pointer[logStream] // the current one

	// Owned by the goroutine that follows.
	state    containerState
	id       string          // of the start that is being read
	read     map[string]bool // IDs of starts that were read completely
	at       logPosition
	lines    int  // number of reported lines
	resumed  bool // the stream continues another one, and has brought nothing new yet
	level    leveler
	last     []shownLine // lines of this start
	reported event.Changes
}

// containerState is the cluster's status of a container.
type containerState struct {
	status corev1.ContainerStatus
	ending bool // its pod is being deleted
	gone   bool // its pod is
}

// logStream is the log of a running container that is being read.
type logStream struct {
	id  string // of the start
	end context.CancelFunc
}

// shownLine is a line as it was reported, and when it was printed.
type shownLine struct {
	at   time.Time
	text string
}

// start is one start of a container.
type start struct {
	id       string
	at       time.Time // to the second
	ended    *corev1.ContainerStateTerminated
	previous bool // another start follows
}

// starts returns those that may have a log, in order.
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

func newContainer(client kubernetes.Interface, stage event.Stage, object *corev1.Pod, name string,
	before map[string]bool) *container {
	return &container{client: client, stage: stage, namespace: object.Namespace, pod: object.Name, uid: object.UID,
		name: name, ref: event.ContainerRef{PodRef: refOf(object), Container: event.Name(name)}, startedBefore: before,
		news: make(chan containerState, 1), read: map[string]bool{}, at: newLogPosition()}
}

// setState sets the newest state. The log of a start that has ended is read to its end. A stream
// that goes on belongs to the next start: the kubelet knew it before the API server.
func (c *container) setState(s containerState) {
	stream := c.stream.Load()
	if stream != nil && !slices.ContainsFunc(starts(s.status), func(now start) bool {
		return now.id == stream.id &&
			now.ended == nil
	}) {
		time.AfterFunc(resumeEnd, stream.end)
	}
	select {
	case <-c.news: // outdated
	default:
	}
	c.news <- s
}

// follow reports what the container prints until ctx ends, or its pod is gone.
func (c *container) follow(ctx context.Context, running *sync.WaitGroup) {
	former, done := c.done, make(chan struct{})
	c.done = done
	running.Go(func() {
		defer close(done)
		if former != nil {
			<-former
		}
		c.stage.Supervise(ctx, "log of a container", c.run)
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
		before := c.lines
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
		// these errors: the log was deleted
		case next.ended != nil && (err == nil || apierrors.IsNotFound(err) || apierrors.IsBadRequest(err)):
			c.read[next.id] = true
			c.reportDeath(next)
			pause = resumeSoon
			continue
		case c.state.gone:
			return
		case c.lines > before:
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

// due returns the start whose log has to be read now: the earliest that was not read completely.
func (c *container) due() (next start, due bool) {
	for _, s := range starts(c.state.status) {
		if ended, before := c.startedBefore[s.id]; !c.read[s.id] && (!before || !ended) {
			return s, true
		}
	}
	return start{}, false
}

// wait returns after the pause, or with a new state.
func (c *container) wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause + rand.N(pause/4)) // spread the load
	defer timer.Stop()
	select {
	case c.state = <-c.news:
	case <-ctx.Done():
	case <-timer.C:
	}
}

var errOtherStart = errors.New("the log is that of another start")

// refresh gets the container's state from the API server.
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

// readLog reports what a start has printed since it was last read. It returns nil when the stream
// has ended by itself, which is only conclusive if the container was known to have ended before.
func (c *container) readLog(ctx context.Context, s start) error {
	other := s.id != c.id
	if other {
		c.id, c.last, c.level = s.id, nil, leveler{}
		if since := c.at.since(); !since.IsZero() && !s.at.IsZero() && s.at.Before(since) { // the node's clock went back
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
		// A log cannot be requested by its start. The kubelet has chosen by now: if the container
		// has still the same start, it was that.
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
		// A broken stream may end with a partial line.
		if !rest && len(line) > 0 && (err == nil || long || errors.Is(err, io.EOF) && s.ended != nil) {
			c.line(line)
		}
		rest = long // the rest of a long line is skipped
		switch {
		case err == nil, long:
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

// line reports one line of a log, unless it was reported before.
func (c *container) line(line []byte) {
	stamp, text, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil { // the rest of a line, or the kubelet's own message
		return
	}
	lost := c.resumed && !c.at.overlapped
	if !c.at.isNew(at.UnixNano()) {
		return
	}
	if lost { // no line overlaps
		c.stage.Detail("the node has put a part of the log away, lines may be missing", c.ref)
	}
	c.resumed = false
	if before := bytes.LastIndexByte(text, '\r'); before >= 0 {
		text = text[before+1:] // a progress bar rewrites its line
	}
	shown := event.Printable(string(text[:min(len(text), maxLine)]))
	c.lines++
	if c.last = append(c.last, shownLine{at, shown}); len(c.last) > keptLines {
		c.last = c.last[1:]
	}
	c.stage.Note(event.PodLog, event.LogLine{ContainerRef: c.ref, Level: c.level.of(shown), Line: shown})
}

// reportDeath reports a container that failed: as a warning with its last lines, or without these
// if they are the same as before.
func (c *container) reportDeath(s start) {
	if s.ended.ExitCode == 0 && s.ended.Reason != kube.ReasonOOMKilled || c.state.ending || c.state.gone {
		return
	}
	var lines []string
	for _, line := range c.last {
		if end := s.ended.FinishedAt; end.IsZero() || line.at.Before(end.Add(time.Second)) { // not of the next start
			lines = append(lines, line.text)
		}
	}
	reason, output := deathReason(s.ended), strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
	if output == "" {
		output = printableLines(s.ended.Message) // why it could not start
	}
	death := event.ContainerDeath{ContainerRef: c.ref, Reason: reason, Restarts: int(c.state.status.RestartCount)}
	if !c.reported.Changed("death", event.MaskVarying(output)+"\n"+reason) {
		c.stage.Detail(event.ContainerDied, death)
		return
	}
	death.Output = output
	c.stage.Warn(event.ContainerDied, nil, death)
}

// deathReason is why a container ended: "exit code 1".
func deathReason(ended *corev1.ContainerStateTerminated) string {
	if ended.Reason == "" || ended.Reason == "Error" || ended.Reason == "Completed" {
		return fmt.Sprintf("exit code %d", ended.ExitCode)
	}
	return ended.Reason
}

// logPosition is how far a log was read. A log is requested since a second, so the lines of the
// last seconds come again.
type logPosition struct {
	newest int64   // stamp, in nanoseconds since 1970
	seen   []int64 // stamps of the reported lines since since(), in order
	before int64   // earlier lines up to this stamp are not reported

	// Of the current stream.
	expected   map[int64]int // how many lines with a stamp may come again
	overlapped bool          // one has come again
	midStream  bool          // it starts in the middle of the log
}

// never is before the stamp of any line.
const never = math.MinInt64

func newLogPosition() logPosition { return logPosition{newest: never, before: never} }

// since is from when the log has to be requested, to the second; zero for all of it.
func (p *logPosition) since() time.Time {
	if p.newest == never {
		return time.Time{}
	}
	return time.Unix(0, p.newest).Add(-maxDisorder).Truncate(time.Second)
}

// restart begins another stream: the tail of a log, or the log since since.
func (p *logPosition) restart(tail bool) {
	p.overlapped, p.midStream, p.expected = false, tail, make(map[int64]int, len(p.seen))
	for _, stamp := range p.seen {
		p.expected[stamp]++
	}
}

// isNew takes the stamp of the stream's next line, and tells whether the line is new.
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
			p.expected = nil // no overlap any more
		}
		if time.Unix(0, stamp).Unix() != time.Unix(0, p.newest).Unix() {
			p.newest = stamp
			p.forget()
		}
		p.newest = stamp
	case time.Duration(p.newest-stamp) > maxDisorder: // the node's clock went back
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
