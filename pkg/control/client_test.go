package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/event"
)

// A slow reader is cut off, and goes on where that was.
func TestFollowingGoesOn(t *testing.T) {
	defer goleak.VerifyNone(t)
	socket := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	send := func(w io.Writer, from, to int) {
		for n := from; n <= to; n++ {
			e := event.Event{Time: time.Now(), Stage: "build", Phase: event.Noted, Message: strconv.Itoa(n)}
			line, err := json.Marshal(e)
			if err != nil {
				t.Error(err)
			}
			_, _ = fmt.Fprintf(w, "id: boot-%d\nevent: line\ndata: %s\n\n", n, line)
		}
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch after := r.URL.Query().Get("after"); after {
		case "boot-1":
			send(w, 2, 3)
			_, _ = io.WriteString(w, "id: boot-4\nevent: line\ndata: {\"time\":\"20")
		case "boot-3":
			send(w, 4, 5)
			_, _ = io.WriteString(w, "id: boot-6\n")
		case "boot-5":
			send(w, 6, 6)
			return
		default:
			t.Errorf("asked for what is behind %q", after)
		}
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	r := openClient(socket)
	defer r.Close()
	var got []string
	err = r.Follow(t.Context(), url.Values{}, "boot-1", func(e event.Event) { got = append(got, e.Message) })
	if all := strings.Join(got, " "); err != nil || all != "2 3 4 5 6" {
		t.Errorf("%s, %v", all, err)
	}
}
