//go:build e2e

// The forward's one promise, on a real cluster: its address never stops answering, whatever happens to the pods, the node and
// the API server behind it.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Local ports, also in testdata/forward/project/devloop.yaml. Those from 8020 on are in testdata/forward/targets.
const (
	mainPort    = 8010 // holds for 90 s
	hastyPort   = 8012 // holds for 2 s
	echoPort    = 8013
	endlessPort = 8014
	kubectlPort = 8015 // of the alternative
)

const (
	// rate is how many new connections a second there are. The minute in which nothing is answered has half of it: all who came
	// then are served within what is left of 90 s, and 12,000 take a machine with two cores, which is on both sides of the
	// forward, 18 to 30 s.
	rate, patientRate = 200, 100
	slowRate          = 4 // of requests that take long
	// limit is above what the forwards hold.
	limit = 2 * time.Minute

	// backlog is how long those who waited may take to be served when all is well again: some tenths of a second for the hundreds
	// of a short fault, five seconds for the thousands of a long one, and more on a machine that does other things.
	backlog = 25 * time.Second

	rollouts = 50
	// beside is how many of them the alternative is asked during, at a rate of its own.
	beside     = 15
	besideRate = 20

	// inFlight is how many requests may be broken off where a pod, or the way to it, is killed under them: those that it has and has
	// not answered yet. An answer takes some milliseconds, so at 200 a second one or two, and more while the machine is
	// busy with the kill: 250 ms of them.
	inFlight = 50
)

func TestForward(t *testing.T) {
	cluster := kubernetesClient(t)
	p := newForwardProject(t)
	node := onlyNode(t)

	t.Run("a port that is taken stops devloop before anything is deployed", func(t *testing.T) {
		taker := exec.Command("/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", fmt.Sprint(mainPort))
		if err := taker.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = taker.Process.Kill()
			_ = taker.Wait()
		}()
		eventually(t, "the other process listens", func() bool { return listens(mainPort) })
		begin := time.Now()
		_, log := p.call(t, 2)
		t.Logf("devloop ended after %s: %s", time.Since(begin).Round(time.Millisecond), strings.TrimSpace(log))
		for _, want := range []string{"devloop.yaml:12:", "forwards[0].local", fmt.Sprintf("pid %d (", taker.Process.Pid), "http.server"} {
			if !strings.Contains(log, want) {
				t.Errorf("devloop does not say %q", want)
			}
		}
		_, err := cluster.CoreV1().Namespaces().Get(t.Context(), forwardNamespace, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			t.Errorf("namespace %s is there (%v)", forwardNamespace, err)
		}
	})

	d := p.start(t, "--verbose")
	d.await(t, 0, ready)
	in := func(t *testing.T) *web { return &web{t, cluster} }
	in(t).complete()

	// A burst of what is to come, so that what a process takes at its first use is not held against it later.
	warm := startLoad(t, mainPort, rate)
	pass(t, 5*time.Second)
	warm.finish(t, time.Time{})
	before := d.footprint()
	t.Log("devloop at the beginning:", before)

	t.Run("rollouts", func(t *testing.T) {
		w := in(t)
		begin := time.Now()
		ours := startLoad(t, mainPort, rate)
		slow := startLoadOf(t, mainPort, "/slow?ms=2500", slowRate) // as long as a rollout, or longer
		theirs := besideKubectl(t)
		for i := range rollouts {
			if i == beside {
				theirs.end()
			}
			w.rollout()
		}
		took := time.Since(begin)
		w.alone(1)
		t.Logf("%d rollouts in %s; devloop, at %d a second:", rollouts, took.Round(time.Second), rate)
		ours.finish(t, time.Time{})
		t.Logf("requests that take 2.5 s, %d a second:", slowRate)
		slow.finish(t, time.Time{})
		t.Logf("kubectl port-forward in a loop, during %d of them, at %d a second: %s; it was started %d times",
			beside, besideRate, count(theirs.sofar()), theirs.starts())
	})

	t.Run("a pod that turns unready is left within a second, and two share", func(t *testing.T) {
		w := in(t)
		w.scale(2)
		pods := w.alone(2)
		seen := w.watch()
		l := startLoad(t, mainPort, rate)
		pass(t, 3*time.Second)
		both := time.Now()

		mark := seen.mark()
		w.tell(pods[0], "/unready")
		unready := seen.await(t, mark, pods[0], false)
		pass(t, 3*time.Second)
		mark = seen.mark()
		w.tell(pods[0], "/ready")
		again := seen.await(t, mark, pods[0], true)
		pass(t, 3*time.Second)
		l.finish(t, time.Time{})

		share, last, first := map[string]int{}, time.Time{}, time.Time{}
		for _, o := range l.sofar() {
			if o.begin.Before(both) {
				share[o.pod]++
			}
			switch {
			case o.pod != pods[0] || o.begin.Before(unready.at):
			case o.begin.Before(again.at):
				last = later(last, o.begin)
			case first.IsZero() || o.begin.Before(first):
				first = o.begin
			}
		}
		t.Logf("shares of two ready pods: %v", share)
		total := share[pods[0]] + share[pods[1]]
		for _, pod := range pods {
			if share[pod] < total/4 {
				t.Errorf("pod %s got %d of %d connections", pod, share[pod], total)
			}
		}
		if last.IsZero() {
			t.Log("the unready pod was left before the test heard of it")
		} else if late := last.Sub(unready.at); late > time.Second {
			t.Errorf("the unready pod got a connection %s after the API server told of it", late)
		} else {
			t.Logf("the unready pod got its last connection %s after the test heard of it", late.Round(time.Millisecond))
		}
		if first.IsZero() || first.Sub(again.at) > time.Second {
			t.Errorf("the pod was ready again at %s, and got its next connection at %s", again.at, first)
		} else {
			t.Logf("ready again, it got a connection after %s", first.Sub(again.at).Round(time.Millisecond))
		}
		w.scale(1)
		w.alone(1)
	})

	t.Run("an open connection stays on its pod through a rollout", func(t *testing.T) {
		w := in(t)
		for _, keep := range []bool{false, true} { // until the pod ends
			old := w.alone(1)[0]
			c := dial(t, echoPort)
			echoes(t, c, 3)
			w.rollout()
			gone := time.Now()
			if o := request(local(mainPort), "/", limit); o.fate != answered || o.pod == old {
				t.Errorf("a new connection: %s by pod %s (%v), the old one is %s", o.fate, o.pod, o.err, old)
			}
			echoes(t, c, 20)
			var ends time.Time // of its grace period
			for _, pod := range w.pods() {
				if pod.Name == old && pod.DeletionTimestamp != nil {
					ends = pod.DeletionTimestamp.Time
				}
			}
			if ends.IsZero() {
				t.Fatalf("pod %s ended though a connection to it is open, or is not to end", old)
			}
			if !keep {
				_ = c.Close()
				w.alone(1)
				t.Logf("the client ended it, and the old pod was gone %s after the rollout", time.Since(gone).Round(time.Millisecond))
				continue
			}
			_ = c.SetReadDeadline(time.Now().Add(settled))
			n, err := c.Read(make([]byte, 1))
			t.Logf("the pod ended it %s after the rollout: %d bytes, %v", time.Since(gone).Round(time.Millisecond), n, err)
			if n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection outlives its pod: %d bytes, %v", n, err)
			}
			if early := time.Until(ends); early > 2*time.Second { // the API server tells whole seconds
				t.Errorf("the connection was ended %s before its pod's grace period", early)
			}
			w.alone(1)
		}
	})

	t.Run("held no longer than asked, and closed cleanly", func(t *testing.T) {
		w := in(t)
		w.scale(0)
		w.alone(0)
		mark := d.mark()
		var held sync.WaitGroup
		for range 5 {
			c := dial(t, hastyPort)
			begin := time.Now()
			held.Go(func() {
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
				_ = c.SetReadDeadline(begin.Add(30 * time.Second))
				n, err := c.Read(make([]byte, 1))
				if took := time.Since(begin); n != 0 || !errors.Is(err, io.EOF) || took < 1900*time.Millisecond || took > 3*time.Second {
					t.Errorf("after %s: %d bytes, %v", took, n, err)
				} else {
					t.Logf("closed after %s", took.Round(time.Millisecond))
				}
			})
		}
		held.Wait()
		d.says(t, mark, `held connection closed, no pod answered in time`)
		if n := d.count(mark, `held connection closed`); n != 1 {
			t.Errorf("devloop said so %d times", n)
		}
		w.scale(1)
		w.alone(1)
	})

	t.Run("held until a pod is ready, and not much longer", func(t *testing.T) {
		w := in(t)
		for range 3 {
			w.scale(0)
			w.alone(0)
			seen := w.watch()
			answers := make(chan outcome)
			for range 5 {
				go func() { answers <- request(local(mainPort), "/", limit) }()
			}
			pass(t, time.Second) // they are held
			w.scale(1)
			ready := seen.await(t, 0, "", true)
			var after []time.Duration
			for range 5 {
				o := <-answers
				if o.fate != answered {
					t.Errorf("a held connection: %s, %v", o.fate, o.err)
				}
				after = append(after, o.end.Sub(ready.at).Round(time.Millisecond))
			}
			slices.Sort(after)
			t.Logf("answered after the test heard that the pod is ready: %v", after)
			if worst := after[len(after)-1]; worst > time.Second { // some 100 ms, if nothing else runs
				t.Errorf("a held connection waited for %s more", worst)
			}
		}
	})

	t.Run("clients that do not read, and clients that do not ask", func(t *testing.T) {
		in(t).alone(1)
		calm := d.footprint()
		for range 10 {
			c := dial(t, mainPort) // the forward that the short requests go through, too
			_, _ = io.WriteString(c, "GET /endless HTTP/1.1\r\nHost: web\r\n\r\n")
			dial(t, endlessPort)
			dial(t, mainPort)
		}
		pass(t, 5*time.Second) // every buffer on the way is full
		stalled := d.footprint()
		var mu sync.Mutex
		var outcomes []outcome
		var clients sync.WaitGroup
		begin := time.Now()
		for range 20 {
			clients.Go(func() {
				for range 50 {
					o := request(local(mainPort), "/", limit)
					mu.Lock()
					outcomes = append(outcomes, o)
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		took, c := time.Since(begin), count(outcomes)
		busy := d.footprint()
		pass(t, 5*time.Second)
		now := d.footprint()
		t.Logf("1,000 requests by 20 clients in %s: %s", took.Round(time.Millisecond), c)
		t.Logf("devloop before: %s; after 5 s of 20 clients that do not read and 10 that do not ask: %s; after the requests: %s; 5 s later: %s",
			calm, stalled, busy, now)
		if c.fates[answered] != 1000 {
			t.Errorf("not all were answered:\n%s", strings.Join(c.faults[:min(10, len(c.faults))], "\n"))
		}
		// Each of the 30 gets a tunnel of its own, and so do some of those who ask: about 1 MB each. More than that would be bytes
		// that nobody reads, and these would become more.
		if grown := now.megabytes - calm.megabytes; grown > 80 {
			t.Errorf("devloop takes %d MB more", grown)
		}
		if grown := now.megabytes - busy.megabytes; grown > 10 {
			t.Errorf("devloop takes %d MB more after 5 s, and nobody asks", grown)
		}
	})

	t.Run("a gigabyte in either direction", func(t *testing.T) {
		const size = 1 << 30
		client := &http.Client{Timeout: 3 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		begin := time.Now()
		resp, err := client.Get(fmt.Sprintf("http://%s/down?bytes=%d&sum=1", local(mainPort), size))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, resp.Body)
		took := time.Since(begin)
		t.Logf("down: %s, %.0f MB/s", took.Round(time.Millisecond), size/1e6/took.Seconds())
		if got, want := fmt.Sprintf("%x", sum.Sum(nil)), resp.Trailer.Get("Sha256"); err != nil || n != size || got != want {
			t.Errorf("down: %d bytes, %v; their checksum is %s, the server's %s", n, err, got, want)
		}

		sum.Reset()
		chunk := bytes.Repeat([]byte("a gigabyte, in pieces of some kilobytes "), 1024)
		body := io.TeeReader(io.LimitReader(repeat(chunk), size), sum)
		begin = time.Now()
		up, err := client.Post("http://"+local(mainPort)+"/up?sum=1", "application/octet-stream", body)
		if err != nil {
			t.Fatal(err)
		}
		defer up.Body.Close()
		said, err := io.ReadAll(up.Body)
		took = time.Since(begin)
		t.Logf("up: %s, %.0f MB/s", took.Round(time.Millisecond), size/1e6/took.Seconds())
		if want := fmt.Sprintf("%d %x\n", size, sum.Sum(nil)); err != nil || string(said) != want {
			t.Errorf("up: the server said %q (%v), not %q", said, err, want)
		}
	})

	// disturb runs a fault under load, and lets the load go on for a moment after all is well again. Those who waited have to be
	// served soon after that, at most for as long as afterwards says. The fault returns when it had broken what it breaks.
	disturb := func(t *testing.T, rate int, afterwards time.Duration, fault func(w *web) (broke time.Time)) {
		w := in(t)
		w.alone(1)
		l := startLoad(t, mainPort, rate)
		pass(t, time.Second)
		begin := time.Now()
		broke := fault(w)
		w.complete()
		end := time.Now()
		pass(t, 2*time.Second)
		l.finish(t, broke)
		late := l.afterwards(end)
		t.Logf("the fault took %s; those who had waited were answered within %s after it; devloop: %s",
			end.Sub(begin).Round(time.Millisecond), late.Round(time.Millisecond), d.footprint())
		if late > afterwards {
			t.Errorf("a held connection was answered %s after all was well again, it may take %s", late, afterwards)
		}
	}

	t.Run("a pod deleted by force", func(t *testing.T) {
		disturb(t, rate, backlog, func(w *web) time.Time {
			old, seen := w.pods()[0].Name, w.watch()
			kubectl(t, "delete", "pod", "--namespace", forwardNamespace, "--force", "--grace-period=0", old)
			left := seen.await(t, 0, old, false).at
			seen.await(t, 0, "", true)
			return left.Add(time.Second) // until then it may get connections
		})
	})
	t.Run("a server killed", func(t *testing.T) {
		disturb(t, rate, backlog, func(w *web) time.Time {
			pod := w.pods()[0]
			seen := w.watch()
			w.kill(node, pod)
			killed := time.Now()
			seen.await(t, 0, pod.Name, false)
			seen.await(t, seen.mark(), pod.Name, true)
			return killed
		})
	})
	t.Run("no pods for 10 s", func(t *testing.T) {
		disturb(t, rate, backlog, func(w *web) time.Time {
			w.scale(0)
			w.alone(0)
			pass(t, 10*time.Second)
			w.scale(1)
			return time.Time{}
		})
	})
	t.Run("an image that does not exist for 20 s", func(t *testing.T) {
		disturb(t, rate, backlog, func(w *web) time.Time {
			image := w.pods()[0].Spec.Containers[0].Image
			kubectl(t, "set", "image", "--namespace", forwardNamespace, "deployment/web", "server=forward-server:none")
			pass(t, 20*time.Second)
			kubectl(t, "set", "image", "--namespace", forwardNamespace, "deployment/web", "server="+image)
			return time.Time{}
		})
	})
	t.Run("an API server that ends and comes back", func(t *testing.T) {
		disturb(t, rate, backlog, func(*web) time.Time {
			script(t, "kill", node, "kube-apiserver")
			killed := time.Now()
			script(t, "restart", node, "kube-apiserver")
			return killed
		})
	})
	t.Run("an API server that is frozen for a minute", func(t *testing.T) {
		disturb(t, patientRate, 2*backlog, func(*web) time.Time {
			script(t, "pause", node, "kube-apiserver")
			frozen := time.Now()
			defer script(t, "unpause", node, "kube-apiserver")
			pass(t, time.Minute)
			return frozen
		})
	})

	t.Run("a cluster that comes back at another port, with other credentials", func(t *testing.T) { restartedElsewhere(t, cluster) })

	// Last of what is asked, by a second devloop with forwards alone: they lead to what the first one deployed.
	t.Run("all that a forward may lead to", func(t *testing.T) {
		in(t).alone(1)
		targets := newForwardProject(t)
		if err := os.CopyFS(targets.dir, os.DirFS(filepath.Join("testdata", "forward", "targets"))); err != nil {
			t.Fatal(err)
		}
		second := targets.start(t, "--verbose", "-f", "targets.yaml")
		second.await(t, 0, ready)
		picked := second.says(t, 0, `listening target="?selector.* local="?127\.0\.0\.1:(\d+)`)[1]
		for address, pods := range map[string]string{
			"127.0.0.1:8020": "web-", "[::1]:8020": "web-", // deployment, on both addresses of localhost
			"127.0.0.1:8021":      "db-0",                            // statefulset, port by name
			"127.0.0.1:8022":      "db-0",                            // pod
			"[::1]:8023":          "web-",                            // service, port by name, bound to one address
			"127.0.0.1:" + picked: "web-", "[::1]:" + picked: "web-", // selector, a port that was picked
		} {
			if o := request(address, "/", limit); o.fate != answered || !strings.HasPrefix(o.pod, pods) {
				t.Errorf("%s: %s by pod %q, not %s (%v)", address, o.fate, o.pod, pods, o.err)
			}
		}
		if o := request("127.0.0.1:8023", "/", time.Second); o.fate != refused {
			t.Errorf("127.0.0.1:8023 is not bound, but: %s (%v)", o.fate, o.err)
		}
		// What is named comes back, be it under the same name or another one.
		kubectl(t, "delete", "pod", "--namespace", forwardNamespace, "db-0")
		for _, address := range []string{local(8021), local(8022)} {
			if o := request(address, "/", limit); o.fate != answered || o.pod != "db-0" {
				t.Errorf("after db-0 was replaced %s: %s by pod %q (%v)", address, o.fate, o.pod, o.err)
			}
		}
		in(t).rollout()
		for _, address := range []string{local(8020), "[::1]:8023", "127.0.0.1:" + picked} {
			if o := request(address, "/", limit); o.fate != answered {
				t.Errorf("after a rollout %s: %s (%v)", address, o.fate, o.err)
			}
		}
		second.stop(t)
	})

	t.Run("all of it given back", func(t *testing.T) {
		begin := time.Now()
		told := begin
		// A tunnel that nobody uses is kept for a moment, and the heap of a busy time goes back to the system after that; Go's
		// own cleaning, for what is left of it, comes every two minutes.
		eventually(t, "devloop takes as much as at the beginning", func() bool {
			now := d.footprint()
			done := now.megabytes <= before.megabytes+40 && now.descriptors <= before.descriptors+8 && now.threads <= before.threads+16
			if done || time.Since(told) >= 15*time.Second {
				told = time.Now()
				t.Logf("devloop: %s after %s of rest", now, time.Since(begin).Round(time.Second))
			}
			return done
		})
	})

	d.stop(t)
	for port := mainPort; port <= endlessPort; port++ {
		if listens(port) {
			t.Errorf("port %d is still open", port)
		}
	}
}

// echoes sends lines, ten a second, each of which has to come back.
func echoes(t *testing.T, c net.Conn, lines int) {
	t.Helper()
	reader := bufio.NewReader(c)
	_ = c.SetDeadline(time.Now().Add(limit))
	for i := range lines {
		line := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		if got, err := reader.ReadString('\n'); err != nil || got != line {
			t.Fatalf("line %d came back as %q (%v)", i, got, err)
		}
		pass(t, 100*time.Millisecond)
	}
	_ = c.SetDeadline(time.Time{})
}

// repeat reads the same bytes over and over.
func repeat(b []byte) io.Reader {
	reader := bytes.NewReader(b)
	return readFunc(func(p []byte) (int, error) {
		if reader.Len() == 0 {
			_, _ = reader.Seek(0, io.SeekStart)
		}
		return reader.Read(p)
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// alternative is what people do without devloop, asked at the same time.
type alternative struct {
	*load
	loop *exec.Cmd
	once sync.Once
	log  bytes.Buffer
}

// besideKubectl starts "kubectl port-forward", again whenever it ends, and asks through it.
func besideKubectl(t *testing.T) *alternative {
	t.Helper()
	a := &alternative{}
	a.loop = exec.Command("bash", "-c", fmt.Sprintf(
		"while true; do kubectl port-forward --namespace %s service/web %d:80; done", forwardNamespace, kubectlPort))
	a.loop.Stdout, a.loop.Stderr = &a.log, &a.log
	a.loop.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.loop.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.kill() })
	eventually(t, "kubectl forwards", func() bool { return listens(kubectlPort) })
	a.load = startLoad(t, kubectlPort, besideRate)
	return a
}

func (a *alternative) end() {
	a.stop()
	a.kill()
}

func (a *alternative) kill() {
	a.once.Do(func() {
		_ = syscall.Kill(-a.loop.Process.Pid, syscall.SIGKILL) // the loop and its kubectl: a group of their own
		_ = a.loop.Wait()
	})
}

// starts is how often kubectl got to listen; it is read when all has ended.
func (a *alternative) starts() int { return strings.Count(a.log.String(), "Forwarding from 127.0.0.1") }
