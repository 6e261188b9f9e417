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
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/pkg/status/web"
)

// Client talks to a devloop in another terminal. Close it.
type Client struct {
	http  *http.Client
	pid   atomic.Int64
	State status.State // when it was found
}

// stateTimeout bounds how long a devloop takes to send its state: one that was stopped (Ctrl+Z)
// never does.
const stateTimeout = 3 * time.Second

// NotRunningError means that the selected devloop does not run.
type NotRunningError struct{ error }

func (e NotRunningError) Unwrap() error { return e.error }

// ErrNoneRuns means that no devloop of this user runs.
var ErrNoneRuns error = NotRunningError{
	event.WithHint(errors.New("no devloop runs"), "start one in another terminal: devloop")}

// AmbiguousError means that the selection matches several devloops.
type AmbiguousError struct{ error }

func (e AmbiguousError) Unwrap() error { return e.error }

// Selection chooses one of the devloops that run.
type Selection struct {
	File        string // its configuration
	ByDefault   bool   // File was not given: that of a folder above matches, too
	KubeContext string // "" for any
}

// Find returns the devloop of File; by default, without such a file here, that of the nearest
// folder above for which one runs, else the only one that runs. The error may be a NotRunningError
// or an AmbiguousError.
func (s Selection) Find(ctx context.Context) (*Client, error) {
	all, err := allRunning(ctx)
	if err != nil {
		return nil, NotRunningError{err}
	}
	found := s.matching(all)
	var names []string
	for _, c := range all {
		if len(found) != 1 || c != found[0] {
			c.Close()
		}
		names = append(names, fmt.Sprintf("%s (%s) on %s", c.State.File, c.State.Project, cmp.Or(c.State.Cluster, "-")))
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

// allRunning returns the devloops of this user that answer. The caller closes them.
func allRunning(ctx context.Context) ([]*Client, error) {
	dir, err := SocketDir()
	if err != nil {
		return nil, err
	}
	sockets, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil {
		return nil, err
	}
	answers := make([]*Client, len(sockets))
	asking, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var running sync.WaitGroup
	for i, socket := range sockets {
		running.Go(func() {
			c := openClient(socket)
			if event.Guard(func() error { return c.get(asking, "/api/state", &c.State) }) != nil {
				c.Close() // a devloop that was killed, or is just ending
				return
			}
			answers[i] = c
		})
	}
	running.Wait()
	return slices.DeleteFunc(answers, func(c *Client) bool { return c == nil }), nil
}

// matching returns the devloops that the selection may mean.
func (s Selection) matching(all []*Client) []*Client {
	all = slices.Clone(all)
	if s.KubeContext != "" {
		all = slices.DeleteFunc(all, func(c *Client) bool { return c.State.Cluster != s.KubeContext })
	}
	// with returns those whose file, or the folder of it, is the same as path.
	with := func(path string, place func(file string) string) (found []*Client) {
		want, err := os.Stat(path)
		if err != nil {
			return nil
		}
		for _, c := range all {
			if is, err := os.Stat(place(c.State.File)); err == nil && os.SameFile(want, is) {
				found = append(found, c)
			}
		}
		return found
	}
	if _, err := os.Stat(s.File); err == nil { // it need not be valid
		return with(s.File, filepath.Clean)
	}
	if !s.ByDefault {
		return nil
	}
	for folder, _ := filepath.Abs(".."); ; folder = filepath.Dir(folder) {
		if found := with(folder, filepath.Dir); len(found) > 0 {
			return found
		}
		if folder == filepath.Dir(folder) {
			return all
		}
	}
}

func openClient(socket string) *Client {
	c := &Client{}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, err
		}
		if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // without an answer it stays 0
				if pid, err := peerPID(int(fd)); err == nil {
					c.pid.Store(int64(pid))
				}
			})
		}
		return conn, nil
	}
	c.http = &http.Client{Transport: &http.Transport{DialContext: dial}}
	return c
}

// Close ends the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ask has that devloop answer one of its Questions.
func (c *Client) Ask(ctx context.Context, question string, answer any) error {
	return c.get(ctx, "/api/ask/"+question, answer)
}

// ForBrowser returns an address of the page that lets one browser in. Unlike that in State, it can
// stand in a command line, which all users of the machine can read.
func (c *Client) ForBrowser(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var given string
	if err := c.Ask(ctx, ticket, &given); err != nil {
		return "", fmt.Errorf("ask the running devloop for an address: %w", err)
	}
	return web.WithTicket(c.State.Page, given)
}

// get reads an answer of JSON.
func (c *Client) get(ctx context.Context, path string, answer any) error {
	body, err := c.open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // only read
	return json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(answer)
}

// open returns the body of an answer. The caller closes it.
func (c *Client) open(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://devloop"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxError)) // part of it is better than nothing
	_ = response.Body.Close()
	if response.StatusCode == http.StatusServiceUnavailable { // why a question has no answer
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return nil, fmt.Errorf("%s: %s", path, response.Status)
}

// What is read at most, in bytes.
const (
	maxAnswer = 256 << 20 // a State has fifty runs with hundreds of bars
	maxEvent  = 4 << 20   // errors quote a lot
	maxError  = 1500
)

// ErrCut means that a stream ended in the middle: that devloop was killed, or did not wait for a
// slow reader.
var ErrCut = errors.New("the stream is cut off")

// Follow is Events for lines after last that come, until that devloop or ctx ends. Where a slow
// reader, such as a pager, was cut off, it goes on.
func (c *Client) Follow(ctx context.Context, query url.Values, last string, show func(event.Event)) error {
	query.Set("follow", "1")
	for {
		query.Set("after", last)
		next, err := c.Events(ctx, query, show)
		if !errors.Is(err, ErrCut) || next == "" || next == last { // it was killed, or nothing gets through
			return err
		}
		last = next
	}
}

// Events calls show for each line of the log, until that devloop or ctx ends. It returns the ID of
// the last line, also with ErrCut.
func (c *Client) Events(ctx context.Context, query url.Values, show func(event.Event)) (last string, err error) {
	body, err := c.open(ctx, "/api/events?"+query.Encode())
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }() // only read
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	kind, id, invalid := "", "", error(nil)
	for invalid == nil && lines.Scan() { // server-sent events
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case field == "id":
			id = value
		case field == "event":
			kind = value
		case field == "data" && kind == "gap":
			show(event.Event{Time: time.Now(), Stage: "log", Phase: event.Warned,
				Message: "lines came faster than they were read, some are left out"})
		case field == "data" && kind == "line":
			var e event.Event
			if invalid = json.Unmarshal([]byte(value), &e); invalid == nil {
				show(e)
				last = id
			}
		}
	}
	lines.Scan() // if the stream was cut, half a line may have come before the error
	switch err := lines.Err(); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return last, ErrCut
	case err != nil:
		return last, err
	case invalid != nil:
		return last, fmt.Errorf("a line of the log: %w", invalid)
	}
	return last, nil
}
