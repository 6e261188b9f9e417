package kube

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// EventTime returns when an event happened last. Kubernetes has two fields for that.
func EventTime(e *corev1.Event) time.Time {
	if e.LastTimestamp.IsZero() {
		return e.EventTime.Time
	}
	return e.LastTimestamp.Time
}

// NewestEvent returns the event that happened last, nil if there is none.
func NewestEvent(events []corev1.Event) (newest *corev1.Event) {
	for i := range events {
		if e := &events[i]; newest == nil || EventTime(e).After(EventTime(newest)) {
			newest = e
		}
	}
	return newest
}
