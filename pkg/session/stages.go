// The stages as a run sees them: each holds its part of one reading of devloop.yaml.
package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
)

// images is the build stage.
type images struct {
	session *Session
	config  *config.Config

	mu     sync.Mutex
	inputs map[name.Tag]build.Input // all that were ever hashed

	giving sync.Mutex // held while a base image is brought to the node
}

func (i *images) Hash(ctx context.Context) (tags []name.Tag, files []loop.Path, err error) {
	var errs []error
	for _, image := range i.config.Images {
		input, err := i.session.builder.Hash(ctx, BuildInput(i.config, image))
		for _, file := range input.Files {
			files = append(files, loop.Path(file))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		i.mu.Lock()
		i.inputs[input.Tag] = input
		i.mu.Unlock()
		i.session.tellStale(input.Stale)
		tags = append(tags, input.Tag)
	}
	return tags, files, errors.Join(errs...)
}

// tellStale says once of each base image that its registry is out of reach.
func (s *Session) tellStale(refs []string) {
	s.staleMu.Lock()
	defer s.staleMu.Unlock()
	for _, ref := range refs {
		if !slices.Contains(s.stale, ref) {
			s.stale = append(s.stale, ref)
			tellStale(s.sink, ref)
		}
	}
}

func tellStale(sink event.Sink, ref string) {
	sink.For("build").Note("base image could not be looked up, what its registry said last holds", "base", ref)
}

// BuildInput is an image of devloop.yaml as the builder takes it.
func BuildInput(c *config.Config, image config.Image) build.Image {
	var secrets []build.Secret
	for _, secret := range image.Secrets {
		given := build.Secret{ID: secret.ID, Env: secret.Env}
		if secret.File != "" {
			given.File = c.Abs(inHome(secret.File))
		}
		secrets = append(secrets, given)
	}
	var agents []build.SSH
	for _, line := range image.SSH {
		id, paths, several := strings.Cut(line, "=")
		agent := build.SSH{ID: id}
		if several {
			for path := range strings.SplitSeq(paths, ",") {
				agent.Paths = append(agent.Paths, c.Abs(inHome(path)))
			}
		}
		agents = append(agents, agent)
	}
	return build.Image{
		Name:       image.Name,
		Repository: c.Repository(image.Name),
		Dockerfile: c.Abs(image.Dockerfile),
		Context:    c.Abs(image.Context),
		Target:     image.Target,
		Args:       image.Args,
		Platform:   image.Platform,
		Secrets:    secrets,
		SSH:        agents,
	}
}

func (i *images) Has(ctx context.Context, tag name.Tag) (bool, error) {
	return i.session.builder.Has(ctx, tag)
}

func (i *images) Build(ctx context.Context, sink event.Sink, tag name.Tag) error {
	if err := i.session.journal.Record(journal.Image, tag.String()); err != nil {
		return err
	}
	i.mu.Lock()
	input := i.inputs[tag]
	i.mu.Unlock()
	say := sink.For("build")
	if i.session.inNode == nil {
		return i.session.builder.Build(ctx, sink, input)
	}
	if last := i.session.nodeFailed.Load(); last != nil && time.Since(*last) < nodeRest && i.config.BuildIn != "node" {
		say.Note("image is built on this machine", "image", event.Name(tag.String()),
			"why", "the node could not a few minutes ago")
		return i.session.builder.Build(ctx, sink, input)
	}
	err := i.buildInNode(ctx, sink, input)
	if err == nil {
		return i.session.registry.Untag(tag) // an earlier build here is not what the node holds now
	}
	if !event.IsTransient(err) {
		return err
	}
	if i.config.BuildIn == "node" || ctx.Err() != nil {
		return fmt.Errorf("build in the node: %w", err)
	}
	say.Warn("image is built on this machine, since the node cannot", err, "image", event.Name(tag.String()))
	if err := i.session.builder.Build(ctx, sink, input); err != nil {
		return err
	}
	now := time.Now()
	i.session.nodeFailed.Store(&now)
	return nil
}

// nodeRest is how long nothing is built in a node after it could not and this machine could, as in one without network: each try may take it
// half a minute.
const nodeRest = 10 * time.Minute

// giveBases gives the node the base images that it lacks, one image of ours after the other, since
// they share them.
func (i *images) giveBases(ctx context.Context, sink event.Sink, input build.Input, lacking []name.Tag) error {
	i.giving.Lock()
	defer i.giving.Unlock()
	if len(lacking) == 0 {
		return nil
	}
	lacking, err := i.session.inNode.Lacking(ctx, input)
	if err != nil {
		return err
	}
	// Without it, the image can still be built here.
	return event.Transient(i.session.nodes.Give(ctx, sink, i.session.origin, i.session.registry, lacking))
}

// buildInNode sees to it that the node has the base images that the tag stands for, and builds.
func (i *images) buildInNode(ctx context.Context, sink event.Sink, input build.Input) error {
	lacking, err := i.session.inNode.Lacking(ctx, input)
	if err != nil {
		return err
	}
	if err := i.giveBases(ctx, sink, input, lacking); err != nil {
		return err
	}
	select {
	case i.session.building <- struct{}{}:
		defer func() { <-i.session.building }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return i.session.inNode.Build(ctx, sink, input)
}

// buildsInNode is how many images are built side by side in a node, to which each needs an ssh session.
const buildsInNode = 4

// nodes is the node stage.
type nodes struct {
	session *Session
	config  *config.Config
}

func (n nodes) Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error) {
	return n.session.images.Missing(ctx, tags)
}

func (n nodes) Give(ctx context.Context, sink event.Sink, tags []name.Tag) error {
	return n.session.images.Give(ctx, sink, n.session.origin, n.session.registry, tags)
}

// Tell tells of each image once, for as long as it is the one that is wanted.
func (n nodes) Tell(ctx context.Context, sink event.Sink, tags []name.Tag) {
	s := n.session
	s.toldMu.Lock()
	defer s.toldMu.Unlock()
	maps.DeleteFunc(s.held, func(tag name.Tag, _ bool) bool { return !slices.Contains(tags, tag) }) // if they come back, it is asked anew
	untold := slices.DeleteFunc(slices.Clone(tags), func(tag name.Tag) bool { return s.held[tag] })
	if len(untold) == 0 || s.push != nil {
		return
	}
	say := sink.For("node")
	held, err := s.nodes.Held(ctx, untold)
	if err != nil {
		say.Detail("what the nodes hold could not be asked", "reason", err.Error())
		return
	}
	for _, h := range held {
		if h.Digest != "" {
			say.Detail(event.ImageHeld, "image", event.Name(h.Tag.String()), "node", event.Name(h.Node),
				"digest", h.Digest, "id", h.IDs[0])
		}
		s.held[h.Tag] = true
	}
}

// Prune removes images that devloop made and that are neither among the newest of their name nor named by a pod. What cannot be
// removed now is tried again after the next run: it is no reason for a run to fail.
func (n nodes) Prune(ctx context.Context, sink event.Sink, tags []name.Tag) {
	say := sink.For("node")
	old, err := n.outdated(tags)
	if err == nil && len(old) > 0 {
		var used map[string]bool
		if used, err = n.session.cluster.ImagesInUse(ctx); err == nil {
			old = slices.DeleteFunc(old, func(tag name.Tag) bool { return used[tag.Name()] })
		}
	}
	if err != nil {
		say.Warn("old images could not be looked for, they stay until the next run", err)
		return
	}
	if len(old) == 0 {
		return
	}
	before, beforeErr := n.session.nodes.Free(ctx)
	for _, tag := range old {
		if err := n.remove(ctx, tag); err != nil {
			say.Warn("old image could not be removed, it stays until the next run", err,
				"image", event.Name(tag.String()))
			continue
		}
		say.Note("old image removed", "image", event.Name(tag.String()))
	}
	if after, err := n.session.nodes.Free(ctx); err == nil && beforeErr == nil && after > before { // others use the disk, too
		say.Note("room made on the nodes", "freed", console.Size(after-before), "free", console.Size(after))
	}
}

// outdated makes tags the newest in the journal, and returns what comes behind the newest few of each name.
func (n nodes) outdated(tags []name.Tag) ([]name.Tag, error) {
	j := n.session.journal
	kept := map[string]int{} // by repository
	names := j.Names(journal.Image)
	for _, tag := range tags {
		kept[tag.RepositoryStr()]++
		if len(names) >= len(tags) && slices.Contains(names[len(names)-len(tags):], tag.String()) {
			continue // among the newest already
		}
		if err := j.Record(journal.Image, tag.String()); err != nil {
			return nil, err
		}
	}
	var old []name.Tag
	for _, known := range slices.Backward(j.Names(journal.Image)) {
		tag, err := name.NewTag(known)
		if err != nil {
			return nil, err
		}
		if slices.Contains(tags, tag) {
			continue
		}
		if kept[tag.RepositoryStr()]++; kept[tag.RepositoryStr()] > n.config.KeepImages {
			old = append(old, tag)
		}
	}
	return old, nil
}

func (n nodes) remove(ctx context.Context, tag name.Tag) error {
	// Wherever it may be: what is configured now need not be what was when it was made. A registry that is pushed to is left as it is.
	if err := n.session.nodes.Remove(ctx, tag); err != nil {
		return err
	}
	if err := n.session.host.Remove(ctx, tag); err != nil {
		return err
	}
	if err := n.session.registry.Prune(tag); err != nil {
		return err
	}
	return n.session.journal.Forget(journal.Image, tag.String())
}

// platform is the deploy stage.
type platform struct {
	session *Session
	config  *config.Config
}

func (p platform) Files() []string { return ReleaseFiles(p.config) }

// ReleaseFiles are the files and folders that releases are made from.
func ReleaseFiles(c *config.Config) []string {
	var files []string
	for _, r := range releases(c) {
		files = append(files, r.Files()...)
	}
	return files
}

func (p platform) Validate(ctx context.Context, sink event.Sink, tags []name.Tag) error {
	p.session.syncer.want(p.config, tags) // beside the build, as all here is
	list, err := ResolvedReleases(p.config, tags, p.session.push)
	if err != nil {
		return err
	}
	return LocateError(p.config, p.session.deployer.Validate(ctx, sink, list))
}

// Verify tries each image in the namespace where it is going to run.
func (p platform) Verify(ctx context.Context, sink event.Sink, tags []name.Tag) error {
	refs := references(p.config, tags, p.session.push)
	trials := make([]deploy.Trial, len(p.config.Verify))
	for i, v := range p.config.Verify {
		trials[i] = deploy.Trial{Image: refs[v.Image], Name: v.Image, Purpose: deploy.PurposeVerify, Command: v.Command, Args: v.Args,
			Namespace: v.Namespace, Near: namespaceOf(p.config, v.Image), Timeout: v.Timeout}
	}
	return p.session.deployer.Verify(ctx, sink, trials)
}

// namespaceOf is that of the first release whose values name the image, "" if none does.
func namespaceOf(c *config.Config, image string) string {
	for _, r := range c.Releases {
		if slices.Contains(r.Images(), image) {
			return r.Namespace
		}
	}
	return ""
}

func (p platform) Apply(ctx context.Context, sink event.Sink, tags []name.Tag) error {
	list, err := ResolvedReleases(p.config, tags, p.session.push)
	if err != nil {
		return err
	}
	p.session.prover.forget()
	return p.session.deployer.Apply(ctx, sink, list, p.config.Timeouts.Rollout)
}

func (p platform) Wait(ctx context.Context, sink event.Sink) error {
	var health []deploy.Health
	for _, h := range p.config.Health {
		health = append(health, deploy.Health{Namespace: h.Namespace, Selector: h.Deployment})
	}
	return p.session.deployer.Wait(ctx, sink, releases(p.config), health, p.config.Timeouts.Rollout)
}

// releases are those of devloop.yaml, with templates that are not filled in.
func releases(c *config.Config) []deploy.Release {
	list := make([]deploy.Release, 0, len(c.Releases))
	for _, r := range c.Releases {
		list = append(list, ReleaseOf(c, r))
	}
	return list
}

// references are how pods name these images, which are in devloop.yaml's order, by their names there. Images that are known to be in a registry
// are named by their digest, too.
func references(c *config.Config, tags []name.Tag, push *node.Push) map[string]string {
	refs := map[string]string{}
	for i, image := range c.Images {
		refs[image.Name] = tags[i].String()
		if push == nil {
			continue
		}
		if digest := push.Digest(tags[i]); digest != "" {
			refs[image.Name] += "@" + digest
		}
	}
	return refs
}

// ResolvedReleases are the releases of devloop.yaml for these images.
func ResolvedReleases(c *config.Config, tags []name.Tag, push *node.Push) ([]deploy.Release, error) {
	refs := references(c, tags, push)
	list := make([]deploy.Release, 0, len(c.Releases))
	for _, r := range c.Releases {
		filled, err := r.Resolve(refs)
		if err != nil {
			return nil, err
		}
		list = append(list, ReleaseOf(c, filled))
	}
	return list, nil
}

// ReleaseOf is one of devloop.yaml as the deployer takes it.
func ReleaseOf(c *config.Config, r config.Release) deploy.Release {
	made := deploy.Release{
		Name: r.Name, Chart: r.Chart, Repo: r.Repo, Version: r.Version, SHA256: r.SHA256,
		Namespace: r.Namespace, CreateNamespace: r.CreateNamespace, DependsOn: r.DependsOn,
		InlineValues: r.InlineValues, Set: r.Set, SetString: r.SetString,
		Before: commands(r.Hooks.Before), After: commands(r.Hooks.After),
		SecretValues: r.SecretValues,
		Rollback:     r.OnFailure == "rollback",
	}
	if r.ChartIsLocal() {
		made.Chart = c.Abs(r.Chart)
	}
	for _, file := range r.Values {
		made.ValuesFiles = append(made.ValuesFiles, c.Abs(file))
	}
	return made
}

func commands(hooks []config.Hook) []deploy.Command {
	list := make([]deploy.Command, len(hooks))
	for i, hook := range hooks {
		list[i] = deploy.Command{Args: hook.Command, Timeout: hook.Timeout}
	}
	return list
}

// LocateError gives values that a chart forbids their place in devloop.yaml, where that is what gives them.
func LocateError(c *config.Config, err error) error {
	parts := event.Joined(err)
	if parts == nil {
		var wrong *deploy.ValueError
		if errors.As(err, &wrong) && wrong.In != "" {
			return c.WrongValue(wrong.Release, wrong.In, wrong.Key, fmt.Sprintf("value %s: %s", strings.Join(wrong.Path, "."), wrong.Message), event.Hint(err))
		}
		return err
	}
	for i := range parts {
		parts[i] = LocateError(c, parts[i])
	}
	return errors.Join(parts...)
}

// RemoveImages removes all images that devloop has built for the project.
func (s *Session) RemoveImages(ctx context.Context) error {
	say := s.sink.For("cleanup")
	var errs []error
	for _, known := range s.journal.Names(journal.Image) {
		tag, err := name.NewTag(known)
		if err == nil {
			err = nodes{session: s}.remove(ctx, tag)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		say.Note("image removed", "image", event.Name(known))
	}
	return errors.Join(errs...)
}
