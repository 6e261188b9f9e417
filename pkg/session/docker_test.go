package session

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/context"
	dockercontext "github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"

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
	for name, host := range map[string]string{"colima": "unix:///colima.sock", "remote": "ssh://user@builder"} {
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
		{"the current context", "colima", "", "", "unix:///colima.sock", ""},
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
