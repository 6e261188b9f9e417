// The proof that what runs is what was built: asked for at the end of each run, whenever pods are replaced after it, and by devloop status --chain.
package session

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/status"
)

const (
	// lagging is for what follows a rollout by itself: traefik leaves the gateway's old pod some tenths of a second after it has ended, and
	// pods of the old template are on their way out.
	lagging       = 8 * time.Second
	proofInterval = 200 * time.Millisecond
	// Pods are replaced in groups: it is looked when they have been left alone for a moment, or after a while at the latest.
	replacedQuiet = time.Second
	replacedLimit = 10 * time.Second
	// lookAgain is after how long it is looked again without a reason where not all is well: what mends it need not be a pod.
	lookAgain = 10 * time.Second
	// lookForOld is the same for Dask clusters that are older than the image.
	lookForOld = 30 * time.Second
	// laggingAgain is the same for what was told as broken before.
	laggingAgain = 500 * time.Millisecond
)

// prover knows what ought to run, and looks whether it does. It belongs to a session.
type prover struct {
	session  *Session
	replaced chan struct{} // holds something if pods were replaced
	looking  chan struct{} // holds something during a check, which is then the only one
	reported event.Changes
	broken   string // error of the last check, "" if the chain was whole; belongs to looking

	mu       sync.Mutex
	expected *expected // nil before the first run, and while one changes what runs
}

// expected is what has to run, and how gateways are asked.
type expected struct {
	target
	ways []way
}

func newProver(s *Session) *prover {
	return &prover{session: s, replaced: make(chan struct{}, 1), looking: make(chan struct{}, 1)}
}

// proofStage is the last stage of a run.
type proofStage struct {
	*prover
	config *config.Config
}

// Check looks until the chain is whole, for as long as what follows a rollout may take. A broken one may be mended without a change of a file.
func (p proofStage) Check(ctx context.Context, sink event.Sink, made *loop.Target) error {
	want := &expected{target{made, p.config}, p.session.forwards.ways()}
	p.mu.Lock()
	p.expected = want
	p.mu.Unlock()
	_, err := p.check(ctx, sink, want, lagging)
	return event.Transient(err)
}

// Follow hands on what ran well.
func (p proofStage) Follow(made *loop.Target) { p.session.libraries.follow(target{made, p.config}) }

// forget is for who is about to change what runs.
func (p *prover) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = nil
}

func (p *prover) current() *expected {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expected
}

// run checks again after pods were replaced, and from time to time where not all is well, until ctx ends.
func (p *prover) run(ctx context.Context, sink event.Sink) {
	var again <-chan time.Time
	for {
		lag := time.Duration(0)
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-p.replaced:
			if lag = lagging; !p.settled(ctx) {
				return
			}
		}
		again = nil
		want := p.current()
		if want == nil { // a run is going to check
			continue
		}
		old, err := p.check(ctx, p.beside(want, sink), want, lag)
		switch {
		case p.current() != want:
		case err != nil:
			again = time.After(lookAgain)
		case old > 0: // they may be where no pods are followed
			again = time.After(lookForOld)
		}
	}
}

// settled returns when pods have been left alone for a moment, or when that takes too long. It is false if ctx has ended.
func (p *prover) settled(ctx context.Context) bool {
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

// beside returns a Sink for a check that belongs to no run. It tells nothing once something else is aimed at, and no error twice. That the API server
// is away is a detail: it is looked again.
func (p *prover) beside(want *expected, sink event.Sink) event.Sink {
	return func(e event.Event) {
		if p.current() != want {
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

// check tells the chain, and which Dask clusters (it returns how many) and pods run older images. What is broken has so long to mend itself. The error
// is that of a broken chain, or why it could not be looked at, which may pass. A check of what is no longer expected ends without one.
func (p *prover) check(ctx context.Context, sink event.Sink, want *expected, lag time.Duration) (old int, err error) {
	if len(want.Images) == 0 {
		return 0, nil
	}
	select {
	case p.looking <- struct{}{}:
		defer func() { <-p.looking }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	say := sink.For("proof")
	var found *finding
	err = say.Look(ctx, event.ChainChecked, func(ctx context.Context) (fields []any, err error) {
		for began := time.Now(); ; {
			if found, err = p.look(ctx, want); err == nil {
				err = proof.Broken(found.links)
			}
			wait := lag
			if err != nil && err.Error() == p.broken {
				wait = min(lag, laggingAgain)
			}
			if err == nil || time.Since(began) >= wait || p.current() != want {
				break
			}
			select {
			case <-time.After(proofInterval):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if found == nil {
			return nil, err
		}
		return []any{event.Chain{Links: found.links}}, err
	})
	switch {
	case p.current() != want: // what was found may be half-way to something else
		return 0, nil
	case found == nil || ctx.Err() != nil:
		return 0, err
	}
	images := tagNames(loop.Tags(want.Images))
	switch {
	case err != nil:
		p.reported.Forget("whole")
		p.broken = err.Error()
	case p.reported.Changed("whole", images):
		say.Note(event.ChainWhole, "images", event.Name(images))
		p.broken = ""
	}
	p.tellOlder(say, found)
	return len(found.old), err
}

// tellOlder tells which Dask clusters and pods run older images, and what gateways start that is not from here, if there is one that was not told.
func (p *prover) tellOlder(say event.Stage, found *finding) {
	clusters := make([]string, len(found.old))
	for i, c := range found.old {
		clusters[i] = c.FullName()
	}
	added, removed := p.reported.ChangedSet("clusters", clusters)
	switch old := (event.OldClusters{Clusters: found.old}); {
	case len(added) > 0:
		say.Warn(event.ClustersOld, nil, old, "stop with", "devloop clusters stop --stale")
	case len(removed) > 0:
		say.Detail(event.ClustersOld, old)
	}
	var pods []string
	for _, link := range found.links {
		if link.Older {
			pods = append(pods, string(link.Container.PodRef.FullName())+" ("+link.Is+")")
		}
	}
	if added, _ := p.reported.ChangedSet("pods", pods); len(added) > 0 {
		say.Warn(event.PodsOld, nil, "pods", event.Name(strings.Join(pods, ", ")))
	}
	var foreign []string
	for _, a := range found.foreign {
		foreign = append(foreign, a.From+" "+a.Image)
	}
	if added, _ := p.reported.ChangedSet("gateways", foreign); len(added) > 0 {
		say.Note("new Dask clusters get an image that is not made here", "gateway and image", strings.Join(foreign, ", "))
	}
	if added, _ := p.reported.ChangedSet("silent gateways", found.silent); len(added) > 0 {
		say.Note("what a gateway gives to new clusters is not known", "why", strings.Join(found.silent, ", "))
	}
}

func tagNames(tags []name.Tag) string {
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = tag.String()
	}
	return strings.Join(names, " ")
}

// finding is what a look has found.
type finding struct {
	links   event.Links
	old     event.DaskClusters
	foreign []proof.Answer // of gateways that start what is not from here, and were not told to do otherwise
	silent  []string       // gateways that did not answer, and why
}

// look asks the nodes, the API server and the gateways, side by side.
func (p *prover) look(ctx context.Context, want *expected) (*finding, error) {
	type answer struct {
		images []proof.Image
		err    error
	}
	holders := make(chan answer, 1)
	go func() {
		var held answer
		held.err = event.Guard(func() (err error) {
			held.images, err = p.images(ctx, want)
			return err
		})
		holders <- held
	}()
	platform, err := dask.Running(ctx, p.session.cluster, namespacesOf(want.config))
	held := <-holders
	if err := errors.Join(held.err, err); err != nil {
		return nil, event.Transient(err)
	}
	answers, silent, err := p.ask(ctx, want, platform.Gateways)
	if err != nil {
		return nil, event.Transient(err)
	}
	containers := make([]proof.Container, len(platform.Containers))
	for i, c := range platform.Containers {
		containers[i] = proof.Container{ContainerRef: event.ContainerRef{
			PodRef: event.PodRef{Pod: event.Name(c.Pod), Namespace: event.Name(c.Namespace)}, Container: event.Name(c.Name)},
			Node: c.Node, Image: c.Image, ID: c.ImageID, Dask: c.Dask != ""}
	}
	links := proof.Chain(held.images, containers, answers)
	found := &finding{old: proof.Old(held.images, platform.Clusters), silent: silent}
	if found.links, err = p.ours(ctx, want.config, links); err != nil {
		return nil, event.Transient(err)
	}
	for _, a := range answers {
		if !slices.ContainsFunc(links, func(l event.Link) bool { return l.Place == event.AtGateway && string(l.Name) == a.From }) {
			found.foreign = append(found.foreign, a)
		}
	}
	return found, nil
}

// ours leaves out pods of releases that are somebody else's, whose images may have the same names, and tells apart those that nothing replaces.
func (p *prover) ours(ctx context.Context, c *config.Config, links event.Links) (kept event.Links, err error) {
	for _, link := range links {
		if link.Place == event.AtPod && link.Broken() {
			origin, err := pods.OriginOf(ctx, p.session.cluster, string(link.Container.Namespace), string(link.Container.Pod))
			if err != nil {
				return nil, err
			}
			if origin.Release != "" && !slices.ContainsFunc(c.Releases, func(r config.Release) bool { return r.ID() == origin.Release }) {
				continue
			}
			link.Older = origin.NotReplaced
		}
		kept = append(kept, link)
	}
	return kept, nil
}

// images are those of devloop.yaml, and who holds them.
func (p *prover) images(ctx context.Context, want *expected) ([]proof.Image, error) {
	s := p.session
	tags := loop.Tags(want.Images)
	images := make([]proof.Image, len(tags))
	for i, image := range want.Images {
		tag := image.Tag
		images[i] = proof.Image{Name: image.Name, Ref: image.Ref, Hash: tag.TagStr()}
		if s.images.remote == nil {
			images[i].Built = s.built(tag)
			continue
		}
		// What was built is not compared: somebody else may have built the same inputs and pushed it before.
		images[i].Holders = []proof.Holder{{Place: event.AtRegistry, Name: tag.RegistryStr(), IDs: pushed(s.images.remote.Digest(tag), s.builders.registry.IDs(tag))}}
	}
	if s.images.remote != nil {
		return images, nil
	}
	held, err := s.nodes.Inspect(ctx, tags)
	for _, h := range held {
		at := slices.Index(tags, h.Tag)
		images[at].Holders = append(images[at].Holders, proof.Holder{Place: event.AtNode, Name: h.Node, IDs: h.IDs})
	}
	return images, err
}

// pushed are the IDs of an image in a registry, of which devloop's own may hold a copy.
func pushed(digest string, own []string) []string {
	switch {
	case digest == "":
		return nil
	case slices.Contains(own, digest):
		return append([]string{digest}, own...)
	}
	return []string{digest}
}

// built are the IDs of what was built under a tag and brought to the nodes, as far as this devloop or an earlier one has seen it built: that in devloop's
// registry is the newest, since a build in the node takes it away.
func (s *Session) built(tag name.Tag) []string {
	id, own := s.builders.main.Built(tag), s.builders.registry.IDs(tag)
	switch {
	case slices.Contains(own, id):
		return append([]string{id}, own...)
	case len(own) > 0:
		return own
	case id != "":
		return []string{id}
	}
	return nil
}

// chain answers devloop status --chain: it looks now.
func (s *Session) chain(ctx context.Context) (any, error) {
	want := s.prover.current()
	if want == nil {
		return nil, errors.New("a run is under way, or the last one failed while it changed what runs")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errors.New("the cluster did not say in time what runs"))
	defer cancel()
	found, err := s.prover.look(ctx, want)
	if err != nil {
		return nil, err
	}
	chain := status.Chain{Checked: time.Now(), Links: found.links}
	if err := s.options.Secrets.Error(proof.Broken(found.links)); err != nil {
		chain.Error, chain.Hint = err.Error(), event.Hint(err)
	}
	return chain, nil
}
