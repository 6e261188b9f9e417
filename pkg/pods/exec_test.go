package pods

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/devloop/devloop/pkg/kube"
)

// execServer is an API server with one pod, whose commands run on this machine.
type execServer struct {
	t      *testing.T
	old    bool                       // it knows SPDY alone
	silent bool                       // it takes connections, and answers none
	lost   chan struct{}              // closed: connections break in the middle
	pod    atomic.Pointer[corev1.Pod] // nil once it is deleted
}

type connection struct{} // key of the context of a request

var running = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}

func startExecServer(t *testing.T) (*execServer, *kube.Cluster, Container) {
	t.Helper()
	s := &execServer{t: t, lost: make(chan struct{})}
	s.pod.Store(&corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "demo", UID: "one"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", ContainerID: "first", State: running}}}})
	server := httptest.NewUnstartedServer(s)
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connection{}, conn)
	}
	server.Start()
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: a,
contexts: [{name: a, context: {cluster: a, user: a}}], clusters: [{name: a, cluster: {server: %q}}],
users: [{name: a, user: {}}]}`, server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	cluster, err := kube.OpenCluster("a")
	if err != nil {
		t.Fatal(err)
	}
	return s, cluster, Container{Namespace: "demo", Pod: "web-1", Name: "web", uid: "one", id: "first"}
}

func (s *execServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.silent:
		<-r.Context().Done()
	case !strings.HasSuffix(r.URL.Path, "/exec"):
		pod := s.pod.Load()
		if pod == nil {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
				Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(pod)
	case wsstream.IsWebSocketRequest(r) && s.old:
		http.Error(w, "no WebSockets here", http.StatusBadRequest)
	case wsstream.IsWebSocketRequest(r):
		conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{constants.StreamProtocolV5Name: {Binary: true,
			Channels: []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel,
				wsstream.WriteChannel, wsstream.ReadChannel}}})
		_, streams, err := conn.Open(w, r)
		if err != nil {
			s.t.Error(err)
			return
		}
		s.run(r, streams, conn)
	default:
		s.serveSPDY(w, r)
	}
}

func (s *execServer) serveSPDY(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{constants.StreamProtocolV4Name}); err != nil {
		s.t.Error(err)
		return
	}
	opened := make(chan httpstream.Stream, 5)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		opened <- stream
		return nil
	})
	if conn == nil {
		return
	}
	streams := make([]io.ReadWriteCloser, 5)
	for range 4 { // without a terminal
		stream := <-opened
		number := map[string]int{"stdin": 0, "stdout": 1, "stderr": 2, "error": 3}[stream.Headers().Get(corev1.StreamType)]
		streams[number] = stream
	}
	s.run(r, streams, conn)
}

// run runs a command.
func (s *execServer) run(r *http.Request, streams []io.ReadWriteCloser, conn io.Closer) {
	defer func() { _ = conn.Close() }()
	command := r.URL.Query()["command"]
	ctx, kill := context.WithCancel(r.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer kill()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Error(err)
		return
	}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = streams[1], streams[2], time.Second
	if r.URL.Query().Get("tty") == "true" {
		var size remotecommand.TerminalSize
		_ = json.NewDecoder(streams[4]).Decode(&size)
		cmd.Env = append(os.Environ(), fmt.Sprintf("COLUMNS=%d", size.Width))
		cmd.Stderr = streams[1]
	}
	status := metav1.Status{Status: metav1.StatusSuccess}
	failure := &exec.ExitError{}
	if err := cmd.Start(); err != nil {
		status = metav1.Status{Status: metav1.StatusFailure,
			Message: fmt.Sprintf("OCI runtime exec failed: exec: %q: executable file not found in $PATH", command[0])}
	} else {
		go func() {
			_, _ = io.Copy(stdin, streams[0])
			_ = stdin.Close()
		}()
		ended := make(chan error, 1)
		running.Go(func() { ended <- cmd.Wait() })
		select {
		case err = <-ended:
		case <-s.lost:
			_ = r.Context().Value(connection{}).(net.Conn).Close()
			return
		}
		if errors.As(err, &failure) {
			code := failure.ExitCode()
			if code < 0 {
				code = exitKilled
			}
			status = metav1.Status{Status: metav1.StatusFailure, Reason: constants.NonZeroExitCodeReason,
				Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{
					{Type: constants.ExitCodeCauseType, Message: strconv.Itoa(code)}}}}
		}
	}
	text, _ := json.Marshal(status)
	_, _ = streams[3].Write(text)
}

// both runs a test through WebSocket and through SPDY.
func both(t *testing.T, test func(t *testing.T, s *execServer, c *kube.Cluster, in Container)) {
	for name, old := range map[string]bool{"WebSocket": false, "SPDY": true} {
		t.Run(name, func(t *testing.T) {
			s, c, in := startExecServer(t)
			s.old = old
			test(t, s, c, in)
		})
	}
}

func TestExec(t *testing.T) {
	both(t, func(t *testing.T, _ *execServer, c *kube.Cluster, in Container) {
		for _, test := range []struct {
			command       string
			in, out, said string
			code          int
		}{
			{command: "cat; echo wrong >&2", in: "a\x00\xff\x04\r\nb", out: "a\x00\xff\x04\r\nb", said: "wrong\n"},
			{command: "exit 3", code: 3},
			{command: "kill -9 $$", code: 137},
			{command: "read line; echo $line", in: "first\nsecond\n", out: "first\n"},
		} {
			var out, said bytes.Buffer
			err := Exec(t.Context(), c, in, []string{"sh", "-c", test.command},
				Streams{In: strings.NewReader(test.in), Out: &out, Err: &said})
			exit := &ExitError{}
			if errors.As(err, &exit); exit.Code != test.code || err != nil && exit.Why != nil {
				t.Errorf("%s: %v", test.command, err)
			}
			if out.String() != test.out || said.String() != test.said {
				t.Errorf("%s: %q and %q", test.command, &out, &said)
			}
		}
	})
}

func TestExecWithALot(t *testing.T) {
	both(t, func(t *testing.T, _ *execServer, c *kube.Cluster, in Container) {
		data := make([]byte, 16<<20)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := Exec(t.Context(), c, in, []string{"cat"}, Streams{In: bytes.NewReader(data), Out: &out, Err: io.Discard})
		if err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%v, %d bytes", err, out.Len())
		}
	})
}

// What ends a command from outside is told, and is never taken for success.
func TestExecEnded(t *testing.T) {
	both(t, func(t *testing.T, s *execServer, c *kube.Cluster, in Container) {
		pod := s.pod.Load()
		died := pod.DeepCopy()
		died.Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "web", ContainerID: "second", State: running,
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ContainerID: "first", Reason: kube.ReasonOOMKilled, ExitCode: 137}}}
		other := pod.DeepCopy()
		other.UID = types.UID("other")
		for want, now := range map[string]*corev1.Pod{
			"pod web-1 was deleted while the command ran":                       nil,
			"container web of pod web-1 ended while the command ran: OOMKilled": died,
			"pod web-1 was deleted while the command ran ":                      other,
		} {
			s.pod.Store(now)
			err := Exec(t.Context(), c, in, []string{"sh", "-c", "kill -9 $$"}, Streams{In: strings.NewReader(""),
				Out: io.Discard, Err: io.Discard})
			exit := &ExitError{}
			if !errors.As(err, &exit) || exit.Code != exitKilled || err.Error() != strings.TrimSpace(want) {
				t.Errorf("%v, not %s", err, want)
			}
		}
		s.pod.Store(pod)
		err := Exec(t.Context(), c, in, []string{"nosuch"},
			Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
		exit := &ExitError{}
		if !errors.As(err, &exit) || exit.Code != ExitNotFound || !strings.Contains(err.Error(), `no command "nosuch"`) {
			t.Errorf("%v", err)
		}

		s.pod.Store(nil)
		started, write := io.Pipe()
		go func() {
			_, _ = started.Read(make([]byte, 1))
			close(s.lost)
			_, _ = io.Copy(io.Discard, started)
		}()
		in2, never := io.Pipe()
		defer func() { _ = never.Close() }()
		err = Exec(t.Context(), c, in, []string{"sh", "-c", "echo; exec sleep 60"},
			Streams{In: in2, Out: write, Err: io.Discard})
		if exit := (&ExitError{}); !errors.As(err, &exit) || exit.Why == nil {
			t.Errorf("a lost connection: %v", err)
		}
		_ = write.Close()
	})
}

// Where nobody reads what a command writes, or nobody waits for it, it is over.
func TestExecGivenUp(t *testing.T) {
	both(t, func(t *testing.T, s *execServer, c *kube.Cluster, in Container) {
		read, write := io.Pipe()
		_ = read.Close()
		err := Exec(t.Context(), c, in, []string{"yes"}, Streams{In: strings.NewReader(""), Out: write, Err: io.Discard})
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("nobody reads: %v", err)
		}
		s.silent = true
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second/10, errors.New("given up"))
		defer cancel()
		err = Exec(ctx, c, in, []string{"true"}, Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
		if err == nil || err.Error() != "given up" {
			t.Errorf("a silent server: %v", err)
		}
	})
}

func TestExecInTerminal(t *testing.T) {
	_, c, in := startExecServer(t)
	sizes := make(chan remotecommand.TerminalSize, 1)
	sizes <- remotecommand.TerminalSize{Width: 132, Height: 50}
	defer close(sizes)
	var out bytes.Buffer
	err := Exec(t.Context(), c, in, []string{"sh", "-c", "echo $COLUMNS"},
		Streams{In: strings.NewReader(""), Out: &out, Terminal: true, Sizes: sizes})
	if err != nil || out.String() != "132\n" {
		t.Errorf("%v, %q", err, &out)
	}
}
