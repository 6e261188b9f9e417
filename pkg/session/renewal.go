package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

// renewPause is how long no run may begin before the image of synced files is built: more saves may
// follow, and what was synced has this machine first.
const renewPause = time.Second

// renewal builds and loads the images that hold the synced files, between runs. It belongs to the
// goroutine of the runs.
type renewal struct {
	background func(work func(context.Context)) // runs work beside the loop; nil if nothing does
	cancel     context.CancelFunc               // of the last one; nil before
	ended      <-chan struct{}
	synced     *loop.Target  // by the run's last sync
	rollouts   chan struct{} // holds a token if a run is asked for that replaces the pods
}

func (s containerStage) Renew(made *loop.Target) {
	if s.background == nil {
		return
	}
	s.stopRenewing()
	last, ended := s.ended, make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, ended
	now, deployed := &target{made, s.config}, s.synced
	s.background(func(alive context.Context) {
		defer close(ended)
		stop := context.AfterFunc(alive, cancel)
		defer stop()
		if last != nil {
			<-last
		}
		select {
		case <-time.After(renewPause):
			s.renew(ctx, now, deployed)
		case <-ctx.Done():
		}
	})
}

// stopRenewing is for a run that begins. It does not wait: nothing depends on what is being built.
func (r *renewal) stopRenewing() {
	if r.cancel != nil {
		r.cancel()
	}
}

// renew builds and loads the images of now, while those of deployed run.
func (c *containers) renew(ctx context.Context, now *target, deployed *loop.Target) {
	stage := c.sink.Stage("sync")
	quiet := event.Sink(func(event.Event) {}) // no run is under way
	supplied, err := c.images.Supply(ctx, quiet, now)
	switch {
	case ctx.Err() != nil, errors.Is(err, event.ErrSuperseded): // the next run is about to begin
		return
	case err != nil:
		if c.reported.Changed("renewal", err.Error()) {
			stage.Warn("the image of the synced files cannot be built", err)
		}
		return
	}
	c.reported.Forget("renewal")
	for _, image := range supplied {
		stage.Note(event.ImageRenewed, event.RenewedImage{Image: image.Event()})
	}
	c.wake() // for containers that wait for an image
	both := &loop.Target{Images: slices.Clone(now.Images)}
	for _, image := range deployed.Images {
		if !slices.Contains(loop.Tags(both.Images), image.Tag) {
			both.Images = append(both.Images, image)
		}
	}
	c.images.Prune(ctx, c.sink, &target{both, now.config})
	if rollsOut(now, deployed) && ctx.Err() == nil {
		select {
		case c.rollouts <- struct{}{}:
		default:
		}
	}
}

// rollsOut reports whether pods are to be replaced by the images of now.
func rollsOut(now *target, deployed *loop.Target) bool {
	tags := loop.Tags(deployed.Images)
	return slices.ContainsFunc(now.Images, func(image *loop.Image) bool {
		return !slices.Contains(tags, image.Tag) && slices.ContainsFunc(now.config.Images, func(i config.Image) bool {
			return i.Name == image.Name && i.Rollout == rolloutNow
		})
	})
}

const rolloutNow = "now" // of an image of devloop.yaml

// newestOf returns the target with the images of its inputs.
func newestOf(now *target) *target {
	newest := &loop.Target{}
	for _, image := range now.Images {
		if input := inputsOf(image); input.Tag != image.Tag {
			made := *image
			made.Tag, made.Ref = input.Tag, input.Tag.String()
			image = &made
		}
		newest.Images = append(newest.Images, image)
	}
	return &target{newest, now.config}
}

// supply gets images to where pods get them.
type supply interface {
	Missing(ctx context.Context, now *target) ([]*loop.Image, error)
	// Supply builds and loads the images that are missing, and returns those.
	Supply(ctx context.Context, sink event.Sink, now *target) ([]*loop.Image, error)
	// Prune removes older images than the target's.
	Prune(ctx context.Context, sink event.Sink, now *target)
}

// imageSupply are the images of a session.
type imageSupply struct{ *images }

func (i imageSupply) Missing(ctx context.Context, now *target) ([]*loop.Image, error) {
	return nodeStage{i.images, now.config}.Missing(ctx, now.Images)
}

func (i imageSupply) Prune(ctx context.Context, sink event.Sink, now *target) {
	nodeStage{i.images, now.config}.prune(ctx, sink, now.Target)
}

func (i imageSupply) Supply(ctx context.Context, sink event.Sink, now *target) ([]*loop.Image, error) {
	nodes, builds := nodeStage{i.images, now.config}, imageStage{builders: i.builders, config: now.config, unchecked: true}
	lacked, err := nodes.Missing(ctx, now.Images)
	if err != nil || len(lacked) == 0 {
		return nil, err
	}
	return lacked, loop.Stages{Images: builds, Nodes: nodes}.Deliver(ctx, sink, lacked, func(*loop.Image) {})
}
