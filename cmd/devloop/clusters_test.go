package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestClustersByName(t *testing.T) {
	all := event.DaskClusters{{Namespace: "n", Name: "a"}, {Namespace: "n", Name: "b"}}
	for _, test := range []struct{ names, want string }{{"n.a", "a"}, {"b", "b"}, {"b n.a", "b a"}} {
		chosen, err := named(all, strings.Fields(test.names))
		var got []string
		for _, c := range chosen {
			got = append(got, string(c.Name))
		}
		if err != nil || !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("%q: %v, %v", test.names, got, err)
		}
	}
	if _, err := named(all, []string{"m.a"}); err == nil || exitCode(err) != exitInput || event.Hint(err) == "" {
		t.Error(err)
	}
}
