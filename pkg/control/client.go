// A devloop that runs in another terminal, as its socket shows it.
package control

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// Client is one such devloop. Close it.
type Client struct {
	client *http.Client
	State  status.State
}

// stateTimeout is for a devloop on this machine to say how it is. One that was stopped (Ctrl+Z) does not.
const stateTimeout = 3 * time.Second

// NotRunningError says that the devloop that is meant does not run.
type NotRunningError struct{ error }

func (e NotRunningError) Unwrap() error { return e.error }

// ErrNoneRuns is for a machine on which no devloop runs.
var ErrNoneRuns error = NotRunningError{event.WithHint(errors.New("no devloop runs"), "start one in another terminal: devloop")}

// AmbiguousError says that several devloops could be meant.
type AmbiguousError struct{ error }

func (e AmbiguousError) Unwrap() error { return e.error }

// Selection says which devloop is meant.
type Selection struct {
	File        string // the configuration, as it was given or by default
	ByDefault   bool   // it was not given: it may be that of a folder above
	KubeContext string // "" for any
}

// Find finds the devloop of the configuration that is meant: of the one that is here, or in the
// nearest folder above of which one runs, or else the only one that runs. The error may be a
// NotRunningError or an AmbiguousError.
func (s Selection) Find(ctx context.Context) (*Client, error) {
	dir, err := SocketDir()
	if err != nil {
		return nil, NotRunningError{err}
	}
	sockets, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil {
		return nil, err
	}
	answers := make([]*Client, len(sockets))
	var asking sync.WaitGroup
	for i, socket := range sockets {
		asking.Go(func() {
			r := openClient(socket)
			if event.Guard(func() error { return r.readState(ctx) }) != nil {
				r.Close() // a devloop that was killed, or is just ending
				return
			}
			answers[i] = r
		})
	}
	asking.Wait()
	all := slices.DeleteFunc(answers, func(r *Client) bool { return r == nil })
	found := s.matching(all)
	var names []string
	for _, r := range all {
		if len(found) != 1 || r != found[0] {
			r.Close()
		}
		names = append(names, fmt.Sprintf("%s (%s) on %s", r.State.File, r.State.Project, cmp.Or(r.State.Cluster, "-")))
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, AmbiguousError{event.WithHint(errors.New("several devloops run that could be meant"),
			"say which by -f or --kube-context: "+strings.Join(names, ", "))}
	case len(all) > 0:
		return nil, NotRunningError{event.WithHint(fmt.Errorf("no devloop runs for this %s", filepath.Base(s.File)),
			"others do: "+strings.Join(names, ", "))}
	}
	return nil, ErrNoneRuns
}

// matching returns those that the selection stands for.
func (s Selection) matching(all []*Client) []*Client {
	all = slices.Clone(all)
	if s.KubeContext != "" {
		all = slices.DeleteFunc(all, func(r *Client) bool { return r.State.Cluster != s.KubeContext })
	}
	of := func(same func(file string) bool) []*Client {
		return slices.DeleteFunc(slices.Clone(all), func(r *Client) bool { return !same(r.State.File) })
	}
	if here, err := os.Stat(s.File); err == nil { // which need not be valid for one to run
		return of(func(file string) bool {
			other, err := os.Stat(file)
			return err == nil && os.SameFile(here, other)
		})
	}
	if !s.ByDefault {
		return nil
	}
	for above, _ := filepath.Abs(".."); ; above = filepath.Dir(above) {
		if folder, err := os.Stat(above); err == nil {
			if found := of(func(file string) bool {
				other, err := os.Stat(filepath.Dir(file))
				return err == nil && os.SameFile(folder, other)
			}); len(found) > 0 {
				return found
			}
		}
		if above == filepath.Dir(above) {
			return all
		}
	}
}

func openClient(socket string) *Client {
	return &Client{client: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
}

func (r *Client) Close() { r.client.CloseIdleConnections() }

func (r *Client) get(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://devloop"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorLength)) // what came is better than nothing
		_ = response.Body.Close()
		if response.StatusCode == http.StatusServiceUnavailable { // why a question has no answer
			return nil, errors.New(strings.TrimSpace(string(said)))
		}
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return response.Body, nil
}

func (r *Client) readState(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	body, err := r.get(ctx, "/api/state")
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // only read
	return json.NewDecoder(io.LimitReader(body, stateLength)).Decode(&r.State)
}

// Ask has that devloop answer one of its questions.
func (r *Client) Ask(ctx context.Context, question string, answer any) error {
	body, err := r.get(ctx, "/api/ask/"+question)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // only read
	return json.NewDecoder(io.LimitReader(body, stateLength)).Decode(answer)
}

// Follow is events for lines behind one that come, until that devloop or ctx ends. Who is long in
// reading, as the user of a pager is, goes on where the stream was cut off.
func (r *Client) Follow(ctx context.Context, query url.Values, last string, show func(event.Event)) error {
	query.Set("follow", "1")
	for {
		query.Set("after", last)
		next, err := r.Events(ctx, query, show)
		if !errors.Is(err, ErrCut) || next == "" || next == last { // it was killed, or nothing gets through
			return err
		}
		last = next
	}
}

// maxErrorLength is how much of an error answer is read, in bytes.
const maxErrorLength = 1500

// stateLength is how long an answer may be, in bytes: a State has fifty runs with hundreds of bars.
const stateLength = 256 << 20

// eventLength is how long a line of the log may be, in bytes; errors quote a lot.
const eventLength = 4 << 20

// ErrCut is for a stream that stops in the middle: that devloop was killed, or did not wait for
// somebody who was long in reading.
var ErrCut = errors.New("the stream is cut off")

// Events calls show for each line of the log, until that devloop or ctx ends. It returns the id of
// the last one that was shown, also with ErrCut.
func (r *Client) Events(ctx context.Context, query url.Values, show func(event.Event)) (last string, err error) {
	body, err := r.get(ctx, "/api/events?"+query.Encode())
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }() // only read
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, eventLength)
	kind, id, bad := "", "", error(nil)
	for bad == nil && lines.Scan() { // of server-sent events: id: ..., event: ..., data: ...
		if is, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = is
		}
		if is, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			kind = is
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !ok:
		case kind == "gap":
			show(event.Event{Time: time.Now(), Stage: "log", Phase: event.Warned, Message: "lines came faster than they were read, some are left out"})
		case kind == "line":
			var e event.Event
			if bad = json.Unmarshal([]byte(data), &e); bad == nil {
				show(e)
				last = id
			}
		}
	}
	lines.Scan() // behind half a line, nothing comes any more
	switch err := lines.Err(); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return last, ErrCut
	case err != nil:
		return last, err
	case bad != nil:
		return last, fmt.Errorf("a line of the log: %w", bad)
	}
	return last, nil
}
