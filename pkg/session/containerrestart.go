package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/kube"
)

const restartPoll = 100 * time.Millisecond

// needsRestart reports whether a container lacks files of a rule that restarts it. Its process
// would come back without files that were written, so it is restarted in the image that has them.
func (p *pass) needsRestart(image *syncedImage, i *instance) bool {
	return image.tagOf(i.Container) != inputsOf(image.Image).Tag.TagStr() &&
		slices.ContainsFunc(i.differ, func(f filesync.File) bool { return image.then(image.same.Paths[f.Path]).Restart() })
}

// restart restarts containers in the image of the newest inputs. Kubernetes does so in place if the
// image of a pod is changed: the pod stays, with its address and its other containers.
func (p *pass) restart(ctx context.Context, image *syncedImage, list []*instance) {
	if len(list) == 0 {
		return
	}
	newest, err := p.supplied(ctx)
	if err != nil {
		if !errors.Is(err, errDeferred) {
			err = &runError{err}
		}
		for _, i := range list {
			i.err = err
		}
		return
	}
	ref := newest.Refs()[image.Name]
	eachInstance(list, func(i *instance) error {
		i.restarted = true
		return p.restartIn(ctx, i, ref)
	})
}

// supplied returns the newest images once the nodes have them. Between runs it waits for no build.
func (p *pass) supplied(ctx context.Context) (*target, error) {
	p.supplying.Lock()
	defer p.supplying.Unlock()
	newest := newestOf(p.now)
	if p.started {
		missing, err := p.images.Missing(ctx, newest)
		if err == nil && len(missing) > 0 {
			err = errDeferred
		}
		return newest, err
	}
	_, err := p.images.Supply(ctx, p.sink, newest)
	return newest, err
}

func (p *pass) restartIn(ctx context.Context, i *instance, ref string) error {
	client := p.cluster.Client.CoreV1().Pods(string(i.Namespace))
	pod, err := client.Get(ctx, string(i.Pod), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && (pod.UID != i.PodUID || pod.DeletionTimestamp != nil):
		return filesync.ErrGone
	case err != nil:
		return event.Transient(err)
	}
	if release, _ := p.releaseOf(i); release != "" && !i.Controlled {
		return &filesync.Refusal{Reason: "it has to be restarted, and its pod belongs to the release itself"}
	}
	list := "containers"
	isIt := func(c corev1.Container) bool { return c.Name == string(i.ContainerRef.Container) }
	if slices.ContainsFunc(pod.Spec.InitContainers, isIt) {
		list = "initContainers"
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": i.PodUID},
		"spec":     map[string]any{list: []map[string]any{{"name": i.ContainerRef.Container, "image": ref}}},
	})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: kube.FieldManager})
	if err != nil {
		return event.Transient(fmt.Errorf("restart it in %s: %w", ref, err))
	}
	last := ""
	err = wait.PollUntilContextTimeout(ctx, restartPoll, p.now.config.Timeouts.Rollout, true,
		func(ctx context.Context) (bool, error) {
			pod, err := client.Get(ctx, pod.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) || err == nil && pod.UID != i.PodUID {
				return false, filesync.ErrGone
			}
			for _, status := range kube.ContainerStatuses(pod) {
				if status.Name == string(i.ContainerRef.Container) {
					if status.State.Waiting != nil {
						last = ": " + status.State.Waiting.Reason
					}
					restarted := status.State.Running != nil && kube.ContainerID(status.ContainerID) != i.ContainerID
					return restarted, nil
				}
			}
			return false, nil // asked again
		})
	if err != nil && !errors.Is(err, filesync.ErrGone) && ctx.Err() == nil {
		err = &runError{event.WithHint(fmt.Errorf("container %s does not run again in %s%s", i.FullName(), ref, last),
			fmt.Sprintf("look at the pod: kubectl describe pod %s -n %s", i.Pod, i.Namespace))}
	}
	return err
}
