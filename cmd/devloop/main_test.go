package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

const project = `apiVersion: devloop/v1
name: demo
images:
  worker: { dockerfile: Dockerfile }
releases:
  - { name: demo, chart: https://charts.invalid/demo-1.0.0.tgz, namespace: demo }
`

// folder is a project to start devloop in, on a machine where devloop and minikube were never used.
func folder(t *testing.T, config string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"devloop.yaml": config, "Dockerfile": "FROM scratch\n", "requirements.txt": ""} {
		if content == "" && name == "devloop.yaml" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, name := range []string{"HOME", "MINIKUBE_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"} {
		t.Setenv(name, t.TempDir())
	}
	t.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
}

func run(t *testing.T, args ...string) error {
	t.Helper()
	root := newRootCommand()
	root.SetArgs(args)
	return root.ExecuteContext(t.Context())
}

func TestExitCodes(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := `apiVersion: v1
kind: Config
clusters: [{name: prod, cluster: {server: "https://10.255.255.1:6443"}}]
users: [{name: prod, user: {}}]
contexts: [{name: prod, context: {cluster: prod, user: prod}}]
current-context: prod
`
	for _, test := range []struct {
		name, config, kubeconfig string
		args                     []string
		code                     int
		says                     string
	}{
		{"no devloop.yaml", "", "", nil, exitInput, "there is no such file"},
		{"a typo", strings.Replace(project, "releases", "relaeses", 1), "", nil, exitInput, `devloop.yaml:5:1: unknown key "relaeses"; did you mean "releases"?`},
		{"an unknown flag", project, "", []string{"--celanup"}, exitInput, "unknown flag"},
		{"an unknown command", project, "", []string{"depoly"}, exitInput, `"depoly"`},
		{"no kubeconfig", project, "", nil, exitEnvironment, "kubeconfig has no context"},
		{"delete without a kubeconfig", project, "", []string{"delete"}, exitEnvironment, "kubeconfig has no context"},
		{"a cluster that is not local", project, elsewhere, nil, exitEnvironment, "not proven to be a local cluster"},
		{"a port that is taken", project + "forwards: [{service: s, namespace: demo, port: 80, local: " + port + "}]\n", elsewhere, nil, exitEnvironment, "local port " + port + " is taken by pid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder(t, test.config)
			if test.kubeconfig != "" {
				if err := os.WriteFile("kubeconfig", []byte(test.kubeconfig), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := run(t, test.args...)
			if code := exitCode(err); code != test.code {
				t.Errorf("exit code %d, not %d", code, test.code)
			}
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("said %v", err)
			}
			if test.code == exitEnvironment && event.Hint(err) == "" {
				t.Errorf("no hint with %v", err)
			}
		})
	}
}

func TestShorten(t *testing.T) {
	long := "what failed: " + strings.Repeat("é", 4000) + ": why"
	got := shorten(long)
	if len(got) > errorLength+10 || !strings.HasPrefix(got, "what failed: ") || !strings.HasSuffix(got, ": why") {
		t.Errorf("%q", got)
	}
	if got := shorten("short"); got != "short" {
		t.Error(got)
	}
}
