package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// answersWithin is how soon a cluster that was away has to answer for a clean-up to begin.
const answersWithin = time.Second

// Cleanup removes what was deployed. Images stay, for the next start. leaves is what the user can
// press to cut it short. If the cluster is away, it ends at once and says what stays behind.
func (s *Session) Cleanup(ctx context.Context, leaves string, what deploy.Removal) error {
	say := s.options.Sink.Stage("cleanup")
	say.Note(event.CleanupStarts, "leave at once with", leaves)
	if away := s.stillAway(ctx); away != nil {
		return s.cannotCleanUp(away)
	}
	there, end := s.availability.whileUsable(ctx)
	defer end()
	c := s.config.Load()
	what.Before = c.Cleanup.Before
	if c.Part != nil && what.Only == nil {
		what.Only = s.withoutNeeded(say, c.ReleaseNames())
	}
	ending, err := s.deployer.Cleanup(there, s.options.Sink, allReleases(c), what)
	var away *kube.AwayError
	switch {
	case err == nil:
	case errors.As(context.Cause(there), &away), errors.As(s.cluster.Ping(ctx), &away):
		return s.cannotCleanUp(away)
	default:
		hint := strings.TrimPrefix(event.Hint(err)+"; devloop delete tries again", "; ")
		return event.WithHint(fmt.Errorf("clean up: %w", err), hint)
	}
	count := func(kinds ...journal.Kind) (n int) {
		for _, kind := range kinds {
			n += len(s.journal.Names(kind))
		}
		return n
	}
	switch {
	case len(ending) > 0:
		say.Note("some of what was deleted is still ending", "objects", strings.Join(ending, ", "))
	case what.Only != nil && count(journal.Release) > 0:
		say.Note("the rest stays as it is", "releases", event.Name(strings.Join(s.journal.Names(journal.Release), ", ")))
	case count(journal.Release, journal.Namespace) > 0: // already reported, with what keeps it
	case count(journal.CRD, journal.Volume) > 0:
		say.Note("nothing else left behind")
	default:
		say.Note("nothing left behind")
	}
	return nil
}

// NeededBy returns the names of the deployed releases that depend on those that are to go, directly
// or not, and are not among them.
func (s *Session) NeededBy(going []string) (names []string) {
	for again := true; again; {
		again = false
		for _, r := range allReleases(s.config.Load()) {
			gone := slices.Concat(going, names)
			needs := func(name string) bool { return slices.Contains(gone, name) }
			if !needs(r.Name) && slices.ContainsFunc(r.DependsOn, needs) && s.journal.Has(journal.Release, r.ID()) {
				names, again = append(names, r.Name), true
			}
		}
	}
	return names
}

// withoutNeeded returns the names of those that no deployed release which stays depends on.
func (s *Session) withoutNeeded(say event.Stage, going []string) []string {
	return slices.DeleteFunc(slices.Clone(going), func(name string) bool {
		staying := slices.DeleteFunc(s.NeededBy([]string{name}),
			func(other string) bool { return slices.Contains(going, other) })
		if len(staying) > 0 {
			say.Note("release stays, others depend on it", "release", event.Name(name),
				"others", event.Name(strings.Join(staying, ", ")))
		}
		return len(staying) > 0
	})
}

// stillAway returns why the cluster cannot be used, nil if it can be.
func (s *Session) stillAway(ctx context.Context) *kube.AwayError {
	away, _ := s.availability.now()
	if away == nil {
		return nil
	}
	within := answersWithin
	if away.State == event.ClusterUnreachable { // it may be there
		within = kube.AnswerTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if s.cluster.Answers(ctx) == nil { // it has just come back
		return nil
	}
	return away
}

// cannotCleanUp says what stays behind on a cluster that is away. If the cluster no longer exists,
// nothing does.
func (s *Session) cannotCleanUp(away *kube.AwayError) error {
	say := s.options.Sink.Stage("cleanup")
	left := s.left()
	switch {
	case len(left) == 0:
		say.Note("nothing left behind")
		return nil
	case away.State == event.ClusterDeleted:
		say.Note("nothing to remove, the cluster is deleted", "context", event.Name(away.Context))
		if isGone(s.journal) {
			return s.journal.Remove()
		}
		return nil // only Docker says so, and it may be another Docker by now
	case away.State == event.ClusterReplaced:
		say.Warn("nothing is removed: what was deployed is not on the cluster that answers now", nil,
			"context", event.Name(away.Context))
		return nil
	}
	err := fmt.Errorf("clean up: %w; still there: %s", away, strings.Join(left, ", "))
	return event.WithHint(err, strings.TrimPrefix(away.Hint()+"; then devloop delete", "; "))
}

// left lists what the journal has: each a kind and a name.
func (s *Session) left() (left []string) {
	for _, kind := range []journal.Kind{journal.Release, journal.Namespace, journal.Pod} {
		for _, name := range s.journal.Names(kind) {
			left = append(left, string(kind)+" "+name)
		}
	}
	return left
}

// Abandon stops what is running, for a process that is about to exit. It returns what stays behind.
func (s *Session) Abandon() (left []string) {
	s.deployer.Abandon()
	return s.left()
}
