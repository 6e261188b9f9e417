package build

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"

	"github.com/devloop/devloop/pkg/event"
)

// Docker's client may be configured to ask a program for credentials that is not there, as after
// Docker Desktop was removed. Then registries are asked without a login: public images need none.

// dockerConfig is the configuration of Docker's client, without such programs; a broken file only
// means no credentials.
func dockerConfig() *configfile.ConfigFile {
	docker := config.LoadDefaultConfigFile(io.Discard)
	maps.DeleteFunc(docker.CredentialHelpers, func(_, name string) bool { return !hasHelper(name) })
	if !hasHelper(docker.CredentialsStore) {
		docker.CredentialsStore = ""
	}
	return docker
}

func helperProgram(name string) string { return "docker-credential-" + name }

func hasHelper(name string) bool {
	_, err := exec.LookPath(helperProgram(name))
	return err == nil
}

// credentials gives BuildKit the registry credentials of Docker's client.
func credentials(docker *configfile.ConfigFile) session.Attachable {
	return authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(docker),
	})
}

// keychain is the user's, for requests to one registry.
type keychain struct {
	missing error // why a request is sent without a login
}

// credentialsError means that the user's configuration does not give credentials.
type credentialsError struct{ error }

func (e *credentialsError) Unwrap() error { return e.error }

// Resolve returns the login for a registry.
func (k *keychain) Resolve(registry authn.Resource) (authn.Authenticator, error) {
	docker := config.LoadDefaultConfigFile(io.Discard)
	name, ok := docker.CredentialHelpers[registry.RegistryStr()]
	if !ok {
		name = docker.CredentialsStore
	}
	if name != "" && !hasHelper(name) {
		k.missing = event.WithHint(
			fmt.Errorf("%s, which %s names, is not in PATH", helperProgram(name), docker.Filename),
			"install it, or remove it there (credsStore, credHelpers) and docker login "+registry.RegistryStr())
		return authn.Anonymous, nil
	}
	found, err := authn.DefaultKeychain.Resolve(registry)
	if err != nil {
		err = &credentialsError{event.WithHint(fmt.Errorf("credentials for %s: %w", registry.RegistryStr(), err),
			"see what is wrong with "+docker.Filename+": docker login "+registry.RegistryStr())}
	}
	return found, err
}

// explain adds to a registry's refusal why it was asked without a login.
func (k *keychain) explain(err error) error {
	var answered *transport.Error
	if k.missing == nil || !errors.As(err, &answered) ||
		answered.StatusCode != http.StatusUnauthorized && answered.StatusCode != http.StatusForbidden {
		return err
	}
	return event.WithHint(fmt.Errorf("%w; it was asked without a login: %w", err, k.missing), event.Hint(k.missing))
}
