package control

import (
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/pkg/status/web"
)

func servePage(t *testing.T) *url.URL {
	t.Helper()
	board := status.NewBoard(nil)
	s := NewServer(board, web.NewMetrics(board), event.Stage{})
	t.Cleanup(s.Close)
	page, _, err := s.ServePage(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// More connections than the page and the socket have places for wait until one of them is free, and
// cost devloop nothing.
func TestConnectionsOfThePage(t *testing.T) {
	page := servePage(t)
	connect := func() (conn net.Conn) {
		t.Helper()
		conn, err := net.Dial("tcp4", page.Host)
		if err == nil {
			_, err = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: "+page.Host+"\r\n\r\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	answered := func(conn net.Conn, within time.Duration) bool {
		if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(make([]byte, 1))
		return n == 1 && err == nil
	}
	var all []net.Conn
	for n := range connections {
		if all = append(all, connect()); !answered(all[n], time.Minute) {
			t.Fatalf("connection %d has no answer", n)
		}
	}
	more := connect()
	if answered(more, 300*time.Millisecond) {
		t.Errorf("there is no limit")
	}
	all[0].Close()
	if !answered(more, time.Minute) {
		t.Error("the place of one that was closed stays taken")
	}
	_, err := io.WriteString(all[1],
		"GET /metrics HTTP/1.1\r\nHost: "+page.Host+"\r\nCookie: "+strings.Repeat("x", 4*headerBytes)+"\r\n\r\n")
	rest, readErr := io.ReadAll(all[1])
	refused := strings.Contains(string(rest), "\r\n431 ") || strings.Contains(string(rest), "HTTP/1.1 431 ")
	if err == nil && readErr == nil && !refused {
		t.Errorf("a header without end is taken: %s", rest)
	}
}

// The page is at its usual port if that is free, else at any.
func TestPagePort(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(usualPort))
	if err == nil {
		defer taken.Close()
	} // else another process has it, which is as well
	if page := servePage(t); page.Port() == strconv.Itoa(usualPort) {
		t.Errorf("the page is at %s", page)
	}
}
