package build

import (
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// Cutting a step's text or output leaves no visible part of a secret.
func TestNoPartOfASecretIsLeftByACut(t *testing.T) {
	const secret = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
	var s event.Secrets
	s.Hide(secret)
	for before := range reasonLine + 2 {
		text := strings.Repeat("x ", before/2) + secret + " and more" + strings.Repeat(" y", reasonLine)
		for what, shown := range map[string]string{"title": title("[2/5] RUN " + text),
			"reason": reason("ERROR: " + text), "output": lastLines(text)} {
			shown = s.Text(shown)
			for n := 4; n <= len(secret); n++ {
				if strings.Contains(shown, secret[:n]) || strings.Contains(shown, secret[len(secret)-n:]) {
					t.Fatalf("%s, cut behind %d: %q", what, before, shown)
				}
			}
		}
	}
}
