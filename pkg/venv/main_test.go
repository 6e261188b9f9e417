package venv

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if made.dir != "" {
			_ = os.RemoveAll(filepath.Dir(made.dir))
		}
		os.Exit(code)
	}))
}
