// From a save to the answer of the cluster, and to the beginning of the build.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	oursPort   = 18001 // also in testdata/served/devloop.yaml
	theirsPort = 18002

	building = "building image" // devloop's line when a build starts
	complete = "ready in "      // and when a run has ended well
)

// saveToServed measures from a save to the first answer with the new content. The alternative's
// pipeline starts at the moment of the save, as if it had the best of watchers.
func saveToServed(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	kubeconfig := os.Getenv("KUBECONFIG")
	mine, devloop, err := startDevloop(ctx, t, kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	their, pipeline, err := startPipeline(ctx, t, kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	return mine.sampleOf(devloop, "", complete, &t.outages.ours),
		their.sampleOf(pipeline, "changed\n", "", &t.outages.theirs), nil
}

// sampleOf measures from a save to the first answer with the new content. A program that does not
// watch the file gets trigger on its standard input. It says done at its end, unless that is "".
// For how many seconds there was no answer meanwhile is added to outages.
func (p *project) sampleOf(program *process, trigger, done string, outages *[]float64) sample {
	return func(ctx context.Context) (float64, error) {
		program.skip()
		content, saved, err := p.save()
		if err != nil {
			return 0, err
		}
		if _, err := io.WriteString(program.stdin, trigger); err != nil {
			return 0, program.failure(err.Error())
		}
		answered, silent, err := p.served(ctx, content)
		if err != nil {
			return 0, program.failure(err.Error())
		}
		*outages = append(*outages, silent)
		if done != "" {
			if _, err := program.await(ctx, done); err != nil {
				return 0, err
			}
		}
		return answered.Sub(saved).Seconds(), p.settle(ctx)
	}
}

// saveToBuildStart measures from a save to the start of the build. The alternative only builds:
// what it does after that is not measured here.
func saveToBuildStart(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	mine, devloop, err := startDevloop(ctx, t, os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, nil, err
	}
	looking, err := newPolling(t)
	if err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		seconds, err := buildStart(ctx, mine, devloop)
		if err != nil {
			return 0, err
		}
		return seconds, mine.settle(ctx)
	}
	return ours, looking.sample, nil
}

// buildStart saves, and measures until devloop begins to build; it returns when that run is
// complete.
func buildStart(ctx context.Context, p *project, devloop *process) (float64, error) {
	devloop.skip()
	_, saved, err := p.save()
	if err != nil {
		return 0, err
	}
	started, err := devloop.await(ctx, building)
	if err != nil {
		return 0, err
	}
	_, err = devloop.await(ctx, complete)
	return started.at.Sub(saved).Seconds(), err
}

// startDevloop starts the real program on its project and waits until that is served.
func startDevloop(ctx context.Context, t *testbed, kubeconfig string) (*project, *process, error) {
	p, err := newProject(t, "bench-ours", oursPort, kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	devloop, err := startLoop(ctx, t, p.dir)
	if err != nil {
		return nil, nil, err
	}
	return p, devloop, p.settle(ctx)
}

// startLoop starts the real program in a folder, and waits until a run is complete.
func startLoop(ctx context.Context, t *testbed, dir string) (*process, error) {
	devloop, err := t.startDevloop(ctx, dir, "-v")
	if err != nil {
		return nil, err
	}
	t.cleanup(devloop.interrupt) // it removes all that it deployed
	_, err = devloop.await(ctx, complete)
	return devloop, err
}

// startDevloop starts the real program in a folder.
func (t *testbed) startDevloop(ctx context.Context, dir string, args ...string) (*process, error) {
	binary := os.Getenv("DEVLOOP_BIN")
	if binary == "" {
		return nil, fmt.Errorf("DEVLOOP_BIN is not set: use make bench")
	}
	env := []string{"XDG_STATE_HOME=" + filepath.Join(t.shared, "state"), "XDG_CACHE_HOME=" +
		filepath.Join(t.shared, "cache")}
	return t.start(ctx, dir, append(env, t.env...), binary, args...)
}

// startPipeline starts the alternative on its project, deploys it for the first time and waits
// until it is served.
func startPipeline(ctx context.Context, t *testbed, kubeconfig string) (*project, *process, error) {
	p, err := newProject(t, "bench-theirs", theirsPort, kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	script, err := filepath.Abs("test/bench/pipeline")
	if err != nil {
		return nil, nil, err
	}
	t.cleanup(deleteNamespace(kubeconfig, p.name))
	pipeline, err := t.start(ctx, p.dir, nil, script, p.name, p.name, strconv.Itoa(theirsPort))
	if err != nil {
		return nil, nil, err
	}
	t.cleanup(func(ctx context.Context) error { return pipeline.finish(ctx) })
	content, _, err := p.save()
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(pipeline.stdin, "changed\n"); err != nil {
		return nil, nil, pipeline.failure(err.Error())
	}
	if _, _, err := p.served(ctx, content); err != nil {
		return nil, nil, pipeline.failure(err.Error())
	}
	return p, pipeline, p.settle(ctx)
}

// deleteNamespace is a cleanup: it deletes a namespace, which may not be there.
func deleteNamespace(kubeconfig, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := output(ctx, "kubectl", "--kubeconfig", kubeconfig, "delete", "namespace", name, "--ignore-not-found")
		return err
	}
}

// wait returns after d, or with an error when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
