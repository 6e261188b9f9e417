// From a save to all containers that hold it.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const renewed = "image of the synced files is ready" // devloop's line when the image is built, too

// syncedPods is a copy of the project, and what runs of it.
type syncedPods struct {
	project
	pods  int
	mark  string // the last word of their command line
	saves int
}

// syncInto measures from a save until so many containers hold it. The alternative is one of those
// below, or nil.
func syncInto(pods int, alternative func(context.Context, *testbed, int) (sample, error)) func(
	context.Context, *testbed) (ours, theirs sample, err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		p, err := newSyncedPods(t, "bench-sync", pods, "{ from: app, to: /app }")
		if err != nil {
			return nil, nil, err
		}
		devloop, err := startLoop(ctx, t, p.dir)
		if err != nil {
			return nil, nil, err
		}
		ours = func(ctx context.Context) (float64, error) {
			devloop.skip()
			seconds, err := p.saved(ctx)
			if err != nil {
				return 0, devloop.failure(err.Error())
			}
			_, err = devloop.await(ctx, renewed) // so that nothing is under way at the next save
			return seconds, err
		}
		if alternative != nil {
			theirs, err = alternative(ctx, t, pods)
		}
		return ours, theirs, err
	}
}

// withoutSync is devloop's way for files that are not synced: an image, and new pods.
func withoutSync(ctx context.Context, t *testbed, pods int) (sample, error) {
	p, err := newSyncedPods(t, "bench-built", pods, "")
	if err != nil {
		return nil, err
	}
	devloop, err := startLoop(ctx, t, p.dir)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		devloop.skip()
		seconds, err := p.saved(ctx)
		if err != nil {
			return 0, devloop.failure(err.Error())
		}
		_, err = devloop.await(ctx, complete)
		return seconds, err
	}, nil
}

// copied is what people write by hand. Their pods are deployed by devloop, which has ended.
func copied(ctx context.Context, t *testbed, pods int) (sample, error) {
	p, err := newSyncedPods(t, "bench-copied", pods, "")
	if err != nil {
		return nil, err
	}
	t.cleanup(func(ctx context.Context) error {
		_, err := output(ctx, "kubectl", "delete", "namespace", p.name, "--ignore-not-found")
		return err
	})
	deploy, err := t.startDevloop(ctx, p.dir, "run")
	if err == nil {
		err = deploy.finish(ctx)
	}
	if err != nil {
		return nil, err
	}
	script, err := filepath.Abs("test/bench/copy")
	if err != nil {
		return nil, err
	}
	copying, err := t.start(ctx, p.dir, nil, script, p.name)
	if err != nil {
		return nil, err
	}
	_, err = copying.await(ctx, "watching")
	begin := time.Now()
	return func(ctx context.Context) (float64, error) {
		// As in polling: spread evenly between two looks.
		past := math.Mod(time.Since(begin).Seconds(), 1)
		at := math.Mod(float64(p.saves)/math.Phi, 1)
		if err := wait(ctx, time.Duration(math.Mod(1+at-past, 1)*float64(time.Second))); err != nil {
			return 0, err
		}
		seconds, err := p.saved(ctx)
		if err != nil {
			return 0, copying.failure(err.Error())
		}
		_, err = copying.await(ctx, "copied")
		return seconds, err
	}, err
}

func newSyncedPods(t *testbed, name string, pods int, rule string) (*syncedPods, error) {
	const from = "test/bench/testdata/sync"
	p := &syncedPods{
		project: project{name: name, dir: filepath.Join(t.dir, name)},
		pods:    pods,
		mark:    strconv.FormatInt(time.Now().UnixNano()/1000, 10),
	}
	if err := os.CopyFS(p.dir, os.DirFS(from)); err != nil {
		return nil, err
	}
	fill := strings.NewReplacer("$NAME", name, "$PODS", strconv.Itoa(pods), "$SYNC", rule, "$MARK", p.mark)
	for _, file := range []string{"devloop.yaml", "pods.yaml"} {
		text, err := os.ReadFile(filepath.Join(p.dir, file))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(p.dir, file), []byte(fill.Replace(string(text))), 0o644); err != nil {
			return nil, err
		}
	}
	t.cleanup(func(ctx context.Context) error { return removeImages(ctx, name) })
	return p, nil
}

// saved saves, and returns how many seconds later all containers hold that.
func (p *syncedPods) saved(ctx context.Context) (float64, error) {
	p.saves++
	content, at, err := p.save()
	if err != nil {
		return 0, err
	}
	var pids []string
	var looked time.Time
	for {
		if time.Since(looked) > 10*pollInterval {
			looked = time.Now()
			if pids, err = p.containers(); err != nil {
				return 0, err
			}
		}
		n := 0
		for _, pid := range pids {
			if got, _ := os.ReadFile("/proc/" + pid + "/root/app/index.html"); string(got) == content { // it may have ended
				n++
			}
		}
		if n >= p.pods {
			return time.Since(at).Seconds(), nil
		}
		if err := wait(ctx, pollInterval); err != nil {
			return 0, fmt.Errorf("%d of %d containers hold the save: %w", n, p.pods, err)
		}
	}
}

// containers returns the containers' processes. They are this machine's, as the node is.
func (p *syncedPods) containers() (pids []string, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if words, _ := os.ReadFile(file); string(words) == "sleep\x00"+p.mark+"\x00" {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids, err
}
