package kube

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ReasonOOMKilled is the kubelet's reason for a container that exceeded its memory limit.
const ReasonOOMKilled = "OOMKilled"

// IsCheckPod reports whether devloop made the pod to run a command in an image.
func IsCheckPod(pod *corev1.Pod) bool {
	return pod.Labels[LabelManagedBy] == FieldManager && pod.Labels[LabelCheckPod] != ""
}

// HasEnded reports whether all containers of a pod have ended for good.
func HasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// IsReady reports whether Kubernetes says that a pod is ready.
func IsReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// ContainerID returns the ID that a runtime has for a container, from that of a status, which has a
// scheme before it.
func ContainerID(inStatus string) string {
	if _, id, hasScheme := strings.Cut(inStatus, "://"); hasScheme {
		return id
	}
	return inStatus
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
