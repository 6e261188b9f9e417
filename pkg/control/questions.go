package control

import (
	"context"
	"errors"
	"sync"

	"github.com/devloop/devloop/pkg/status/web"
)

// Questions are what other commands ask this devloop, for as long as somebody answers them.
type Questions struct {
	mu      sync.Mutex
	answers map[string]web.Question // nil while nobody answers
	ended   context.Context         //nolint:containedctx // of the answers
	end     context.CancelFunc
	under   sync.WaitGroup // that are being answered
}

// Answer begins to answer. The returned function ends that, and waits for the answers that are under way.
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
		q.under.Wait()
	}
}

// Question is the one of a name.
func (q *Questions) Question(name string) web.Question {
	return func(ctx context.Context) (any, error) {
		q.mu.Lock()
		answer, ended := q.answers[name], q.ended
		if answer == nil {
			q.mu.Unlock()
			return nil, errors.New("devloop is only starting, or ending")
		}
		q.under.Add(1)
		q.mu.Unlock()
		defer q.under.Done()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(ended, cancel)() //nolint:contextcheck // with the answers, too
		return answer(ctx)
	}
}
