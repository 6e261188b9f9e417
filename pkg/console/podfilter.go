package console

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// LogLevels are the levels of lines that pods print, in order.
var LogLevels = []string{string(event.Debug), string(event.Info), string(event.Warning), string(event.Error)}

// PodFilter chooses lines that pods print. A nil one chooses none.
type PodFilter struct {
	pods     *regexp.Regexp // matches "pod/container"; nil for all
	minLevel string         // "" for all
}

// NewPodFilter returns a filter by a regular expression and a level; "" stands for all. Its errors
// are UsageErrors.
func NewPodFilter(pods, minLevel string) (*PodFilter, error) {
	f := &PodFilter{minLevel: minLevel}
	if minLevel != "" && !slices.Contains(LogLevels, minLevel) {
		return nil, UsageError{event.WithHint(fmt.Errorf("there is no log level %q", minLevel),
			"use one of "+strings.Join(LogLevels, ", "))}
	}
	if pods != "" {
		var err error
		if f.pods, err = regexp.Compile(pods); err != nil {
			return nil, UsageError{event.WithHint(fmt.Errorf("names of pods: %w", err),
				"it is a regular expression: dask-.*|gateway")}
		}
	}
	return f, nil
}

// Shows reports whether a line of a pod's log is chosen.
func (f *PodFilter) Shows(e event.Event) bool {
	line, ok := e.Payload.(event.LogLine)
	return ok && f != nil && f.Matches(e) &&
		slices.Index(LogLevels, string(line.Level)) >= slices.Index(LogLevels, f.minLevel)
}

// Matches reports whether the event is about a pod that is chosen.
func (f *PodFilter) Matches(e event.Event) bool {
	var c event.ContainerRef
	switch p := e.Payload.(type) {
	case event.LogLine:
		c = p.ContainerRef
	case event.ContainerDeath:
		c = p.ContainerRef
	}
	return f.pods == nil || f.pods.MatchString(string(c.Pod+"/"+c.Container))
}
