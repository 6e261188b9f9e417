package session

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/dask"
)

// A proxy sends requests to an old and a new pod in turn.
func TestRouteThatAnswersInTurn(t *testing.T) {
	for _, test := range []struct {
		about   string
		answers string // in turn
		images  string
		why     string
		failure string
	}{
		{"one pod", "new", "new new new new", "", ""},
		{"two of which one is old", "new old", "new old new old", "", ""},
		{"one is gone", "new 502", "new", "", "502 Bad Gateway"},
		{"one refuses", "new 403", "new new", "", "only some of the time: its gateway answers 403 Forbidden"},
		{"the first refuses", "403 new", "new new", "", "only some of the time: its gateway answers 403 Forbidden"},
		{"all refuse", "403", "", "its gateway answers 403 Forbidden", ""},
	} {
		t.Run(test.about, func(t *testing.T) {
			answers, asked := strings.Fields(test.answers), 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				answer := answers[asked%len(answers)]
				asked++
				var code int
				if _, err := fmt.Sscan(answer, &code); err == nil {
					w.WriteHeader(code)
					return
				}
				_, _ = fmt.Fprintf(w, `{"cluster_options":[{"field":"image","default":%q,"spec":{"type":"string"}}]}`, answer)
			}))
			defer server.Close()
			images, why, err := askRoute(t.Context(), dask.Route{Local: server.URL}, routeTurns)
			if !slices.Equal(images, strings.Fields(test.images)) || why != test.why ||
				(err != nil) != (test.failure != "") || err != nil && !strings.Contains(err.Error(), test.failure) {
				t.Errorf("%q, %q, %v", images, why, err)
			}
		})
	}
}
