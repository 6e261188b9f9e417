package session

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/status"
)

const (
	// settleTime is how long the chain may stay broken after a rollout: traefik sends requests to the
	// gateway's old pod for a moment, and old pods take their time to end. A container that has just
	// started gets its synced files in a moment.
	settleTime = 8 * time.Second
	// reportedSettleTime is the same for an error that is already reported.
	reportedSettleTime = 500 * time.Millisecond
	// proofFirst is the first pause between two looks, which doubles up to proofInterval.
	proofFirst    = 25 * time.Millisecond
	proofInterval = 200 * time.Millisecond

	// Pods are replaced in groups. The chain is checked once none was replaced for replacedQuiet,
	// or after replacedLimit at the latest.
	replacedQuiet = time.Second
	replacedLimit = 10 * time.Second

	// recheckBroken is how often a broken chain is re-checked when no pod event triggers it.
	recheckBroken = 10 * time.Second
	// recheckOld is the same while Dask clusters run an older image: their pods may be in
	// namespaces that are not followed.
	recheckOld = 30 * time.Second

	// maxRestarts limits the restarts of outdated gateways until the chain is complete. After each, it
	// may stay broken for restartTime.
	maxRestarts = 3
	restartTime = 30 * time.Second
)

// prover checks that what runs is what was built: at the end of each run, after pods were replaced
// or restarted, and for devloop status --chain.
type prover struct {
	inspector inspector
	secrets   *event.Secrets
	replaced  chan struct{}            // holds a token if pods were replaced
	expected  atomic.Pointer[expected] // nil before the first run, and while a run changes what runs

	checking chan struct{} // a semaphore: one check at a time
	broken   string        // the error of the last check, "" if the chain was complete; belongs to checking
	restarts restarts      // belongs to checking
	reported event.Changes
}

// restarts counts restarts of gateways for the images that are expected.
type restarts struct {
	images string
	count  int
}

// expected is what must run, and how its gateways are reached.
type expected struct {
	target
	routes []dask.Route
	images [][]string // that each release names, in the order of devloop.yaml
	named  []proof.Named
	// namespaces are those that releases have objects in.
	namespaces []string
}

func newProver(i inspector, secrets *event.Secrets) *prover {
	return &prover{inspector: i, secrets: secrets,
		replaced: make(chan struct{}, 1), checking: make(chan struct{}, 1)}
}

// proofStage is the last stage of a run.
type proofStage struct {
	prover    *prover
	libraries *libraries
	deployer  *deploy.Deployer
	config    *config.Config
	routes    []dask.Route
}

// Check waits until the chain is complete, up to settleTime. A broken one is a transient error: it
// may be repaired without a change of a file.
func (s proofStage) Check(ctx context.Context, sink event.Sink, made *loop.Target) error {
	want := &expected{target: target{made, s.config}, routes: s.routes,
		namespaces: s.deployer.Namespaces(releases(s.config))}
	for _, r := range s.config.Releases {
		want.images = append(want.images, imagesOf(s.config, s.deployer, r))
		for _, image := range s.config.Images {
			for _, at := range s.deployer.ImagesOf(r.ID(), repositories(s.config, image)) {
				want.named = append(want.named, proof.Named{Name: image.Name, In: r.ID() + " " + at.Object, Image: at.Image})
			}
		}
	}
	s.prover.expected.Store(want)
	_, err := s.prover.check(ctx, sink, want, settleTime)
	return event.Transient(err)
}

// Follow has the libraries of the images compared after a successful run.
func (s proofStage) Follow(made *loop.Target) { s.libraries.follow(target{made, s.config}) }

// forget drops what is expected: a run calls it before it changes what runs. Checks report nothing
// until the run calls Check.
func (p *prover) forget() { p.expected.Store(nil) }

// forgetOthers does so if a run is about to write other files into what runs than are expected.
func (p *prover) forgetOthers(made *loop.Target) {
	if want := p.expected.Load(); want != nil && imageNames(want.Images) != imageNames(made.Images) {
		p.forget()
	}
}

// run checks again after pods were replaced, and from time to time while the chain is broken or
// Dask clusters are old, until ctx ends.
func (p *prover) run(ctx context.Context, sink event.Sink) {
	var recheck <-chan time.Time
	broken := false
	for {
		settle := settleTime
		select {
		case <-ctx.Done():
			return
		case <-recheck:
			if broken {
				settle = 0
			}
		case <-p.replaced:
			if !p.waitQuiet(ctx) {
				return
			}
		}
		recheck, broken = nil, false
		want := p.expected.Load()
		if want == nil { // a run is under way and will check
			continue
		}
		old, err := p.check(ctx, p.background(want, sink), want, settle)
		switch {
		case p.expected.Load() != want:
		case err != nil:
			recheck, broken = time.After(recheckBroken), true
		case old > 0:
			recheck = time.After(recheckOld)
		}
	}
}

// waitQuiet waits for replacedQuiet without a replaced pod. It returns false if ctx has ended.
func (p *prover) waitQuiet(ctx context.Context) bool {
	for since := time.Now(); time.Since(since) < replacedLimit; {
		select {
		case <-ctx.Done():
			return false
		case <-p.replaced:
		case <-time.After(replacedQuiet):
			return true
		}
	}
	return true
}

// background returns a Sink for a check outside of a run. It drops events once something else is
// expected, and marks an error that is already reported. A check that could not be made is a
// detail: it is made again.
func (p *prover) background(want *expected, sink event.Sink) event.Sink {
	return func(e event.Event) {
		if p.expected.Load() != want {
			return
		}
		if e.Phase == event.Failed {
			if _, checked := e.Payload.(event.Chain); !checked {
				e.Phase = event.Detailed
			}
			e.Repeated = e.Err != nil && e.Err.Error() == p.broken
		}
		sink(e)
	}
}

// check reports the chain and what runs older images, and returns how many Dask clusters do. A
// chain may stay broken for as long as settle. The error says where it is broken, or why the
// cluster could not be inspected. It is nil if something else is expected by then.
func (p *prover) check(
	ctx context.Context, sink event.Sink, want *expected, settle time.Duration,
) (old int, err error) {
	if len(want.Images) == 0 {
		return 0, nil
	}
	select {
	case p.checking <- struct{}{}:
		defer func() { <-p.checking }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	stage := sink.Stage("proof")
	var found *finding
	err = stage.QuietStep(ctx, event.ChainChecked, func(ctx context.Context) (details []any, err error) {
		if found, err = p.untilComplete(ctx, stage, want, settle); found == nil {
			return nil, err
		}
		return []any{event.Chain{Links: found.links}}, err
	})
	switch images := imageNames(want.Images); {
	case p.expected.Load() != want: // a run changed what runs meanwhile
		return 0, nil
	case found == nil || ctx.Err() != nil:
		return 0, err
	case err != nil:
		p.broken = err.Error()
		p.reported.Forget("complete")
	default:
		p.broken, p.restarts = "", restarts{}
		p.reported.Forget("restart")
		if p.reported.Changed("complete", images) {
			stage.Note(event.ChainIntact, "images", event.Name(images))
		}
	}
	p.reportOlder(stage, found)
	return len(found.old), err
}

// untilComplete inspects the cluster until the chain is complete, or settle is over. If gateways
// are outdated then, it restarts them and waits for up to restartTime more, at most maxRestarts
// times. The finding is nil if the last inspection failed.
func (p *prover) untilComplete(
	ctx context.Context, stage event.Stage, want *expected, settle time.Duration,
) (*finding, error) {
	began, restarted := time.Now(), false
	for pause := proofFirst; ; pause = min(2*pause, proofInterval) {
		found, err := p.inspector.inspect(ctx, want)
		if err == nil {
			err = proof.Broken(found.links)
		}
		limit := settle
		if err != nil && err.Error() == p.broken && !restarted {
			limit = min(settle, reportedSettleTime)
		}
		over := time.Since(began) >= limit
		if err == nil || p.expected.Load() != want || over && !p.restart(ctx, stage, want, found) {
			return found, err
		}
		if over {
			began, settle, restarted = time.Now(), restartTime, true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// restart restarts outdated gateways whose ConfigMap has the right image, and reports whether there
// were any: a pod may start with a ConfigMap that its node has kept, since the node's watches take
// some seconds to come back after the API server was away.
func (p *prover) restart(ctx context.Context, stage event.Stage, want *expected, found *finding) (done bool) {
	if images := imageNames(want.Images); p.restarts.images != images {
		p.restarts = restarts{images: images}
	}
	if found == nil || p.restarts.count >= maxRestarts {
		return false
	}
	for _, g := range found.outdated {
		restarted, err := g.RestartOutdated(ctx, p.inspector.cluster, g.want, g.is)
		if err != nil && ctx.Err() == nil && p.reported.Changed("restart", err.Error()) {
			stage.Warn("cannot restart a gateway that started with an old configuration", err, "release", event.Name(g.Release))
		}
		if restarted {
			stage.Note("restarting a gateway that started with an old configuration", "release", event.Name(g.Release))
			done = true
		}
	}
	if done {
		p.restarts.count++
	}
	return done
}

// reportOlder reports, once for each, which Dask clusters and pods run older images, and which
// gateways start images that were not built here.
func (p *prover) reportOlder(stage event.Stage, found *finding) {
	hasNew := func(key string, set []string) bool {
		added, _ := p.reported.ChangedSet(key, set)
		return len(added) > 0
	}
	var clusters, pods, foreign []string
	for _, c := range found.old {
		clusters = append(clusters, c.FullName())
	}
	for _, link := range found.links {
		if link.NotReplaced {
			pods = append(pods, string(link.Container.PodRef.FullName())+" ("+link.Is+")")
		}
	}
	for _, a := range found.foreign {
		foreign = append(foreign, a.From+" "+a.Image)
	}
	added, removed := p.reported.ChangedSet("clusters", clusters)
	switch old := (event.OutdatedClusters{Clusters: found.old}); {
	case len(added) > 0:
		stage.Warn(event.ClustersOutdated, nil, old, "stop with", "devloop clusters stop --stale")
	case len(removed) > 0:
		stage.Detail(event.ClustersOutdated, old)
	}
	if hasNew("pods", pods) {
		stage.Warn(event.PodsOutdated, nil, "pods", event.Name(strings.Join(pods, ", ")))
	}
	if hasNew("gateways", foreign) {
		stage.Note("new Dask clusters get an image that is not made here",
			"gateway and image", strings.Join(foreign, ", "))
	}
	if hasNew("silent gateways", found.silent) {
		stage.Note("the image for new Dask clusters is unknown", "why", strings.Join(found.silent, ", "))
	}
}

// imageNames names the images that run, and the inputs whose files were synced into them.
func imageNames(images []*loop.Image) string {
	names := make([]string, len(images))
	for at, image := range images {
		names[at] = image.Tag.String()
		if inputs := inputsOf(image); inputs.Tag != image.Tag {
			names[at] += " with the files of " + inputs.Tag.TagStr()
		}
	}
	return strings.Join(names, " ")
}

func tagNames(tags []name.Tag) string {
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = tag.String()
	}
	return strings.Join(names, " ")
}

// answer answers devloop status --chain with a fresh inspection.
func (p *prover) answer(ctx context.Context) (any, error) {
	want := p.expected.Load()
	if want == nil {
		return nil, errors.New("a run is under way, or the last one failed while it changed what runs")
	}
	found, err := p.inspector.inspect(ctx, want)
	if err != nil {
		return nil, err
	}
	chain := status.Chain{Checked: time.Now(), Links: found.links}
	if err := p.secrets.Error(proof.Broken(found.links)); err != nil {
		chain.Error, chain.Hint = err.Error(), event.Hint(err)
	}
	return chain, nil
}
