package build

import (
	"slices"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// TestCheckProcess: a check is the process that a pod with its command and args would run.
func TestCheckProcess(t *testing.T) {
	image := ocispecs.ImageConfig{Entrypoint: []string{"tini", "--"}, Cmd: []string{"serve"}}
	for says, test := range map[string]struct {
		check Check
		image ocispecs.ImageConfig
		want  []string // nil: only a pod can tell
	}{
		"nothing":              {Check{}, image, []string{"tini", "--", "serve"}},
		"a command":            {Check{Command: []string{"test"}}, image, []string{"test"}},
		"args":                 {Check{Args: []string{"check"}}, image, []string{"tini", "--", "check"}},
		"both":                 {Check{Command: []string{"pip"}, Args: []string{"check"}}, image, []string{"pip", "check"}},
		"an image without any": {Check{}, ocispecs.ImageConfig{}, nil},
		"a variable":           {Check{Command: []string{"test", "$(HOME)"}}, image, nil},
		"an escaped one":       {Check{Args: []string{"$$(HOME)"}}, image, nil},
		"one of the image's":   {Check{}, ocispecs.ImageConfig{Cmd: []string{"$(HOME)"}}, []string{"$(HOME)"}},
		"a shell's":            {Check{Command: []string{"sh", "-c", "$HOME"}}, image, []string{"sh", "-c", "$HOME"}},
	} {
		got, ok := test.check.process(test.image)
		if ok != (test.want != nil) || ok && !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, %v", says, got, ok)
		}
	}
}

// TestCheckOfAFailedBuild: what passed in a build that failed then has not passed.
func TestCheckOfAFailedBuild(t *testing.T) {
	check := &Check{tried: true, passed: true}
	b := newBuilder(fakeEngine{}, t.TempDir())
	input := Input{Image: Image{Name: "worker"}, Checks: []*Check{check}}
	if err := b.Build(t.Context(), func(event.Event) {}, input); err == nil {
		t.Fatal("the engine builds")
	}
	if check.Passed() || check.Failed() {
		t.Errorf("the build leaves %+v", check)
	}
}
