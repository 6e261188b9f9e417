// One run, from devloop.yaml to an answer through the forward. This file is the map of the program.
package loop

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
)

// Stages are what a run goes through, each with its part of one reading of devloop.yaml.
type Stages struct {
	Files    []string // that this reading came from
	Images   images
	Nodes    nodes
	Platform platform
	Forwards forwards
	Proof    proof
}

type images interface {
	// Hash returns the tag that each image has to have by its inputs, and the paths that were read
	// (even with an error). It may be called while an image is built.
	Hash(ctx context.Context) (tags []name.Tag, files []Path, err error)
	Has(ctx context.Context, tag name.Tag) (bool, error)
	Build(ctx context.Context, sink event.Sink, tag name.Tag) error
}

type nodes interface {
	// Missing returns those of tags that some node lacks.
	Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error)
	Give(ctx context.Context, sink event.Sink, tags []name.Tag) error
	// Tell tells what the nodes hold under these tags.
	Tell(ctx context.Context, sink event.Sink, tags []name.Tag)
	// Prune lets go of older images; tags are those that run now.
	Prune(ctx context.Context, sink event.Sink, tags []name.Tag)
}

type platform interface {
	Files() []string
	// Validate finds mistakes that need no image to be seen. It changes nothing.
	Validate(ctx context.Context, sink event.Sink, tags []name.Tag) error
	// Verify tries the images that are on the nodes, before anything depends on them.
	Verify(ctx context.Context, sink event.Sink, tags []name.Tag) error
	Apply(ctx context.Context, sink event.Sink, tags []name.Tag) error
	Wait(ctx context.Context, sink event.Sink) error
}

type forwards interface {
	// Check returns when the platform answers through every forward.
	Check(ctx context.Context, sink event.Sink) error
}

type proof interface {
	// Check returns how what runs differs from what was built, nil if it does not.
	Check(ctx context.Context, sink event.Sink, tags []name.Tag) error
	// Follow has it checked again when pods are replaced, and the libraries compared. It does not
	// wait for any of it.
	Follow(tags []name.Tag)
}

type watcher interface{ Watch(paths []Path) error }

// Path is a file whose changes count, or a folder with all that is below it but for what Except
// leaves out: patterns as in a .dockerignore, relative to Base.
type Path struct {
	Name   string // absolute
	Base   string
	Except []string
}

// run takes the platform to the state that the files on disk describe. It does not care what woke
// it: where nothing differs, nothing is done.
func (l *Loop) run(ctx context.Context, sink event.Sink) error {
	now, err := l.look(ctx, sink)
	if err != nil {
		return err
	}
	stages, tags := now.stages, now.tags
	missing, err := l.missing(ctx, sink, stages, tags)
	if err != nil {
		return err
	}
	err = withCheck(ctx, // a mistake in a chart does not wait for the build, and ends it
		func(ctx context.Context) error { return stages.Platform.Validate(ctx, sink, tags) },
		func(ctx context.Context) error { return l.build(ctx, sink, stages, tags, missing) })
	if err != nil {
		return err
	}
	missing, err = l.missing(ctx, sink, stages, missing) // some may have been built right on the node
	if err != nil {
		return err
	}
	if err := stages.Nodes.Give(ctx, sink, missing); err != nil {
		return err
	}
	stages.Nodes.Tell(ctx, sink, tags)
	if err := stages.Platform.Verify(ctx, sink, tags); err != nil {
		return err
	}
	if err := stages.Platform.Apply(ctx, sink, tags); err != nil {
		return err
	}
	if err := stages.Platform.Wait(ctx, sink); err != nil {
		return err
	}
	if err := stages.Forwards.Check(ctx, sink); err != nil {
		return err
	}
	if err := stages.Proof.Check(ctx, sink, tags); err != nil {
		return err
	}
	stages.Nodes.Prune(ctx, sink, tags)
	stages.Proof.Follow(tags)
	return now.checkUnmoved(ctx)
}

// look reads devloop.yaml, hashes the inputs, and has all of it watched. Where more has to be
// watched than before it does so twice, the second time after the watch is in place, so that a
// change in between is not lost.
func (l *Loop) look(ctx context.Context, sink event.Sink) (now *reading, err error) {
	err = sink.For("build").Look(ctx, event.InputsHashed, func(ctx context.Context) (_ []any, err error) {
		now, err = l.hash(ctx)
		return nil, err
	})
	return now, err
}

func (l *Loop) hash(ctx context.Context) (*reading, error) {
	for {
		before := walk(ctx, l.roots)
		stages, err := l.load()
		if err != nil {
			return nil, err
		}
		tags, inputs, hashErr := stages.Images.Hash(ctx)
		l.roots = slices.Concat(stages.Files, stages.Platform.Files())
		now := walk(ctx, l.roots)
		paths := slices.Clone(inputs)
		for _, path := range now.watch {
			paths = append(paths, Path{Name: path})
		}
		if !slices.EqualFunc(paths, l.watched, Path.equal) {
			if err := l.watch.Watch(paths); err != nil {
				return nil, err
			}
			l.watched = paths
			continue
		}
		if err := cmp.Or(hashErr, now.err); err != nil {
			return nil, err
		}
		r := &reading{stages, tags, l.roots, before.files, sum(ctx, tags, now.files)}
		l.read.Store(r)
		return r, nil
	}
}

func (p Path) equal(other Path) bool {
	return p.Name == other.Name && p.Base == other.Base && slices.Equal(p.Except, other.Except)
}

// missing asks the nodes which of the images they lack.
func (l *Loop) missing(ctx context.Context, sink event.Sink, stages Stages, tags []name.Tag) (missing []name.Tag, err error) {
	if len(tags) == 0 {
		return nil, nil
	}
	err = sink.For("node").Look(ctx, event.NodesAsked, func(ctx context.Context) (_ []any, err error) {
		missing, err = stages.Nodes.Missing(ctx, tags)
		return nil, err
	})
	return missing, err
}

// build makes those of the missing images that the host does not hold either, side by side.
func (l *Loop) build(ctx context.Context, sink event.Sink, stages Stages, tags, missing []name.Tag) error {
	say := sink.For("build")
	var group sync.WaitGroup
	errs := make([]error, len(tags))
	for i, tag := range tags {
		if !slices.Contains(missing, tag) {
			say.Note(event.ImageFound, "image", event.Name(tag.String()), "on", event.Name("node"))
			continue
		}
		group.Go(func() {
			errs[i] = say.Guard("build", func() error {
				onHost, err := stages.Images.Has(ctx, tag)
				if err != nil {
					return err
				}
				if onHost {
					say.Note(event.ImageFound, "image", event.Name(tag.String()), "on", event.Name("host"))
					return nil
				}
				return stages.Images.Build(ctx, sink, tag)
			})
		})
	}
	group.Wait()
	return Telling(errs)
}

// withCheck does the work beside a check of it. The first of them that fails ends the other one.
func withCheck(ctx context.Context, check, work func(context.Context) error) error {
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	checked := make(chan error, 1)
	go func() {
		err := event.Guard(func() error { return check(both) })
		if err != nil {
			cancel()
		}
		checked <- err
	}()
	err := event.Guard(func() error { return work(both) })
	failedFirst := err != nil && (both.Err() == nil || ctx.Err() != nil)
	if err != nil {
		cancel()
	}
	checkErr := <-checked
	if failedFirst {
		return err
	}
	return cmp.Or(checkErr, err)
}

// Telling picks the errors that say what to do. Where two images share a step, BuildKit shows its
// output to one of the builds only: the other one knows no more than that the step failed.
func Telling(errs []error) error {
	told := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return event.Hint(err) == "" })
	if len(told) == 0 {
		told = errs
	}
	return errors.Join(told...)
}

// baseNames shortens paths for a log line.
func baseNames(paths []string) string {
	const most = 5
	short := make([]string, 0, most+1)
	for i, path := range paths {
		if i == most {
			short = append(short, "…")
			break
		}
		short = append(short, filepath.Base(path))
	}
	return strings.Join(short, " ")
}
