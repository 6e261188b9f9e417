package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// A cluster with an older image and the newest files is not old: devloop has looked.
func TestOutdatedClusters(t *testing.T) {
	a, b, c := event.DaskCluster{Namespace: "n", Name: "a"}, event.DaskCluster{Namespace: "n", Name: "b"},
		event.DaskCluster{Namespace: "m", Name: "a"}
	s := status.State{Clusters: []status.DaskCluster{{DaskCluster: a}, {DaskCluster: b, Old: true}}}
	if got := outdatedIn(s, event.DaskClusters{a, b, c}); !slices.Equal(got, event.DaskClusters{b, c}) {
		t.Errorf("%+v", got)
	}
}

func TestClustersByName(t *testing.T) {
	all := event.DaskClusters{{Namespace: "n", Name: "a"}, {Namespace: "n", Name: "b"}, {Namespace: "n", Name: "long-1"}}
	for _, test := range []struct{ names, want string }{{"n.a", "a"}, {"b", "b"}, {"b n.a", "b a"},
		{"long", "long-1"}, {"n.long- long-1", "long-1"}} {
		chosen, err := named(all, strings.Fields(test.names))
		var got []string
		for _, c := range chosen {
			got = append(got, string(c.Name))
		}
		if err != nil || !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("%q: %v, %v", test.names, got, err)
		}
	}
	for _, there := range []event.DaskClusters{all, nil} {
		want := "there are: n.a of -, n.b of -, n.long-1 of -"
		if there == nil {
			want = "none runs"
		}
		if _, err := named(there, []string{"m.a"}); exitCode(err) != exitInput || event.Hint(err) != want {
			t.Errorf("%v (%s)", err, event.Hint(err))
		}
	}
	for _, name := range []string{"", "n", "n.", "lo"} {
		if chosen, err := named(append(all, event.DaskCluster{Name: "lot"}), []string{name}); err == nil {
			t.Errorf("%q stops %v", name, chosen)
		}
	}
}
