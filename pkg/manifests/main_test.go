package manifests

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == KustomizeArgument {
		os.Exit(ServeKustomize(os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}
