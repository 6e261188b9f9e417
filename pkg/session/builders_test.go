package session

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/event"
)

// daemon is as much of a Docker daemon as a ping needs. It can be stopped and started.
type daemon struct {
	t       *testing.T
	address string
	server  *http.Server
}

func (d *daemon) start() {
	d.t.Helper()
	address := d.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		d.t.Fatal(err)
	}
	d.address = listener.Addr().String()
	d.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		if !strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "h2c")
			w.WriteHeader(http.StatusSwitchingProtocols)
		}
	})}
	go func() { _ = d.server.Serve(listener) }()
	d.t.Cleanup(d.stop)
}

func (d *daemon) stop() { _ = d.server.Close() }

// The node is tried again soon after a try that failed quickly, and seldom if tries take long.
// Other images do not wait for that.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rests
		for _, test := range []struct{ took, rests time.Duration }{
			{2 * time.Second, 20 * time.Second}, {30 * time.Second, 5 * time.Minute}, {time.Hour, maxRest},
		} {
			r.add("worker", test.took)
			if left := r.left("worker"); left != test.rests {
				t.Errorf("a try of %s: it rests for %s, not %s", test.took, left, test.rests)
			}
			if left := r.left("client"); left != 0 {
				t.Errorf("another image rests for %s", left)
			}
			<-time.After(test.rests)
			if left := r.left("worker"); left != 0 {
				t.Errorf("a try of %s: it still rests for %s", test.took, left)
			}
		}
	})
}

// The node's Docker restarts: it is waited for, and asked before each build whether it is back.
// That is said once, with the daemon's name.
func TestNodeBuilderThatRestarts(t *testing.T) {
	d := &daemon{t: t}
	d.start()
	docker, err := client.New(client.WithHost("tcp://" + d.address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	host, err := client.New(client.WithHost("tcp://127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	inNode := build.New(host, t.TempDir()).InDocker(docker, build.NodeDocker("minikube", "minikube ssh -- sudo"))

	var mu sync.Mutex
	said := map[string]int{}
	stage := event.Sink(func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		said[e.Message]++
	}).Stage("build")
	if back, away := returns(t.Context(), stage, inNode, event.Transient(http.ErrServerClosed)); back || away {
		t.Errorf("it answers, and another error is not for it: %t, %t", back, away)
	}
	if back, _ := returns(t.Context(), stage, inNode, build.ErrBrokeOff); !back {
		t.Error("it has restarted quickly, and the build may go on")
	}

	d.stop()
	err = inNode.Ping(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "no answer from the Docker of node minikube: ") ||
		event.Hint(err) != "see why it does not run: minikube ssh -- sudo systemctl status docker" {
		t.Errorf("%v (hint %q)", err, event.Hint(err))
	}
	restarted := time.AfterFunc(2*nodeInterval, d.start)
	defer restarted.Stop()
	if back, away := returns(t.Context(), stage, inNode, err); !back || away {
		t.Errorf("it is back: %t, %t", back, away)
	}

	d.stop()
	b := &builders{inNode: inNode}
	b.nodeOff.Store(true)
	b.rests.add("worker", time.Hour)
	for range 2 {
		if b.nodeBuilder(t.Context(), stage) != nil {
			t.Error("a builder that does not answer")
		}
	}
	d.start()
	b.silent = time.Now() // another build has waited for it
	if b.nodeBuilder(t.Context(), stage) != nil {
		t.Error("it is asked again at once")
	}
	b.silent = time.Now().Add(-nodeWait)
	for range 2 {
		if b.nodeBuilder(t.Context(), stage) != inNode {
			t.Error("it is back, and is not used")
		}
	}
	if b.rests.left("worker") > 0 {
		t.Error("it is back, and is not tried")
	}
	mu.Lock()
	defer mu.Unlock()
	if said["images are built in the node again"] != 1 ||
		said["waiting for the node to build again"] != 1 {
		t.Errorf("said %v", said)
	}
}

// An image that this machine has, and that the node does not build in time or not at all, is moved:
// that is no error, and said once.
func TestFoundImage(t *testing.T) {
	d := &daemon{t: t} // whose BuildKit breaks off
	d.start()
	inNode, err := client.New(client.WithHost("tcp://" + d.address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inNode.Close() })
	dockerfile := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(dockerfile, []byte("FROM scratch\nLABEL a=b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	images := &imageList{}
	host := httptest.NewServer(images)
	defer host.Close()
	b := newNodeStage(t, host.Listener.Addr().String()).builders
	b.inNode = b.host.InDocker(inNode, build.NodeDocker("minikube", "minikube ssh -- sudo"))
	image := build.Image{Name: "worker", Dockerfile: dockerfile, Context: filepath.Dir(dockerfile)}
	input, err := b.main.Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	images.images = []string{input.Tag.String()}
	for about, toMove := range map[string]int64{"it cannot": 1 << 30, "not in time": 1} {
		var h eventLog
		if onNode, err := b.buildFound(t.Context(), h.sink, input, toMove); onNode || err != nil {
			t.Errorf("%s: on the node %t, %v", about, onNode, err)
		}
		said, last := h.take()
		fellBack := last.Message == "image is taken from this machine after all"
		if !fellBack || strings.Contains(strings.Join(said, " "), "failed") {
			t.Errorf("%s: said %q", about, said)
		}
	}
	superseded, cancel := context.WithCancelCause(t.Context())
	cancel(event.ErrSuperseded)
	_, err = b.buildFound(superseded, func(event.Event) {}, input, 1<<30)
	if !errors.Is(err, event.ErrSuperseded) {
		t.Errorf("a newer save: %v", err)
	}
}

// An image is loaded by one caller at a time, and one that waits for another can be ended.
func TestTagLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var locks tagLocks
		tag, other := tagsOf(t, "base:1")[0], tagsOf(t, "base:2")[0]
		unlock, err := locks.lock(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		if unlockOther, err := locks.lock(t.Context(), other); err != nil {
			t.Error(err)
		} else {
			unlockOther()
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := locks.lock(ended, tag); !errors.Is(err, context.Canceled) {
			t.Errorf("it does not wait: %v", err)
		}
		began, waited := time.Now(), make(chan time.Duration)
		for range 2 {
			go func() {
				unlock, err := locks.lock(t.Context(), tag)
				if err != nil {
					t.Error(err)
					return
				}
				<-time.After(time.Second)
				unlock()
				waited <- time.Since(began)
			}()
		}
		<-time.After(time.Second)
		unlock()
		if first, second := <-waited, <-waited; first != 2*time.Second || second != 3*time.Second {
			t.Errorf("they waited %s and %s", first, second)
		}
		if len(locks.held) > 0 {
			t.Errorf("%d are kept", len(locks.held))
		}
	})
}
