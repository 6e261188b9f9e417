// Beside skaffold, on the docker runtime: there it builds in the node's Docker.
package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
)

// skaffoldWaits is what skaffold says when all is deployed and forwarded.
const skaffoldWaits = "Watching for changes"

// startSkaffold starts skaffold dev in a folder, with a configuration of testdata/skaffold, and
// waits until it has deployed. It is interrupted at the end of the benchmark.
func startSkaffold(ctx context.Context, t *testbed, dir, configuration string, n benchNode, env ...string,
) (*process, error) {
	from := filepath.Join("test/bench/testdata/skaffold", configuration)
	if err := copyFile(filepath.Join(dir, "skaffold.yaml"), from); err != nil {
		return nil, err
	}
	env = slices.Concat(env, n.env(), n.dockerEnv(),
		[]string{"HOME=" + t.dir, "SKAFFOLD_UPDATE_CHECK=false"}) // what it remembers is removed with t.dir
	skaffold, err := t.start(ctx, dir, env, "skaffold", "dev", "--interactive=false", "--port-forward=user",
		"--tail=false")
	if err != nil {
		return nil, err
	}
	t.cleanup(skaffold.interrupt)
	_, err = skaffold.await(ctx, skaffoldWaits)
	return skaffold, err
}

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
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
	if err := copyFile(filepath.Join(p.dir, "dask-gateway.tgz"), chart); err != nil {
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
