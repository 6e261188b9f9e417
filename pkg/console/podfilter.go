// Which lines that pods print are shown: by the key l and --logs in the terminal, by arguments in devloop logs.
package console

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// PodFilter chooses lines of pods' logs. A nil one chooses none.
type PodFilter struct {
	pods  *regexp.Regexp // by the pod's name and its container's, "pod/container"; nil for all
	least event.Level    // "" for all
}

// LogLevels are in order.
var LogLevels = []string{string(event.Debug), string(event.Info), string(event.Warning), string(event.Error)}

// NewPodFilter checks what the user gave.
func NewPodFilter(pods, least string) (*PodFilter, error) {
	f := &PodFilter{least: event.Level(least)}
	if least != "" && !slices.Contains(LogLevels, least) {
		return nil, UsageError{Err: event.WithHint(fmt.Errorf("there is no log level %q", least), fmt.Sprintf("take one of %v", LogLevels))}
	}
	if pods != "" {
		var err error
		if f.pods, err = regexp.Compile(pods); err != nil {
			return nil, UsageError{Err: event.WithHint(fmt.Errorf("names of pods: %w", err), "it is a regular expression: dask-.*|gateway")}
		}
	}
	return f, nil
}

// Shows tells whether a line of a pod's log is chosen.
func (f *PodFilter) Shows(e event.Event) bool {
	line, ok := e.Typed().Payload.(event.LogLine)
	return ok && f != nil && f.Matches(e) &&
		slices.Index(LogLevels, string(line.Level)) >= slices.Index(LogLevels, string(f.least))
}

// Matches tells whether the event is about a pod that is chosen.
func (f *PodFilter) Matches(e event.Event) bool {
	var c event.ContainerRef
	switch p := e.Typed().Payload.(type) {
	case event.LogLine:
		c = p.ContainerRef
	case event.ContainerDeath:
		c = p.ContainerRef
	}
	return f.pods == nil || f.pods.MatchString(string(c.Pod+"/"+c.Container))
}
