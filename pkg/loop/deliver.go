package loop

// The images of a run. Each goes on by itself: it is built, loaded and verified as soon as that is
// possible, whatever the others do.

import (
	"context"
	"errors"
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// progress tells how far a run's images are.
type progress struct {
	delivered chan *Image   // each once the nodes hold it; closed after the last one
	loaded    chan struct{} // closed when the nodes hold all
	verified  chan struct{} // closed when all have passed their checks
}

func newProgress(target *Target) progress {
	return progress{make(chan *Image, len(target.Images)), make(chan struct{}), make(chan struct{})}
}

// deliver has the nodes hold the target's images, and reports what they hold.
func (s Stages) deliver(
	ctx context.Context, sink event.Sink, target *Target, missing []*Image, images progress,
) error {
	for _, image := range target.Images {
		if !slices.Contains(missing, image) {
			sink.Stage("build").Note(event.ImageFound, event.FoundImage{Image: image.Event(), On: "node"})
			images.delivered <- image
		}
	}
	if err := s.Deliver(ctx, sink, missing, func(image *Image) { images.delivered <- image }); err != nil {
		return err
	}
	close(images.delivered)
	close(images.loaded)
	s.Local.Sync(target)
	s.Nodes.Report(ctx, sink, target)
	return nil
}

// Deliver builds the missing images, and has the nodes load those that are not built there. An
// image is built after those that it is built from, and waits for no others. done is called for
// each once the nodes hold it.
func (s Stages) Deliver(ctx context.Context, sink event.Sink, missing []*Image, done func(*Image)) error {
	var jobs []Job
	for _, image := range missing {
		loaded := false
		build := func() (err error) {
			loaded, err = s.Images.Build(ctx, sink, image)
			return err
		}
		load := func() error {
			if !loaded {
				if err := s.Nodes.Load(ctx, sink, image); err != nil {
					return err
				}
			}
			done(image)
			return nil
		}
		jobs = append(jobs,
			Job{image.Name, image.Bases, func() error { return sink.Stage("build").Guard("build", build) }},
			Job{"load " + image.Name, []string{image.Name}, func() error { return sink.Stage("node").Guard("load", load) }})
	}
	return RunJobs(jobs)
}

// verify has each image pass its checks once it is delivered. After a failure, or when ctx ends, it
// tries no others, but waits for those under way: the user needs their errors, too.
func (s Stages) verify(ctx context.Context, sink event.Sink, images progress) error {
	results, underWay := make(chan error), 0
	delivered, ended := images.delivered, ctx.Done()
	var errs []error
	for delivered != nil || underWay > 0 {
		select {
		case image, more := <-delivered:
			if !more {
				delivered = nil
				continue
			}
			underWay++
			go func() {
				results <- event.Guard(func() error { return s.Platform.Verify(ctx, sink, image) })
			}()
		case <-ended:
			delivered, ended = nil, nil
			errs = append(errs, context.Cause(ctx))
		case err := <-results:
			underWay--
			if err == nil {
				continue
			}
			delivered = nil
			if !slices.ContainsFunc(errs, func(other error) bool { return other.Error() == err.Error() }) {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 {
		close(images.verified)
	}
	return errors.Join(errs...)
}

// apply prepares the releases beside the builds, and writes them once all images have passed their
// checks. It calls begun before the first write. asHashed is the target without what a push adds.
func (s Stages) apply(
	ctx context.Context, sink event.Sink, target, asHashed *Target, images progress, begun func(),
) error {
	if err := s.Platform.Validate(ctx, sink, asHashed); err != nil {
		return err
	}
	if target.Pushed {
		if err := await(ctx, images.loaded); err != nil {
			return err
		}
	}
	begin := func(ctx context.Context) error {
		if err := await(ctx, images.verified); err != nil {
			return err
		}
		begun()
		return nil
	}
	err := s.Platform.Apply(ctx, sink, target, begin)
	if !event.IsTransient(err) || isClosed(images.verified) {
		return err
	}
	// Nothing is written yet, and the API server may be back when the images are built.
	if err := await(ctx, images.verified); err != nil {
		return err
	}
	return s.Platform.Apply(ctx, sink, target, begin)
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// await returns when done is closed, or with the cause once ctx has ended.
func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
