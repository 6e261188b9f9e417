package pods

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// originTimeout limits the requests for a pod's origin.
const originTimeout = 30 * time.Second

// origin is what created a pod, by Helm's labels and annotations. The zero value: not Helm.
type origin struct {
	release string // its ID, or ""
	sure    bool   // by Helm's annotation
	hook    string // name of the hook that created it
}

type tracedPod struct {
	uid    types.UID
	origin origin
	failed bool // the API server did not answer
}

// traceAll answers where pods come from, until ctx ends.
func traceAll(ctx context.Context, stage event.Stage, client kubernetes.Interface,
	asked <-chan *corev1.Pod, traced chan<- tracedPod) {
	t := tracer{client, map[types.UID]origin{}}
	for {
		select {
		case <-ctx.Done():
			return
		case object := <-asked:
			var found origin
			var err error
			_ = stage.Recover("origin of a pod", func() { found, err = t.trace(ctx, object) }) // then the zero value
			if err != nil {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return
				}
			}
			select {
			case traced <- tracedPod{object.UID, found, err != nil}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// tracer follows the owners of pods.
type tracer struct {
	client kubernetes.Interface
	known  map[types.UID]origin // of owners
}

// trace returns the origin of an object. Helm annotates what it creates, and replica sets copy
// their deployment's annotations; hooks have labels at most.
func (t *tracer) trace(ctx context.Context, o metav1.Object) (origin, error) {
	var mine origin
	if name := o.GetAnnotations()[kube.AnnotationRelease]; name != "" {
		return origin{release: o.GetAnnotations()[kube.AnnotationReleaseNamespace] + "/" + name, sure: true}, nil
	}
	hook, instance := o.GetAnnotations()[kube.AnnotationHook] != "", o.GetLabels()[kube.LabelInstance]
	if hook {
		mine.hook = o.GetName()
	}
	if instance != "" && (hook || o.GetLabels()[kube.LabelManagedBy] == "Helm") {
		mine.release = o.GetNamespace() + "/" + instance
	}
	ref := metav1.GetControllerOf(o)
	if ref == nil {
		return mine, nil
	}
	made, known := t.known[ref.UID]
	if !known {
		owner, err := t.owner(ctx, o.GetNamespace(), ref)
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), errors.Is(err, errNotWalked):
			return mine, nil
		case err != nil:
			return mine, err
		}
		if made, err = t.trace(ctx, owner); err != nil {
			return mine, err
		}
		if made != (origin{}) {
			t.known[ref.UID] = made
		}
	}
	if made.sure || mine == (origin{}) {
		return made, nil
	}
	return mine, nil
}

// owner gets the controller of an object.
func (t *tracer) owner(ctx context.Context, namespace string, ref *metav1.OwnerReference) (metav1.Object, error) {
	apps, batch := t.client.AppsV1(), t.client.BatchV1()
	var owner metav1.Object
	var err error
	switch ref.Kind {
	case "ReplicaSet":
		owner, err = apps.ReplicaSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "Deployment":
		owner, err = apps.Deployments(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "StatefulSet":
		owner, err = apps.StatefulSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "DaemonSet":
		owner, err = apps.DaemonSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "Job":
		owner, err = batch.Jobs(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "CronJob":
		owner, err = batch.CronJobs(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	case "ReplicationController":
		owner, err = t.client.CoreV1().ReplicationControllers(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	default:
		return nil, errNotWalked
	}
	if err == nil && owner.GetUID() != ref.UID {
		return nil, errNotWalked // another object of that name
	}
	return owner, err
}

// Origin is where a pod comes from.
type Origin struct {
	Release string // ID, or ""
	// NotReplaced tells that nothing replaces the pod when its image changes: it is a job's, or
	// another program started it.
	NotReplaced bool
}

// OriginOf returns where a pod comes from, the zero value if it is gone.
func OriginOf(ctx context.Context, c *kube.Cluster, namespace, pod string) (Origin, error) {
	ctx, cancel := context.WithTimeout(ctx, originTimeout)
	defer cancel()
	object, err := c.Client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Origin{}, nil
	}
	if err != nil {
		return Origin{}, err
	}
	made, err := (&tracer{c.Client, map[types.UID]origin{}}).trace(ctx, object)
	return Origin{made.release, isKept(object, made)}, err
}

func isKept(pod *corev1.Pod, made origin) bool {
	controller := metav1.GetControllerOf(pod)
	switch {
	case controller == nil && made.release == "": // JupyterHub's pods have such labels, those of kubectl run have not
		return pod.Labels[kube.LabelManagedBy] != "" || pod.Labels["heritage"] != ""
	case controller == nil:
		return made.hook != ""
	}
	return made.release == "" || controller.Kind == "Job"
}
