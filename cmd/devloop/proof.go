// The proof that what runs is what was built: asked for at the end of each run, whenever pods are replaced after it, and by devloop status --chain.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
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
)

// prover knows what ought to run, and looks whether it does. It belongs to a session.
type prover struct {
	session  *session
	replaced chan struct{} // holds something if pods were replaced

	looking sync.Mutex // one check at a time
	told    told

	mu  sync.Mutex
	aim *aim // nil while it is not known: before the first run, and while one changes what runs
}

// aim is what ought to run, and how it is asked.
type aim struct {
	config *config.Config
	tags   []name.Tag
	ways   []way
}

// told is what has been said, so that nothing is said twice.
type told struct {
	whole  string          // the images
	broken string          // the error
	old    map[string]bool // Dask clusters
}

func newProver(s *session) *prover { return &prover{session: s, replaced: make(chan struct{}, 1)} }

// proofStage is the last stage of a run.
type proofStage struct {
	*prover
	config *config.Config
}

// Check looks until the chain is whole, for as long as what follows a rollout may take. A broken one may be mended without a change of a file.
func (p proofStage) Check(ctx context.Context, sink event.Sink, tags []name.Tag) error {
	target := &aim{config: p.config, tags: tags, ways: p.session.forwards.ways()}
	p.mu.Lock()
	p.aim = target
	p.mu.Unlock()
	return event.Transient(p.check(ctx, sink, target))
}

// Follow hands on what ran well.
func (p proofStage) Follow(tags []name.Tag) { p.session.libraries.follow(p.config, tags) }

// forget is for who is about to change what runs.
func (p *prover) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aim = nil
}

func (p *prover) current() *aim {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.aim
}

// run checks again after pods were replaced, until ctx ends.
func (p *prover) run(ctx context.Context, sink event.Sink) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.replaced:
		}
		for since := time.Now(); time.Since(since) < replacedLimit; {
			select {
			case <-ctx.Done():
				return
			case <-p.replaced:
				continue
			case <-time.After(replacedQuiet):
			}
			break
		}
		if target := p.current(); target != nil { // else a run is going to check
			_ = p.check(ctx, p.beside(target, sink), target) // it was told
		}
	}
}

// beside returns a Sink for a check that belongs to no run. It tells nothing once something else is aimed at, and no error twice. That the API server
// is away is a detail: pods are told of anew when it is back.
func (p *prover) beside(target *aim, sink event.Sink) event.Sink {
	return func(e event.Event) {
		if p.current() != target {
			return
		}
		if e.Phase == event.Failed {
			if e.Field("links") == nil {
				e.Phase = event.Detailed
			}
			e.Repeated = e.Err != nil && e.Err.Error() == p.told.broken
		}
		sink(e)
	}
}

// check tells the chain, and which Dask clusters run older images. The error is that of a broken chain, or why it could not be looked at.
func (p *prover) check(ctx context.Context, sink event.Sink, target *aim) error {
	p.looking.Lock()
	defer p.looking.Unlock()
	if len(target.tags) == 0 {
		return nil
	}
	say := sink.For("proof")
	var found finding
	err := say.Look(ctx, event.ChainChecked, func(ctx context.Context) (fields []any, err error) {
		for began := time.Now(); ; {
			if found, err = p.look(ctx, target); err == nil {
				err = proof.Broken(found.links)
			}
			if err == nil || time.Since(began) >= lagging || err.Error() == p.told.broken {
				break
			}
			select {
			case <-time.After(proofInterval):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if found.links == nil {
			return nil, err
		}
		return []any{"links", found.links}, err
	})
	if found.links == nil || ctx.Err() != nil {
		return err
	}
	images := tagNames(target.tags)
	switch {
	case err != nil:
		p.told.whole, p.told.broken = "", err.Error()
	case p.told.whole != images:
		say.Note(event.ChainWhole, "images", images)
		p.told.whole, p.told.broken = images, ""
	}
	p.tellOld(say, found.old)
	return err
}

// tellOld tells which Dask clusters run older images, if it is not what was told.
func (p *prover) tellOld(say event.Stage, old event.DaskClusters) {
	names := map[string]bool{}
	fresh := false
	for _, c := range old {
		name := c.Namespace + "/" + c.Name
		names[name] = true
		fresh = fresh || !p.told.old[name]
	}
	switch {
	case fresh:
		say.Warn(event.ClustersOld, nil, "clusters", old, "stop with", "devloop clusters stop --stale")
	case len(names) != len(p.told.old): // some have ended
		say.Detail(event.ClustersOld, "clusters", old)
	}
	p.told.old = names
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
	links event.Links
	old   event.DaskClusters
}

// look asks the nodes, the API server and the gateways, side by side.
func (p *prover) look(ctx context.Context, target *aim) (finding, error) {
	type answer struct {
		images []proof.Image
		err    error
	}
	holders := make(chan answer, 1)
	go func() {
		images, err := p.images(ctx, target)
		holders <- answer{images, err}
	}()
	platform, err := p.session.cluster.Running(ctx, namespacesOf(target.config))
	held := <-holders
	if err := errors.Join(held.err, err); err != nil {
		return finding{}, event.Transient(err)
	}
	answers, err := p.ask(ctx, target, platform.Gateways)
	if err != nil {
		return finding{}, event.Transient(err)
	}
	containers := make([]proof.Container, len(platform.Containers))
	for i, c := range platform.Containers {
		containers[i] = proof.Container{Of: c.Namespace + "/" + c.Pod + "/" + c.Name, Node: c.Node, Image: c.Image, ID: c.ImageID, Dask: c.Dask != ""}
	}
	links := proof.Chain(held.images, containers, answers)
	if links, err = p.ours(ctx, target.config, links); err != nil {
		return finding{}, event.Transient(err)
	}
	return finding{links, proof.Old(held.images, platform.Clusters)}, nil
}

// ours leaves out pods of releases that are somebody else's: their images may have the same names.
func (p *prover) ours(ctx context.Context, c *config.Config, links event.Links) (kept event.Links, err error) {
	for _, link := range links {
		if link.Place == event.AtPod && link.Broken() {
			parts := strings.Split(link.Name, "/")
			release, err := p.session.cluster.ReleaseOf(ctx, parts[0], parts[1])
			if err != nil {
				return nil, err
			}
			if release != "" && !slices.ContainsFunc(c.Releases, func(r config.Release) bool { return r.Namespace+"/"+r.Name == release }) {
				continue
			}
		}
		kept = append(kept, link)
	}
	return kept, nil
}

// images are those of devloop.yaml, and who holds them.
func (p *prover) images(ctx context.Context, target *aim) ([]proof.Image, error) {
	s := p.session
	refs := references(target.config, target.tags, s.push)
	images := make([]proof.Image, len(target.tags))
	for i, tag := range target.tags {
		of := target.config.Images[i].Name
		images[i] = proof.Image{Name: of, Ref: refs[of], Hash: tag.TagStr(), Built: s.built(tag)}
		if s.push != nil {
			images[i].Holders = []proof.Holder{{Place: event.AtRegistry, Name: tag.RegistryStr(), IDs: pushed(s.push.Digest(tag), s.registry.Identity(tag))}}
		}
	}
	if s.push != nil {
		return images, nil
	}
	held, err := s.nodes.Held(ctx, target.tags)
	for _, h := range held {
		at := slices.Index(target.tags, h.Tag)
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

// built are the IDs of what was built under a tag, as far as this devloop or an earlier one has seen it built on this machine.
func (s *session) built(tag name.Tag) []string {
	id, own := s.builder.Built(tag), s.registry.Identity(tag)
	switch {
	case id == "":
		return own
	case slices.Contains(own, id):
		return append([]string{id}, own...)
	}
	return []string{id}
}

// namespacesOf are those that releases are in.
func namespacesOf(c *config.Config) (namespaces []string) {
	for _, r := range c.Releases {
		if !slices.Contains(namespaces, r.Namespace) {
			namespaces = append(namespaces, r.Namespace)
		}
	}
	return namespaces
}

// way is a forward that may lead to a gateway.
type way struct {
	kind, namespace, name string
	url                   string // of the gateway's API, if it is one
}

// health is the path at which a Dask Gateway tells that it is up. What comes before it is the gateway's prefix.
const health = "/api/health"

// ways are the forwards that are open.
func (f *forwards) ways() []way {
	ways := make([]way, len(f.list))
	for i, o := range f.list {
		kind, name := o.Target()
		prefix, _ := strings.CutSuffix(o.Ready, health)
		if prefix == o.Ready { // it asks for something else
			prefix = ""
		}
		ways[i] = way{kind, o.Namespace, name, "http://" + localHost(o.bound.Addr()) + prefix + "/api/v1/options"}
	}
	return ways
}

// ask asks each gateway that a forward leads to for the image that new clusters get.
func (p *prover) ask(ctx context.Context, target *aim, gateways []deploy.Gateway) (answers []proof.Answer, err error) {
	for _, w := range target.ways {
		at := slices.IndexFunc(gateways, func(g deploy.Gateway) bool {
			return g.Kind == w.kind && g.Namespace == w.namespace && g.Name == w.name
		})
		if at < 0 {
			continue
		}
		image, err := gatewayImage(ctx, w.url)
		if err != nil {
			return nil, err
		}
		if image == "" {
			continue
		}
		answer := proof.Answer{From: strings.TrimSuffix(w.url, "/api/v1/options"), Image: image}
		for _, r := range target.config.Releases {
			if r.Namespace+"/"+r.Name == gateways[at].Release {
				answer.Wants = r.Images()
			}
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// optionsLength is how long the answer of a gateway may be, in bytes.
const optionsLength = 1 << 20

// gatewayImage asks a gateway for its cluster options (GET /api/v1/options) and returns the default of the one named image; "" where there is none, or
// where the gateway tells it only to users whom it knows.
func gatewayImage(ctx context.Context, url string) (image string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = event.WithHint(fmt.Errorf("ask the gateway what it starts: %w", err), "look at the logs of the gateway's pods: devloop logs")
		}
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	request.SetBasicAuth("devloop", "") // its simple authenticator takes any name
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }() // only read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return "", nil
	default:
		return "", fmt.Errorf("%s answers %s", url, response.Status)
	}
	var said struct {
		Options []struct {
			Field   string `json:"field"`
			Default any    `json:"default"`
			Spec    struct {
				Type string `json:"type"`
			} `json:"spec"`
		} `json:"cluster_options"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, optionsLength)).Decode(&said); err != nil {
		return "", fmt.Errorf("%s: %w", url, err)
	}
	for _, o := range said.Options {
		if text, ok := o.Default.(string); ok && o.Field == "image" && o.Spec.Type == "string" { // that of a list is a label
			return text, nil
		}
	}
	return "", nil
}

// chain answers devloop status --chain: it looks now.
func (s *session) chain(ctx context.Context) (any, error) {
	target := s.prover.current()
	if target == nil {
		return nil, errors.New("a run is under way, or none has got that far")
	}
	found, err := s.prover.look(ctx, target)
	if err != nil {
		return nil, err
	}
	chain := status.Chain{Checked: time.Now(), Links: found.links}
	if err := proof.Broken(found.links); err != nil {
		chain.Error, chain.Hint = err.Error(), event.Hint(err)
	}
	return chain, nil
}
