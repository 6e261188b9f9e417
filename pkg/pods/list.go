package pods

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// Listed is a pod in a scope.
type Listed struct {
	*corev1.Pod
	Release string // its name, "" for pods that users start
}

// List returns the pods in a scope: those that Follow would report.
func List(ctx context.Context, client kubernetes.Interface, scope Scope, stage event.Stage) ([]Listed, error) {
	var found []Listed
	ctx, cancel := context.WithTimeout(ctx, originTimeout)
	defer cancel()
	namespaces, selectors := scope.parse(stage)
	t := &tracer{client, map[types.UID]origin{}}
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		all, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list the pods of namespace %s: %w", namespace, err)
		}
		for i := range all.Items {
			object := &all.Items[i]
			from, err := t.trace(ctx, object)
			if err != nil {
				return nil, fmt.Errorf("find out where pod %s comes from: %w", object.Name, err)
			}
			if release, _, in := belongs(object, from, scope.Releases, selectors); in && !kube.IsCheckPod(object) {
				found = append(found, Listed{object, release})
			}
		}
	}
	return found, nil
}

// Choice says which container is meant.
type Choice struct {
	Name      string                  // of a pod, or the beginning of one, or of a release
	Container string                  // "" for the one that the user most likely means
	Built     func(image string) bool // tells images of devloop.yaml from others
}

// Container is a container that runs.
type Container struct {
	Namespace, Pod, Name string
	Image                string

	uid types.UID // of the pod
	id  string    // of the container, as its runtime knows it
}

// NewContainer returns a container of the pod that has this UID.
func NewContainer(c event.ContainerRef, image string, uid types.UID, id string) Container {
	return Container{string(c.Namespace), string(c.Pod), string(c.Container), image, uid, id}
}

// Of returns the container that is meant among those of the pods: of pods that do the same, the
// newest that is ready; of several containers, the one that runs an image of devloop.yaml.
func (c Choice) Of(all []Listed) (Container, error) {
	list, err := c.matching(all)
	if err != nil {
		return Container{}, err
	}
	slices.SortStableFunc(list, func(a, b Listed) int {
		if a, b := rank(a.Pod), rank(b.Pod); a != b {
			return a - b
		}
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	pod := list[0].Pod
	name, err := c.container(pod)
	if err != nil {
		return Container{}, err
	}
	for _, status := range allContainers(pod) {
		if status.Name == name && status.State.Running != nil {
			return Container{pod.Namespace, pod.Name, name, status.Image, pod.UID, kube.ContainerID(status.ContainerID)}, nil
		}
	}
	reason := unready(pod)
	switch {
	case reason != "":
	case pod.Status.Phase == corev1.PodSucceeded:
		reason = "it has ended"
	default:
		reason = string(pod.Status.Phase)
	}
	return Container{}, event.WithHint(fmt.Errorf("container %s of pod %s does not run: %s", name, pod.Name, reason),
		"devloop status shows the pods, devloop logs "+pod.Name+" what this one printed")
}

// matching returns the pods that Name may mean, at least one: all of them do the same.
func (c Choice) matching(all []Listed) ([]Listed, error) {
	those := func(matches func(Listed) bool) (list []Listed) {
		for _, l := range all {
			if matches(l) {
				list = append(list, l)
			}
		}
		return list
	}
	exact := those(func(l Listed) bool { return c.Name == l.Name || c.Name == l.Namespace+"/"+l.Name })
	if len(exact) == 1 {
		return exact, nil
	}
	list := those(func(l Listed) bool { return c.Name == l.Release && !kube.HasEnded(l.Pod) })
	if len(list) == 0 {
		list = those(func(l Listed) bool { return strings.HasPrefix(l.Name, c.Name) && !kube.HasEnded(l.Pod) })
	}
	if list = append(exact, list...); len(list) == 0 {
		return nil, ErrNoPod
	}
	if workloads(list) > 1 {
		foreign := func(l Listed) bool { return c.built(l.Pod) == "" }
		if built := slices.DeleteFunc(slices.Clone(list), foreign); len(built) > 0 {
			list = built
		}
	}
	if workloads(list) > 1 {
		var names []string
		for _, l := range list {
			names = append(names, l.Name)
		}
		return nil, event.WithHint(fmt.Errorf("%q means several pods", c.Name), "name one: "+strings.Join(names, ", "))
	}
	return list, nil
}

// ErrNoPod means that no pod has the name.
var ErrNoPod = errors.New("no pod of this project has that name")

// workloads returns how many things the pods do: replicas of a deployment do the same, whichever
// its revision is.
func workloads(list []Listed) int {
	seen := map[string]bool{}
	for _, l := range list {
		name := l.Name
		if owner := metav1.GetControllerOf(l); owner != nil {
			name = owner.Kind + "/" + strings.TrimSuffix(owner.Name, "-"+l.Labels["pod-template-hash"])
		}
		seen[l.Namespace+"/"+name] = true
	}
	return len(seen)
}

// rank is lower for pods that are worth more.
func rank(pod *corev1.Pod) int {
	switch {
	case pod.DeletionTimestamp != nil:
		return 3
	case kube.IsReady(pod):
		return 0
	case pod.Status.Phase == corev1.PodRunning:
		return 1
	}
	return 2
}

// container returns the name of the container that is meant.
func (c Choice) container(pod *corev1.Pod) (string, error) {
	if c.Container == "" {
		if built := c.built(pod); built != "" {
			return built, nil
		}
		if name := pod.Annotations["kubectl.kubernetes.io/default-container"]; name != "" {
			return name, nil
		}
		return pod.Spec.Containers[0].Name, nil
	}
	var names []string
	for _, status := range allContainers(pod) {
		names = append(names, status.Name)
	}
	if !slices.Contains(names, c.Container) {
		return "", event.WithHint(fmt.Errorf("pod %s has no container %q", pod.Name, c.Container),
			"it has: "+strings.Join(names, ", "))
	}
	return c.Container, nil
}

// built returns the name of the pod's first container with an image of devloop.yaml, or "".
func (c Choice) built(pod *corev1.Pod) string {
	for _, container := range pod.Spec.Containers {
		if c.Built(container.Image) {
			return container.Name
		}
	}
	return ""
}
