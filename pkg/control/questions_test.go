package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/devloop/devloop/pkg/status/web"
)

// A question ends with the session that it is asked of, and is waited for.
func TestQuestionsEndWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Questions
		answers := make(chan error, 2)
		question := q.question("chain")
		if _, err := question(t.Context()); err == nil || !strings.Contains(err.Error(), "only starting") {
			t.Errorf("before: %v", err)
		}
		end := q.Answer(map[string]web.Question{"chain": func(ctx context.Context) (any, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}})
		var asked sync.WaitGroup
		asked.Go(func() {
			_, err := question(t.Context())
			answers <- err
		})
		synctest.Wait()
		end()
		select {
		case err := <-answers:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		default:
			t.Error("it was not waited for")
		}
		end()
		asked.Wait()
		if _, err := question(t.Context()); err == nil {
			t.Error("it is answered after the end")
		}
	})
}
