package main

import (
	"errors"
	"flag"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	serveSubprocess()
	testscript.Main(m, map[string]func(){"devloop": main, "waiter": waiter})
}

var update = flag.Bool("update", false, "write what the program says into the scripts")

// TestScripts drives the real program through testdata/script, on a machine on which neither
// devloop nor minikube was ever used and no Docker runs. $TAKEN is a port that is taken;
// "exits CODE PROGRAM ARGUMENTS..." checks the exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { listener.Close() })
			env.Setenv("TAKEN", strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
			home := filepath.Join(env.WorkDir, ".home")
			for name, value := range map[string]string{
				"HOME": home, "MINIKUBE_HOME": "", "XDG_CACHE_HOME": "", "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": "",
				"KUBECONFIG":      filepath.Join(env.WorkDir, "kubeconfig"),
				"XDG_RUNTIME_DIR": filepath.Join(env.WorkDir, ".run"),
				"DOCKER_HOST":     "unix://" + filepath.Join(env.WorkDir, "docker.sock"),
			} {
				env.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENTS...]")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		code = failed.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, not %s", code, want)
	}
}
