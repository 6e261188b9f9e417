package portforward

import "testing"

func TestFindOwner(t *testing.T) {
	for system, want := range map[string]string{
		"linux":  "find it (sudo ss -ltnp 'sport = :8001') and stop it",
		"darwin": "find it (sudo lsof -nP -iTCP:8001 -sTCP:LISTEN) and stop it",
	} {
		if got := findOwner(system, 8001); got != want {
			t.Errorf("%s: %s", system, got)
		}
	}
}
