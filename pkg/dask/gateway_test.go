package dask

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestGatewayImage(t *testing.T) {
	for _, test := range []struct {
		name   string
		code   int
		body   string
		image  string
		failed bool
	}{
		{"the default of image", 200,
			`{"cluster_options":[{"field":"worker_cores","default":1,"spec":{"type":"float"}},` +
				`{"field":"image","default":"worker:1","spec":{"type":"string"}}]}`,
			"worker:1", false},
		{"none of that name", 200, `{"cluster_options":[]}`, "", false},
		{"one of a list has a label", 200,
			`{"cluster_options":[{"field":"image","default":"stable","spec":{"type":"select"}}]}`,
			"", false},
		{"one that is no text", 200, `{"cluster_options":[{"field":"image","default":3,"spec":{"type":"string"}}]}`, "",
			false},
		{"only for users whom it knows", 401, `{"error":"Unauthorized"}`, "", false},
		{"another server", 404, `not found`, "", false},
		{"it is not up", 502, `Bad Gateway`, "", true},
		{"no JSON", 200, `<html>`, "", true},
		{"endless", 200, `{"cluster_options":[` + strings.Repeat(" ", optionsLength), "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if user, _, ok := r.BasicAuth(); !ok || user == "" { // its simple authenticator wants a name
					t.Error("without a user")
				}
				w.WriteHeader(test.code)
				_, _ = w.Write([]byte(test.body))
			}))
			defer server.Close()
			image, why, err := DefaultImage(t.Context(), server.URL+"/api/v1/options")
			if image != test.image || (err != nil) != test.failed || err != nil && event.Hint(err) == "" ||
				(image == "" && err == nil) != (why != "") {
				t.Errorf("%q, %q, %v", image, why, err)
			}
		})
	}
}
