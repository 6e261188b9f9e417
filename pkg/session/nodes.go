package session

import (
	"context"
	"errors"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
)

// nodes is the node stage.
type nodes struct {
	session *Session
	config  *config.Config
}

func (n nodes) Missing(ctx context.Context, images []*loop.Image) (missing []*loop.Image, err error) {
	tags, err := n.session.images.Missing(ctx, loop.Tags(images))
	if err != nil {
		return nil, err
	}
	addDigests(images, n.session.push)
	for _, image := range images {
		if slices.Contains(tags, image.Tag) {
			missing = append(missing, image)
		}
	}
	return missing, nil
}

func (n nodes) Load(ctx context.Context, sink event.Sink, images []*loop.Image) error {
	var wanted []node.Wanted
	for _, image := range images {
		wanted = append(wanted, node.Wanted{Name: image.Name, Tag: image.Tag})
	}
	err := n.session.images.Load(ctx, sink, n.session.origin, n.session.registry, wanted)
	if err == nil {
		addDigests(images, n.session.push)
	}
	return err
}

// addDigests has pods name images by their digests, where a registry is known to hold them. A nil
// push knows none.
func addDigests(images []*loop.Image, push *node.RemoteRegistry) {
	if push == nil {
		return
	}
	for _, image := range images {
		if digest := push.Digest(image.Tag); digest != "" {
			image.Ref = image.Tag.String() + "@" + digest
		}
	}
}

// Report reports once of each image of the target which nodes hold it.
func (n nodes) Report(ctx context.Context, sink event.Sink, target *loop.Target) {
	const key = "images on nodes"
	s, refs, images := n.session, []string(nil), map[string]*loop.Image{}
	for _, image := range target.Images {
		ref := image.Tag.String()
		refs = append(refs, ref)
		images[ref] = image
	}
	added, _ := s.reported.ChangedSet(key, refs)
	if len(added) == 0 || s.push != nil {
		return
	}
	var tags []name.Tag
	for _, ref := range added {
		tags = append(tags, images[ref].Tag)
	}
	stage := sink.For("node")
	held, err := s.nodes.Inspect(ctx, tags)
	if err != nil {
		s.reported.Forget(key)
		stage.Detail("what the nodes hold could not be asked", "reason", err.Error())
		return
	}
	for _, h := range held {
		if h.Digest != "" {
			stage.Detail(event.ImageHeld, event.NodeImage{Image: images[h.Tag.String()].Event(), Node: event.Name(h.Node),
				Digest: h.Digest, ID: h.IDs[0]})
		}
	}
}

// Prune removes images that devloop made and that are neither among the newest of their name nor named by a pod. What cannot be
// removed now is tried again after the next run: it is no reason for a run to fail.
func (n nodes) Prune(ctx context.Context, sink event.Sink, target *loop.Target) {
	say := sink.For("node")
	old, err := n.outdated(loop.Tags(target.Images))
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
