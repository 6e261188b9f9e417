package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// FieldManager is devloop's name in the managed fields of objects, and its value of LabelManagedBy.
const FieldManager = "devloop"

// Labels and annotations that Helm, its charts' helpers, and devloop put on objects.
const (
	LabelManagedBy             = "app.kubernetes.io/managed-by"
	LabelInstance              = "app.kubernetes.io/instance"
	AnnotationHook             = "helm.sh/hook"
	AnnotationRelease          = "meta.helm.sh/release-name"
	AnnotationReleaseNamespace = "meta.helm.sh/release-namespace"
	LabelCheckPod              = "devloop.trial" // what a check pod is for
)

// ReasonOOMKilled is the kubelet's reason for a container that exceeded its memory limit.
const ReasonOOMKilled = "OOMKilled"

// Label is a key of an object's labels with its value.
type Label struct{ Key, Value string }

// IsCheckPod reports whether devloop made the pod to run a command in an image.
func IsCheckPod(pod *corev1.Pod) bool {
	return pod.Labels[LabelManagedBy] == FieldManager && pod.Labels[LabelCheckPod] != ""
}

// ContainerStatuses returns the statuses of a pod's init containers and containers, in the order in
// which they start.
func ContainerStatuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// IsStarting reports whether a container waits only for its turn, its volumes or its image.
func IsStarting(status corev1.ContainerStatus) bool {
	waiting := status.State.Waiting
	return waiting != nil && (waiting.Reason == "ContainerCreating" || waiting.Reason == "PodInitializing")
}
