package loop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/watch"
)

// synced is a world whose image has a synced file: on disk is 10 times the rest, plus the file's
// content. It tells what happens, in short: "w2" the file 2 was written, "d12" image 12 was
// deployed, "r13" image 13 is renewed.
type synced struct {
	*world
	did      []string
	content  int64 // of the file in the containers
	refuses  bool
	fails    error
	writeFor time.Duration
}

func (s *synced) load(ctx context.Context) (Stages, error) {
	stages, err := s.world.load(ctx)
	stages.Images, stages.Platform, stages.Containers, stages.Proof = s, s, syncedContainers{s}, syncedProof{s}
	stages.Only = func([]string) (Stages, error) { return stages, nil }
	return stages, err
}

func (s *synced) Hash(context.Context) (*Target, []watch.Path, error) {
	disk := s.disk.Load()
	tag, err := name.NewTag(fmt.Sprintf("worker:%d", disk))
	image := &Image{Tag: tag, Ref: tag.String(), Rest: fmt.Sprint(disk / 10), Input: disk}
	return &Target{Images: []*Image{image}}, []watch.Path{{Name: "Dockerfile"}}, err
}

func (s *synced) Apply(
	ctx context.Context, sink event.Sink, target *Target, begin func(context.Context) error,
) error {
	before := s.deployed
	if err := s.world.Apply(ctx, sink, target, begin); err != nil {
		return err
	}
	if s.deployed != before { // new pods
		s.did = append(s.did, "d"+target.Images[0].Tag.TagStr())
		s.content = target.Images[0].Input.(int64) % 10
	}
	return nil
}

type syncedContainers struct{ *synced }

func (s syncedContainers) Sync(ctx context.Context, _ event.Sink, target *Target) (all bool, err error) {
	if s.fails != nil {
		return false, s.fails
	}
	if s.refuses {
		return false, nil
	}
	if want := target.Images[0].Input.(int64) % 10; s.content != want {
		select {
		case <-time.After(s.writeFor):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		s.content = want
		s.did = append(s.did, fmt.Sprintf("w%d", want))
	}
	return true, nil
}

func (s syncedContainers) Renew(target *Target) {
	s.did = append(s.did, "r"+target.Images[0].Tag.TagStr())
}

type syncedProof struct{ *synced }

func (s syncedProof) Check(_ context.Context, _ event.Sink, target *Target) error {
	input := target.Images[0].Input.(int64)
	if s.content != input%10 {
		return fmt.Errorf("containers hold %d, not %d", s.content, input%10)
	}
	if s.deployed != target.Images[0].Ref {
		return fmt.Errorf("%s is deployed, not %s", s.deployed, target.Images[0].Ref)
	}
	return nil
}

func (syncedProof) Follow(*Target) {}

// A save of synced files alone deploys nothing, and any other run brings the image that has them.
func TestSyncedFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &synced{world: &world{node: map[string]bool{}}}
		changes := make(chan Change)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		ended := ""
		sink := event.Sink(func(e event.Event) {
			if e.Message == event.RunComplete {
				ended += phases([]event.Event{e})
			}
		})
		s.disk.Store(11)
		go func() {
			defer close(done)
			New(s.load, s, undiffed{}, changes, sink).Run(ctx)
		}()
		defer func() { cancel(); <-done }()
		save := func(n int64) {
			s.disk.Store(n)
			changes <- Change{Batch: watch.Batch{Paths: []string{"/project/model.py"}}}
		}
		expect := func(what, did, runs string) {
			t.Helper()
			pass(2 * burstGap)
			if got := strings.Join(s.did, " "); got != did || ended != runs {
				t.Errorf("%s: %q with runs %q, not %q with %q", what, got, ended, did, runs)
			}
			s.did, ended = nil, ""
		}

		expect("the start", "d11", "()")
		save(12)
		expect("a synced file", "w2 r12", "()")
		save(13)
		expect("again", "w3 r13", "()")
		save(11)
		expect("back to what the image has", "w1 r11", "()")
		save(12)
		expect("and forth", "w2 r12", "()")
		changes <- Change{Asked: true}
		expect("a run that is asked for replaces the pods", "d12", "()")
		save(13)
		expect("then files are synced into those", "w3 r13", "()")
		save(24)
		expect("something else changes, too", "d24", "()")

		s.writeFor = time.Second
		save(25)
		pass(time.Second / 2)
		save(26)
		pass(burstQuiet + time.Millisecond)
		if len(s.did) == 0 {
			t.Error("it waits for the end of the burst, though nothing is built for it")
		}
		expect("a save meanwhile", "w6 r26", "(x()")
		s.writeFor = 0

		s.refuses = true
		save(27)
		expect("a container that cannot get files", "d27", "()")
		s.refuses = false
		s.fails = errors.New("exit code 1")
		save(28)
		expect("a failure", "", "(!")
		s.fails = nil
		save(29)
		expect("after it", "w9 r29", "()")

		s.bad.Store(true)
		save(31)
		expect("an image that fails its check", "", "(!")
		save(28)
		expect("which leaves the platform as it was", "w8", "(!")
		s.bad.Store(false)
		save(27)
		expect("once it passes", "w7 r27", "()")

		clear(s.node)
		save(28)
		expect("the deployed image is gone from the nodes", "w8 d28", "()")

		s.flaky.Store(1)
		save(41)
		expect("a release that fails for now", "d41", "(!()")
		save(42)
		expect("a synced file", "w2 r42", "()")
		changes <- Change{Asked: true, Releases: []string{"web"}}
		expect("a run of one release", "d42", "()")
		save(43)
		expect("which left the others on the older image", "d43", "()")

		save(44)
		expect("a synced file", "w4 r44", "()")
		s.flaky.Store(1)
		changes <- Change{Asked: true}
		expect("what is asked for is so again when it is tried again", "d44", "(!()")
	})
}
