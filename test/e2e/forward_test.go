//go:build e2e

// The forward's one promise, on a real cluster: its address never stops answering, whatever happens
// to the pods behind it. What happens to the node and the API server is in faults_test.go.
package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
)

func TestForward(t *testing.T) {
	cluster := kubernetesClient(t)
	w := newWeb(t, cluster)

	step(t, "a port that is taken stops devloop before anything is deployed", func(t *testing.T) {
		taker := exec.Command("/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", fmt.Sprint(w.port))
		must(t, taker.Start())
		defer func() {
			_ = taker.Process.Kill()
			_ = taker.Wait()
		}()
		eventually(t, "the other process listens", func() bool { return listens(w.port) })
		_, log := w.call(t, 2)
		pid := fmt.Sprintf("pid %d (", taker.Process.Pid)
		for _, want := range []string{"devloop.yaml:12:", "forwards[0].local", pid, "http.server"} {
			if !strings.Contains(log, want) {
				t.Errorf("devloop does not say %q:\n%s", want, log)
			}
		}
		_, err := cluster.CoreV1().Namespaces().Get(t.Context(), w.name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("namespace %s is there (%v)", w.name, err)
		}
	})

	d := w.start(t)
	d.await(t, 0, ready)
	// So that what a process takes at its first use is not held against it later.
	l := startLoad(t, clients, local(w.port), "/")
	l.answer(t, 10*clients)
	l.finish(t, none)
	before := d.footprint(t)

	step(t, "rollouts", func(t *testing.T) {
		rollouts := 10
		if soaking() {
			rollouts = 50
		}
		l := startLoad(t, clients, local(w.port), "/")
		slow := startLoad(t, clients/5, local(w.port), "/slow?ms=2500") // as long as a rollout, or longer
		for range rollouts {
			w.rollout(t)
		}
		w.alone(t, 1)
		l.finish(t, none)
		slow.finish(t, none)
	})

	step(t, "two pods share, and one that turns unready is left until it is ready again", func(t *testing.T) {
		before := d.mark()
		w.scale(t, 2)
		pods := w.alone(t, 2)
		first, second := pods[0], pods[1]
		d.await(t, before, onForward(w.port, isReady).with("pods", ",")) // to both
		l := startLoad(t, clients, local(w.port), "/")
		l.answer(t, 8*clients)
		both := time.Now()

		mark := d.mark()
		w.tell(t, first, "/unready")
		d.await(t, mark, onForward(w.port, podLeft).with("pods", "^"+second+"$"))
		left := time.Now()
		l.answer(t, 4*clients)

		mark, back := d.mark(), time.Now()
		w.tell(t, first, "/ready")
		d.await(t, mark, onForward(w.port, isReady).with("pods", first))
		again := time.Now()
		eventually(t, "the pod that is ready again gets a connection", func() bool {
			return slices.ContainsFunc(l.sofar(), func(o outcome) bool { return o.body == first && o.begin.After(again) })
		})
		l.finish(t, none)

		share, late := map[string]int{}, 0
		for _, o := range l.sofar() {
			if o.begin.Before(both) {
				share[o.body]++
			}
			if o.body == first && o.begin.After(left) && o.begin.Before(back) {
				late++
			}
		}
		if all := share[first] + share[second]; min(share[first], share[second]) < all/4 {
			t.Errorf("they do not share: %v", share)
		}
		if late > 0 {
			t.Errorf("the pod that was left got %d connections", late)
		}
		w.scale(t, 1)
		w.alone(t, 1)
	})

	step(t, "an open connection stays on its pod through a rollout", func(t *testing.T) {
		replaced := func(t *testing.T) (old *corev1.Pod, c net.Conn) {
			name := w.alone(t, 1)[0]
			c = dial(t, w.echo)
			echoes(t, c, 3)
			mark := d.mark()
			w.rollout(t)
			d.find(t, mark, "that new connections go to the new pod alone", func(l line) bool {
				told := onForward(w.port, podLeft).met(l) || onForward(w.port, isReady).met(l)
				return told && !strings.Contains(l.field("pods"), name)
			})
			if o := request(local(w.port), "/"); o.fate != answered || o.body == name {
				t.Errorf("a new connection: %s by pod %s (%v), the old one is %s", o.fate, o.body, o.err, name)
			}
			echoes(t, c, 20)
			old, err := cluster.CoreV1().Pods(w.name).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || old.DeletionTimestamp == nil {
				t.Fatalf("pod %s ended though a connection to it is open, or is not to end: %v", name, err)
			}
			return old, c
		}
		step(t, "until the client ends it", func(t *testing.T) {
			_, c := replaced(t)
			must(t, c.Close())
			w.alone(t, 1) // now, and not when its grace period is over
		})
		step(t, "until the pod ends", func(t *testing.T) {
			old, c := replaced(t)
			w.killServer(t, old)
			_ = c.SetReadDeadline(time.Now().Add(longEnough))
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the connection outlives its pod: %d bytes, %v", n, err)
			}
			w.alone(t, 1)
		})
	})

	step(t, "held as long as asked, and closed cleanly", func(t *testing.T) {
		w.scale(t, 0)
		w.alone(t, 0)
		mark := d.mark()
		var held sync.WaitGroup
		for range 5 {
			begin := time.Now()
			c := dial(t, w.hasty)
			held.Go(func() {
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
				_ = c.SetReadDeadline(begin.Add(longEnough))
				n, err := c.Read(make([]byte, 1))
				if took := time.Since(begin); n != 0 || !errors.Is(err, io.EOF) || took < 1900*time.Millisecond {
					t.Errorf("after %s: %d bytes, %v", took, n, err)
				}
			})
		}
		held.Wait()
		const said = "held connection closed, no pod answered in time"
		d.await(t, mark, on(said))
		if n := d.count(mark, on(said)); n != 1 {
			t.Errorf("devloop said so %d times", n)
		}
		w.scale(t, 1)
		w.alone(t, 1)
	})

	step(t, "clients that do not read, and clients that do not ask", func(t *testing.T) {
		calm := d.footprint(t)
		for range 10 {
			c := dial(t, w.port) // the forward that the short requests go through, too
			_, _ = io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: web\r\n\r\n")
			dial(t, w.endless)
			dial(t, w.port)
		}
		pass(t, 2*time.Second) // every buffer on the way is full
		l := startLoad(t, clients, local(w.port), "/")
		l.answer(t, 10*clients)
		l.finish(t, none)
		if soaking() {
			// Each of the 30 gets a tunnel of its own, and so do some of those who ask: about 1 MB
			// each. More than that would be bytes that nobody reads, and these would become more.
			busy := d.footprint(t)
			pass(t, 5*time.Second)
			now := d.footprint(t)
			t.Logf("devloop before: %s; after the requests: %s; later: %s", calm, busy, now)
			if now.megabytes > calm.megabytes+80 || now.megabytes > busy.megabytes+10 {
				t.Error("devloop takes more and more memory")
			}
		}
	})

	step(t, "every byte in either direction", func(t *testing.T) {
		size := int64(256 << 20)
		if soaking() {
			size = 1 << 30
		}
		client := &http.Client{Timeout: longEnough, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(fmt.Sprintf("%sdown?bytes=%d&sum=1", w.url(), size))
		must(t, err)
		defer resp.Body.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, resp.Body)
		if got, want := fmt.Sprintf("%x", sum.Sum(nil)), resp.Trailer.Get("Sha256"); err != nil || n != size || got != want {
			t.Errorf("down: %d bytes, %v; their checksum is %s, the server's %s", n, err, got, want)
		}

		sum.Reset()
		body := io.TeeReader(io.LimitReader(repeat("many bytes, in pieces of some kilobytes "), size), sum)
		up, err := client.Post(w.url()+"up?sum=1", "application/octet-stream", body)
		must(t, err)
		defer up.Body.Close()
		said, err := io.ReadAll(up.Body)
		if want := fmt.Sprintf("%d %x\n", size, sum.Sum(nil)); err != nil || string(said) != want {
			t.Errorf("up: the server said %q (%v), not %q", said, err, want)
		}
	})

	step(t, "a pod deleted by force", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			old, mark := w.servers(t)[0].Name, d.mark()
			kubectl(t, "delete", "pod", "--namespace", w.name, "--force", "--grace-period=0", old)
			deleted := time.Now()
			left := d.await(t, mark, onForward(w.port, isWaiting)).Time
			if left.Before(deleted) {
				left = deleted
			}
			return inFlight(left) // until then it may get connections
		})
	})
	step(t, "a server killed", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			pod := w.servers(t)[0]
			w.killServer(t, &pod)
			killed := time.Now()
			eventually(t, "the pod has a server again", func() bool {
				now := w.servers(t)[0]
				return restarts(now) > restarts(pod) && takesConnections(&now)
			})
			return inFlight(killed)
		})
	})
	step(t, "no pods", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			w.scale(t, 0)
			w.alone(t, 0)
			held := make(chan outcome, 1)
			go func() { held <- request(local(w.port), "/") }()
			pass(t, 3*time.Second)
			mark := d.mark()
			w.scale(t, 1)
			again := d.await(t, mark, onForward(w.port, isReady)).Time
			if late := (<-held).end.Sub(again); soaking() && late > time.Second { // some 100 ms, if nothing else runs
				t.Errorf("a held connection was answered %s after the forward was ready", late)
			}
			return none
		})
	})
	step(t, "an image that does not exist", func(t *testing.T) {
		w.under(t, func(t *testing.T) func(outcome) bool {
			image := w.servers(t)[0].Spec.Containers[0].Image
			w.setImage(t, w.name+":none")
			eventually(t, "a pod waits for its image", func() bool {
				return slices.ContainsFunc(w.servers(t), func(pod corev1.Pod) bool {
					return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
						return s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "Image")
					})
				})
			})
			w.setImage(t, image)
			return none
		})
	})

	step(t, "a cluster that comes back at another port, with other credentials", func(t *testing.T) {
		restartedElsewhere(t, w)
	})

	// By a second devloop with forwards alone.
	step(t, "all that a forward may lead to", func(t *testing.T) {
		w.alone(t, 1)
		targets := newProject(t, "forward/targets")
		deployment, statefulset, pod, service := freePort(t), freePort(t), freePort(t), freePort(t)
		targets.fill(t, "$WEB", w.name, "$DEPLOYMENT", deployment, "$STATEFULSET", statefulset, "$POD", pod,
			"$SERVICE", service)
		second := targets.start(t)
		second.await(t, 0, ready)
		picked := second.await(t, 0, on(event.ForwardListens).with("target", "^selector")).field("local")
		_, picked, _ = strings.Cut(picked, ":")
		on6 := func(port any) string { return fmt.Sprintf("[::1]:%v", port) }
		for address, pods := range map[string]string{
			local(deployment): "web-", on6(deployment): "web-", // on both addresses of localhost
			local(statefulset):    "db-0", // port by name
			local(pod):            "db-0",
			on6(service):          "web-",                      // port by name, bound to one address
			"127.0.0.1:" + picked: "web-", on6(picked): "web-", // selector, a port that was picked
		} {
			if o := request(address, "/"); o.fate != answered || !strings.HasPrefix(o.body, pods) {
				t.Errorf("%s: %s by pod %q, not %s (%v)", address, o.fate, o.body, pods, o.err)
			}
		}
		if o := request(local(service), "/"); o.fate != refused {
			t.Errorf("%s is not bound, but: %s (%v)", local(service), o.fate, o.err)
		}
		// What is named comes back, be it under the same name or another one.
		kubectl(t, "delete", "pod", "--namespace", w.name, "db-0")
		for _, address := range []string{local(statefulset), local(pod)} {
			if o := request(address, "/"); o.fate != answered || o.body != "db-0" {
				t.Errorf("after db-0 was replaced %s: %s by pod %q (%v)", address, o.fate, o.body, o.err)
			}
		}
		w.rollout(t)
		for _, address := range []string{local(deployment), on6(service), "127.0.0.1:" + picked} {
			if o := request(address, "/"); o.fate != answered {
				t.Errorf("after a rollout %s: %s (%v)", address, o.fate, o.err)
			}
		}
		second.stop(t)
	})

	if soaking() {
		step(t, "all of it given back", func(t *testing.T) { d.settle(t, before) })
	}
	d.stop(t)
	for _, port := range []int{w.port, w.hasty, w.echo, w.endless} {
		if listens(port) {
			t.Errorf("port %d is still open", port)
		}
	}
}

func restarts(pod corev1.Pod) int32 { return pod.Status.ContainerStatuses[0].RestartCount }

// echoes sends lines, each of which has to come back.
func echoes(t *testing.T, c net.Conn, lines int) {
	t.Helper()
	for i := range lines {
		line := fmt.Sprintf("line %d\n", i)
		_, err := io.WriteString(c, line)
		must(t, err)
		hears(t, c, line)
		pass(t, 100*time.Millisecond)
	}
}

// hears waits until a connection brings these words.
func hears(t *testing.T, c net.Conn, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(longEnough))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("%q came back as %q (%v)", want, got[:n], err)
	}
}

// repeat reads the same words over and over.
func repeat(words string) io.Reader {
	chunk := bytes.NewReader(bytes.Repeat([]byte(words), 1024))
	return readFunc(func(p []byte) (int, error) {
		if chunk.Len() == 0 {
			_, _ = chunk.Seek(0, io.SeekStart)
		}
		return chunk.Read(p)
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
