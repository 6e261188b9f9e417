package control

import (
	"context"
	"errors"
	"sync"

	"github.com/devloop/devloop/pkg/status/web"
)

// Questions are what other commands ask a running devloop. Only a session can answer them.
type Questions struct {
	mu      sync.RWMutex            // for reading while a question is answered
	answers map[string]web.Question // nil while there is no session
	ended   context.Context         //nolint:containedctx // of the answers
}

// Answer begins to answer. The returned function cancels the answers under way, and waits for them.
func (q *Questions) Answer(answers map[string]web.Question) (end func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ended, cancel := context.WithCancel(context.Background())
	q.answers, q.ended = answers, ended
	return func() {
		cancel()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.answers = nil
	}
}

// question returns the question of a name.
func (q *Questions) question(name string) web.Question {
	return func(ctx context.Context) (any, error) {
		q.mu.RLock()
		defer q.mu.RUnlock()
		answer := q.answers[name]
		if answer == nil {
			return nil, errors.New("devloop is only starting, or ending")
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(q.ended, cancel)() //nolint:contextcheck // ends with the answers, too
		return answer(ctx)
	}
}
