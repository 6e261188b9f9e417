package session

import (
	"context"
	"maps"
	"slices"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

// platformStage is the deploy stage of a run.
type platformStage struct {
	deployer   *deploy.Deployer
	prover     *prover
	containers *containers
	podOnly    *podOnly
	passed     *passedChecks
	config     *config.Config
	follow     func(*config.Config) // called after a write
	rendered   chan struct{}        // closed when Validate has rendered the releases
}

func (p platformStage) Files() []string { return ReleaseFiles(p.config) }

func (p platformStage) Validate(ctx context.Context, sink event.Sink, made *loop.Target) error {
	defer close(p.rendered)
	if p.config.Push == "" { // they are there before a pod names them
		p.deployer.SetLoaded(slices.Collect(maps.Values(made.Refs())))
	}
	list, err := ResolvedReleases(p.config, made)
	if err != nil {
		return err
	}
	return LocateError(p.config, p.deployer.Validate(ctx, sink, list))
}

// Verify tries an image in the namespace where it is going to run, unless its build or an earlier
// run has.
func (p platformStage) Verify(ctx context.Context, sink event.Sink, image *loop.Image) error {
	var pods, failed []deploy.CheckPod
	for _, pod := range checksOf(p.config, image.Name, image.Ref) {
		switch check := triedInBuild(image, pod); {
		case check != nil && check.Passed():
			p.passed.add(pod)
			continue
		case p.passed.has(pod):
			continue
		case check != nil && check.Failed():
			failed = append(failed, pod)
		}
		pods = append(pods, pod)
	}
	if len(pods) == 0 {
		return nil
	}
	near, err := p.namespaceOf(ctx, image)
	if err != nil {
		return err
	}
	for i := range pods {
		pods[i].Near = near
	}
	if err := p.containers.cluster.Ping(ctx); err != nil { // it may be another one since the image is built
		return err
	}
	if err := p.deployer.Verify(ctx, sink, pods, p.passed.add); err != nil {
		return err
	}
	for _, pod := range failed {
		p.podOnly.add(pod)
	}
	return nil
}

// namespaceOf returns the namespace of the first release that names the image, or "". If none is
// known to, it waits until the releases are rendered.
func (p platformStage) namespaceOf(ctx context.Context, image *loop.Image) (string, error) {
	if namespace := namespaceOf(p.config, p.deployer, image.Name); namespace != "" {
		return namespace, nil
	}
	select {
	case <-p.rendered:
		return namespaceOf(p.config, p.deployer, image.Name), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (p platformStage) Apply(
	ctx context.Context, sink event.Sink, target *loop.Target, begin func(context.Context) error,
) error {
	list, err := ResolvedReleases(p.config, target)
	if err != nil {
		return err
	}
	hooks, err := p.config.Hooks.Resolve(target.Refs())
	if err != nil {
		return err
	}
	around := deploy.Around{Before: commands(p.config, hooks.Before), After: commands(p.config, hooks.After)}
	defer p.follow(p.config)
	beginWrites := func(ctx context.Context) error {
		if err := begin(ctx); err != nil {
			return err
		}
		if err := p.containers.suspend(ctx, target); err != nil {
			return err
		}
		p.prover.forget()
		return nil
	}
	if err := p.deployer.Apply(ctx, sink, list, around, p.config.Timeouts.Rollout, beginWrites); err != nil {
		return err
	}
	return p.checkImages()
}

func (p platformStage) Wait(ctx context.Context, sink event.Sink) error {
	var health []deploy.Health
	for _, h := range p.config.Health {
		health = append(health, deploy.Health{Namespace: h.Namespace, Selector: h.Deployment})
	}
	return p.deployer.Wait(ctx, sink, releases(p.config), health, p.config.Timeouts.Rollout)
}
