//go:build e2e

// A client that never stops asking: one request every 20 ms, each on a connection of its own.
package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

const probeInterval = 20 * time.Millisecond

// probe asks url until stop is called.
type probe struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	statuses map[int]int    // complete answers, by status
	bad      map[string]int // those that were not 200, by second and status
	broken   []string       // requests without a complete answer
	longest  time.Duration
}

func startProbe(t *testing.T, url string) *probe {
	ctx, cancel := context.WithCancel(t.Context())
	p := &probe{cancel: cancel, statuses: map[int]int{}, bad: map[string]int{}}
	// The limit is well above the time for which a connection is held, so that only devloop decides.
	client := &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	p.running.Go(func() {
		ticker := time.NewTicker(probeInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.running.Go(func() { p.ask(client, url) })
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *probe) ask(client *http.Client, url string) {
	start := time.Now()
	resp, err := client.Get(url)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	took := time.Since(start)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest = max(p.longest, took)
	if err != nil {
		p.broken = append(p.broken, fmt.Sprintf("%s after %s: %v", start.Format("15:04:05.000"), took, err))
		return
	}
	p.statuses[resp.StatusCode]++
	if resp.StatusCode != http.StatusOK {
		p.bad[fmt.Sprintf("%s asked, %s answered: %d", start.Format("15:04:05"), time.Now().Format("15:04:05"), resp.StatusCode)]++
	}
}

// stop ends the asking and waits for the answers that are still to come.
func (p *probe) stop() {
	p.cancel()
	p.running.Wait()
}

// check fails the test if a request got no complete answer, or more than atMost got one that is not 200.
func (p *probe) check(t *testing.T, atMost int) {
	t.Helper()
	p.checkBroken(t, atMost, 0)
}

// checkBroken allows for requests that were broken off.
func (p *probe) checkBroken(t *testing.T, atMost, broken int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	total, other := 0, 0
	for status, n := range p.statuses {
		total += n
		if status != http.StatusOK {
			other += n
		}
	}
	t.Logf("probe: %d complete answers %v, %d broken, longest wait %s", total, p.statuses, len(p.broken), p.longest)
	for _, when := range slices.Sorted(maps.Keys(p.bad)) {
		t.Logf("probe: %s, %d times", when, p.bad[when])
	}
	for _, what := range p.broken[:min(10, len(p.broken))] {
		t.Logf("no complete answer: %s", what)
	}
	if len(p.broken) > broken {
		t.Errorf("%d requests got no complete answer, at most %d may", len(p.broken), broken)
	}
	if other > atMost {
		t.Errorf("%d answers were not 200, at most %d may be", other, atMost)
	}
	if total == 0 {
		t.Error("the probe got no answer at all")
	}
}
