package loop

// A run of which only synced files changed: they go into the containers that run, and what is
// deployed stays.

import (
	"context"
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// deployment is what the platform was last taken to, and left as it was since. The zero value is
// for when that is not known.
type deployment struct {
	rest   string  // of the reading
	target *Target // its images are those that are deployed; their inputs may be newer by synced files
}

// invalidate forgets the deployment if a run is about to take the platform to another target.
func (d *deployment) invalidate(target *Target) {
	if d.target != nil && !slices.Equal(Tags(d.target.Images), Tags(target.Images)) {
		*d = deployment{}
	}
}

// record remembers what a run has deployed. A run of some releases leaves the others on the images
// that they had.
func (d *deployment) record(now *reading, target *Target, request request) {
	if request.releases == nil || d.target != nil {
		*d = deployment{rest: now.rest, target: target}
	}
}

// withInputs returns a target of the deployed images with the newest inputs. It is nil if these
// differ by more than synced files.
func (d *deployment) withInputs(now *reading) *Target {
	if d.target == nil || d.rest != now.rest || !slices.ContainsFunc(now.target.Images, isSynced) {
		return nil
	}
	target := now.target.copy()
	for i, kept := range target.Images { // as many as of the deployment, and in its order: rest has them
		kept.Tag, kept.Ref = d.target.Images[i].Tag, d.target.Images[i].Ref
	}
	return target
}

func isSynced(i *Image) bool { return i.Rest != "" }

// sync returns the target of the run, and which of its images some node lacks. If only synced files
// differ from what is deployed, it has the running containers hold them, and the target keeps the
// images that are deployed.
func (l *Loop) sync(ctx context.Context, sink event.Sink, now *reading, request request) (
	target *Target, missing []*Image, err error,
) {
	if kept := l.deployed.withInputs(now); kept != nil && !request.asked {
		all, err := now.stages.Containers.Sync(ctx, sink, kept)
		if err != nil {
			return nil, nil, err
		}
		if all {
			missing, err := now.stages.missing(ctx, sink, kept.Images)
			if err != nil || len(missing) == 0 { // else pods that start later could not get the image
				return kept, nil, err
			}
		}
	}
	missing, err = now.stages.missing(ctx, sink, now.target.Images)
	return now.target, missing, err
}

// syncAgain is for pods that were replaced, and for those that the run replaces no more, such as
// those of Dask clusters. Those that cannot get the files keep their older image.
func (s Stages) syncAgain(ctx context.Context, sink event.Sink, target *Target) error {
	if !slices.ContainsFunc(target.Images, isSynced) {
		return nil
	}
	_, err := s.Containers.Sync(ctx, sink, target)
	return err
}
