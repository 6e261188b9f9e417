package session

import (
	"context"
	"fmt"
	"strings"

	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
)

// Cleanup removes what was deployed. Images stay, for the next start. leaves is what the user can
// press to cut it short.
func (s *Session) Cleanup(ctx context.Context, leaves string, what deploy.Removal) error {
	say := s.options.Sink.Stage("cleanup")
	say.Note(event.CleanupStarts, "leave at once with", leaves)
	what.Before = s.config.Load().Cleanup.Before
	ending, err := s.deployer.Cleanup(ctx, s.options.Sink, releases(s.config.Load()), what)
	if err != nil {
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
	case count(journal.Release, journal.Namespace) > 0: // already reported, with what keeps it
	case count(journal.CRD, journal.Volume) > 0:
		say.Note("nothing else left behind")
	default:
		say.Note("nothing left behind")
	}
	return nil
}

// Abandon ends what runs now, at once, for a process that is about to end at once, too. It returns
// what stays behind: each a kind and a name.
func (s *Session) Abandon() (left []string) {
	s.deployer.Abandon()
	for _, kind := range []journal.Kind{journal.Release, journal.Namespace, journal.Pod} {
		for _, name := range s.journal.Names(kind) {
			left = append(left, string(kind)+" "+name)
		}
	}
	return left
}
