// Tests of what readers of a stream are sent.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// message is a server-sent event.
type message struct{ kind, id, data string }

// tab is the other end of a stream, in memory.
type tab struct {
	mu     sync.Mutex
	header http.Header
	text   strings.Builder
	leave  context.CancelFunc
	left   chan struct{}
}

// open opens a stream of the site; headers are alternating names and values.
func open(t *testing.T, site *Site, path string, headers ...string) *tab {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	to := &tab{header: http.Header{}, leave: leave, left: make(chan struct{})}
	r := ofUser(site, request("GET", path, headers...)).WithContext(ctx)
	go func() {
		defer close(to.left)
		site.Handler(testPort).ServeHTTP(to, r)
	}()
	t.Cleanup(func() { leave(); <-to.left })
	return to
}

func (to *tab) Header() http.Header { return to.header }
func (to *tab) WriteHeader(int)     {}
func (to *tab) Flush()              {}

func (to *tab) Write(p []byte) (int, error) {
	to.mu.Lock()
	defer to.mu.Unlock()
	return to.text.Write(p)
}

func (to *tab) raw() string {
	to.mu.Lock()
	defer to.mu.Unlock()
	return to.text.String()
}

// got returns the messages of a kind so far.
func (to *tab) got(kind string) []message {
	return slices.DeleteFunc(parse(to.raw()), func(m message) bool { return m.kind != kind })
}

func parse(text string) []message {
	var all []message
	for block := range strings.SplitSeq(text, "\n\n") {
		var m message
		for line := range strings.SplitSeq(block, "\n") {
			key, value, _ := strings.Cut(line, ": ")
			switch key {
			case "event":
				m.kind = value
			case "id":
				m.id = value
			case "data":
				m.data = value
			}
		}
		if m.kind != "" {
			all = append(all, m)
		}
	}
	return all
}

// texts are the messages of the lines among them.
func texts(t *testing.T, messages []message) []string {
	t.Helper()
	var all []string
	for _, m := range messages {
		var line struct{ Msg string }
		if err := json.Unmarshal([]byte(m.data), &line); err != nil {
			t.Fatalf("%q: %v", m.data, err)
		}
		all = append(all, line.Msg)
	}
	return all
}

func numbers(from, to int) []string {
	var all []string
	for n := from; n <= to; n++ {
		all = append(all, strconv.Itoa(n))
	}
	return all
}

// note lets something happen, the number of which is its message.
func note(board *status.Board, numbers ...string) {
	for _, n := range numbers {
		board.Sink(event.Event{Time: time.Now(), Stage: "build", Phase: event.Noted, Message: n})
	}
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// aRun lets a run begin and end.
func aRun(board *status.Board, n int) {
	sink := event.Sink(board.Sink).InRun(n)
	sink.Stage("loop").Note(event.RunStarts, event.RunStart{Why: "change", Files: "requirements.txt"})
	_ = sink.Stage("loop").Step(context.Background(), event.RunComplete,
		func(context.Context) ([]any, error) { return nil, nil })
}

func TestPageGetsTheWholeState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		note(board, numbers(1, firstLines+500)...)
		aRun(board, 1) // three lines
		page := open(t, site, "/api/stream")
		synctest.Wait()

		if got := texts(t, page.got("line")); len(got) != firstLines || got[0] != strconv.Itoa(504) ||
			got[firstLines-1] != event.RunComplete {
			t.Errorf("%d lines, from %s to %s", len(got), got[0], got[len(got)-1])
		}
		states, runs := page.got("state"), page.got("runs")
		if len(states) != 1 || len(runs) != 1 {
			t.Fatalf("%d states, %d runs", len(states), len(runs))
		}
		var sent struct {
			Now   time.Time
			State map[string]any
		}
		if err := json.Unmarshal([]byte(states[0].data), &sent); err != nil || !sent.Now.Equal(time.Now()) ||
			sent.State["health"] != "healthy" {
			t.Errorf("got %+v, error %v", sent, err)
		}
		if _, has := sent.State["runs"]; has {
			t.Error("the state has the runs with it")
		}
		var list []status.Run
		if err := json.Unmarshal([]byte(runs[0].data), &list); err != nil || len(list) != 1 ||
			list[0].Outcome != status.Succeeded {
			t.Errorf("runs %s, error %v", runs[0].data, err)
		}
	})
}

func TestRunsAreSentWhenOneEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		page := open(t, site, "/api/stream")
		synctest.Wait()
		if got := page.got("runs"); len(got) != 1 || got[0].data != "[]" {
			t.Errorf("at first: %v", got)
		}
		for n := 1; n <= 60; n++ { // more than are kept
			aRun(board, n)
			pass(minInterval)
			note(board, "something else")
			pass(minInterval)
			if got := len(page.got("runs")); got != n+1 {
				t.Fatalf("after run %d they were sent %d times", n, got)
			}
		}
	})
}

func TestStateIsSentTenTimesASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		page := open(t, site, "/api/stream")
		synctest.Wait()
		event.Sink(board.Sink).Stage(event.ConfigStage).Detail(event.ConfigRead,
			event.Config{Images: event.Names{"worker"}})
		sink := event.Sink(board.Sink).Stage("node")
		for n := 1; n <= 1000; n++ {
			sink.Progress(event.LoadingImage, event.Loading{Image: event.Image{Name: "worker"}, Bytes: int64(n)})
			pass(time.Millisecond)
		}
		pass(minInterval)
		got := page.got("state")
		if len(got) < 9 || len(got) > 13 {
			t.Errorf("%d states in a second", len(got))
		}
		if last := got[len(got)-1].data; !strings.Contains(last, `"bytes":1000,`) {
			t.Errorf("the last one is old: %s", last)
		}
		before := len(got)
		note(board, "a line, which changes nothing")
		pass(time.Second)
		if got := len(page.got("state")); got != before {
			t.Error("a state that did not change was sent again")
		}
		if got := page.got("line"); len(got) != 2 {
			t.Errorf("progress is among the lines: %v", got)
		}
	})
}

func TestNothingIsLostOrSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		var got []string
		var headers []string
		for n := 1; n <= 400; n += 4 { // the connection is lost a hundred times
			page := open(t, site, "/api/stream", headers...)
			note(board, strconv.Itoa(n))
			pass(time.Duration(n) * time.Millisecond)
			note(board, numbers(n+1, n+2)...)
			pass(time.Duration(n%7) * 50 * time.Millisecond)
			page.leave()
			<-page.left
			note(board, strconv.Itoa(n+3)) // while no reader looks
			all := parse(page.raw())
			got = append(got, texts(t, page.got("line"))...)
			for _, m := range all {
				if m.id != "" {
					headers = []string{"Last-Event-ID", m.id}
				}
			}
		}
		page := open(t, site, "/api/stream?after="+headers[1]) // as who cannot set a header does
		synctest.Wait()
		if got = append(got, texts(t, page.got("line"))...); !slices.Equal(got, numbers(1, 400)) {
			t.Errorf("%d lines: %v", len(got), got)
		}
	})
}

func TestAnotherDevloopBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		note(board, "1", "2")
		for _, id := range []string{"ANOTHER1-7000", "nonsense", site.boot + "-", site.boot + "-x"} {
			page := open(t, site, "/api/stream", "Last-Event-ID", id)
			synctest.Wait()
			if all := parse(page.raw()); all[0].kind != "reset" || len(page.got("line")) != 2 {
				t.Errorf("%s: sent %v", id, all)
			}
		}
		if page := open(t, site, "/api/stream"); len(page.got("reset")) != 0 {
			t.Error("a first reader has nothing to forget")
		}
	})
}

func TestReaderGetsWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		note(board, numbers(1, 20000)...)
		page := open(t, site, "/api/stream", "Last-Event-ID", site.boot+"-100")
		synctest.Wait()
		lines, _ := board.Lines(0, math.MaxInt)
		kept := len(lines)
		if got := page.got("gap"); len(got) != 1 || got[0].data != fmt.Sprintf(`{"lines":%d}`, 20000-100-kept) {
			t.Errorf("got %v", got)
		}
		if got := len(page.got("line")); got != kept {
			t.Errorf("%d lines of %d", got, kept)
		}
	})
}

func TestStreamShowsThatItLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, _, _ := testSite(t)
		page := open(t, site, "/api/stream")
		pass(4*heartbeat + time.Second)
		if got := strings.Count(page.raw(), ": still here\n\n"); got != 4 {
			t.Errorf("%d heartbeats in a minute", got)
		}
	})
}

func TestALineThatCannotBeEncodedIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		board.Sink(event.Event{Stage: "build", Phase: event.Noted, Message: "x", Fields: []any{"share", math.NaN()}})
		note(board, "1")
		page := open(t, site, "/api/events?follow=1")
		synctest.Wait()
		if got := texts(t, page.got("line")); !slices.Equal(got, []string{"1"}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestEventsForCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		note(board, numbers(1, 5)...)
		pod := event.Sink(board.Sink).Stage(event.PodStage)
		pod.Note(event.PodLog, event.LogLine{Line: "hello"})
		note(board, "7")
		for _, test := range []struct{ query, want string }{
			{"", "1 2 3 4 5 log 7"},
			{"?tail=2", "log 7"},
			{"?tail=0", ""},
			{"?follow=0&tail=100", "1 2 3 4 5 log 7"},
			{"?stage=build&tail=3", "4 5 7"},
			{"?stage=pod", "log"},
			{"?stage=deploy", ""},
			{"?after=" + site.boot + "-4", "5 log 7"},
			{"?after=" + site.boot + "-4&tail=1", "7"},
		} {
			reader := open(t, site, "/api/events"+test.query)
			<-reader.left // it ends by itself
			if got := strings.Join(texts(t, reader.got("line")), " "); got != test.want {
				t.Errorf("%q: %s", test.query, got)
			}
			if len(reader.got("state")) > 0 {
				t.Errorf("%q: a state", test.query)
			}
		}
		none := open(t, New(status.NewBoard(nil), nil, Actions{}, event.Stage{}), "/api/events?tail=3")
		<-none.left

		follower := open(t, site, "/api/events?follow=1&tail=0&stage=build")
		pass(minInterval)
		pod.Note(event.PodLog, event.LogLine{Line: "hello again"})
		note(board, numbers(8, 20)...)
		pass(minInterval)
		if got := texts(t, follower.got("line")); !slices.Equal(got, numbers(8, 20)) {
			t.Errorf("the follower was sent %v", got)
		}
		for _, query := range []string{"?tail=-1", "?tail=many", "?follow=perhaps"} {
			if w := answer(site.Local(nil), request("GET", "/api/events"+query)); w.Code != 400 ||
				!strings.Contains(w.Body.String(), " not ") {
				t.Errorf("%s: %d %s", query, w.Code, w.Body)
			}
		}
	})
}

func TestFollowerOfAnEmptyLogMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site, board, _ := testSite(t)
		follower := open(t, site, "/api/events?follow=1&tail=0")
		pass(time.Second)
		note(board, "1", "2")
		pass(minInterval)
		if got := texts(t, follower.got("line")); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("got %v", got)
		}
	})
}

// A reader on a real connection that has stopped reading: nothing waits for it, and it does not
// keep the server from ending.
func TestStalledReaderHoldsNothingUp(t *testing.T) {
	site, board, _ := testSite(t)
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = site.Handler(server.Listener.Addr().(*net.TCPAddr).Port)
	server.Config.RegisterOnShutdown(site.Close)
	writes := &writes{Listener: server.Listener}
	server.Listener = writes
	server.Start()
	defer server.Close()

	r, err := http.NewRequest(http.MethodGet, server.URL+"/api/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(ofUser(site, r))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	first := make([]byte, 10)
	if _, err := io.ReadFull(response.Body, first); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 10_000)
	start := time.Now()
	for range 2000 { // more than the connection's buffers hold
		board.Sink(event.Event{Time: time.Now(), Stage: "pod", Phase: event.Noted, Message: event.PodLog,
			Payload: event.LogLine{Line: long}})
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("sending took %v", took)
	}
	for deadline := time.Now().Add(time.Minute); !writes.stalled(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the reader is not stalled")
		}
	}
	note(board, "1") // still does not wait
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := server.Config.Shutdown(ctx); err != nil {
		t.Errorf("the stream keeps the server from ending: %v", err)
	}
}

// writes is a listener that knows how long a write to one of its connections has been under way.
type writes struct {
	net.Listener
	since atomic.Int64 // 0 if none is
}

func (w *writes) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	return writer{conn, w}, err
}

func (w *writes) stalled() bool {
	since := w.since.Load()
	return since > 0 && time.Since(time.Unix(0, since)) > 300*time.Millisecond
}

type writer struct {
	net.Conn
	writes *writes
}

func (w writer) Write(p []byte) (int, error) {
	w.writes.since.Store(time.Now().UnixNano())
	defer w.writes.since.Store(0)
	return w.Conn.Write(p)
}

// Many readers, who come and go while much happens, on real connections.
func TestReadersComeAndGo(t *testing.T) {
	site, board, _ := testSite(t)
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = site.Handler(server.Listener.Addr().(*net.TCPAddr).Port)
	server.Start()
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()

	const last = 300
	var group sync.WaitGroup
	group.Go(func() {
		for n := 1; n <= last; n++ {
			note(board, strconv.Itoa(n))
		}
	})
	for range 4 { // a place is free a moment after its reader has gone
		group.Go(func() {
			var got []string
			id := ""
			for len(got) < last {
				messages, err := some(t.Context(), site, server.URL+"/api/events?follow=1&after="+id)
				if err != nil {
					t.Error(err)
					return
				}
				for _, m := range messages {
					id = m.id
				}
				got = append(got, texts(t, messages)...)
			}
			if !slices.Equal(got, numbers(1, last)) {
				t.Errorf("%d lines, not each of them once", len(got))
			}
		})
	}
	group.Wait()
}

// some reads what comes until it has read something, and leaves.
func some(ctx context.Context, site *Site, url string) ([]message, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(ofUser(site, r))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var text strings.Builder
	for !strings.Contains(text.String(), "\n\n") {
		part := make([]byte, 1000)
		n, err := response.Body.Read(part)
		text.Write(part[:n])
		if err != nil {
			return nil, errors.Join(err, errors.New("the stream ended"))
		}
	}
	return parse(text.String()[:strings.LastIndex(text.String(), "\n\n")]), nil
}

// follow opens a stream of a real server, of which nothing is read but what says that it is there.
func follow(t *testing.T, site *Site, server *httptest.Server, path string) (code int, body io.Reader) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(4 << 10) // the kernel takes little for who does not read
		}
		return conn, err
	}}
	t.Cleanup(transport.CloseIdleConnections)
	response, err := transport.RoundTrip(ofUser(site, r))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response.StatusCode, response.Body
}

// Readers that do not read cost little, and take nothing from one who does.
func TestReadersThatDoNotRead(t *testing.T) {
	site, board, _ := testSite(t)
	site.writeTimeout = time.Hour
	server := serve(t, site, "")
	long := strings.Repeat("x", 10_000)
	for range 3000 {
		board.Sink(event.Event{Time: time.Now(), Stage: "pod", Phase: event.Noted, Message: event.PodLog,
			Payload: event.LogLine{Line: long}})
	}
	before := heap()
	_, good := follow(t, site, server, "/api/events?follow=1&stage=build")
	for range maxStreams - 1 {
		if code, _ := follow(t, site, server, "/api/events?follow=1"); code != 200 {
			t.Fatal(code)
		}
	}
	for range 60 {
		code, body := follow(t, site, server, "/api/stream")
		if said, err := io.ReadAll(io.LimitReader(body, 1000)); err != nil || code != 503 ||
			!strings.Contains(string(said), "close some of the tabs") {
			t.Fatalf("one more: %d %s, %v", code, said, err)
		}
	}
	if grown := heap() - before; grown > 16<<20 { // the log in JSON is 30 MB, and nothing keeps it
		t.Errorf("they cost %d MB", grown>>20)
	}

	note(board, numbers(1, 500)...)
	var text strings.Builder
	for part := make([]byte, 4<<10); strings.Count(text.String(), "event: line") < 500; {
		n, err := good.Read(part)
		text.Write(part[:n])
		if err != nil {
			t.Fatalf("the good reader was let go: %v", err)
		}
	}
	if got := texts(t, parse(text.String())); !slices.Equal(got, numbers(1, 500)) {
		t.Errorf("the good reader was sent %d lines", len(got))
	}
}

// Readers that take nothing for a while leave their places to others.
func TestReadersThatDoNotReadAreLetGo(t *testing.T) {
	site, board, _ := testSite(t)
	site.writeTimeout = 200 * time.Millisecond
	server := serve(t, site, "")
	for range 2000 {
		board.Sink(event.Event{Time: time.Now(), Stage: "pod", Phase: event.Noted, Message: event.PodLog,
			Payload: event.LogLine{Line: strings.Repeat("x", 10_000)}})
	}
	for range maxStreams {
		follow(t, site, server, "/api/events?follow=1")
	}
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		if code, _ := follow(t, site, server, "/api/events?tail=0"); code == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("they keep their places")
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
