package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// ReasonOOMKilled is the kubelet's reason for a container that exceeded its memory limit.
const ReasonOOMKilled = "OOMKilled"

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
