package session

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/connhelper"
	dockercontext "github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/event"
)

// OpenDocker returns a client of the daemon that the docker command would use: that of DOCKER_HOST,
// DOCKER_CONTEXT or the current docker context, or the default one. It sends no request.
func OpenDocker() (*client.Client, error) {
	return openDocker(os.Getenv(client.EnvOverrideHost), client.FromEnv)
}

// openMachines returns a client of the daemon that runs the nodes of minikube, kind and k3d. Where
// "minikube docker-env" has pointed the docker command into a node, it is the one before that.
func openMachines() (*client.Client, error) {
	if os.Getenv("MINIKUBE_ACTIVE_DOCKERD") == "" {
		return OpenDocker()
	}
	host := os.Getenv("MINIKUBE_EXISTING_DOCKER_HOST")
	return openDocker(host, client.WithHost(cmp.Or(host, client.DefaultDockerHost)))
}

// openDocker returns a client of the daemon of a DOCKER_HOST, which direct leads to, or without one
// of the docker context.
func openDocker(host string, direct client.Opt) (*client.Client, error) {
	options, hint := []client.Opt{direct}, "check DOCKER_HOST"
	var err error
	switch name := dockerContext(host); {
	case name != "":
		hint = "check docker context ls"
		options, err = contextOptions(name)
	case isSSH(host):
		endpoint := dockercontext.Endpoint{EndpointMeta: dockercontext.EndpointMeta{Host: host}}
		options, err = endpoint.ClientOpts()
	case host == "":
		usual := strings.TrimPrefix(client.DefaultDockerHost, "unix://")
		options = append(options, client.WithDialContext(dialUsual(usual)))
	}
	var docker *client.Client
	if err == nil {
		docker, err = client.New(options...)
	}
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("connect to Docker: %w", err), hint)
	}
	return docker, nil
}

// isSSH tells whether an address leads to the docker command on another machine.
func isSSH(host string) bool {
	helper, err := connhelper.GetConnectionHelper(host)
	return err != nil || helper != nil
}

// dockerContext returns the name of the docker context in use beside a DOCKER_HOST, "" for none.
// The order is the docker command's: https://docs.docker.com/engine/manage-resources/contexts/.
func dockerContext(host string) string {
	if host != "" {
		return ""
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		name = config.LoadDefaultConfigFile(io.Discard).CurrentContext
	}
	if name == "default" {
		return ""
	}
	return name
}

func contextOptions(name string) ([]client.Opt, error) {
	endpoint, err := contextEndpoint(name)
	if err != nil {
		return nil, fmt.Errorf("docker context %q: %w", name, err)
	}
	return endpoint.ClientOpts()
}

func contextEndpoint(name string) (endpoint dockercontext.Endpoint, err error) {
	contexts := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter(dockercontext.DockerEndpoint, func() any { return &dockercontext.EndpointMeta{} })))
	found, err := contexts.GetMetadata(name)
	if err != nil {
		return endpoint, err
	}
	meta, err := dockercontext.EndpointFromContext(found)
	if err != nil {
		return endpoint, err
	}
	return dockercontext.WithTLSData(contexts, name, meta)
}
