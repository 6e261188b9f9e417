package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// Place is where images are built, as errors name it and tell users to look at it.
type Place struct {
	Name  string // of the daemon
	Start string // what to do if it does not answer
	Prune string // the command that makes room there
}

// hostDocker is the place of New.
var hostDocker = Place{"Docker", "start Docker, or point DOCKER_HOST or docker context at a running daemon",
	"docker system prune"}

// NodeDocker is the Docker daemon of a node; shell is what a user types to run a command there.
func NodeDocker(node, shell string) Place {
	return Place{"the Docker of node " + node, "see why it does not run: " + shell + " systemctl status docker",
		shell + " docker system prune"}
}

// NodeBuildKit is the BuildKit of a node; shell is what a user types to run a command there.
func NodeBuildKit(node, shell string) Place {
	return Place{"the BuildKit of node " + node, "see why it does not run: " + shell + " systemctl status buildkit",
		shell + " buildctl prune"}
}

// DockerError adds what the user can do if this machine's daemon is down or too old.
func DockerError(err error) error { return hostDocker.dockerError(err) }

func (p Place) dockerError(err error) error {
	switch {
	case client.IsErrConnectionFailed(err) && strings.Contains(err.Error(), "permission denied"): // the client's text
		return event.WithHint(fmt.Errorf("%s may not be used: %w", p.Name, err),
			socketHint(runtime.GOOS))
	case client.IsErrConnectionFailed(err):
		hint := event.Hint(err)
		var dial *net.OpError // its text lacks the client's own advice
		if errors.As(err, &dial) {
			err = dial
		}
		return p.away(event.WithHint(err, hint))
	case strings.Contains(err.Error(), "minimum supported API version"): // of Docker's client
		return event.WithHint(fmt.Errorf("%s is too old: %w", p.Name, err), "update it to Docker 20.10 or newer")
	}
	return fmt.Errorf("ask %s: %w", p.Name, err)
}

// socketHint is what the user can do who may not open Docker's socket, by runtime.GOOS.
func socketHint(system string) string {
	if system == "linux" {
		return "have your user in the group of its socket: sudo usermod -aG docker $USER, then log in again"
	}
	return "see whose socket it is (ls -l), or point DOCKER_HOST or docker context at one that is yours"
}

// away is the error of a place that does not answer. The network on the way may have said why.
func (p Place) away(err error) error {
	hint := cmp.Or(event.Hint(err), p.Start)
	return event.Transient(event.WithHint(fmt.Errorf("no answer from %s: %w", p.Name, err), hint))
}

// Ping checks that this machine's daemon answers and has the BuildKit that devloop needs.
func Ping(ctx context.Context, docker *client.Client) (client.PingResult, error) {
	return hostDocker.ping(ctx, docker)
}

func (p Place) ping(ctx context.Context, docker *client.Client) (client.PingResult, error) {
	ping, err := docker.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return ping, p.dockerError(err)
	}
	if ping.OSType == "windows" {
		return ping, event.WithHint(errors.New("the Docker daemon builds Windows images"),
			"switch Docker to Linux containers")
	}
	conn, err := docker.DialHijack(ctx, "/grpc", "h2c", nil)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ping, context.Cause(ctx)
	case strings.Contains(err.Error(), "unable to upgrade"): // it answered, and has no such endpoint
		return ping, event.WithHint(
			fmt.Errorf("the daemon at %s has no BuildKit, which devloop builds with: %w", docker.DaemonHost(), err),
			"use Docker 20.10 or newer, or point BUILDKIT_HOST at a buildkitd")
	default: // it answered a moment ago
		return ping, event.Transient(p.dockerError(err))
	}
	return ping, conn.Close()
}
