// What a run costs that has nothing to build: when nothing differs at all, and when a tag does.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	deployTemplate = "test/bench/testdata/deploy"

	deployImage = "ghcr.io/dask/dask-gateway-server" // also in its chart
	deployTag   = "2024.1.0"                         // that every node of the tests holds, also in its first.yaml
	deployTag2  = "bench"                            // that is made here, of the same image
)

// unchanged measures a run in which nothing differs.
func unchanged(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	_, devloop, err := deployOurs(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	their, err := deployTheirs(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) { return reload(ctx, devloop) }
	theirs = func(ctx context.Context) (float64, error) { return their.upgrade(ctx, time.Now()) }
	return ours, theirs, nil
}

// unchangedOwn measures the same by itself: every run costs as much, whatever others take.
func unchangedOwn(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	_, devloop, err := deployOurs(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		seconds, err := reload(ctx, devloop)
		return seconds * 1000, err
	}
	return ours, nil, nil
}

// reload asks for a run that finds nothing to do, and measures until it is complete.
func reload(ctx context.Context, devloop *process) (float64, error) {
	devloop.skip()
	begin := time.Now()
	if err := devloop.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return 0, devloop.failure(err.Error())
	}
	if _, err := devloop.await(ctx, "release unchanged"); err != nil {
		return 0, err
	}
	done, err := devloop.await(ctx, complete)
	return done.at.Sub(begin).Seconds(), err
}

// tagChanged measures from the save of a values file that has another tag until the new pod is
// known to run, without the time that Kubernetes took for the rollout. The alternative begins at
// the moment of the save, as if it had the best of watchers.
func tagChanged(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	if _, err := output(ctx, "ssh", "-F", os.Getenv("NODE_SSH_CONFIG"), "node", "sudo", "ctr", "--namespace", "k8s.io",
		"images", "tag", "--force", deployImage+":"+deployTag, deployImage+":"+deployTag2); err != nil {
		return nil, nil, err
	}
	mine, devloop, err := deployOurs(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	their, err := deployTheirs(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	for _, side := range []*deployed{mine, their} {
		if err := side.watch(ctx); err != nil {
			return nil, nil, err
		}
	}
	ours = func(ctx context.Context) (float64, error) {
		devloop.skip()
		saved, err := mine.retag()
		if err != nil {
			return 0, err
		}
		done, err := devloop.await(ctx, complete)
		if err != nil {
			return 0, err
		}
		return mine.overhead(ctx, done.at.Sub(saved).Seconds())
	}
	theirs = func(ctx context.Context) (float64, error) {
		saved, err := their.retag()
		if err != nil {
			return 0, err
		}
		seconds, err := their.upgrade(ctx, saved)
		if err != nil {
			return 0, err
		}
		return their.overhead(ctx, seconds)
	}
	return ours, theirs, nil
}

// deployed is one side's copy of the project.
type deployed struct {
	t              *testbed
	namespace, dir string
	tag            string   // of the first release
	generation     int      // of its deployment: one more with each tag
	changes        *process // kubectl, which prints what becomes of the deployment
}

func newDeployed(t *testbed, namespace string) (*deployed, error) {
	dir := filepath.Join(t.dir, namespace)
	return &deployed{t: t, namespace: namespace, dir: dir, tag: deployTag, generation: 1},
		os.CopyFS(dir, os.DirFS(deployTemplate))
}

// deployOurs starts the real program on its copy.
func deployOurs(ctx context.Context, t *testbed) (*deployed, *process, error) {
	d, err := newDeployed(t, "bench-ours")
	if err != nil {
		return nil, nil, err
	}
	devloop, err := startLoop(ctx, t, d.dir)
	return d, devloop, err
}

// deployTheirs runs the alternative on its copy for the first time.
func deployTheirs(ctx context.Context, t *testbed) (*deployed, error) {
	d, err := newDeployed(t, "bench-theirs")
	if err != nil {
		return nil, err
	}
	t.cleanup(func(ctx context.Context) error {
		_, err := output(ctx, "kubectl", "delete", "namespace", d.namespace, "--ignore-not-found")
		return err
	})
	_, err = d.upgrade(ctx, time.Now())
	return d, err
}

// upgrade runs the alternative, and measures from begin until it has ended.
func (d *deployed) upgrade(ctx context.Context, begin time.Time) (float64, error) {
	script, err := filepath.Abs("test/bench/upgrade")
	if err != nil {
		return 0, err
	}
	run, err := d.t.start(ctx, d.dir, nil, script, d.namespace)
	if err != nil {
		return 0, err
	}
	err = run.finish(ctx)
	return time.Since(begin).Seconds(), err
}

// retag gives the first release the other tag, and returns the moment of that.
func (d *deployed) retag() (time.Time, error) {
	d.tag = map[string]string{deployTag: deployTag2, deployTag2: deployTag}[d.tag]
	d.generation++
	return replace(filepath.Join(d.dir, "first.yaml"), "tag: "+d.tag+"\n")
}

// watch has what becomes of the first deployment printed.
func (d *deployed) watch(ctx context.Context) (err error) {
	d.changes, err = d.t.start(ctx, d.dir, nil, "kubectl", "get", "deployment/first", "--namespace", d.namespace,
		"--watch", "--output",
		`jsonpath=generation {.metadata.generation}, seen {.status.observedGeneration}, replicas {.status.replicas} `+
			`{.status.updatedReplicas} {.status.availableReplicas}{"\n"}`)
	if err != nil {
		return err
	}
	_, err = d.changes.await(ctx, "generation 1, ")
	return err
}

// overhead is what a sample took beyond the time that Kubernetes needed for the rollout. It returns
// when no old pod is left.
func (d *deployed) overhead(ctx context.Context, seconds float64) (float64, error) {
	began, err := d.changes.await(ctx, fmt.Sprintf("generation %d, ", d.generation))
	if err != nil {
		return 0, err
	}
	ended, err := d.changes.await(ctx, fmt.Sprintf("generation %d, seen %[1]d, replicas 1 1 1", d.generation))
	if err != nil {
		return 0, err
	}
	_, err = output(ctx, "kubectl", "wait", "pods", "--for", "delete", "--namespace", d.namespace, "--selector",
		"app=first,tag!="+d.tag)
	return seconds - ended.at.Sub(began.at).Seconds(), err
}
