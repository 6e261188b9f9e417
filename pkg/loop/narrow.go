package loop

// A run of some releases alone, those that the user asked for.

import (
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// merge returns which releases two reasons for a run ask for together, nil for all.
func merge(a, b []string) []string {
	if a == nil || b == nil {
		return nil
	}
	both := slices.Concat(a, b)
	slices.Sort(both)
	return slices.Compact(both)
}

// narrow returns the stages of a run of these releases, and of those that they depend on. That is
// enough only if the last run was good, and all files hold what they held then: else the others are
// not what is on the disk, and the run is of all releases.
func (r *reading) narrow(stage event.Stage, releases []string, lastGood *reading) (Stages, error) {
	if releases == nil {
		return r.stages, nil
	}
	if lastGood == nil || lastGood.sum != r.sum {
		stage.Note("this run is of all releases: files changed, or the last run was not completed", "asked for",
			event.Names(releases))
		return r.stages, nil
	}
	stages, err := r.stages.Only(releases)
	if err == nil {
		stage.Detail(event.RunNarrowed, event.RunScope{Releases: releases})
	}
	return stages, err
}
