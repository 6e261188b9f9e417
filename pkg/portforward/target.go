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
)

// Target is what a forward leads to. It may not exist yet.
type Target struct {
	Namespace string
	Kind      string // one of the constants below
	Name      string // or the label selector
	// Port is a number or a name: of the service's port, which leads to a pod's port as in the
	// cluster, or, for the other kinds, of the pod's port.
	Port string
}

// The kinds of targets, as devloop.yaml names them.
const (
	Service     = "service"
	Deployment  = "deployment"
	StatefulSet = "statefulset"
	Pod         = "pod"
	Selector    = "selector"
)

// String names the target for messages.
func (t Target) String() string { return fmt.Sprintf("%s %s/%s", t.Kind, t.Namespace, t.Name) }

// queries are what has to be watched to find the target's pods: the object that selects them (nil
// if there is none) and the pods.
func (t Target) queries(client kubernetes.Interface) (owner, pods *query, err error) {
	byName := fields.OneTermEqualSelector(metav1.ObjectNameField, t.Name).String()
	var podFields, podLabels string // none for an owner's pods: what it selects may change
	switch t.Kind {
	case Service:
		owner = newQuery(&corev1.Service{}, client.CoreV1().Services(t.Namespace))
	case Deployment:
		owner = newQuery(&appsv1.Deployment{}, client.AppsV1().Deployments(t.Namespace))
	case StatefulSet:
		owner = newQuery(&appsv1.StatefulSet{}, client.AppsV1().StatefulSets(t.Namespace))
	case Pod:
		podFields = byName
	case Selector:
		podLabels = t.Name
	default:
		return nil, nil, fmt.Errorf("cannot forward to %q: "+
			"a forward leads to a service, deployment, statefulset, pod or selector", t.Kind)
	}
	if owner != nil {
		owner.fields = byName
	}
	pods = newQuery(&corev1.Pod{}, client.CoreV1().Pods(t.Namespace))
	pods.fields, pods.labels = podFields, podLabels
	return owner, pods, nil
}

// query selects objects of one kind in a namespace.
type query struct {
	kind           runtime.Object
	list           func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch          func(context.Context, metav1.ListOptions) (watch.Interface, error)
	fields, labels string // selectors
}

// newQuery takes one of client-go's typed clients, which share these methods but no interface.
func newQuery[L runtime.Object](kind runtime.Object, client interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}) *query {
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) }
	return &query{kind: kind, list: list, watch: client.Watch}
}

// narrow adds the query's selectors.
func (q *query) narrow(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector, o.LabelSelector = q.fields, q.labels
	return o
}

// backend is a running pod of the target, and the port that connections go to.
type backend struct {
	pod, uid string
	port     int
	ready    bool
}

// key identifies the backend. A StatefulSet's next pod has the same name, so it is not the name.
func (b backend) key() string { return fmt.Sprintf("%s:%d", b.uid, b.port) }

// backends are the target's running pods, sorted by name. If none is ready, reason says why.
func (t Target) backends(owners, pods []any) (found []backend, reason error) {
	selects, port, err := t.resolve(owners)
	if err != nil {
		return nil, err
	}
	reason = fmt.Errorf("no pod of %s is ready", t)
	if t.Kind == Pod {
		reason = fmt.Errorf("%s is not ready", t)
	}
	for _, o := range pods {
		pod, ok := o.(*corev1.Pod)
		if !ok || !selects(pod) || !running(pod) {
			continue
		}
		number := podPort(pod, port)
		if number == 0 {
			reason = fmt.Errorf("pod %s has no TCP port named %q", pod.Name, port.StrVal)
			continue
		}
		found = append(found, backend{pod: pod.Name, uid: string(pod.UID), port: number, ready: ready(pod)})
	}
	if slices.ContainsFunc(found, func(b backend) bool { return b.ready }) {
		reason = nil
	}
	slices.SortFunc(found, func(a, b backend) int { return strings.Compare(a.pod, b.pod) })
	return found, reason
}

// resolve returns which pods the target selects, and their port.
func (t Target) resolve(owners []any) (selects func(*corev1.Pod) bool, port intstr.IntOrString, err error) {
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

// targetPort is the pods' port behind the service's port.
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

// running reports whether the pod runs and is not being deleted. Of an evicted pod, the failed
// phase may be the only sign.
func running(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning
}

// ready reports whether a service would send connections to a running pod.
func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podPort is the number of the pod's port, 0 if it has none of that name.
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
