package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// dialTimeout bounds a look at one of the user's sockets: one whose program hangs accepts nobody.
const dialTimeout = time.Second

// dialUsual connects to Docker's usual socket. If that is not there, or nobody listens, the error
// says where another Docker is, as the applications for macOS have theirs in the user's home.
func dialUsual(path string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		found := err
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			found = fmt.Errorf("nobody listens at %s", path) // Docker's client would drop the hint of a refusal
		case !errors.Is(err, fs.ErrNotExist):
			return conn, err
		}
		home, _ := os.UserHomeDir() // without one, there are no sockets in it
		for _, s := range userSockets(home) {
			if hint := s.hint(ctx); hint != "" {
				return nil, event.WithHint(found, hint)
			}
		}
		return nil, err
	}
}

// userSocket is a Docker of the user's own.
type userSocket struct {
	application string
	context     string // the docker context that the application makes
	path        string
}

// userSockets returns where applications have their sockets.
func userSockets(home string) []userSocket {
	at := func(parts ...string) string { return filepath.Join(append([]string{home}, parts...)...) }
	sockets := []userSocket{
		{"Docker Desktop", "desktop-linux", at(".docker", "run", "docker.sock")},
		{"Docker Desktop", "desktop-linux", at(".docker", "desktop", "docker.sock")}, // on Linux
		{"OrbStack", "orbstack", at(".orbstack", "run", "docker.sock")},
		{"Rancher Desktop", "rancher-desktop", at(".rd", "docker.sock")},
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		sockets = append(sockets, userSocket{"rootless Docker", "rootless", filepath.Join(dir, "docker.sock")})
	}
	// github.com/abiosoft/colima, config/files.go: the first of these that exists, a folder a profile.
	for _, dir := range []string{os.Getenv("COLIMA_HOME"), at(".colima"),
		filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "colima"), at(".config", "colima")} {
		profiles, err := os.ReadDir(dir)
		if !filepath.IsAbs(dir) || err != nil {
			continue
		}
		for _, profile := range profiles {
			name := "colima"
			if profile.Name() != "default" {
				name += "-" + profile.Name()
			}
			sockets = append(sockets, userSocket{"Colima", name, filepath.Join(dir, profile.Name(), "docker.sock")})
		}
	}
	return sockets
}

// hint says how to use the Docker at the socket, "" if none listens there.
func (s userSocket) hint(ctx context.Context) string {
	if !filepath.IsAbs(s.path) {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", s.path)
	if err != nil {
		return ""
	}
	_ = conn.Close()
	use := fmt.Sprintf("export DOCKER_HOST='unix://%s'", s.path)
	endpoint, err := contextEndpoint(s.context)
	if err == nil && endpoint.Host == "unix://"+s.path && os.Getenv("DOCKER_CONTEXT") == "" { // which would win
		use = "docker context use " + s.context
	}
	return fmt.Sprintf("%s listens at %s: %s", s.application, s.path, use)
}
