package build

import (
	"fmt"
	"os"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// attachables are what a build may ask this machine for while it runs.
func attachables(docker *configfile.ConfigFile, image Image) ([]session.Attachable, error) {
	attached := []session.Attachable{credentials(docker)}
	secrets := map[string][]byte{}
	for _, secret := range image.Secrets { // the Dockerfile says which are required
		if value, set := os.LookupEnv(secret.Env); secret.Env != "" && set {
			secrets[secret.ID] = []byte(value)
		}
		if secret.File == "" {
			continue
		}
		content, err := files.Read(secret.File, secretsprovider.MaxSecretSize)
		if err != nil && !isMissing(err) {
			return nil, fmt.Errorf("secret %s: %w", secret.ID, err)
		}
		if err == nil {
			secrets[secret.ID] = content
		}
	}
	attached = append(attached, secretsprovider.FromMap(secrets))
	if len(image.SSH) == 0 {
		return attached, nil
	}
	agents := make([]sshprovider.AgentConfig, len(image.SSH))
	for i, ssh := range image.SSH {
		for _, path := range ssh.Paths {
			if err := checkKey(path); err != nil {
				return nil, fmt.Errorf("ssh %s: %w", ssh.ID, err)
			}
		}
		agents[i] = sshprovider.AgentConfig{ID: ssh.ID, Paths: ssh.Paths}
	}
	ssh, err := sshprovider.NewSSHAgentProvider(agents)
	if err != nil {
		hint := "see which keys the agent has: ssh-add -l"
		if os.Getenv("SSH_AUTH_SOCK") == "" {
			hint = "start an agent and add the key: eval $(ssh-agent); ssh-add"
		}
		return nil, event.WithHint(fmt.Errorf("ssh: %w", err), hint)
	}
	return append(attached, ssh), nil
}

// maxKey is how large an ssh key may be, in bytes: as much as BuildKit's library reads.
const maxKey = 100 << 10

// checkKey accepts an agent's socket or a key. BuildKit's library would open anything, even a pipe.
func checkKey(path string) error {
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		return nil
	}
	_, err := files.Read(path, maxKey)
	return err
}
