package portforward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestMain(m *testing.M) {
	// Both belong to the fake cluster: the library's Close, which only it calls, takes a second,
	// and a write to a stream blocks forever if the tunnel broke while the stream was being
	// accepted.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"),
		goleak.IgnoreAnyFunction("github.com/devloop/devloop/pkg/portforward.(*node).forward"))
}

// rig is a served Forward with a cluster behind it.
type rig struct {
	t       *testing.T
	node    *node
	cluster *fake.Clientset
	forward *Forward
	stop    func() // ends Serve and waits for it

	mu     sync.Mutex
	events []event.Event
}

// to is the target of the rig's forward.
var to = Target{Namespace: "ns", Kind: Service, Name: "svc", Port: "80"}

func newRig(t *testing.T, old bool, hold time.Duration) *rig {
	t.Helper()
	r := &rig{t: t, node: newNode(t, old), cluster: fake.NewClientset(service(intstr.FromString("web")))}
	r.serve(hold, r.node.cluster)
	return r
}

// serve starts the rig's forward.
func (r *rig) serve(hold time.Duration, cluster Cluster) {
	r.t.Helper()
	var err error
	r.forward, err = Listen(r.t.Context(), Spec{Target: to, Hold: hold}, func(e event.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.forward.Serve(ctx, cluster, r.cluster) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				r.t.Error(err)
			}
		case <-time.After(time.Minute):
			r.t.Error("Serve did not return")
		}
	})
	r.t.Cleanup(r.stop)
}

// pod creates or updates a pod that listens on address.
func (r *rig) pod(name, address string, ready bool) {
	r.t.Helper()
	r.node.run(name, address)
	api, p := r.cluster.CoreV1().Pods("ns"), pod(name, ready)
	if _, err := api.Create(r.t.Context(), p, metav1.CreateOptions{}); err == nil {
		return
	}
	if _, err := api.Update(r.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) url() string { return "http://" + r.forward.Addr().String() }

func (r *rig) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.forward.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// reported counts events by message.
func (r *rig) reported(message string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Message == message {
			n++
		}
	}
	return n
}

func (r *rig) state() event.Name {
	r.forward.status.mu.Lock()
	defer r.forward.status.mu.Unlock()
	return r.forward.status.state
}

func (r *rig) readyPods() []string {
	r.forward.status.mu.Lock()
	defer r.forward.status.mu.Unlock()
	return r.forward.status.pods
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// get sends a request on a connection of its own.
func get(url string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func service(port intstr.IntOrString) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "svc"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: port}},
		},
	}
}

func pod(name string, ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name),
			Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8000}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

// web is a real HTTP server that answers with its name.
func web(t *testing.T, name string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(w, r.Body)
			return
		}
		io.WriteString(w, name)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// server is a real TCP server.
func server(t *testing.T, address string, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		group.Wait()
	})
	return listener.Addr().String()
}

func TestAnswers(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%v", old), func(t *testing.T) {
			r := newRig(t, old, 30*time.Second)
			r.pod("a", web(t, "a"), true)
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB, more than is kept for a replay
			var group sync.WaitGroup
			for range 2*exclusive + 1 { // some share a tunnel
				group.Go(func() {
					if body, err := get(r.url()); err != nil || body != "a" {
						t.Errorf("%q, %v", body, err)
					}
					client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
					response, err := client.Post(r.url(), "text/plain", bytes.NewReader(sent))
					if err != nil {
						t.Error(err)
						return
					}
					defer response.Body.Close()
					if received, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(received, sent) {
						t.Errorf("%d of %d bytes came back: %v", len(received), len(sent), err)
					}
				})
			}
			group.Wait()
			if n := r.reported(event.ForwardReady); n != 1 {
				t.Errorf("ready was reported %d times", n)
			}
		})
	}
}

func TestWaitsUntilReady(t *testing.T) {
	r := newRig(t, false, time.Hour)
	address := web(t, "a")
	r.pod("a", address, false)
	answer := make(chan string)
	go func() {
		body, err := get(r.url())
		answer <- fmt.Sprint(body, err)
	}()
	eventually(t, "no ready pod is reported", func() bool { return r.reported(event.ForwardWaits) == 1 })
	eventually(t, "the connection waits", func() bool { return r.forward.status.waiting.Load() == 1 })
	select {
	case a := <-answer:
		t.Fatalf("answered before the pod was ready: %s", a)
	default:
	}
	r.pod("a", address, true)
	if a := <-answer; a != "a<nil>" { // or an error, if it waited for longer than get does
		t.Fatal(a)
	}
}

// However much the client has sent: a reset would look like a network fault.
func TestHoldExpires(t *testing.T) {
	r := newRig(t, false, 500*time.Millisecond)
	for _, sent := range []int{20, 4 * replayLimit} {
		conn := r.dial()
		go conn.Write(make([]byte, sent))
		if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 {
			t.Errorf("%d bytes sent: not closed cleanly: %q, %v", sent, answer, err)
		}
	}
	if n := r.reported(heldTooLong); n != 1 {
		t.Errorf("reported %d times", n)
	}
}

// A pod may be ready before its process listens.
func TestRefusedDial(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	r.pod("a", address, true)

	const request = "deliver this once"
	conn := r.dial()
	io.WriteString(conn, request)
	eventually(t, "the refusal is reported", func() bool { return r.reported(podRefuses) == 1 })
	var delivered atomic.Int32
	server(t, address, func(conn net.Conn) {
		got := make([]byte, len(request))
		if _, err := io.ReadFull(conn, got); err == nil && string(got) == request {
			delivered.Add(1)
		}
		io.WriteString(conn, "thanks")
	})
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "thanks" {
		t.Errorf("%q, %v", answer, err)
	}
	if n := delivered.Load(); n != 1 {
		t.Errorf("delivered %d times", n)
	}
}

func TestRollout(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	echo := func(name string) string {
		return server(t, "127.0.0.1:0", func(conn net.Conn) {
			io.WriteString(conn, name)
			io.Copy(conn, conn)
		})
	}
	hear := func(conn net.Conn, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	}
	r.pod("old", echo("old"), true)
	before := r.dial()
	hear(before, "old")

	r.pod("new", echo("new"), true)
	gone := pod("old", true)
	gone.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	if _, err := r.cluster.CoreV1().Pods("ns").Update(t.Context(), gone, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new connections go to the new pod only", func() bool {
		for range 3 {
			conn, name := r.dial(), make([]byte, 3)
			io.ReadFull(conn, name)
			conn.Close()
			if string(name) != "new" {
				return false
			}
		}
		return true
	})
	io.WriteString(before, "still there?")
	hear(before, "still there?")
	before.Close()
	eventually(t, "the old pod's tunnels are closed after its last connection", func() bool {
		return r.node.open("old") == 0
	})
}

func TestSeveralPodsTakeTurns(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	r.pod("a", web(t, "a"), true)
	r.pod("b", web(t, "b"), true)
	received := map[string]int{}
	eventually(t, "both answer, again and again", func() bool {
		name, err := get(r.url())
		if err != nil {
			t.Fatal(err)
		}
		received[name]++
		return received["a"] >= 5 && received["b"] >= 5
	})
}

// One of two pods refuses, as one without a readiness probe may for long: the other one answers,
// and the refusal is reported once.
func TestRefusingPod(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()
	r.pod("a", unused.Addr().String(), true)
	r.pod("b", web(t, "b"), true)
	eventually(t, "both are known", func() bool { return len(r.readyPods()) == 2 })
	ask := func() {
		t.Helper()
		if body, err := get(r.url()); err != nil || body != "b" {
			t.Fatalf("%q, %v", body, err)
		}
	}
	eventually(t, "the refusing one has its turn", func() bool { ask(); return r.reported(podRefuses) > 0 })
	for range 20 {
		ask()
	}
	if n := r.reported(podRefuses); n != 1 {
		t.Errorf("reported %d times", n)
	}
	eventually(t, "no connection is left", func() bool {
		s := r.forward.status
		return s.open.Load() == 0 && s.waiting.Load() == 0 && s.sent.Load() > 0 && s.received.Load() > 0
	})
}

// The request of a client that has gone is not delivered later: neither when a pod becomes ready,
// nor when one that refuses listens.
func TestWaitingClientGone(t *testing.T) {
	for _, ready := range []bool{false, true} {
		t.Run(fmt.Sprintf("ready=%v", ready), func(t *testing.T) {
			r := newRig(t, false, 30*time.Second)
			unused, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := unused.Addr().String()
			unused.Close()
			r.pod("a", address, ready)
			for range 5 {
				conn := r.dial()
				io.WriteString(conn, "do this")
				conn.Close()
			}
			var most int64
			eventually(t, "they wait", func() bool {
				most = max(most, r.forward.status.waiting.Load())
				return most > 0
			})
			if ready {
				eventually(t, "it refuses", func() bool { return r.reported(podRefuses) == 1 })
			}
			eventually(t, "none waits", func() bool {
				return r.forward.status.waiting.Load() == 0 && r.forward.status.open.Load() == 0
			})
			var delivered atomic.Int32
			server(t, address, func(conn net.Conn) {
				sent := make([]byte, len("do that"))
				if n, _ := io.ReadFull(conn, sent); n > 0 {
					delivered.Add(1)
				}
				io.WriteString(conn, "done")
			})
			r.pod("a", address, true)
			conn := r.dial()
			io.WriteString(conn, "do that")
			if answer, err := io.ReadAll(conn); err != nil || string(answer) != "done" {
				t.Errorf("%q, %v", answer, err)
			}
			if n := delivered.Load(); n != 1 {
				t.Errorf("%d were delivered", n)
			}
		})
	}
}

// An API server that hangs costs only time: open connections go on when it does, and new ones wait.
func TestFrozen(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	r.pod("a", server(t, "127.0.0.1:0", func(conn net.Conn) { io.Copy(conn, conn) }), true)
	echo := func(conn net.Conn, sent string) {
		t.Helper()
		io.WriteString(conn, sent)
		received := make([]byte, len(sent))
		if _, err := io.ReadFull(conn, received); err != nil || string(received) != sent {
			t.Errorf("%q, %v", received, err)
		}
	}
	before := r.dial()
	echo(before, "hello")
	r.node.frozen.Lock()
	thaw := sync.OnceFunc(r.node.frozen.Unlock)
	defer thaw()
	during := r.dial()
	eventually(t, "the silence is reported", func() bool { return r.reported(event.ForwardFails) == 1 })
	open, waiting := r.forward.status.open.Load(), r.forward.status.waiting.Load()
	if r.state() != stateUnreachable || open != 1 || waiting != 1 {
		t.Errorf("%s, %d open, %d waiting", r.state(), open, waiting)
	}
	thaw()
	echo(during, "still there?")
	echo(before, "still there?")
	eventually(t, "its end is reported", func() bool { return r.state() == stateReady })
}

// Without a hold time, a ready pod is still tried.
func TestNoHold(t *testing.T) {
	r := newRig(t, false, 0)
	r.pod("a", web(t, "a"), true)
	eventually(t, "the pod is known", func() bool { return r.state() == stateReady })
	for range 10 {
		if body, err := get(r.url()); err != nil || body != "a" {
			t.Errorf("%q, %v", body, err)
		}
	}
}

// What a pod may have read is not sent again: the connection is reset, and the next one works.
func TestTunnelKilled(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	var requests atomic.Int32
	reached := make(chan struct{}, 10)
	r.pod("a", server(t, "127.0.0.1:0", func(conn net.Conn) {
		sent := make([]byte, 4)
		if _, err := io.ReadFull(conn, sent); err != nil {
			return
		}
		if string(sent) == "ask?" {
			io.WriteString(conn, "answer")
			return
		}
		requests.Add(1)
		reached <- struct{}{}
		io.Copy(io.Discard, conn)
	}), true)
	conn := r.dial()
	io.WriteString(conn, "wait")
	<-reached
	r.node.cut()
	if answer, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("cut connection ended with %q, %v", answer, err)
	}
	next := r.dial()
	io.WriteString(next, "ask?")
	if answer, err := io.ReadAll(next); err != nil || string(answer) != "answer" {
		t.Errorf("%q, %v", answer, err)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("delivered %d times", n)
	}
	eventually(t, "the loss is reported", func() bool { return r.reported(tunnelLost) == 1 })
}

func TestHalfClose(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	r.pod("a", server(t, "127.0.0.1:0", func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		io.WriteString(conn, strings.ToUpper(string(all)))
	}), true)
	eventually(t, "the pod is known", func() bool { return r.state() == stateReady && r.node.open("a") > 0 })
	conn := r.dial()
	io.WriteString(conn, "all of it")
	conn.(*net.TCPConn).CloseWrite()
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "ALL OF IT" {
		t.Errorf("%q, %v", answer, err)
	}
}

// A client that does not read stops its tunnel; new connections must not land there.
func TestStalledClient(t *testing.T) {
	r := newRig(t, false, 30*time.Second)
	r.pod("a", server(t, "127.0.0.1:0", func(conn net.Conn) {
		kind := make([]byte, 1)
		io.ReadFull(conn, kind)
		if kind[0] == 'e' {
			io.Copy(conn, endless{})
		}
		io.WriteString(conn, "short")
	}), true)
	stalled := r.dial()
	io.WriteString(stalled, "e")
	io.ReadFull(stalled, make([]byte, 1))
	for i := range 3 * perTunnel {
		eventually(t, fmt.Sprintf("connection %d is answered", i), func() bool {
			conn := r.dial()
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Second))
			io.WriteString(conn, "s")
			answer := make([]byte, len("short"))
			_, err := io.ReadFull(conn, answer)
			return err == nil && string(answer) == "short"
		})
	}
	stalled.Close()
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestPortTaken(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		port := listener.Addr().(*net.TCPAddr).Port
		_, err = Listen(t.Context(), Spec{Target: to, Local: port}, nil)
		if err == nil {
			t.Fatal("no error")
		}
		want := fmt.Sprintf("local port %d is taken by pid %d (%s", port, os.Getpid(), os.Args[0][:10])
		if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q, want %q", err, want)
		}
		if hint := event.Hint(err); !strings.Contains(hint, fmt.Sprintf("kill %d", os.Getpid())) {
			t.Errorf("hint %q", hint)
		}
	}
}

// Serve ends waiting and open connections and all that it started.
func TestServeEnds(t *testing.T) {
	r := newRig(t, false, time.Hour) // longer than r.stop waits
	reached := make(chan struct{})
	open := sync.OnceFunc(func() { close(reached) })
	r.pod("a", server(t, "127.0.0.1:0", func(conn net.Conn) {
		io.WriteString(conn, "hello")
		open()
		io.Copy(io.Discard, conn)
	}), true)
	conn := r.dial()
	<-reached
	r.pod("a", "", false)
	eventually(t, "no pod is ready", func() bool { return r.reported(event.ForwardWaits) > 0 })
	waiting := r.dial()
	io.WriteString(waiting, "anyone?")
	r.stop()
	if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an open connection ended with %v", err)
	}
	if _, err := io.ReadAll(waiting); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a waiting connection ended with %v", err)
	}
	if _, err := net.Dial("tcp", r.forward.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the listener is open: %v", err)
	}
}

// A panic while a pod is dialled ends that attempt, one in the watch restarts it: the address
// answers all the same.
func TestPanicWhileDialling(t *testing.T) {
	for _, at := range []string{"dial", "watch"} {
		t.Run(at, func(t *testing.T) {
			r := &rig{t: t, node: newNode(t, false), cluster: fake.NewClientset(service(intstr.FromString("web")))}
			var panicked atomic.Bool
			once := func(now string) {
				if now == at && panicked.CompareAndSwap(false, true) {
					panic("out of range")
				}
			}
			r.cluster.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				once("watch")
				return false, nil, nil
			})
			r.serve(time.Minute, func(ctx context.Context) (*rest.Config, error) {
				once("dial")
				return r.node.cluster(ctx)
			})
			r.pod("a", web(t, "a"), true)
			if body, err := get(r.url()); err != nil || body != "a" || !panicked.Load() {
				t.Errorf("answer %q, %v; panicked %v", body, err, panicked.Load())
			}
			r.stop()
			r.mu.Lock()
			defer r.mu.Unlock()
			var reports []event.Event
			for _, e := range r.events {
				if e.Err != nil && strings.Contains(event.Hint(e.Err), "please report") {
					reports = append(reports, e)
				}
			}
			if len(reports) != 1 {
				t.Errorf("reported %+v", reports)
			}
		})
	}
}
