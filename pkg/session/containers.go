package session

// The containers that run are kept as the newest inputs have their synced files: by each run, and
// between runs whenever a container starts (containerstarts.go). containerupdate.go is what is done
// to the containers of an image: containersync.go looks and writes, containerthen.go runs commands,
// containerrestart.go restarts. renewal.go builds the image that holds the files.

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/proof"
)

// containers are those that run, of which devloop remembers nothing: they are asked each time what
// they hold.
type containers struct {
	sink       event.Sink
	cluster    *kube.Cluster
	namespaces func(*config.Config) []string // of the releases
	reach      reach
	images     supply
	known      *knownInputs
	reported   event.Changes

	busy    chan struct{} // a semaphore: one sync at a time. It guards desired
	desired *target       // what containers that start have to hold; nil while a run changes what runs

	// supplying is held while a sync builds and loads images, which are of all its images.
	supplying sync.Mutex

	memory   sync.Mutex              // guards what follows
	pending  map[string]map[int]bool // by container: the rules whose commands it has not run yet
	refused  map[string]bool         // containers that cannot get files
	origins  map[types.UID]string    // of pods: their releases
	gateways []dask.Gateway          // of the namespaces of releases

	*starts
	renewal
}

// reach is how files and commands get into containers.
type reach interface {
	// Shell returns a shell on a node, false if devloop cannot reach it.
	Shell(node string) (filesync.Shell, bool)
	// PIDs returns the first processes of the containers that run on a node.
	PIDs(ctx context.Context, node string, ids []string) (map[string]int, error)
	// Inside returns a shell in a container.
	Inside(dask.Container) filesync.Shell

	Look(context.Context, filesync.Shell, []filesync.Container, []string) ([]filesync.Listing, error)
	Write(context.Context, filesync.Shell, []filesync.Container, []filesync.File) ([]filesync.Written, error)
}

func newContainers(sink event.Sink, cluster *kube.Cluster, namespaces func(*config.Config) []string, reach reach,
	images supply, known *knownInputs) *containers {
	return &containers{sink: sink, cluster: cluster, namespaces: namespaces, reach: reach, images: images, known: known,
		busy: make(chan struct{}, 1), pending: map[string]map[int]bool{}, refused: map[string]bool{},
		origins: map[types.UID]string{}, starts: newStarts(), renewal: renewal{rollouts: make(chan struct{}, 1)}}
}

// containerStage writes synced files into the containers that run.
type containerStage struct {
	*containers
	config *config.Config
	prover *prover
}

func (s containerStage) Sync(ctx context.Context, sink event.Sink, made *loop.Target) (all bool, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	now := &target{made, s.config}
	s.prover.forgetOthers(made)
	s.desired, s.synced = now, made
	platform, err := dask.Running(ctx, s.cluster, s.namespaces(s.config))
	if err != nil {
		return false, event.Transient(err)
	}
	s.forgetEnded(platform)
	s.forget(platform.Containers) // those that fail are queued again
	return (&pass{containers: s.containers, sink: sink, now: now}).run(ctx, platform.Containers)
}

// enter waits until no other sync is under way, and interrupts one between runs: what that would
// write may be outdated.
func (c *containers) enter(ctx context.Context) (leave func(), err error) {
	resume := c.interrupt()
	defer resume()
	select {
	case c.busy <- struct{}{}:
		return func() {
			<-c.busy
			c.wake() // for containers that have started meanwhile
		}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// suspend is called before a run takes the platform to a target. If its images are others,
// containers that start get no files until the run syncs again.
func (c *containers) suspend(ctx context.Context, made *loop.Target) error {
	leave, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if c.desired != nil && !slices.Equal(loop.Tags(c.desired.Images), loop.Tags(made.Images)) {
		c.desired = nil
	}
	return nil
}

// forgetEnded forgets what is remembered of containers that run no more.
func (c *containers) forgetEnded(platform dask.Platform) {
	runs := map[string]bool{}
	exists := map[types.UID]bool{}
	for _, container := range platform.Containers {
		runs[container.ContainerID], exists[container.PodUID] = true, true
	}
	c.memory.Lock()
	defer c.memory.Unlock()
	c.gateways = platform.Gateways
	for id := range c.pending {
		if !runs[id] {
			delete(c.pending, id)
		}
	}
	for id := range c.refused {
		if !runs[id] {
			delete(c.refused, id)
		}
	}
	for pod := range c.origins {
		if !exists[pod] {
			delete(c.origins, pod)
		}
	}
}

// own returns those of the containers that may be written into: they belong to no release outside
// of devloop.yaml, or of its part, and were started by no gateway of such a release.
func (p *pass) own(ctx context.Context, list []*instance) []*instance {
	eachInstance(list, func(i *instance) error {
		if _, known := p.releaseOf(i); known || i.Cluster != "" {
			return nil
		}
		origin, err := pods.OriginOf(ctx, p.cluster, string(i.Namespace), string(i.Pod))
		if err != nil {
			return event.Transient(err)
		}
		p.memory.Lock()
		defer p.memory.Unlock()
		p.origins[i.PodUID] = origin.Release
		return nil
	})
	p.memory.Lock()
	gateways := p.gateways
	p.memory.Unlock()
	releases := releaseIDs(p.now.config)
	return slices.DeleteFunc(list, func(i *instance) bool {
		release, _ := p.releaseOf(i)
		return release != "" && !slices.Contains(releases, release) || i.IsForeign(gateways, releases)
	})
}

// releaseOf returns the release that a container belongs to, "" for none.
func (c *containers) releaseOf(i *instance) (release string, known bool) {
	c.memory.Lock()
	defer c.memory.Unlock()
	release, known = c.origins[i.PodUID]
	return release, known
}

func releaseIDs(c *config.Config) (ids []string) {
	for _, r := range c.Releases {
		ids = append(ids, r.ID())
	}
	return ids
}

// syncedImage is an image of a target whose files are synced.
type syncedImage struct {
	*loop.Image
	config       config.Image
	repositories []string
	same         sameRest
	wanted       []filesync.File // by Path: what containers are to hold, and what not
}

// syncedImages returns those of the target's images whose files are synced.
func (c *containers) syncedImages(now *target) (list []*syncedImage) {
	for _, image := range now.Images {
		at := slices.IndexFunc(now.config.Images, func(i config.Image) bool { return i.Name == image.Name })
		if image.Rest == "" || at < 0 {
			continue
		}
		input := inputsOf(image)
		same, err := c.known.add(image.Name, []string{image.Tag.TagStr(), input.Tag.TagStr()}, input.Synced)
		if err != nil && c.reported.Changed("known inputs", err.Error()) {
			c.sink.Stage("sync").Warn("synced files cannot be remembered: after a restart, those that were deleted "+
				"may stay in running Dask clusters", err)
		}
		synced := &syncedImage{Image: image, config: now.config.Images[at], same: same}
		synced.repositories = repositories(now.config, synced.config)
		synced.wanted = wantedFiles(input.Synced.Files, same.Paths)
		list = append(list, synced)
	}
	return list
}

// wantedFiles returns what containers are to hold, and that they are not to hold what is at the
// other known paths.
func wantedFiles(synced []build.SyncedFile, known map[string]int) (wanted []filesync.File) {
	isThere := map[string]bool{}
	for _, f := range synced {
		isThere[f.Path] = true
		wanted = append(wanted, filesync.File{Path: f.Path, Source: f.Source, Mode: f.Mode, Owner: f.Owner, Size: f.Size,
			Digest: f.Digest, Link: f.Link})
	}
	for path := range known {
		if !isThere[path] {
			wanted = append(wanted, filesync.File{Path: path, Absent: true})
		}
	}
	slices.SortFunc(wanted, byPath)
	return wanted
}

// runs reports whether a container runs the image, or another one of the same Rest.
func (i *syncedImage) runs(c dask.Container) bool {
	return !c.Init && slices.Contains(i.same.Tags, i.tagOf(c))
}

// tagOf returns the tag by which a container names the image, "" if it names another one.
func (i *syncedImage) tagOf(c dask.Container) string {
	ref, err := reference.ParseNormalizedNamed(c.Image)
	if err != nil {
		return ""
	}
	tagged, isTagged := ref.(reference.Tagged)
	isImage := slices.ContainsFunc(i.repositories, func(repository string) bool {
		of, err := reference.ParseNormalizedNamed(repository)
		return err == nil && of.Name() == ref.Name()
	})
	if !isTagged || !isImage {
		return ""
	}
	return tagged.Tag()
}

// syncedFiles returns what the containers of a target hold of its synced files.
func (c *containers) syncedFiles(ctx context.Context, now target) ([]proof.Files, error) {
	platform, err := dask.Running(ctx, c.cluster, c.namespaces(now.config))
	if err != nil {
		return nil, event.Transient(err)
	}
	var mu sync.Mutex
	var found []proof.Files
	p := &pass{containers: c, now: &now}
	err = p.eachImage(ctx, platform.Containers, func(image *syncedImage, list []*instance) error {
		p.look(ctx, image, list)
		mu.Lock()
		defer mu.Unlock()
		for _, i := range list {
			switch {
			case errors.Is(i.err, filesync.ErrGone):
			case event.IsTransient(i.err):
				return i.err
			default:
				files := image.compare(i)
				c.memory.Lock()
				files.Refused = c.refused[i.ContainerID]
				c.memory.Unlock()
				found = append(found, files)
			}
		}
		return nil
	})
	slices.SortFunc(found, func(a, b proof.Files) int { return cmp.Compare(a.FullName(), b.FullName()) })
	return found, err
}
