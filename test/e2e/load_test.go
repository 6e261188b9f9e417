//go:build e2e

// Clients of a forward: each asks again a moment after it was answered, on a connection of its own,
// and every answer is looked at. A busy machine makes them slower, and never more.
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

// clients is how many ask at a time, pause how long each waits after an answer: 200 new connections
// a second at most.
const (
	clients = 50
	pause   = 250 * time.Millisecond
)

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
	body       string // a pod's name, where testdata/forward/server answers
	begin, end time.Time
	err        error
}

func (o outcome) String() string {
	took := o.end.Sub(o.begin).Round(time.Millisecond)
	return fmt.Sprintf("asked %s, %s after %s: %v", o.begin.Format("15:04:05.000"), o.fate, took, o.err)
}

// cut tells whether the connection was broken off: without an answer, or in the middle of it.
func (o outcome) cut() bool { return o.fate == broken || o.fate == unanswered }

// load is a number of clients that ask until stop is called.
type load struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	outcomes []outcome
}

// startLoad has the clients ask for a path.
func startLoad(t *testing.T, clients int, address, path string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel}
	for i := range clients {
		l.running.Go(func() {
			next := time.NewTimer(pause * time.Duration(i) / time.Duration(clients)) // not all at once
			defer next.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-next.C:
					l.note(request(address, path))
					next.Reset(pause)
				}
			}
		})
	}
	t.Cleanup(l.stop)
	return l
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

// answer waits until so many more connections were answered.
func (l *load) answer(t *testing.T, more int) {
	t.Helper()
	enough := count(l.sofar()).fates[answered] + more
	eventually(t, fmt.Sprintf("%d more connections are answered", more), func() bool {
		return count(l.sofar()).fates[answered] >= enough
	})
}

// request opens a connection, sends one request, and reads the whole answer.
func request(address, path string) (o outcome) {
	o.begin = time.Now()
	o.body, o.fate, o.err = exchange(address, path, o.begin.Add(longEnough))
	o.end = time.Now()
	return o
}

func exchange(address, path string, deadline time.Time) (body string, f fate, err error) {
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
	content, err := io.ReadAll(response.Body)
	body = strings.TrimSuffix(string(content), "\n")
	switch {
	case err != nil:
		return "", broken, err
	case response.StatusCode != http.StatusOK:
		return "", other, fmt.Errorf("%s: %s", response.Status, body)
	case body == "":
		return "", broken, errors.New("the answer is empty")
	}
	return body, answered, nil
}

// tally counts connections by how they ended, and says so in one line.
type tally struct {
	fates   map[fate]int
	longest time.Duration
	faults  []outcome // that were not answered with 200
}

func count(outcomes []outcome) tally {
	c := tally{fates: map[fate]int{}}
	for _, o := range outcomes {
		c.fates[o.fate]++
		c.longest = max(c.longest, o.end.Sub(o.begin))
		if o.fate != answered {
			c.faults = append(c.faults, o)
		}
	}
	slices.SortFunc(c.faults, func(a, b outcome) int { return a.begin.Compare(b.begin) })
	return c
}

func (c tally) String() string {
	total, parts := 0, []string(nil)
	for _, f := range slices.Sorted(maps.Keys(c.fates)) {
		total += c.fates[f]
		parts = append(parts, fmt.Sprintf("%d %s", c.fates[f], f))
	}
	longest := c.longest.Round(time.Millisecond)
	return fmt.Sprintf("%d connections: %s; longest wait %s", total, strings.Join(parts, ", "), longest)
}

// finish ends the load. Each connection must have been answered with 200, but those that excused
// excuses.
func (l *load) finish(t *testing.T, excused func(outcome) bool) {
	t.Helper()
	l.stop()
	c := count(l.sofar())
	t.Log(c)
	if c.fates[answered] == 0 {
		t.Error("nothing was answered at all")
	}
	shown, guilty := 0, 0
	for _, o := range c.faults {
		if !excused(o) {
			if guilty++; guilty <= 10 {
				t.Error(o)
			}
		} else if shown++; shown <= 5 {
			t.Log("excused: ", o)
		}
	}
	if guilty > 10 {
		t.Errorf("and %d more", guilty-10)
	}
}

// none excuses nothing.
func none(outcome) bool { return false }

// inFlight excuses connections that were broken off and had begun before a fault: what killed or
// cut off their pod took their requests with it.
func inFlight(fault time.Time) func(outcome) bool {
	return func(o outcome) bool { return o.cut() && o.begin.Before(fault) }
}

// dial opens a connection that lasts until the test ends.
func dial(t *testing.T, port int) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", local(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}
