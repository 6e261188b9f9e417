// Beside skaffold, on the docker runtime: there it builds in the node's Docker.
package main

import (
	"context"
	"os"
	"path/filepath"
)

// skaffoldWaits is what skaffold says when all is deployed and forwarded.
const skaffoldWaits = "Watching for changes"

// startSkaffold starts skaffold dev in a folder, with a configuration of testdata/skaffold, and
// waits until it has deployed. It is interrupted at the end of the benchmark.
func startSkaffold(ctx context.Context, t *testbed, dir, configuration string, n benchNode, env ...string,
) (*process, error) {
	text, err := os.ReadFile(filepath.Join("test/bench/testdata/skaffold", configuration))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "skaffold.yaml"), text, 0o644)
	}
	if err != nil {
		return nil, err
	}
	env = append(append(env, n.env()...), n.dockerEnv()...)
	env = append(env, "HOME="+t.dir, "SKAFFOLD_UPDATE_CHECK=false") // what it remembers is removed with t.dir
	skaffold, err := t.start(ctx, dir, env, "skaffold", "dev", "--interactive=false", "--port-forward=user",
		"--tail=false")
	if err != nil {
		return nil, err
	}
	t.cleanup(func(ctx context.Context) error {
		_ = skaffold.cmd.Process.Signal(os.Interrupt) // how it ended is told by finish
		return skaffold.finish(ctx)
	})
	_, err = skaffold.await(ctx, skaffoldWaits)
	return skaffold, err
}

// skaffoldPlatform is skaffold on a copy of the platform.
func skaffoldPlatform(ctx context.Context, mine *platformLoop) (sample, error) {
	p, err := newPlatform(mine.t, mine.runtime, platformTheirs, platformTheirPort)
	if err != nil {
		return nil, err
	}
	chart, err := output(ctx, "test/images/chart")
	if err != nil {
		return nil, err
	}
	archive, err := os.ReadFile(chart)
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir, "dask-gateway.tgz"), archive, 0o644)
	}
	if err != nil {
		return nil, err
	}
	p.t.cleanup(deleteNamespace(p.node.kubeconfig, p.namespace)) // which skaffold leaves
	skaffold, err := startSkaffold(ctx, p.t, p.dir, "platform.yaml", p.node, "INDEX_PROXY="+mine.proxy)
	if err != nil {
		return nil, err
	}
	if _, _, err := p.given(ctx); err != nil {
		return nil, skaffold.failure(err.Error())
	}
	return p.theirs(skaffold, "", skaffoldWaits), p.settle(ctx)
}

// servedBesideSkaffold measures from a save of the only file of an image to the first answer with
// the new content.
func servedBesideSkaffold(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	n, err := nodeOf("docker")
	if err != nil {
		return nil, nil, err
	}
	t.env = n.env()
	mine, devloop, err := startDevloop(ctx, t, n.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	their, err := newProject(t, "bench-theirs", theirsPort, n.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	t.cleanup(deleteNamespace(n.kubeconfig, their.name)) // which skaffold leaves
	skaffold, err := startSkaffold(ctx, t, their.dir, "served.yaml", n)
	if err != nil {
		return nil, nil, err
	}
	return mine.sampleOf(devloop, "", complete, &t.outages.ours),
		their.sampleOf(skaffold, "", skaffoldWaits, &t.outages.theirs), their.settle(ctx)
}
