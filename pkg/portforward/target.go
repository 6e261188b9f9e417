package portforward

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Target is what a forward leads to. It may not exist yet.
type Target struct {
	Namespace string
	Kind      string // Service, Deployment, StatefulSet, Pod or Selector
	Name      string // or the label selector
	// Port is a number or a name. A service's is that of the service: the pod's own follows from it, as in the cluster.
	// All others' is that of the pod.
	Port string
}

// The kinds of targets, by their names in devloop.yaml.
const (
	Service     = "service"
	Deployment  = "deployment"
	StatefulSet = "statefulset"
	Pod         = "pod"
	Selector    = "selector"
)

// String names the target for messages.
func (t Target) String() string { return fmt.Sprintf("%s %s/%s", t.Kind, t.Namespace, t.Name) }

// watches are what has to be known to find the target's pods: the object that selects them, if there is one, and pods.
func (t Target) watches(client kubernetes.Interface) (owner, pods *watched, err error) {
	byName := fields.OneTermEqualSelector(metav1.ObjectNameField, t.Name).String()
	named := func(o *metav1.ListOptions) { o.FieldSelector = byName }
	all := func(*metav1.ListOptions) {} // what the owner selects may change
	switch t.Kind {
	case Service:
		owner = watching(&corev1.Service{}, client.CoreV1().Services(t.Namespace), named)
	case Deployment:
		owner = watching(&appsv1.Deployment{}, client.AppsV1().Deployments(t.Namespace), named)
	case StatefulSet:
		owner = watching(&appsv1.StatefulSet{}, client.AppsV1().StatefulSets(t.Namespace), named)
	case Pod:
		all = named
	case Selector:
		all = func(o *metav1.ListOptions) { o.LabelSelector = t.Name }
	default:
		return nil, nil, fmt.Errorf("%q cannot be forwarded to: a forward leads to a service, deployment, statefulset, pod or selector", t.Kind)
	}
	return owner, watching(&corev1.Pod{}, client.CoreV1().Pods(t.Namespace), all), nil
}

// watched is a part of the cluster's objects.
type watched struct {
	kind runtime.Object
	list cache.ListWatch
}

// lister is what all clients of client-go have, each for its kind of objects.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func watching[L runtime.Object](kind runtime.Object, api lister[L], narrow func(*metav1.ListOptions)) *watched {
	return &watched{kind, cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			narrow(&o)
			return api.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			narrow(&o)
			return api.Watch(ctx, o)
		},
	}}
}

// backend is a pod that takes connections, or is about to, and its port.
type backend struct {
	pod, uid string
	port     int
	ready    bool
}

// key tells two backends apart that have the same name: a StatefulSet's pod keeps its name.
func (b backend) key() string { return fmt.Sprintf("%s:%d", b.uid, b.port) }

// backends are the pods that take the target's connections and those that start, by name, and the reason if none is ready.
func (t Target) backends(owners, pods []any) ([]backend, error) {
	selects, port, err := t.rule(owners)
	if err != nil {
		return nil, err
	}
	why := fmt.Errorf("no pod of %s is ready", t)
	if t.Kind == Pod {
		why = fmt.Errorf("%s is not ready", t)
	}
	var found []backend
	for _, o := range pods {
		pod, ok := o.(*corev1.Pod)
		if !ok || !selects(pod) || !alive(pod) {
			continue
		}
		number := podPort(pod, port)
		if number == 0 {
			why = fmt.Errorf("pod %s has no TCP port named %q", pod.Name, port.StrVal)
			continue
		}
		found = append(found, backend{pod: pod.Name, uid: string(pod.UID), port: number, ready: ready(pod)})
	}
	if slices.ContainsFunc(found, func(b backend) bool { return b.ready }) {
		why = nil
	}
	slices.SortFunc(found, func(a, b backend) int { return strings.Compare(a.pod, b.pod) })
	return found, why
}

// rule says which pods are meant and which port of theirs.
func (t Target) rule(owners []any) (selects func(*corev1.Pod) bool, port intstr.IntOrString, err error) {
	port = intstr.Parse(t.Port)
	switch t.Kind {
	case Pod:
		return func(pod *corev1.Pod) bool { return pod.Name == t.Name }, port, nil
	case Selector:
		selector, err := labels.Parse(t.Name)
		return matches(selector), port, err
	}
	for _, o := range owners {
		if object, ok := o.(metav1.Object); !ok || object.GetName() != t.Name {
			continue
		}
		var selector labels.Selector
		switch o := o.(type) {
		case *corev1.Service:
			if len(o.Spec.Selector) == 0 {
				return nil, port, fmt.Errorf("%s has no selector, so no pods", t)
			}
			selector = labels.SelectorFromSet(o.Spec.Selector)
			port, err = t.targetPort(o)
		case *appsv1.Deployment:
			selector, err = metav1.LabelSelectorAsSelector(o.Spec.Selector)
		case *appsv1.StatefulSet:
			selector, err = metav1.LabelSelectorAsSelector(o.Spec.Selector)
		}
		if err != nil {
			return nil, port, err
		}
		return matches(selector), port, nil
	}
	return nil, port, fmt.Errorf("%s does not exist", t)
}

func matches(selector labels.Selector) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool { return selector.Matches(labels.Set(pod.Labels)) }
}

// targetPort is the port of the pods that the service's port stands for.
func (t Target) targetPort(service *corev1.Service) (intstr.IntOrString, error) {
	for _, p := range service.Spec.Ports {
		if !isTCP(p.Protocol) || t.Port != p.Name && t.Port != strconv.Itoa(int(p.Port)) {
			continue
		}
		if p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal == 0 {
			return intstr.FromInt32(p.Port), nil
		}
		return p.TargetPort, nil
	}
	return intstr.IntOrString{}, fmt.Errorf("%s has no TCP port %s", t, t.Port)
}

// alive reports whether the pod runs, and is to go on doing so. An evicted pod has failed, which may be all that is said of it.
func alive(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning
}

// ready reports whether the cluster itself would send connections to a pod that is alive.
func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podPort is the number of a port of the pod; 0 if the pod has none of that name.
func podPort(pod *corev1.Pod, port intstr.IntOrString) int {
	if port.Type == intstr.Int {
		return port.IntValue()
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways { // a sidecar
			containers = append(containers, c)
		}
	}
	for _, container := range containers {
		for _, p := range container.Ports {
			if p.Name == port.StrVal && isTCP(p.Protocol) {
				return int(p.ContainerPort)
			}
		}
	}
	return 0
}

func isTCP(p corev1.Protocol) bool { return p == corev1.ProtocolTCP || p == "" }
