package loop

// One run, from devloop.yaml to an answer through the forward. This file is the map of the program.

import (
	"cmp"
	"context"
	"slices"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// Stages are what a run goes through, each with its part of one reading of devloop.yaml.
type Stages struct {
	Files    []string // of this reading
	Images   images
	Nodes    nodes
	Local    local
	Platform platform
	Forwards forwards
	Proof    proof
	// Containers may be nil if no image has files that are synced.
	Containers containers
	// Only returns the stages of a run of some releases, and of those that they depend on. All but the
	// platform's stay as they are.
	Only func(releases []string) (Stages, error)
}

type images interface {
	// Hash returns the target, and the paths that were read (even with an error). It may be called
	// while an image is built.
	Hash(ctx context.Context) (target *Target, files []watch.Path, err error)
	// Build builds an image, unless the host holds it and the nodes had better get it from there. A
	// build in the node also tries the image's checks.
	// loaded tells whether it was built right where pods get it, so that it need not be loaded.
	Build(ctx context.Context, sink event.Sink, image *Image) (loaded bool, err error)
}

type nodes interface {
	// Missing returns those of the images that some node lacks.
	Missing(ctx context.Context, images []*Image) ([]*Image, error)
	// Load has the nodes pull an image from the host, unless they hold it. Several may be loaded at
	// the same time.
	Load(ctx context.Context, sink event.Sink, image *Image) error
	// Report sends events about what the nodes hold.
	Report(ctx context.Context, sink event.Sink, target *Target)
	// Prune removes older images than the target's, in the background. The next run cuts that short,
	// and begins once the image that is being removed is gone.
	Prune(ctx context.Context, sink event.Sink, target *Target)
}

type local interface {
	// Sync has what the target's images hold installed on this machine, in the background. A failure
	// of that fails no run.
	Sync(target *Target)
}

type platform interface {
	Files() []string
	// Validate finds mistakes that can be seen without the images. It changes nothing.
	Validate(ctx context.Context, sink event.Sink, target *Target) error
	// Verify has an image pass its checks in a pod, unless it has passed them in its build or before.
	// It may be called beside Validate and Apply, and for several images at the same time.
	Verify(ctx context.Context, sink event.Sink, image *Image) error
	// Apply writes nothing before begin, which it calls once it knows what to write, has returned nil.
	// An error of begin ends it. It is called while images are built, and again if an error that may
	// pass came before begin.
	Apply(ctx context.Context, sink event.Sink, target *Target, begin func(context.Context) error) error
	// Wait returns when the rollout is complete.
	Wait(ctx context.Context, sink event.Sink) error
}

type forwards interface {
	// Check returns when the platform answers through every forward that has a ready path.
	Check(ctx context.Context, sink event.Sink) error
}

type containers interface {
	// Sync writes the files of the target's inputs into the containers that run its images, or others
	// of the same Rest. all is false if some containers cannot get them; it reports those.
	Sync(ctx context.Context, sink event.Sink, target *Target) (all bool, err error)
	// Renew builds and loads the target's images in the background, for pods that start later.
	Renew(target *Target)
}

type proof interface {
	// Check returns how what runs differs from what was built, nil if it does not.
	Check(ctx context.Context, sink event.Sink, target *Target) error
	// Follow compares the libraries of the target's images, in the background.
	Follow(target *Target)
}

type watcher interface {
	// Watch replaces the set of watched paths, and tells whether it was another one.
	Watch(paths []watch.Path) (changed bool, err error)
}

type differ interface {
	// Read remembers what the run reads.
	Read(ctx context.Context, paths []watch.Path)
	// Succeeded tells that the run has, with what was read last.
	Succeeded()
	// Changes returns what changed in files since then.
	Changes(files []string) event.FileChanges
}

// run takes the platform to the state that the files on disk describe. It does not care what woke
// it: where nothing differs, it does nothing.
func (l *Loop) run(ctx context.Context, sink event.Sink, request request, lastGood *reading) error {
	now, err := l.readInputs(ctx, sink)
	if err != nil {
		return err
	}
	stages, err := now.narrow(sink.Stage("loop"), request.releases, lastGood)
	if err != nil {
		return err
	}
	target, missing, err := l.sync(ctx, sink, now, request)
	if err != nil {
		return err
	}
	images, asHashed := newProgress(target), target.copy() // a push changes how pods name the images of target
	deliver := func(ctx context.Context) error { return stages.deliver(ctx, sink, target, missing, images) }
	verify := func(ctx context.Context) error { return stages.verify(ctx, sink, images) }
	apply := func(ctx context.Context) error {
		return stages.apply(ctx, sink, target, asHashed, images, func() { l.deployed.invalidate(target) })
	}
	if err := sideBySide(ctx, deliver, verify, apply); err != nil { // the first mistake ends all of it
		return err
	}
	if err := stages.Platform.Wait(ctx, sink); err != nil {
		return err
	}
	if err := stages.syncAgain(ctx, sink, target); err != nil {
		return err
	}
	if err := stages.Forwards.Check(ctx, sink); err != nil {
		return err
	}
	if err := stages.Proof.Check(ctx, sink, target); err != nil {
		return err
	}
	l.deployed.record(now, target, request)
	stages.Proof.Follow(target)
	if target == now.target {
		stages.Nodes.Prune(ctx, sink, target)
	} else {
		stages.Containers.Renew(now.target) // which removes older images, too
	}
	return now.checkUnmoved(ctx)
}

// readInputs reads devloop.yaml, hashes the inputs, and has all of it watched. If that changed what
// is watched, it does so again, so that no change in between is lost.
func (l *Loop) readInputs(ctx context.Context, sink event.Sink) (now *reading, err error) {
	err = sink.Stage("build").QuietStep(ctx, event.InputsHashed, func(ctx context.Context) (_ []any, err error) {
		for now == nil && err == nil {
			now, err = l.readOnce(ctx)
		}
		return nil, err
	})
	return now, err
}

// readOnce returns nil if it has to be repeated: it changed what is read or watched.
func (l *Loop) readOnce(ctx context.Context) (*reading, error) {
	before := walk(ctx, l.roots)
	stages, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	target, paths, hashErr := stages.Images.Hash(ctx)
	roots := slices.Concat(stages.Files, stages.Platform.Files())
	otherRoots := !slices.Equal(roots, l.roots) // than those of before
	l.roots = roots
	now := walk(ctx, roots)
	for _, path := range now.watch {
		paths = append(paths, watch.Root(path))
	}
	if changed, err := l.watch.Watch(paths); changed || otherRoots || err != nil {
		return nil, err
	}
	if err := cmp.Or(hashErr, now.err); err != nil {
		return nil, err
	}
	l.differ.Read(ctx, paths)
	all, rest := sums(target, sumFiles(ctx, now.files))
	r := &reading{stages, target, l.roots, before.files, all, rest}
	l.lastRead.Store(r)
	return r, nil
}

// missing asks the nodes which of the images they lack.
func (s Stages) missing(ctx context.Context, sink event.Sink, images []*Image) (missing []*Image, err error) {
	if len(images) == 0 {
		return nil, nil
	}
	err = sink.Stage("node").QuietStep(ctx, event.NodesAsked, func(ctx context.Context) (_ []any, err error) {
		missing, err = s.Nodes.Missing(ctx, images)
		return nil, err
	})
	return missing, err
}
