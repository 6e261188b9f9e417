package node

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestKnownNames: nodes are asked about names that they may have, and about all after knownFor.
func TestKnownNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k knownNames
		if k.noneOf([]string{"a"}) {
			t.Error("no node was asked yet")
		}
		k.set([]string{"a"})
		for _, c := range []struct {
			names []string
			want  bool
		}{{[]string{"a"}, false}, {[]string{"b"}, true}, {[]string{"b", "a"}, false}} {
			if got := k.noneOf(c.names); got != c.want {
				t.Errorf("%v: %t", c.names, got)
			}
		}
		k.add("b")
		if k.noneOf([]string{"b"}) {
			t.Error("b may be there by now")
		}
		<-time.After(knownFor + time.Second)
		if k.noneOf([]string{"c"}) {
			t.Error("the answer is too old")
		}
	})
}
