package deploy

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/devloop/devloop/pkg/event"
)

// Whether a run is retried depends on what Helm or the API server said, not on what pods printed.
func TestTransient(t *testing.T) {
	refused := errors.New("Get \"https://192.0.2.1\": dial tcp 192.0.2.1:8443: connect: connection refused")
	failed := errors.New("job failed: BackoffLimitExceeded")
	report := func(err error) error {
		return event.WithHint(fmt.Errorf("%w\n%s", withoutListFrame(err),
			"hook job/a: pod a-1 failed\nfirst try: connection refused"), "fix it")
	}
	for name, test := range map[string]struct {
		err    error
		passes bool
	}{
		"the API server is away":           {fmt.Errorf("release a: %w", refused), true},
		"the same beside something":        {errors.Join(fmt.Errorf("release a: %w", refused), errors.New("b")), true},
		"a hook that printed it":           {errors.Join(report(failed), nil), false},
		"a hook while the server was away": {errors.Join(report(refused), nil), true},
		"a pod that printed it": {event.WithHint(finalError{errors.New("pod a-1: connection refused")},
			"fix it"), false},
		"Helm's list of one": {
			withoutListFrame(errors.New("1 error occurred:\n\t* Get \"https://192.0.2.1\": i/o timeout\n\n")), true},
		"an API server that starts": {fmt.Errorf("create: %w", apierrors.NewForbidden(pods, "a",
			errors.New("not yet ready to handle request"))), true},
		"a quota":   {apierrors.NewForbidden(pods, "a", errors.New("exceeded quota")), false},
		"a mistake": {errors.New("parse error"), false},
	} {
		if got := event.IsTransient(markTransient(test.err)); got != test.passes {
			t.Errorf("%s: %t", name, got)
		}
	}
}
