package session

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/proof"
)

// filesTimeout is for what all containers hold, which may be many files.
const filesTimeout = time.Minute

// inspector finds out where the images of a run are, and what runs them.
type inspector struct {
	cluster  *kube.Cluster
	builder  *build.Builder
	registry *node.Registry // that nodes load from
	nodes    *node.Cluster
	push     *node.RemoteRegistry // that images are pushed to; nil if nodes load them instead
	// files returns the synced files of containers that run the images of a target, or others that
	// differ from those by synced files alone.
	files func(context.Context, target) ([]proof.Files, error)
}

// finding is the result of an inspection.
type finding struct {
	links    event.Links
	old      event.DaskClusters
	foreign  []proof.Answer // of gateways that start an image of no link
	outdated []outdatedGateway
	silent   []string // releases whose gateway does not name its image, and why
}

// outdatedGateway is a gateway that gives new clusters the image of other inputs, while none of its
// pods starts or ends.
type outdatedGateway struct {
	dask.Gateway
	is, want string // tags
}

// inspect asks the nodes, the API server and the gateways. Its errors are transient.
func (i inspector) inspect(ctx context.Context, want *expected) (*finding, error) {
	at := proof.Findings{Named: want.named}
	var platform dask.Platform
	group, groupCtx := event.NewGroup(ctx)
	group.Go(func() error { return i.cluster.Ping(groupCtx) }) // nothing is reported of another cluster
	group.Go(func() (err error) {
		at.Images, err = i.images(groupCtx, want)
		return err
	})
	group.Go(func() (err error) {
		at.Files, err = i.syncedFiles(groupCtx, want.target)
		return err
	})
	found := &finding{}
	var answers []answer
	group.Go(func() (err error) {
		if platform, err = dask.Running(groupCtx, i.cluster, want.namespaces); err != nil {
			return err
		}
		answers, found.silent, err = i.askGateways(groupCtx, want, &platform)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, event.Transient(err)
	}
	for _, c := range platform.Containers {
		at.Containers = append(at.Containers, proof.Container{ContainerRef: c.ContainerRef, Node: c.Node, Image: c.Image,
			ID: c.ID, Cluster: c.Cluster})
	}
	for _, a := range answers {
		at.Answers = append(at.Answers, a.Answer)
	}
	links := proof.Chain(at)
	found.old = proof.Old(at, platform.Clusters)
	for _, a := range answers {
		linked := slices.IndexFunc(links, func(l event.Link) bool {
			return l.Place == event.AtGateway && string(l.Name) == a.From && l.Is == a.Image
		})
		if linked < 0 {
			found.foreign = append(found.foreign, a.Answer)
			continue
		}
		pods := platform.APIPods(a.gateway)
		if is, want := proof.OlderTags(links[linked]); is != "" && !pods.Starting && !pods.Ending {
			found.outdated = append(found.outdated, outdatedGateway{a.gateway, is, want})
		}
	}
	var err error
	if found.links, err = i.ownPods(ctx, want.config, links); err != nil {
		return nil, event.Transient(err)
	}
	return found, nil
}

// syncedFiles asks the containers of images with synced files which of them they hold.
func (i inspector) syncedFiles(ctx context.Context, want target) ([]proof.Files, error) {
	if !slices.ContainsFunc(want.Images, func(image *loop.Image) bool { return image.Rest != "" }) {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, filesTimeout)
	defer cancel()
	files, err := i.files(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("ask the containers for their synced files: %w", err)
	}
	return files, nil
}

// ownPods drops broken links to pods of releases outside of devloop.yaml, whose images may have the
// same names, and marks those that nothing replaces as older.
func (i inspector) ownPods(ctx context.Context, c *config.Config, links event.Links) (kept event.Links, err error) {
	for _, link := range links {
		if link.Container.Pod != "" && link.Broken() {
			pod := link.Container.PodRef
			origin, err := pods.OriginOf(ctx, i.cluster, string(pod.Namespace), string(pod.Pod))
			if err != nil {
				return nil, err
			}
			own := func(r config.Release) bool { return r.ID() == origin.Release }
			if origin.Release != "" && !slices.ContainsFunc(c.Releases, own) {
				continue
			}
			link.NotReplaced = origin.NotReplaced && link.Place == event.AtPod // files are written again
		}
		kept = append(kept, link)
	}
	return kept, nil
}

// images returns where each image is, and its IDs there.
func (i inspector) images(ctx context.Context, want *expected) ([]proof.Image, error) {
	images := make([]proof.Image, len(want.Images))
	named := slices.Concat(want.images...)
	tags, renewed := loop.Tags(want.Images), make([]name.Tag, len(want.Images))
	for at, image := range want.Images {
		tag := image.Tag
		renewed[at] = inputsOf(image).Tag
		images[at] = proof.Image{Name: image.Name, Ref: image.Ref, Hash: renewed[at].TagStr(),
			OnlyBase: isBase(want.config, image.Name) && !slices.Contains(named, image.Name)}
		for _, of := range want.config.Images {
			if of.Name == image.Name {
				images[at].Names = repositories(want.config, of)
			}
		}
		if i.push == nil {
			images[at].Built = i.builtIDs(tag)
			continue
		}
		// Built is not compared: another machine may have pushed the same inputs before.
		ids := withAliases(i.push.Digest(tag), i.registry.IDs(tag))
		images[at].Stores = []proof.Store{{Place: event.AtRegistry, Name: tag.RegistryStr(), IDs: ids}}
	}
	if i.push != nil {
		return images, nil
	}
	newer := slices.DeleteFunc(slices.Clone(renewed), func(tag name.Tag) bool { return slices.Contains(tags, tag) })
	present, err := i.nodes.Inspect(ctx, slices.Concat(tags, newer))
	byTag, byRenewed := map[name.Tag]int{}, map[name.Tag]int{}
	for at := range images {
		byTag[tags[at]], byRenewed[renewed[at]] = at, at
	}
	for _, p := range present {
		store := proof.Store{Place: event.AtNode, Name: p.Node, IDs: p.IDs}
		if at, runs := byTag[p.Tag]; runs {
			images[at].Stores = append(images[at].Stores, store)
		} else if at, isRenewed := byRenewed[p.Tag]; isRenewed {
			images[at].Renewed = append(images[at].Renewed, store)
		}
	}
	return images, err
}

// builtIDs returns the IDs of what this devloop or an earlier one built under a tag and brought to
// the nodes. An image in the registry is the newest: a build in the node removes it there.
func (i inspector) builtIDs(tag name.Tag) []string {
	id, stored := i.builder.Built(tag), i.registry.IDs(tag)
	if len(stored) > 0 && !slices.Contains(stored, id) {
		return stored
	}
	return withAliases(id, stored)
}

// withAliases returns id with the other IDs of the stored image, if that is the same.
func withAliases(id string, stored []string) []string {
	switch {
	case id == "":
		return nil
	case slices.Contains(stored, id):
		return append([]string{id}, stored...)
	}
	return []string{id}
}
