package control

import (
	"context"
	"errors"
	"sync"

	"github.com/devloop/devloop/pkg/status/web"
)

// Questions are what other commands ask a running devloop. Only a session can answer them.
type Questions struct {
	mu      sync.Mutex
	answers map[string]web.Question // nil while there is no session
	ended   context.Context         //nolint:containedctx // of the answers
	end     context.CancelFunc
	running sync.WaitGroup // answers
}

// Answer begins to answer. The returned function cancels the answers under way, and waits for them.
func (q *Questions) Answer(answers map[string]web.Question) (end func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answers = answers
	q.ended, q.end = context.WithCancel(context.Background())
	return func() {
		q.mu.Lock()
		q.answers = nil
		q.end()
		q.mu.Unlock()
		q.running.Wait()
	}
}

// question returns the question of a name.
func (q *Questions) question(name string) web.Question {
	return func(ctx context.Context) (any, error) {
		q.mu.Lock()
		answer, ended := q.answers[name], q.ended
		if answer == nil {
			q.mu.Unlock()
			return nil, errors.New("devloop is only starting, or ending")
		}
		q.running.Add(1)
		q.mu.Unlock()
		defer q.running.Done()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(ended, cancel)() //nolint:contextcheck // ends with the answers, too
		return answer(ctx)
	}
}
