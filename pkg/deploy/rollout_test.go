package deploy

import (
	"testing"
)

func TestMissingReplicas(t *testing.T) {
	for _, test := range []struct {
		want, all, updated, available int32
		text                          string
	}{
		{2, 2, 2, 2, ""},
		{0, 0, 0, 0, ""},
		{2, 2, 1, 2, "1 of 2 replicas updated"},
		{2, 3, 2, 2, "1 old replicas are ending"},
		{2, 2, 2, 1, "1 of 2 replicas available"},
	} {
		if got := missingReplicas(test.want, test.all, test.updated, test.available); got != test.text {
			t.Errorf("%+v: %q", test, got)
		}
	}
}
