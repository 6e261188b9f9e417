package session

import (
	"cmp"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/context"
	dockercontext "github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/event"
)

// TestDockerContext opens the daemon that the docker command would use.
func TestDockerContext(t *testing.T) {
	home := t.TempDir()
	before := config.Dir()
	config.SetDir(home)
	t.Cleanup(func() { config.SetDir(before) })
	contexts := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter(dockercontext.DockerEndpoint, func() any { return &dockercontext.EndpointMeta{} })))
	for name, host := range map[string]string{"colima": "unix:///a user/colima.sock", "remote": "ssh://user@builder"} {
		if err := contexts.CreateOrUpdate(store.Metadata{Name: name, Endpoints: map[string]any{
			dockercontext.DockerEndpoint: context.EndpointMetaBase{Host: host},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	const usual = "unix:///var/run/docker.sock"
	for _, test := range []struct {
		name, current, context, host string
		want, wrong                  string
	}{
		{"nothing is said", "", "", "", usual, ""},
		{"the current context", "colima", "", "", "unix:///a user/colima.sock", ""},
		{"the default context", "default", "", "", usual, ""},
		{"DOCKER_CONTEXT wins", "colima", "default", "", usual, ""},
		{"DOCKER_HOST wins", "colima", "remote", "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", ""},
		{"another machine, by ssh", "remote", "", "", "http://docker.example.com", ""}, // the tunnel's end
		{"DOCKER_HOST by ssh", "", "", "ssh://user@builder", "http://docker.example.com", ""},
		{"no such context", "", "missing", "", "", `docker context "missing"`},
		{"a broken DOCKER_HOST", "", "", "nonsense", "", "connect to Docker"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(home, config.ConfigFileName), []byte(`{"currentContext": "`+test.current+`"}`),
				0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("DOCKER_CONTEXT", test.context)
			t.Setenv("DOCKER_HOST", test.host)
			docker, err := OpenDocker()
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) || event.Hint(err) == "" {
					t.Errorf("error %v, hint %q", err, event.Hint(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := docker.DaemonHost(); got != test.want {
				t.Errorf("it asks %s, not %s", got, test.want)
			}
			if err := docker.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Where Docker's usual socket is missing, the hint names one that listens in the user's home.
func TestUserSockets(t *testing.T) {
	before := config.Dir()
	t.Cleanup(func() { config.SetDir(before) })
	listen := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
	}
	for _, test := range []struct{ socket, context, xdg, want string }{
		{".orbstack/run/docker.sock", "orbstack, of another socket", "",
			"OrbStack listens at PATH: export DOCKER_HOST='unix://PATH'"},

		{".orbstack/run/docker.sock", "orbstack", "", "OrbStack listens at PATH: docker context use orbstack"},
		{".docker/run/docker.sock", "desktop-linux", "", "Docker Desktop listens at PATH: docker context use desktop-linux"},
		{".rd/docker.sock", "", "", "Rancher Desktop listens at PATH: export DOCKER_HOST='unix://PATH'"},
		{".colima/default/docker.sock", "colima", "", "Colima listens at PATH: docker context use colima"},
		{".colima/work/docker.sock", "colima-work", "", "Colima listens at PATH: docker context use colima-work"},
		{".config/colima/work/docker.sock", "", "", "Colima listens at PATH: export DOCKER_HOST='unix://PATH'"},
		{"xdg/colima/default/docker.sock", "", "xdg", "Colima listens at PATH: export DOCKER_HOST='unix://PATH'"},
		{"elsewhere/docker.sock", "", "", ""},
	} {
		t.Run(test.socket, func(t *testing.T) {
			home, err := os.MkdirTemp("/tmp", "a user") //nolint:usetesting // the path of a socket is short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(home) })
			config.SetDir(filepath.Join(home, ".docker"))
			t.Setenv("XDG_RUNTIME_DIR", "")
			t.Setenv("XDG_CONFIG_HOME", "")
			if test.xdg != "" {
				t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, test.xdg))
			}
			path := filepath.Join(home, test.socket)
			listen(path)
			name, _, another := strings.Cut(test.context, ", of another socket")
			if name != "" {
				target := path
				if another {
					target = "/another.sock"
				}
				contexts := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} }))
				if err := contexts.CreateOrUpdate(store.Metadata{Name: name, Endpoints: map[string]any{
					dockercontext.DockerEndpoint: context.EndpointMetaBase{Host: "unix://" + target}}}); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("HOME", home)
			t.Setenv("DOCKER_CONTEXT", "")
			const start = "start Docker, or point DOCKER_HOST or docker context at a running daemon"
			missing, left := filepath.Join(home, "missing.sock"), filepath.Join(home, "left.sock")
			leave(t, left)
			for _, usual := range []string{missing, left} {
				hint, err := pingHint(t, usual)
				if want := cmp.Or(strings.ReplaceAll(test.want, "PATH", path), start); hint != want {
					t.Errorf("%v: %q, not %q", err, hint, want)
				}
			}
			t.Setenv("DOCKER_CONTEXT", "default")
			if hint, err := pingHint(t, missing); strings.Contains(hint, "context use") {
				t.Errorf("DOCKER_CONTEXT wins over docker context use: %v: %q", err, hint)
			}
			t.Setenv("HOME", "")
			t.Chdir(home) // of the home that is not known, a path is not one below this folder
			if hint, err := pingHint(t, missing); test.xdg == "" && hint != start {
				t.Errorf("without HOME: %v: %q", err, hint)
			}
		})
	}
}

// leave makes the socket of a program that was killed.
func leave(t *testing.T, path string) {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	_ = listener.Close()
}

// pingHint returns the hint where Docker's usual socket is at a path.
func pingHint(t *testing.T, usual string) (string, error) {
	t.Helper()
	docker, err := client.New(client.WithHost("unix://"+usual), client.WithDialContext(dialUsual(usual)))
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	_, err = build.Ping(t.Context(), docker)
	return event.Hint(err), err
}

// A program that hangs takes no connections: the look at its socket ends, too.
func TestSocketThatHangs(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "s") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "docker.sock")
	listener, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(listener) })
	address := &syscall.SockaddrUnix{Name: path}
	if err := errors.Join(syscall.Bind(listener, address), syscall.Listen(listener, 0)); err != nil {
		t.Fatal(err)
	}
	waiting, err := new(net.Dialer).DialContext(t.Context(), "unix", path) // the only one that may wait
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if hint := (userSocket{"OrbStack", "orbstack", path}).hint(t.Context()); hint != "" {
		t.Errorf("%q", hint)
	}
}

// After "eval $(minikube docker-env)", the containers of nodes are still where they were.
func TestMachinesBehindDockerEnv(t *testing.T) {
	before := config.Dir()
	config.SetDir(t.TempDir())
	t.Cleanup(func() { config.SetDir(before) })
	t.Setenv("DOCKER_CONTEXT", "")
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:55012")
	for _, test := range []struct{ active, existing, want string }{
		{"", "", "tcp://127.0.0.1:55012"},
		{"minikube", "", "unix:///var/run/docker.sock"},
		{"minikube", "unix:///a user/docker.sock", "unix:///a user/docker.sock"},
	} {
		t.Setenv("MINIKUBE_ACTIVE_DOCKERD", test.active)
		t.Setenv("MINIKUBE_EXISTING_DOCKER_HOST", test.existing)
		docker, err := openMachines()
		if err != nil {
			t.Fatal(err)
		}
		if got := docker.DaemonHost(); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
		_ = docker.Close()
	}
}
