// How long a save may wait at worst until its build begins, on a quiet machine: nine of ten are not
// what people remember.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	watchSaves     = 50 // in a sample of ours, of which the 99th percentile counts: the slowest
	watchPollSaves = 15 // in one of theirs, whose worst case is known: what it waits between two looks
	// watchConfig deploys nothing of the image: what comes after a build would only lengthen the
	// benchmark.
	watchConfig = `apiVersion: devloop/v1
name: bench-watch
images: { bench-watch: {} }
releases: [{ name: bench-watch, namespace: default, manifests: [settings.yaml] }]
`
	watchSettings = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: bench-watch }\n"
)

// buildStartP99 measures saves one after another, each from the save to the beginning of its build.
func buildStartP99(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	mine, err := newProject(t, "bench-watch", 0, os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, nil, err
	}
	for name, content := range map[string]string{"devloop.yaml": watchConfig, "settings.yaml": watchSettings} {
		if err := os.WriteFile(filepath.Join(mine.dir, name), []byte(content), 0o644); err != nil {
			return nil, nil, err
		}
	}
	devloop, err := startLoop(ctx, t, mine.dir)
	if err != nil {
		return nil, nil, err
	}
	looking, err := newPolling(t)
	if err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		var took []float64
		for range watchSaves {
			seconds, err := buildStart(ctx, mine, devloop)
			if err != nil {
				return 0, err
			}
			took = append(took, seconds)
			if err := wait(ctx, 100*time.Millisecond); err != nil {
				return 0, err
			}
		}
		return percentile(took, 99), nil
	}
	theirs = func(ctx context.Context) (float64, error) {
		var took []float64
		for range watchPollSaves {
			seconds, err := looking.sample(ctx)
			if err != nil {
				return 0, err
			}
			took = append(took, seconds)
		}
		return percentile(took, 99), nil
	}
	return ours, theirs, nil
}

// percentile returns the smallest of values that p percent of them do not exceed.
func percentile(values []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(math.Ceil(p/100*float64(len(sorted))))-1]
}

// polling is the alternative: a loop that looks once a second, and builds.
type polling struct {
	t       *testbed
	project *project
	script  string
	runs    int
	image   string
}

func newPolling(t *testbed) (*polling, error) {
	project, err := newProject(t, "bench-theirs", theirsPort, os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	script, err := filepath.Abs("test/bench/poll")
	return &polling{t: t, project: project, script: script}, err
}

// sample measures one save.
func (p *polling) sample(ctx context.Context) (float64, error) {
	watcher, err := p.t.start(ctx, p.project.dir, nil, p.script, p.project.name)
	if err != nil {
		return 0, err
	}
	if _, err := watcher.await(ctx, "watching"); err != nil {
		return 0, err
	}
	// Saves come at any time between two looks: here spread evenly, by the golden ratio, so that
	// luck does not decide.
	p.runs++
	if err := wait(ctx, time.Duration(math.Mod(float64(p.runs)/math.Phi, 1)*float64(time.Second))); err != nil {
		return 0, err
	}
	_, saved, err := p.project.save()
	if err != nil {
		return 0, err
	}
	started, err := watcher.await(ctx, "building")
	if err != nil {
		return 0, err
	}
	built, err := watcher.await(ctx, "sha256:")
	if err != nil {
		return 0, err
	}
	if built.text == p.image {
		return 0, watcher.failure(fmt.Sprintf("built %s again", p.image))
	}
	p.image = built.text
	return started.at.Sub(saved).Seconds(), watcher.finish(ctx)
}
