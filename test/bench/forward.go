// What goes through a forwarded port: how much, how soon, and how surely.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	forwardTests = "test/e2e/testdata/forward"

	forwardNamespace  = "bench-forward" // this one and the port are also in testdata/forward/devloop.yaml
	forwardOursPort   = 18003
	forwardTheirsPort = 18004

	transferSize  = 256 << 20              // bytes: a second or two
	connects      = 300                    // of which the median counts
	rolloutsEach  = 5                      // during one sample of failures
	askInterval   = 20 * time.Millisecond  // of each side's requests during them
	askPatience   = 45 * time.Second       // above the time for which devloop holds a connection
	afterRollouts = 500 * time.Millisecond // for what the last of them does
)

// throughputDown and throughputUp measure one transfer over a connection of its own.
func throughputDown(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	return besidePortForward(ctx, t, func(ctx context.Context, port int) (float64, error) {
		begin := time.Now()
		n, err := transfer(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/down?bytes=%d", port, transferSize), nil,
			func(body io.Reader) (int64, error) {
				return io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, make([]byte, 64<<10))
			})
		return rate(n, begin), err
	})
}

func throughputUp(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	return besidePortForward(ctx, t, func(ctx context.Context, port int) (float64, error) {
		begin := time.Now()
		n, err := transfer(ctx, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/up", port),
			io.LimitReader(zeros{}, transferSize), func(body io.Reader) (int64, error) {
				said, err := io.ReadAll(body)
				if err != nil {
					return 0, err
				}
				count, _, _ := strings.Cut(string(said), " ")
				return strconv.ParseInt(count, 10, 64)
			})
		return rate(n, begin), err
	})
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func rate(bytes int64, begin time.Time) float64 {
	return float64(bytes) / 1e6 / time.Since(begin).Seconds()
}

// transfer makes a request, and has the answer's body read by count, which says how many bytes went
// over.
func transfer(ctx context.Context, method, url string, body io.Reader, count func(io.Reader) (int64, error)) (n int64,
	err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, err
	}
	resp, err := freshConnections.Do(req)
	if err != nil {
		return 0, err
	}
	n, err = count(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || n != transferSize {
		return 0, fmt.Errorf("%s: %s, %d bytes", url, resp.Status, n)
	}
	return n, nil
}

// freshConnections opens one for each request.
var freshConnections = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// connectLatency measures a new connection with one small request, from before it is opened to the
// end of the answer.
func connectLatency(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	return besidePortForward(ctx, t, func(ctx context.Context, port int) (float64, error) {
		var took []float64
		for range connects {
			begin := time.Now()
			if err := small(ctx, port); err != nil {
				return 0, err
			}
			took = append(took, time.Since(begin).Seconds()*1000)
		}
		return median(took), nil
	})
}

// small asks for the pod's name, whose answer has to be complete.
func small(ctx context.Context, port int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		return err
	}
	resp, err := freshConnections.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "web-") {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// failures counts the requests that got no complete answer while the pod was replaced a few times.
// Both sides are asked at the same time, so that they meet the same rollouts: the second one only
// says what was counted.
func failures(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	if err := startForward(ctx, t); err != nil {
		return nil, nil, err
	}
	loop, err := t.start(ctx, t.dir, nil, "bash", "-c", "while true; do "+strings.Join(portForward(), " ")+"; done")
	if err != nil {
		return nil, nil, err
	}
	if _, err := loop.await(ctx, "Forwarding from"); err != nil {
		return nil, nil, err
	}
	var lost float64
	ours = func(ctx context.Context) (float64, error) {
		mine, their := startAsking(ctx, forwardOursPort), startAsking(ctx, forwardTheirsPort)
		err := rollOut(ctx, rolloutsEach)
		if err == nil {
			err = wait(ctx, afterRollouts)
		}
		failed := mine.stop()
		lost = their.stop()
		return failed, err
	}
	theirs = func(context.Context) (float64, error) { return lost, nil }
	return ours, theirs, nil
}

// asking is requests at a steady rate, each on a connection of its own.
type asking struct {
	end     chan struct{}
	running sync.WaitGroup
	failed  atomic.Int64
}

func startAsking(ctx context.Context, port int) *asking {
	a := &asking{end: make(chan struct{})}
	a.running.Go(func() {
		ticker := time.NewTicker(askInterval)
		defer ticker.Stop()
		for {
			select {
			case <-a.end:
				return
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			a.running.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, askPatience)
				defer cancel()
				if small(ctx, port) != nil {
					a.failed.Add(1)
				}
			})
		}
	})
	return a
}

// stop waits for the answers that are still to come, and returns how many did not.
func (a *asking) stop() float64 {
	close(a.end)
	a.running.Wait()
	return float64(a.failed.Load())
}

// rollOut replaces the pod by one that does the same, times over.
func rollOut(ctx context.Context, times int) error {
	for range times {
		patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"rollout":"%d"}}}}}`, time.Now().UnixNano())
		if _, err := output(ctx, "kubectl", "patch", "deployment/web", "--namespace", forwardNamespace, "--patch",
			patch); err != nil {
			return err
		}
		if _, err := output(ctx, "kubectl", "rollout", "status", "deployment/web", "--namespace",
			forwardNamespace); err != nil {
			return err
		}
	}
	return nil
}

func portForward() []string {
	return []string{"kubectl", "port-forward", "--namespace", forwardNamespace, "service/web",
		fmt.Sprintf("%d:80", forwardTheirsPort)}
}

// besidePortForward has the same measured through devloop's port and through that of kubectl, which
// both lead to the same pod.
func besidePortForward(ctx context.Context, t *testbed, measure func(ctx context.Context, port int) (float64, error)) (
	ours, theirs sample, err error) {
	if err := startForward(ctx, t); err != nil {
		return nil, nil, err
	}
	words := portForward()
	kubectl, err := t.start(ctx, t.dir, nil, words[0], words[1:]...)
	if err != nil {
		return nil, nil, err
	}
	if _, err := kubectl.await(ctx, "Forwarding from"); err != nil {
		return nil, nil, err
	}
	side := func(port int) sample {
		return func(ctx context.Context) (float64, error) { return measure(ctx, port) }
	}
	return side(forwardOursPort), side(forwardTheirsPort), nil
}

// startForward starts the real program on the server of the end-to-end tests, and waits until it
// answers.
func startForward(ctx context.Context, t *testbed) error {
	dir := filepath.Join(t.dir, "forward")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(forwardTests, "web"))); err != nil {
		return err
	}
	config, err := os.ReadFile("test/bench/testdata/forward/devloop.yaml")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "devloop.yaml"), config, 0o644); err != nil {
		return err
	}
	if _, err := output(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-buildvcs=false",
		"-o", filepath.Join(dir, "server"), "./"+forwardTests+"/server"); err != nil {
		return err
	}
	t.cleanup(func(ctx context.Context) error { return removeImages(ctx, "forward-server") })
	_, err = startLoop(ctx, t, dir)
	return err
}
