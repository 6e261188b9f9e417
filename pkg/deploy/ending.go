package deploy

// What was deleted goes away later: pods have to end, controllers have to remove their finalizers.
// A wait for that says what it is.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// noteAfter is how long a wait is not worth a line: Kubernetes takes 5 s for an empty namespace.
	// noteInterval is the least time between two lines.
	noteAfter    = 6 * time.Second
	noteInterval = 5 * time.Second
	// endingGrace is how long objects of removed releases may take to end before it is reported that
	// they still do. Those in devloop's own namespaces are waited for.
	endingGrace = 5 * time.Second
)

// ending is an object that goes away by itself.
type ending struct {
	resource        schema.GroupResource
	namespace, name string
	finalizers      []string // that keep it
	why             string   // what its controller says of it
}

func endingObject(resource schema.GroupResource, o metav1.Object) ending {
	e := ending{resource: resource, namespace: o.GetNamespace(), name: o.GetName()}
	if o.GetDeletionTimestamp() != nil {
		e.finalizers = o.GetFinalizers()
	}
	return e
}

func (e ending) String() string {
	text := e.resource.Resource + "/" + e.name
	if len(e.finalizers) > 0 {
		text += " (finalizers " + strings.Join(e.finalizers, " ") + ")"
	}
	if e.why != "" {
		text += " (" + e.why + ")"
	}
	return text
}

// hint returns how to look at an object that does not end.
func (e ending) hint() string {
	look := fmt.Sprintf("look at it: kubectl describe %s %s", e.resource, e.name)
	if e.namespace != "" {
		look += " -n " + e.namespace
	}
	if len(e.finalizers) > 0 {
		return "the controllers that have set its finalizers have to remove them; " + look
	}
	return look
}

func endingNames(objects []ending) []string {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.String()
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// awaitGone polls until look finds nothing that is still ending, or until ctx ends. It reports what
// it waits for, and for whom, if that takes a while, and again when it changes.
func (d *Deployer) awaitGone(
	ctx context.Context, stage event.Stage, look func() ([]ending, error), forWhom ...any,
) error {
	var left []ending
	var noted string
	next := time.Now().Add(noteAfter)
	err := d.until(ctx, func() (string, error) {
		found, err := look()
		if err == nil {
			left = found
		}
		text := abbreviate(endingNames(left))
		if now := time.Now(); text != noted && text != "" && !now.Before(next) {
			noted, next = text, now.Add(noteInterval)
			details := append(slices.Clone(forWhom), "objects", text)
			if deadline, ok := ctx.Deadline(); ok {
				details = append(details, "at most", deadline.Sub(now).Round(time.Second).String())
			}
			stage.Note("waiting for objects that are being deleted", details...)
		}
		return text, err
	})
	if err == nil || len(left) == 0 {
		return err
	}
	held := slices.IndexFunc(left, func(e ending) bool { return len(e.finalizers) > 0 })
	return event.WithHint(err, left[max(0, held)].hint())
}

// awaitEnd waits until those of a release's objects that are being deleted are gone.
func (d *Deployer) awaitEnd(ctx context.Context, stage event.Stage, r Release, objects []object) error {
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still being deleted after %s", goneTimeout))
	defer cancel()
	return d.awaitGone(ctx, stage, func() ([]ending, error) { return d.terminating(ctx, objects) },
		"release", event.Name(r.Name))
}

// terminating returns those of the objects that are being deleted.
func (d *Deployer) terminating(ctx context.Context, objects []object) (left []ending, err error) {
	var mu sync.Mutex
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	for _, o := range objects {
		group.Go(func() error {
			there, err := d.metadata(ctx, o)
			if err != nil {
				return fmt.Errorf("look for %s: %w", o, err)
			}
			if there == nil || there.DeletionTimestamp == nil {
				return nil
			}
			resource, _, err := d.endpoint(o)
			mu.Lock()
			defer mu.Unlock()
			left = append(left, endingObject(resource.GroupResource(), there))
			return err
		})
	}
	err = group.Wait()
	return left, err
}

// remnants is what may still be ending once the releases are gone.
type remnants struct {
	*Deployer
	releases []Release
	objects  []object
	pods     map[types.UID]string // their namespaces
	err      error                // why they are not all known
}

// add adds the objects that the revisions of a release name, and the pods that belong to it.
func (m *remnants) add(ctx context.Context, r Release, revisions []*release.Release) {
	ctx, cancel := context.WithTimeoutCause(ctx, kube.AnswerTimeout, fmt.Errorf("no answer after %s", kube.AnswerTimeout))
	defer cancel()
	m.releases = append(m.releases, r)
	namespaces := []string{r.Namespace}
	for _, made := range revisions {
		named, _ := parseObjects(made.Manifest, r.Namespace) // Helm has parsed it before
		for _, o := range named {
			if !slices.ContainsFunc(m.objects, o.same) {
				m.objects = append(m.objects, o)
			}
			if !slices.Contains(namespaces, o.namespace) {
				namespaces = append(namespaces, o.namespace)
			}
		}
	}
	for _, namespace := range namespaces {
		err := m.eachPod(ctx, namespace, []Release{r}, func(pod *corev1.Pod, ours bool) {
			if ours {
				m.pods[pod.UID] = namespace
			}
		})
		if err != nil {
			m.err = errors.Join(m.err, err)
		}
	}
}

// eachPod calls do with each pod of a namespace, and whether it belongs to one of the releases now.
func (m *remnants) eachPod(
	ctx context.Context, namespace string, releases []Release, do func(pod *corev1.Pod, ours bool),
) error {
	pods, err := m.cluster.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods in %s: %w", namespace, err)
	}
	owners, err := m.ownersIn(ctx, namespace, releases)
	if err != nil {
		return err
	}
	for i := range pods.Items {
		ours, err := owners.isOurs(ctx, &pods.Items[i])
		if err != nil {
			return err
		}
		do(&pods.Items[i], ours)
	}
	return nil
}

// look returns those that are being deleted, and the pods whose owners are gone, for which the
// garbage collector comes.
func (m *remnants) look(ctx context.Context) ([]ending, error) {
	left, err := m.terminating(ctx, m.objects)
	if err != nil {
		return nil, err
	}
	for _, namespace := range slices.Compact(slices.Sorted(maps.Values(m.pods))) {
		err := m.eachPod(ctx, namespace, m.releases, func(pod *corev1.Pod, ours bool) {
			if _, were := m.pods[pod.UID]; were && (pod.DeletionTimestamp != nil || !ours) {
				left = append(left, endingObject(corev1.Resource("pods"), pod))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return left, nil
}

// stillEnding gives them a moment, and names those that are still there.
func (m *remnants) stillEnding(ctx context.Context) (names []string, err error) {
	if m.err != nil {
		return nil, fmt.Errorf("look for what is still ending: %w", m.err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, endingGrace, fmt.Errorf("not known after %s", endingGrace))
	defer cancel()
	var left []ending
	err = m.until(ctx, func() (string, error) {
		found, err := m.look(ctx)
		if err == nil {
			left = found
		}
		return abbreviate(endingNames(left)), err
	})
	if len(left) > 0 {
		return endingNames(left), nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for what is still ending: %w", err)
	}
	return nil, nil
}
