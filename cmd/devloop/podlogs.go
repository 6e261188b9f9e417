// Which lines that pods print are shown: by the key l and --logs in the terminal, by arguments in devloop logs.
package main

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// podFilter chooses lines of pods' logs. A nil one chooses none.
type podFilter struct {
	pods  *regexp.Regexp // by the pod's name and its container's, "pod/container"; nil for all
	least event.Level    // "" for all
}

// logLevels are in order.
var logLevels = []string{string(event.Debug), string(event.Info), string(event.Warning), string(event.Error)}

// newPodFilter checks what the user gave.
func newPodFilter(pods, least string) (*podFilter, error) {
	f := &podFilter{least: event.Level(least)}
	if least != "" && !slices.Contains(logLevels, least) {
		return nil, usageError{Err: event.WithHint(fmt.Errorf("there is no log level %q", least), fmt.Sprintf("take one of %v", logLevels))}
	}
	if pods != "" {
		var err error
		if f.pods, err = regexp.Compile(pods); err != nil {
			return nil, usageError{Err: event.WithHint(fmt.Errorf("names of pods: %w", err), "it is a regular expression: dask-.*|gateway")}
		}
	}
	return f, nil
}

// shows tells whether a line of a pod's log is chosen.
func (f *podFilter) shows(e event.Event) bool {
	return f != nil && f.Matches(e) && slices.Index(logLevels, fmt.Sprint(e.Field("level"))) >= slices.Index(logLevels, string(f.least))
}

// Matches tells whether the event is about a pod that is chosen.
func (f *podFilter) Matches(e event.Event) bool {
	return f.pods == nil || f.pods.MatchString(fmt.Sprintf("%v/%v", e.Field("pod"), e.Field("container")))
}
