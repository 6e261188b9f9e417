package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
)

// removeTimeout is how long the removal of one image may hold up the next run.
const removeTimeout = 30 * time.Second

// maxUnsure is how many images of a name stay in the journal while it is not known whether they are
// there. Where there is no Docker, these are builds that failed.
const maxUnsure = 50

// imageStore holds the images that pods run: the nodes, or a registry that they pull from.
type imageStore interface {
	// Missing returns those of tags that are not there.
	Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error)
	Load(ctx context.Context, sink event.Sink, source node.Source, registry *node.Registry, images []node.Wanted) error
}

// images are the project's images outside of where they are built.
type images struct {
	store    imageStore
	remote   *node.RemoteRegistry // the store if images are pushed, else nil
	nodes    *node.Cluster
	registry *node.Registry
	builders *builders
	cluster  *kube.Cluster
	journal  *journal.Journal
	reported event.Changes
	pruning  pruning
}

func newImages(e *environment, b *builders, c *config.Config) *images {
	i := &images{store: e.nodes, nodes: e.nodes, registry: b.registry, builders: b, cluster: e.cluster, journal: b.journal}
	if c.Push != "" {
		i.remote = node.NewRemoteRegistry(c.PushPlain())
		i.store = i.remote
	}
	return i
}

// nodeStage is the node stage of a run.
type nodeStage struct {
	*images
	config *config.Config
}

// Missing asks first whether it is still the same cluster: nothing is built in, or loaded into, the
// nodes of another one.
func (n nodeStage) Missing(ctx context.Context, images []*loop.Image) (missing []*loop.Image, err error) {
	if err := n.cluster.Ping(ctx); err != nil {
		return nil, err
	}
	tags, err := n.store.Missing(ctx, loop.Tags(images))
	if err != nil {
		return nil, err
	}
	addDigests(images, n.remote)
	for _, image := range images {
		if slices.Contains(tags, image.Tag) {
			missing = append(missing, image)
		}
	}
	return missing, nil
}

// Load asks first whether the image is there: this machine's Docker may be the node's own, and an
// image that is built from this one may have had it loaded.
func (n nodeStage) Load(ctx context.Context, sink event.Sink, image *loop.Image) error {
	unlock, err := n.builders.loads.lock(ctx, image.Tag)
	if err != nil {
		return err
	}
	defer unlock()
	missing, err := n.Missing(ctx, []*loop.Image{image})
	if err != nil || len(missing) == 0 {
		return err
	}
	wanted := []node.Wanted{{Name: image.Name, Tag: image.Tag}}
	if err := n.store.Load(ctx, sink, n.builders.source, n.registry, wanted); err != nil {
		return err
	}
	addDigests(missing, n.remote)
	return nil
}

// addDigests adds the digests of images that the registry is known to hold. A nil registry knows
// none.
func addDigests(images []*loop.Image, registry *node.RemoteRegistry) {
	if registry == nil {
		return
	}
	for _, image := range images {
		if digest := registry.Digest(image.Tag); digest != "" {
			image.Ref = image.Tag.String() + "@" + digest
		}
	}
}

// Report reports once of each image of the target which nodes hold it.
func (n nodeStage) Report(ctx context.Context, sink event.Sink, target *loop.Target) {
	const key = "images on nodes"
	refs, images := []string(nil), map[string]*loop.Image{}
	for _, image := range target.Images {
		ref := image.Tag.String()
		refs = append(refs, ref)
		images[ref] = image
	}
	added, _ := n.reported.ChangedSet(key, refs)
	if len(added) == 0 || n.remote != nil {
		return
	}
	var tags []name.Tag
	for _, ref := range added {
		tags = append(tags, images[ref].Tag)
	}
	stage := sink.Stage("node")
	found, err := n.nodes.Inspect(ctx, tags)
	if err != nil {
		n.reported.Forget(key)
		stage.Detail("the nodes could not be asked for their images", "reason", err.Error())
		return
	}
	for _, image := range found {
		if image.Digest != "" {
			stage.Detail(event.ImageOnNode, event.NodeImage{Image: images[image.Tag.String()].Event(),
				Node: event.Name(image.Node), Digest: image.Digest, ID: image.IDs[0]})
		}
	}
}

// Prune removes older images than the target's beside the loop.
func (n nodeStage) Prune(ctx context.Context, sink event.Sink, target *loop.Target) {
	n.pruning.begin(ctx, func(ctx context.Context) { n.prune(ctx, sink, target) })
}

// prune removes images that devloop built, unless they are among the newest of their name or a pod
// names them. An image that cannot be removed fails no run: the next one tries again.
func (n nodeStage) prune(ctx context.Context, sink event.Sink, target *loop.Target) {
	n.pruning.busy.Lock()
	defer n.pruning.busy.Unlock()
	stage := sink.Stage("node")
	found, err := n.outdated(ctx, loop.Tags(target.Images))
	if err == nil && len(found.old) > 0 {
		var used map[string]bool
		if used, err = n.cluster.ImagesInUse(ctx); err == nil {
			found.old = slices.DeleteFunc(found.old, func(tag name.Tag) bool { return used[tag.Name()] })
		}
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		stage.Warn("old images could not be listed; the next run tries again", err)
		return
	}
	finish := func(tag name.Tag, remove func(context.Context, name.Tag) error) (ok bool) {
		// The node would go on after ctx has ended, beside a run that may need the image.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		err := remove(ctx, tag)
		if err != nil {
			stage.Warn("old image could not be removed, it stays until the next run", err,
				"image", event.Name(tag.String()))
		}
		return err == nil
	}
	for _, tag := range found.gone {
		if ctx.Err() != nil {
			return
		}
		finish(tag, n.forget)
	}
	remove := n.remove
	if found.unsure { // Docker may have it, too
		remove = n.removeCopies
	}
	for _, tag := range found.old {
		if ctx.Err() != nil {
			return
		}
		if finish(tag, remove) {
			stage.Note("old image removed", "image", event.Name(tag.String()))
		}
	}
}

// outdatedImages are images of the journal that newer ones have replaced.
type outdatedImages struct {
	old    []name.Tag // are to be removed
	gone   []name.Tag // were never made, or removed by somebody else
	unsure bool       // this machine's Docker may have them, too, and does not answer
}

// outdated makes tags the newest in the journal, and returns all but the newest few of each name.
// Only images that are there count: the journal also has those whose build failed, and those that
// somebody else removed. These are gone, once newer ones are in it: maxUnsure of them, where this
// machine's Docker may have them and does not answer.
func (n nodeStage) outdated(ctx context.Context, tags []name.Tag) (found outdatedImages, err error) {
	recorded, err := n.recordNewest(tags)
	if err != nil {
		return found, err
	}
	all := map[string]int{} // by repository
	for _, tag := range recorded {
		all[tag.RepositoryStr()]++
	}
	few := func(tag name.Tag) bool { return all[tag.RepositoryStr()] <= n.config.KeepImages }
	if recorded = slices.DeleteFunc(recorded, few); len(recorded) == 0 {
		return found, nil
	}
	var there map[name.Tag]bool
	if there, found.unsure, err = n.there(ctx, recorded); err != nil {
		return found, err
	}
	enough := n.config.KeepImages
	if found.unsure {
		enough = max(enough, maxUnsure)
	}
	newer, kept := map[string]int{}, map[string]int{}
	for _, tag := range slices.Backward(recorded) {
		repository := tag.RepositoryStr()
		newer[repository]++
		if there[tag] {
			kept[repository]++
		}
		switch {
		case newer[repository] <= n.config.KeepImages || slices.Contains(tags, tag): // it may be under way
		case !there[tag]:
			if newer[repository] > enough {
				found.gone = append(found.gone, tag)
			}
		case kept[repository] > n.config.KeepImages:
			found.old = append(found.old, tag)
		}
	}
	return found, nil
}

// recordNewest makes tags the newest in the journal, and returns all that are in it, the oldest
// first, but for those of other parts.
func (n nodeStage) recordNewest(tags []name.Tag) (recorded []name.Tag, err error) {
	own := map[string]bool{} // repositories
	names := n.journal.Names(journal.Image)
	for _, tag := range tags {
		own[tag.RepositoryStr()] = true
		if len(names) >= len(tags) && slices.Contains(names[len(names)-len(tags):], tag.String()) {
			continue // among the newest already
		}
		if err := n.journal.Record(journal.Image, tag.String()); err != nil {
			return nil, err
		}
	}
	for _, known := range n.journal.Names(journal.Image) {
		tag, err := name.NewTag(known)
		if err != nil {
			return nil, err
		}
		if n.config.Part == nil || own[tag.RepositoryStr()] {
			recorded = append(recorded, tag)
		}
	}
	return recorded, nil
}

// there tells of each tag whether an image is anywhere that remove looks. It is unsure if this
// machine's Docker does not answer, which devloop may do without.
func (i *images) there(ctx context.Context, tags []name.Tag) (there map[name.Tag]bool, unsure bool, err error) {
	onNodes, err := i.nodes.Present(ctx, tags)
	if err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	there = map[name.Tag]bool{}
	for _, tag := range tags {
		inDocker := false
		if !unsure {
			inDocker, err = i.builders.host.Has(ctx, tag)
			unsure = err != nil
		}
		there[tag] = inDocker || slices.Contains(onNodes, tag) || i.registry.Has(tag)
	}
	return there, unsure, nil
}

// remove removes an image, and drops it from the journal.
func (i *images) remove(ctx context.Context, tag name.Tag) error {
	if err := i.removeCopies(ctx, tag); err != nil {
		return err
	}
	return i.forget(ctx, tag)
}

// removeCopies removes an image wherever it may be: the configuration may have changed since it was
// built. A registry to which it was pushed keeps it.
func (i *images) removeCopies(ctx context.Context, tag name.Tag) error {
	if err := i.nodes.Remove(ctx, tag); err != nil {
		return err
	}
	if err := i.builders.host.Remove(ctx, tag); err != nil {
		return err
	}
	return i.registry.Prune(tag)
}

// forget removes what a killed build of an image left behind, and drops the image from the journal.
func (i *images) forget(ctx context.Context, tag name.Tag) error {
	temporary, err := build.Temporary(tag)
	if err != nil {
		return err
	}
	if err := i.nodes.Remove(ctx, temporary); err != nil {
		return err
	}
	return i.journal.Forget(journal.Image, tag.String())
}

// RemoveImages removes all images that devloop has built for the project.
func (s *Session) RemoveImages(ctx context.Context) error {
	stage := s.options.Sink.Stage("cleanup")
	var errs []error
	for _, image := range s.journal.Names(journal.Image) {
		tag, err := name.NewTag(image)
		if err == nil {
			err = s.images.remove(ctx, tag)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		stage.Note("image removed", "image", event.Name(image))
	}
	return errors.Join(errs...)
}
