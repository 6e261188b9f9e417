package deploy

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/manifests"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == RenderArgument {
		os.Exit(ServeRender(os.Stdin, os.Stdout))
	}
	if len(os.Args) == 2 && os.Args[1] == manifests.KustomizeArgument {
		os.Exit(manifests.ServeKustomize(os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}
