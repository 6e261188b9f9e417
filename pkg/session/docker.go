package session

import (
	"fmt"
	"io"
	"os"

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
	options, hint := []client.Opt{client.FromEnv}, "check DOCKER_HOST"
	var err error
	switch context := dockerContext(); {
	case context != "":
		hint = "check docker context ls"
		options, err = contextOptions(context)
	case isSSH(os.Getenv(client.EnvOverrideHost)):
		endpoint := dockercontext.Endpoint{EndpointMeta: dockercontext.EndpointMeta{Host: os.Getenv(client.EnvOverrideHost)}}
		options, err = endpoint.ClientOpts()
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

// dockerContext returns the name of the docker context in use, "" for none. The order is the docker
// command's: https://docs.docker.com/engine/manage-resources/contexts/.
func dockerContext() string {
	if os.Getenv(client.EnvOverrideHost) != "" {
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
	contexts := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter(dockercontext.DockerEndpoint, func() any { return &dockercontext.EndpointMeta{} })))
	found, err := contexts.GetMetadata(name)
	if err != nil {
		return nil, fmt.Errorf("docker context %q: %w", name, err)
	}
	meta, err := dockercontext.EndpointFromContext(found)
	if err != nil {
		return nil, fmt.Errorf("docker context %q: %w", name, err)
	}
	endpoint, err := dockercontext.WithTLSData(contexts, name, meta)
	if err != nil {
		return nil, fmt.Errorf("docker context %q: %w", name, err)
	}
	return endpoint.ClientOpts()
}
