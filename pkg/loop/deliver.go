package loop

// The images of a run. Each goes on by itself: it is built, loaded and verified as soon as that is
// possible, whatever the others do.

import (
	"context"
	"errors"
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// deliver has the nodes hold the target's images. It sends each of them to delivered once they do,
// and closes that after the last one. If it fails, delivered stays open.
func (s Stages) deliver(
	ctx context.Context, sink event.Sink, target *Target, missing []*Image, delivered chan<- *Image,
) error {
	for _, image := range target.Images {
		if !slices.Contains(missing, image) {
			sink.Stage("build").Note(event.ImageFound, event.FoundImage{Image: image.Event(), On: "node"})
			delivered <- image
		}
	}
	err := s.Deliver(ctx, sink, missing, func(image *Image) { delivered <- image })
	if err == nil {
		close(delivered)
	}
	return err
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

// verify tries each image once it is delivered, and closes verified if all have passed. After a
// failure, or when ctx ends, it tries no others, but waits for those under way: the user needs
// their errors, too.
func (s Stages) verify(
	ctx context.Context, sink event.Sink, delivered <-chan *Image, verified chan<- struct{},
) error {
	results, underWay, ended := make(chan error), 0, ctx.Done()
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
		close(verified)
	}
	return errors.Join(errs...)
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// await returns when done is closed, or with the cause when ctx ends.
func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
