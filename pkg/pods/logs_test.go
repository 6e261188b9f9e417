package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// client-go logs errors, and sleeps if two occur within a millisecond, by a clock that all bubbles
// share. Bubbles start in the year 2000, so a reflector in one would sleep until the time of the
// last error outside. Only the logging stays.
func init() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] }

// testNode is a cluster with one pod of one container, whose log is served as by a kubelet. The
// test controls what it prints and how it ends. Pods are client-go's fake; logs are HTTP, without a
// network.
type testNode struct {
	*fake.Clientset

	real   kubernetes.Interface // asks for logs
	object *corev1.Pod
	random *rand.Rand

	mu     sync.Mutex
	starts []*testStart
	away   bool          // the API server is
	fuse   int           // streams end after so many bytes on average, 0 for never
	news   chan struct{} // closed when a log has grown, or a stream is to end
	cut    int           // streams that began before the cut with this number end
	asked  []string      // queries of logs
	clock  time.Duration // by how much the node's is ahead
}

// testStart is a start of the container.
type testStart struct {
	lines []testLine
	ended bool
}

type testLine struct {
	stamp time.Time
	text  string // with its end
}

func newTestNode(seed uint64) *testNode {
	n := &testNode{random: rand.New(rand.NewPCG(seed, 7)), news: make(chan struct{})}
	n.object = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "demo", UID: "one",
			Annotations: map[string]string{kube.AnnotationRelease: "web", kube.AnnotationReleaseNamespace: "demo"}},
		Spec:   corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	client := fake.NewClientset(n.object)
	client.PrependReactor("*", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.away {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	})
	n.Clientset = client
	var err error
	if n.real, err = kubernetes.NewForConfig(&rest.Config{Host: "http://logs.invalid", Transport: n,
		QPS: -1}); err != nil {
		panic(err)
	}
	return n
}

// CoreV1 is the fake's, except for logs.
func (n *testNode) CoreV1() corev1client.CoreV1Interface {
	return testCore{n.Clientset.CoreV1(), n.real}
}

type testCore struct {
	corev1client.CoreV1Interface
	real kubernetes.Interface
}

func (c testCore) Pods(namespace string) corev1client.PodInterface {
	return testPods{c.CoreV1Interface.Pods(namespace), c.real.CoreV1().Pods(namespace)}
}

type testPods struct {
	corev1client.PodInterface
	real corev1client.PodInterface
}

func (p testPods) GetLogs(name string, o *corev1.PodLogOptions) *rest.Request {
	return p.real.GetLogs(name, o)
}

// changed wakes the streams. The caller holds mu.
func (n *testNode) changed() {
	close(n.news)
	n.news = make(chan struct{})
}

// start starts the container, or restarts it.
func (n *testNode) start(lines ...testLine) {
	n.mu.Lock()
	if last := len(n.starts); last > 0 {
		n.starts[last-1].ended = true
	}
	n.starts = append(n.starts, &testStart{lines: lines})
	n.changed()
	defer n.mu.Unlock()
	n.update(func(s *corev1.ContainerStatus) {
		if s.ContainerID != "" {
			s.RestartCount++
			ended := s.State.Terminated
			if ended == nil {
				ended = testEnd(s, 1)
			}
			s.LastTerminationState.Terminated = ended
		}
		s.ContainerID = fmt.Sprint("start", s.RestartCount)
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{
			StartedAt: metav1.Time{Time: time.Now().Add(n.clock).Truncate(time.Second)}}}
	})
}

func testEnd(s *corev1.ContainerStatus, exitCode int32) *corev1.ContainerStateTerminated {
	ended := &corev1.ContainerStateTerminated{ContainerID: s.ContainerID, ExitCode: exitCode, Reason: "Error",
		FinishedAt: metav1.Time{Time: time.Now().Truncate(time.Second)}}
	if s.State.Running != nil {
		ended.StartedAt = s.State.Running.StartedAt
	}
	return ended
}

// end ends the container.
func (n *testNode) end(exitCode int32) {
	n.mu.Lock()
	n.starts[len(n.starts)-1].ended = true
	n.changed()
	defer n.mu.Unlock()
	n.update(func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Terminated: testEnd(s, exitCode)}
	})
}

// update changes the container's status, and notifies the watches. The caller holds mu.
func (n *testNode) update(change func(*corev1.ContainerStatus)) {
	n.object = n.object.DeepCopy()
	if len(n.object.Status.ContainerStatuses) == 0 {
		n.object.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main"}}
	}
	n.object.Status.Phase = corev1.PodRunning
	change(&n.object.Status.ContainerStatuses[0])
	if err := n.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), n.object, "demo"); err != nil {
		panic(err)
	}
}

// print makes the container print.
func (n *testNode) print(lines ...testLine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := n.starts[len(n.starts)-1]
	last.lines = append(last.lines, lines...)
	n.changed()
}

// interrupt ends all streams; away makes the API server unreachable.
func (n *testNode) interrupt(away bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = away
	n.cut++
	n.changed()
}

// RoundTrip serves a log.
func (n *testNode) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, r.URL.RawQuery)
	answer := func(status int, body io.ReadCloser) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: body, Request: r}, nil
	}
	query := r.URL.Query()
	at := len(n.starts) - 1
	if query.Get("previous") == "true" {
		at--
	}
	switch {
	case n.away:
		return nil, errors.New("connection refused")
	case at < 0:
		return answer(http.StatusBadRequest, io.NopCloser(strings.NewReader("there is no such container")))
	}
	s := n.starts[at]
	var since time.Time
	if text := query.Get("sinceTime"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			panic(err)
		}
	}
	from := 0
	if tail, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		from = max(0, len(s.lines)-tail)
	}
	follow := query.Get("follow") == "true"
	fuse := -1
	if n.fuse > 0 && n.random.IntN(3) > 0 {
		fuse = n.random.IntN(2 * n.fuse)
	}
	broken := !follow || n.random.IntN(2) == 0 // else it ends as if the log had
	reader, writer := io.Pipe()
	cut := n.cut
	stop := context.AfterFunc(r.Context(), func() { writer.CloseWithError(r.Context().Err()) })
	go func() {
		defer stop()
		begin := true
		for at := from; ; {
			n.mu.Lock()
			lines, ended, over, news := s.lines[at:], s.ended, cut != n.cut, n.news
			n.mu.Unlock()
			for _, line := range lines {
				at++
				text := line.text
				complete := strings.HasSuffix(text, "\n")
				if !line.stamp.Before(since) { // as kubelets do: what comes after a part of a line has no stamp
					if begin {
						text = line.stamp.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " " + text
					}
					if fuse >= 0 {
						if fuse -= len(text); fuse < 0 {
							text, over = text[:len(text)+fuse], true
						}
					}
					if _, err := writer.Write([]byte(text)); err != nil {
						return
					}
				}
				begin = complete
				if over {
					break
				}
			}
			switch {
			case over && broken:
				writer.CloseWithError(errors.New("connection reset"))
				return
			case over, ended, !follow:
				writer.Close()
				return
			}
			select {
			case <-news:
			case <-r.Context().Done():
				writer.CloseWithError(r.Context().Err())
				return
			}
		}
	}()
	return answer(http.StatusOK, reader)
}

// heard collects events.
type heard struct {
	mu  sync.Mutex
	all []event.Event
}

func (h *heard) sink(e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, e)
}

// of returns the events with a message.
func (h *heard) of(message string) []event.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.all), func(e event.Event) bool { return e.Message != message })
}

// lines returns the reported lines.
func (h *heard) lines() []string {
	var all []string
	for _, e := range h.of(event.PodLog) {
		all = append(all, e.Field("line").(string))
	}
	return all
}

var webScope = Scope{Releases: []types.NamespacedName{{Name: "web", Namespace: "demo"}}}

// followed follows a test's pods, in a bubble, until the returned function is called.
func followed(client kubernetes.Interface, first Scope) (h *heard, scopes chan Scope, end func()) {
	h, scopes = &heard{}, make(chan Scope, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		Follow(ctx, client, h.sink, scopes, nil, nil)
		close(done)
	}()
	scopes <- first
	synctest.Wait()
	return h, scopes, func() {
		cancel()
		<-done
		synctest.Wait()
	}
}

// pass advances a bubble's time.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Whatever breaks, each line is reported exactly once, and in order.
func TestEachLineIsReportedOnce(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { eachLineIsToldOnce(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func eachLineIsToldOnce(t *testing.T, seed uint64) {
	n := newTestNode(seed)
	n.fuse = 400
	random := rand.New(rand.NewPCG(seed, 11))
	h, scopes, end := followed(n, webScope)
	defer end()

	var want []string
	number := 0
	stamp := time.Now()
	line := func() testLine {
		if random.IntN(3) > 0 || time.Since(stamp) > maxDisorder/2 { // else it shares its stamp with the one before
			stamp = time.Now().Add(time.Duration(number)) // nothing takes time in a bubble
		}
		number++
		text := fmt.Sprint("line ", number)
		if random.IntN(10) == 0 {
			text += strings.Repeat(" long", random.IntN(60))
		}
		want = append(want, text)
		return testLine{stamp, text + "\n"}
	}
	// settled waits until everything is read: kubelets keep only one earlier start.
	settled := func() {
		n.mu.Lock()
		n.away = false
		n.mu.Unlock()
		select {
		case scopes <- webScope:
		default:
		}
		for i := 0; len(h.lines()) < len(want); i++ {
			if i > 600 {
				break
			}
			pass(time.Second)
		}
		if got := h.lines(); !slices.Equal(got, want) {
			at := 0
			for at < min(len(got), len(want)) && got[at] == want[at] {
				at++
			}
			t.Errorf("%d lines of %d; from %d on:\n%q\n%q\nasked: %q", len(got), len(want), at, got[at:min(at+5, len(got))],
				want[at:min(at+5, len(want))], n.asked[max(0, len(n.asked)-6):])
		}
	}
	n.start(line())
	for range 120 {
		if t.Failed() {
			return
		}
		switch random.IntN(12) {
		case 0, 1, 2, 3, 4:
			for range random.IntN(20) {
				n.print(line())
			}
		case 5, 6:
			pass(time.Duration(random.IntN(1500)) * time.Millisecond)
		case 7:
			n.interrupt(false)
		case 8:
			n.interrupt(random.IntN(2) == 0)
		case 9:
			scopes <- Scope{}
			synctest.Wait()
		case 10:
			scopes <- webScope
			synctest.Wait()
		case 11:
			settled()
			for range random.IntN(5) {
				n.print(line())
			}
			last := line()
			last.text = strings.TrimSuffix(last.text, "\n") // a last line without an end
			n.print(last)
			switch random.IntN(3) {
			case 0: // at once
			case 1:
				n.end(int32(random.IntN(2)))
				pass(time.Duration(random.IntN(1500)) * time.Millisecond)
			case 2: // the API server is away meanwhile
				n.interrupt(true)
			}
			pass(time.Duration(1+random.IntN(200)) * time.Millisecond)
			stamp = time.Time{} // starts share none
			n.start(line())
		}
	}
	settled()
}

// stamped returns lines with a stamp each.
func stamped(texts ...string) []testLine {
	var all []testLine
	for i, text := range texts {
		all = append(all, testLine{time.Now().Add(time.Duration(i)), text + "\n"})
	}
	return all
}

func numbered(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint("line ", i))
	}
	return all
}

func TestTailOfARunningContainerIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		n.start(stamped(numbered(1, 30)...)...)
		pass(10 * time.Second)
		h, _, end := followed(n, webScope)
		defer end()
		pass(time.Second)
		if got, want := h.lines(), numbered(21, 30); !slices.Equal(got, want) {
			t.Errorf("reported %q", got)
		}
		n.interrupt(false) // what came before is not reported now
		n.print(stamped(numbered(31, 40)...)...)
		pass(5 * time.Second)
		if got, want := h.lines(), numbered(21, 40); !slices.Equal(got, want) {
			t.Errorf("reported %q after an interruption", got)
		}
		n.start(stamped(numbered(41, 60)...)...)
		pass(5 * time.Second)
		if got, want := h.lines(), numbered(21, 60); !slices.Equal(got, want) {
			t.Errorf("reported %q after a restart", got)
		}
		for _, e := range h.of(event.PodLog) {
			line, _ := e.Payload.(event.LogLine)
			want := event.LogLine{Level: event.Info, Line: line.Line, ContainerRef: event.ContainerRef{
				PodRef: event.PodRef{Pod: "web-1", Namespace: "demo"}, Container: "main"}}
			if e.Stage != event.PodStage || e.Phase != event.Noted || line != want || line.Line == "" || len(e.Fields) > 0 {
				t.Fatalf("%+v", e)
			}
		}
	})
}

func TestContainerThatEndedBeforeIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		n.start(stamped("it breaks")...)
		n.end(1)
		pass(10 * time.Second)
		h, _, end := followed(n, webScope)
		defer end()
		pass(time.Second)
		if got := h.lines(); len(got)+len(h.of(event.ContainerDied)) != 0 {
			t.Errorf("reported %q", got)
		}
		n.start(stamped("again")...)
		n.end(1)
		pass(5 * time.Second)
		if got := h.lines(); !slices.Equal(got, []string{"again"}) || len(h.of(event.ContainerDied)) != 1 {
			t.Errorf("reported %q", got)
		}
	})
}

// A rotated log is continued, and so is one after the node's clock went back.
func TestRotationAndClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		h, _, end := followed(n, webScope)
		defer end()
		n.start(stamped(numbered(1, 20)...)...)
		pass(time.Second)
		n.mu.Lock()
		n.starts[0] = &testStart{}
		n.mu.Unlock()
		n.interrupt(false)
		n.print(stamped(numbered(21, 25)...)...)
		pass(5 * time.Second)
		if got, want := h.lines(), numbered(1, 25); !slices.Equal(got, want) {
			t.Errorf("reported %q after a rotation", got)
		}
		const lost = "the node has put a part of the log away, lines may be missing"
		if got := len(h.of(lost)); got != 1 {
			t.Errorf("reported of it %d times", got)
		}
		pass(time.Hour)
		n.print(stamped(numbered(26, 30)...)...)
		pass(5 * time.Second)
		for _, line := range numbered(31, 60) {
			n.print(testLine{time.Now().Add(-30 * time.Minute), line + "\n"})
			pass(time.Second)
			if line == "line 40" {
				n.interrupt(false)
				pass(5 * time.Second)
			}
		}
		n.clock = -time.Hour // and again
		n.start(testLine{time.Now().Add(n.clock), "line 61\n"})
		pass(5 * time.Second)
		if got, want := h.lines(), numbered(1, 61); !slices.Equal(got, want) {
			t.Errorf("reported %q after the clock was set back", got)
		}
		if got := len(h.of(lost)); got != 1 {
			t.Errorf("reported of lost lines %d times", got)
		}
	})
}

func TestLinesAreForATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		h, _, end := followed(n, webScope)
		defer end()
		long := strings.Repeat("é", maxLine)
		n.start(stamped("\x1b[31mred\x1b[0m \x1b]0;title\x07\tand\x08 more", "10%\r50%\r100%", "with its end\r",
			"\xff\u202eno", "", "  below", long, "after it")...)
		n.print(testLine{time.Now().Add(time.Millisecond), "a part, "}, testLine{time.Now().Add(time.Millisecond),
			"another, "}, testLine{time.Now().Add(time.Millisecond), "the last\n"})
		n.interrupt(false)
		pass(5 * time.Second)
		got := h.lines()
		want := []string{"red  and more", "100%", "with its end", `\u202eno`, "", "  below", long[:maxLine], "after it",
			"a part, another, the last"}
		if !slices.Equal(got, want) {
			t.Errorf("reported %.100q", got)
		}
	})
}

func TestDeaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		h, _, end := followed(n, webScope)
		defer end()
		expect := func(want string, phase event.Phase) {
			t.Helper()
			pass(5 * time.Second)
			all := h.of(event.ContainerDied)
			if want == "" {
				if len(all) > 0 {
					t.Errorf("reported %v", all)
				}
				return
			}
			if len(all) != 1 || all[0].Phase != phase || fmt.Sprint(all[0].Details()) != "["+want+"]" {
				t.Errorf("reported %v, want %s", all, want)
			}
			h.mu.Lock()
			h.all = nil
			h.mu.Unlock()
		}
		n.start(stamped(numbered(1, 12)...)...)
		n.end(0)
		expect("", "")
		n.start(stamped("at 12:00:01 it broke", "bye")...)
		n.end(3)
		const is = "pod web-1 namespace demo container main reason exit code 3 restarts "
		expect(is+"1 output at 12:00:01 it broke\nbye", event.Warned)
		n.start(stamped("at 12:00:07 it broke", "bye")...)
		n.end(3)
		expect(is+"2", event.Detailed)
		n.start(stamped(numbered(1, 12)...)...)
		pass(time.Second)
		n.start() // at once
		expect(strings.Replace(is, "code 3", "code 1", 1)+"4 output "+strings.Join(numbered(3, 12), "\n"), event.Warned)
		n.mu.Lock()
		n.starts[len(n.starts)-1].ended = true
		n.changed()
		n.update(func(s *corev1.ContainerStatus) {
			s.State = corev1.ContainerState{Terminated: testEnd(s, 0)}
			s.State.Terminated.Reason = kube.ReasonOOMKilled
		})
		n.mu.Unlock()
		expect("pod web-1 namespace demo container main reason OOMKilled restarts 4", event.Warned)
		n.start(stamped("it has to go")...)
		n.object.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		n.end(137)
		expect("", "")
	})
}

// On a busy node the API server learns late of a restart: the kubelet serves the new start's log
// for the old one's.
func TestDeathThatIsKnownLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		h, _, end := followed(n, webScope)
		defer end()
		n.start(stamped("first words", "last words")...)
		pass(2 * time.Second)
		died := metav1.Time{Time: time.Now().Truncate(time.Second)}
		n.mu.Lock()
		n.starts[0].ended = true
		n.starts = append(n.starts, &testStart{})
		n.changed()
		n.mu.Unlock()
		pass(2 * time.Second)
		n.print(stamped(numbered(1, 20)...)...)
		pass(3 * time.Second)
		if deaths := h.of(event.ContainerDied); len(deaths) > 0 {
			t.Errorf("reported %v", deaths)
		}
		n.mu.Lock()
		n.update(func(s *corev1.ContainerStatus) {
			s.LastTerminationState.Terminated = testEnd(s, 1)
			s.LastTerminationState.Terminated.FinishedAt = died
			s.ContainerID = "start1"
			s.State.Running.StartedAt = metav1.Time{Time: died.Add(2 * time.Second)}
		})
		n.mu.Unlock()
		pass(5 * time.Second)
		deaths := h.of(event.ContainerDied)
		if len(deaths) != 1 || deaths[0].Field("output") != "first words\nlast words" {
			t.Errorf("reported %v", deaths)
		}
		n.print(stamped("goes on")...)
		pass(5 * time.Second)
		if got, want := h.lines(), append(append([]string{"first words", "last words"}, numbered(1, 20)...),
			"goes on"); !slices.Equal(got, want) {
			t.Errorf("reported %q, not %q", got, want)
		}
	})
}

// The API server is away for an hour: that is one detail in the log, and no line is lost.
func TestAPIServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		h, _, end := followed(n, webScope)
		defer end()
		n.start(stamped("one")...)
		pass(time.Second)
		n.interrupt(true)
		n.print(stamped("two")...)
		pass(time.Minute)
		n.start(stamped("three")...)
		pass(time.Hour)
		n.mu.Lock()
		n.away = false
		if len(n.asked) > 1500 {
			t.Errorf("asked %d times", len(n.asked))
		}
		n.mu.Unlock()
		pass(10 * time.Second)
		if got := h.lines(); !slices.Equal(got, []string{"one", "two", "three"}) {
			t.Errorf("reported %q", got)
		}
		for _, e := range h.all {
			if e.Message != event.PodChanged && e.Message != event.PodLog && e.Message != event.ContainerDied {
				t.Errorf("reported %v", e)
			}
		}
	})
}

// The API server is also away when the pods come into scope, after libraries have logged an error
// at a time later than the bubble's.
func TestAPIServerIsAwayAtFirst(t *testing.T) {
	utilruntime.HandleErrorWithLogger(klog.Logger{}, errors.New("anything"), "of the present")
	synctest.Test(t, func(t *testing.T) {
		n := newTestNode(1)
		n.start(stamped("one")...)
		n.interrupt(true)
		h, _, end := followed(n, webScope)
		defer end()
		pass(time.Minute)
		n.interrupt(false)
		pass(5 * time.Second)
		if got := h.lines(); !slices.Equal(got, []string{"one"}) {
			t.Errorf("reported %q", got)
		}
	})
}

// The same through HTTP, as with a real API server: a stream is cut off, or ends as if the log had.
func TestLogsThroughHTTP(t *testing.T) {
	n := newTestNode(1)
	n.fuse = 300
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := n.RoundTrip(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		w.(http.Flusher).Flush()
		buffer := make([]byte, 100)
		for {
			read, err := answer.Body.Read(buffer)
			if _, err := w.Write(buffer[:read]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer server.Close()
	var err error
	if n.real, err = kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1}); err != nil {
		t.Fatal(err)
	}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	n.start()
	// it did not run before
	n.update(func(s *corev1.ContainerStatus) { s.State.Running.StartedAt.Time = time.Now().Add(time.Hour) })
	h, scopes := &heard{}, make(chan Scope, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { Follow(ctx, n, h.sink, scopes, nil, nil) })
	scopes <- webScope
	want := numbered(1, 60)
	n.print(stamped(want...)...)
	deadline := time.After(time.Minute)
	for len(h.lines()) < len(want) {
		select {
		case <-deadline:
			t.Fatalf("reported %q", h.lines())
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	following.Wait()
	if got := h.lines(); !slices.Equal(got, want) {
		t.Errorf("reported %q", got)
	}
}

// A pod that prints incessantly neither fills the memory nor keeps others from being read.
func TestMuchIsReadAtItsPace(t *testing.T) {
	p := newLogPosition()
	p.restart(false)
	const perSecond = 50_000
	for i := range 20 * perSecond {
		if !p.isNew(int64(i) * int64(time.Second) / perSecond) {
			t.Fatal("a line was taken for one that was reported before")
		}
		if len(p.seen) > 3*perSecond {
			t.Fatalf("%d stamps are kept", len(p.seen))
		}
	}
}

func BenchmarkLine(b *testing.B) {
	c := newContainer(nil, event.Sink(func(event.Event) {}).Stage(event.PodStage), &corev1.Pod{}, "main", nil)
	c.at.restart(false)
	begin := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.line(fmt.Appendf(nil, "%s 2024-01-02 15:04:05,123 - distributed.worker - INFO - Starting worker %d\n",
			begin.Add(time.Duration(i)*20*time.Microsecond).Format(time.RFC3339Nano), i))
	}
}

// A panic while pods are followed is reported once, and following resumes: with the same scope, and
// no line twice.
func TestPanicWhilePodsAreFollowed(t *testing.T) {
	for _, at := range []string{"list", "get", "log"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newTestNode(1)
				var panicked atomic.Bool
				once := func(now string) {
					if now == at && panicked.CompareAndSwap(false, true) {
						panic("out of range")
					}
				}
				n.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
					once(a.GetVerb())
					return false, nil, nil
				})
				if at == "get" { // of what made the pod, as it does not say itself whose it is
					n.object.Annotations = nil
					yes := true
					n.object.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", UID: "rs",
						Controller: &yes}}
				}
				client := &clumsyLogs{testNode: n, ask: func() { once("log") }}
				h, _, end := followed(client, webScope)
				defer end()
				n.start(stamped("one", "two")...)
				pass(time.Minute)
				if !panicked.Load() {
					t.Fatal("nothing panics")
				}
				if got := h.lines(); at != "get" && !slices.Equal(got, []string{"one", "two"}) {
					t.Errorf("reported %q", got)
				}
				bugs := slices.DeleteFunc(h.of(event.InternalError), func(e event.Event) bool { return e.Level() != event.Error })
				if len(bugs) != 1 || !strings.Contains(event.Hint(bugs[0].Err), "please report") {
					t.Errorf("reported %+v", bugs)
				}
			})
		})
	}
}

// clumsyLogs calls ask before each request for a log.
type clumsyLogs struct {
	*testNode
	ask func()
}

func (c *clumsyLogs) CoreV1() corev1client.CoreV1Interface {
	return clumsyCore{c.testNode.CoreV1(), c.ask}
}

type clumsyCore struct {
	corev1client.CoreV1Interface
	ask func()
}

func (c clumsyCore) Pods(namespace string) corev1client.PodInterface {
	return clumsyPods{c.CoreV1Interface.Pods(namespace), c.ask}
}

type clumsyPods struct {
	corev1client.PodInterface
	ask func()
}

func (p clumsyPods) GetLogs(name string, o *corev1.PodLogOptions) *rest.Request {
	p.ask()
	return p.PodInterface.GetLogs(name, o)
}
