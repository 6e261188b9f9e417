//go:build e2e

// Clients of a forward: new connections at a steady rate, each with one request of its own, and every answer looked at.
package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const clock = "15:04:05.000"

// fate is how a connection ended, as its client sees it.
type fate string

const (
	answered   fate = "answered 200"
	other      fate = "answered otherwise"
	refused    fate = "refused"
	broken     fate = "broken"
	unanswered fate = "closed without an answer"
	waiting    fate = "no answer in time"
)

// outcome is one connection's.
type outcome struct {
	fate       fate
	pod        string // that answered
	begin, end time.Time
	err        error
}

// load is a crowd of clients; it asks until stop is called.
type load struct {
	address, path string
	rate          int // new connections a second
	cancel        context.CancelFunc
	running       sync.WaitGroup

	mu       sync.Mutex
	outcomes []outcome
}

// startLoad asks for / at a local port.
func startLoad(t *testing.T, port, rate int) *load {
	return startLoadOf(t, port, "/", rate)
}

// startLoadOf asks for a path whose answer is the pod's name, too.
func startLoadOf(t *testing.T, port int, path string, rate int) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{address: local(port), path: path, rate: rate, cancel: cancel}
	l.running.Go(func() { l.run(ctx) })
	t.Cleanup(l.stop)
	return l
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// run keeps the rate also where a busy machine lets ticks fall out: it counts by the clock.
func (l *load) run(ctx context.Context) {
	ticker := time.NewTicker(time.Second / time.Duration(l.rate))
	defer ticker.Stop()
	begin := time.Now()
	for asked := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for due := int(time.Since(begin).Seconds() * float64(l.rate)); asked < due; asked++ {
				l.running.Go(func() { l.note(request(l.address, l.path, limit)) })
			}
		}
	}
}

func (l *load) note(o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes = append(l.outcomes, o)
}

// stop ends the asking and waits for the answers that are still to come.
func (l *load) stop() {
	l.cancel()
	l.running.Wait()
}

// sofar returns the connections that have ended.
func (l *load) sofar() []outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.outcomes)
}

// request opens a connection, sends one request, and reads the whole answer, which has to be the name of a pod.
func request(address, path string, limit time.Duration) (o outcome) {
	o.begin = time.Now()
	o.pod, o.fate, o.err = exchange(address, path, o.begin.Add(limit))
	o.end = time.Now()
	return o
}

func exchange(address, path string, deadline time.Time) (pod string, f fate, err error) {
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial("tcp", address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "", refused, err
	}
	if err != nil {
		return "", broken, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	reader := bufio.NewReaderSize(conn, 1024)
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", path)
	if err == nil {
		_, err = reader.Peek(1)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", waiting, err
	case errors.Is(err, io.EOF):
		return "", unanswered, err
	case err != nil:
		return "", broken, err
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return "", broken, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	pod, whole := strings.CutSuffix(string(body), "\n")
	switch {
	case err != nil:
		return "", broken, err
	case response.StatusCode != http.StatusOK:
		return "", other, fmt.Errorf("%s: %s", response.Status, body)
	case !whole || !strings.Contains(pod, "-"):
		return "", broken, fmt.Errorf("the answer is %q", body)
	}
	return pod, answered, nil
}

// tally counts connections by how they ended, and says so in one line.
type tally struct {
	fates   map[fate]int
	longest time.Duration
	slow    int      // how many waited for a second or more
	faults  []string // of those that were not answered with 200
}

func count(outcomes []outcome) tally {
	c := tally{fates: map[fate]int{}}
	for _, o := range outcomes {
		c.fates[o.fate]++
		took := o.end.Sub(o.begin)
		c.longest = max(c.longest, took)
		if took >= time.Second {
			c.slow++
		}
		if o.fate != answered {
			c.faults = append(c.faults, fmt.Sprintf("asked %s, %s after %s: %v",
				o.begin.Format(clock), o.fate, took.Round(time.Millisecond), o.err))
		}
	}
	slices.Sort(c.faults)
	return c
}

func (c tally) String() string {
	total, parts := 0, []string(nil)
	for _, f := range slices.Sorted(maps.Keys(c.fates)) {
		total += c.fates[f]
		parts = append(parts, fmt.Sprintf("%d %s", c.fates[f], f))
	}
	return fmt.Sprintf("%d connections: %s; longest wait %s, %d waited for a second or more",
		total, strings.Join(parts, ", "), c.longest.Round(time.Millisecond), c.slow)
}

// cut is how many were broken off: without an answer, or in the middle of it.
func (c tally) cut() int { return c.fates[broken] + c.fates[unanswered] }

// afterwards is how long after a moment the last of those was answered who had come before it and had waited for a second or more.
func (l *load) afterwards(moment time.Time) (late time.Duration) {
	for _, o := range l.sofar() {
		if o.begin.Before(moment) && o.end.Sub(o.begin) >= time.Second {
			late = max(late, o.end.Sub(moment))
		}
	}
	return late
}

// finish ends the load and fails the test if a connection was refused, waited in vain or got another answer than 200, or if
// one was broken off that had begun after a moment at which those in flight could be (the zero time: none could), or if there were more of
// them than inFlight.
func (l *load) finish(t *testing.T, until time.Time) {
	t.Helper()
	l.stop()
	c := count(l.sofar())
	t.Log(c)
	for i, fault := range c.faults {
		if i == 10 {
			t.Logf("and %d more", len(c.faults)-i)
			break
		}
		t.Log(fault)
	}
	if c.fates[answered] == 0 {
		t.Error("nothing was answered at all")
	}
	for _, f := range []fate{other, refused, waiting} {
		if c.fates[f] > 0 {
			t.Errorf("%d connections: %s", c.fates[f], f)
		}
	}
	for _, o := range l.sofar() {
		if (o.fate == broken || o.fate == unanswered) && !o.begin.Before(until) {
			t.Errorf("a connection was broken off that began at %s: only those in flight at %s may be", o.begin.Format(clock), until.Format(clock))
			break
		}
	}
	if c.cut() > inFlight {
		t.Errorf("%d connections were broken off, at most %d may be", c.cut(), inFlight)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
