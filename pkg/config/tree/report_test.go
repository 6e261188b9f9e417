package tree

import "testing"

func TestAndMore(t *testing.T) {
	for n, want := range map[int]string{
		1: "and 1 more", 999: "and 999 more", 1000: "and 1,000 more",
		199950: "and 199,950 more", 1234567: "and 1,234,567 more",
	} {
		if got := andMore(n); got != want {
			t.Errorf("%d: %s, not %s", n, got, want)
		}
	}
}
