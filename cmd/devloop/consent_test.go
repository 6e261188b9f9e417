package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/devloop/devloop/test/proxy"
)

// neighbour is an API server with one node, which devloop must ask for nothing but who it is until
// it may write there.
type neighbour struct {
	*httptest.Server
	mu    sync.Mutex
	uid   string
	boot  string // ID of the node's kernel
	asked []string
}

func newNeighbour(t *testing.T, start func(http.Handler) *httptest.Server) *neighbour {
	t.Helper()
	n := &neighbour{uid: "one", boot: "8a5cd06b-0000-0000-0000-000000000000"}
	n.Server = start(n)
	t.Cleanup(n.Close)
	return n
}

func (n *neighbour) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	request := r.Method + " " + r.URL.Path
	n.asked = append(n.asked, request)
	w.Header().Set("Content-Type", "application/json")
	switch request {
	case "GET /api/v1/namespaces/kube-system":
		_, _ = fmt.Fprintf(w, `{"kind": "Namespace", "apiVersion": "v1",
			"metadata": {"name": "kube-system", "uid": %q}}`, n.uid)
	case "GET /version":
		_, _ = io.WriteString(w, `{"gitVersion": "v1.34.3"}`)
	case "GET /api/v1/nodes":
		_, _ = fmt.Fprintf(w, `{"kind": "NodeList", "apiVersion": "v1", "items": [
			{"metadata": {"name": "ip-10-0-3-7"}, "status": {"nodeInfo": {"bootID": %q}}}]}`, n.boot)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind": "Status", "apiVersion": "v1", "status": "Failure",
			"reason": "NotFound", "code": 404}`)
	}
}

// runsOn says which kernel its node runs on.
func (n *neighbour) runsOn(boot string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.boot = boot
}

// beyond are the requests that are about more than who the cluster is.
func (n *neighbour) beyond() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	who := []string{"GET /api/v1/namespaces/kube-system", "GET /version", "GET /api/v1/nodes"}
	return slices.DeleteFunc(slices.Clone(n.asked), func(request string) bool { return slices.Contains(who, request) })
}

// workplace is a project and a home of its own, on a machine without minikube and Docker.
type workplace struct {
	dir    string // of the project
	env    []string
	server string // that its kubeconfig names
}

func newWorkplace(t *testing.T) *workplace {
	t.Helper()
	home := t.TempDir()
	// A socket's path may have 107 letters, and t.TempDir has the test's name in it.
	sockets, err := os.MkdirTemp("", "run") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	p := &workplace{dir: t.TempDir(), env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + sockets, "TMPDIR=" + sockets, "TERM=dumb",
		"KUBECONFIG=" + filepath.Join(home, "kubeconfig"), "DOCKER_HOST=unix://" + filepath.Join(home, "docker.sock")}}
	p.write(t, "devloop.yaml", "apiVersion: devloop/v1\nname: demo\n"+
		"releases: [{ name: web, chart: https://charts.invalid/web-1.tgz, namespace: demo }]\n")
	return p
}

func (p *workplace) home() string { return strings.TrimPrefix(p.env[1], "HOME=") }

// settings is the path of the user's own.
func (p *workplace) settings() string {
	return filepath.Join(p.home(), ".config", "devloop", "config.yaml")
}

// write writes a file of the project, or one at an absolute path.
func (p *workplace) write(t *testing.T, file, text string) {
	t.Helper()
	if !filepath.IsAbs(file) {
		file = filepath.Join(p.dir, file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// points makes a context lead to a server. more is further YAML of the cluster.
func (p *workplace) points(t *testing.T, context string, to *neighbour, more string) {
	t.Helper()
	p.server = to.URL
	p.pointsAt(t, context, p.server, to, more)
}

// pointsAt is points for a server that has another address.
func (p *workplace) pointsAt(t *testing.T, context, server string, to *neighbour, more string) {
	t.Helper()
	if certificate := to.Certificate(); certificate != nil {
		authority := filepath.Join(p.home(), "ca.pem")
		p.write(t, authority, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})))
		more += fmt.Sprintf(", certificate-authority: %q", authority)
	}
	p.write(t, filepath.Join(p.home(), "kubeconfig"), fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q%s}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: %q, context: {cluster: c, user: u}}]
current-context: %[3]q
`, server, more, context))
}

func (p *workplace) command(args ...string) *exec.Cmd {
	cmd := exec.Command("devloop", args...) // this test's own binary, see TestMain
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

func (p *workplace) run(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	out, err := p.command(args...).CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if failed != nil {
		code = failed.ExitCode()
	}
	return code, string(out)
}

// thisKernel is this machine's boot ID.
func thisKernel(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	switch {
	case runtime.GOOS != "linux":
		t.Skip("only Linux has a boot ID")
	case err != nil:
		t.Fatal(err)
	}
	return strings.TrimSpace(string(content))
}

// connectProxy is a proxy that leads to an API server, whatever host is wanted.
func connectProxy(t *testing.T, to *neighbour) (url string) {
	t.Helper()
	return proxy.Start(t, func(string) string { return to.Listener.Addr().String() })
}

const (
	proxied   = "requests to it go through the proxy http://127.0.0.1:"
	tunnelled = `node "ip-10-0-3-7" does not run on this machine's kernel`
)

// Each of these was deployed to once: an address on loopback, or what a repository says, is no
// reason to.
func TestNothingIsWrittenToAForeignCluster(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		context string
		start   func(http.Handler) *httptest.Server
		prepare func(t *testing.T, p *workplace, n *neighbour)
		args    []string
		says    string
	}{
		"a tunnel, as kubectl proxy has it":   {context: "prod-eu-admin", start: httptest.NewServer, says: tunnelled},
		"a tunnel with TLS, as ssh -L has it": {context: "prod-eu-admin", start: httptest.NewTLSServer, says: tunnelled},
		"a proxy-url": {context: "minikube", start: httptest.NewTLSServer, says: proxied,
			prepare: func(t *testing.T, p *workplace, n *neighbour) {
				n.runsOn(thisKernel(t))
				p.points(t, "minikube", n, ", proxy-url: "+connectProxy(t, n))
			}},
		"a proxy of the environment": {context: "minikube", start: httptest.NewTLSServer, says: proxied,
			prepare: func(t *testing.T, p *workplace, n *neighbour) {
				n.runsOn(thisKernel(t))
				p.server = "https://example.com:6443" // for which the test's certificate is, too
				p.pointsAt(t, "minikube", p.server, n, "")
				p.env = append(p.env, "HTTPS_PROXY="+connectProxy(t, n))
			}},
		"the name of a profile": {context: "minikube", start: httptest.NewTLSServer, says: tunnelled,
			prepare: func(t *testing.T, p *workplace, _ *neighbour) {
				folder := filepath.Join(p.home(), ".minikube")
				p.write(t, filepath.Join(folder, "profiles", "minikube", "config.json"), `{"Driver": "kvm2",
					"KubernetesConfig": {"ContainerRuntime": "containerd"}, "Nodes": [{"IP": "192.168.39.7", "Port": 8443}]}`)
				machine := filepath.Join(folder, "machines", "minikube", "config.json")
				p.write(t, machine, `{"Driver": {"IPAddress": "192.168.39.7"}}`)
			}},
		"kubeContext and allowContexts of the repository": {context: "prod", start: httptest.NewTLSServer, says: tunnelled,
			prepare: func(t *testing.T, p *workplace, _ *neighbour) {
				p.write(t, "more.yaml", "kubeContext: prod\nallowContexts: [prod]\n")
			}, args: []string{"-f", "devloop.yaml", "-f", "more.yaml"}},
		"--set": {context: "prod", start: httptest.NewTLSServer, says: tunnelled,
			args: []string{"--set", "allowContexts=[prod]"}},
		"another context is allowed": {context: "prod", start: httptest.NewTLSServer, says: tunnelled,
			args: []string{"--allow-context", "staging"},
			prepare: func(t *testing.T, p *workplace, _ *neighbour) {
				p.write(t, p.settings(), "allowContexts: [pro, prod-eu]\n")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, p := newNeighbour(t, test.start), newWorkplace(t)
			p.points(t, test.context, n, "")
			if test.prepare != nil {
				test.prepare(t, p, n)
			}
			for _, command := range []string{"run", "delete", ""} {
				code, said := p.run(t, append(strings.Fields(command), test.args...)...)
				which := fmt.Sprintf("devloop: kube context %q at %s is not known to be on this machine: ", test.context, p.server)
				for _, part := range []string{which, test.says, "--allow-context " + test.context,
					"allowContexts: [" + test.context + "] in " + p.settings()} {
					if !strings.Contains(said, part) {
						t.Errorf("devloop %s does not say %q: %s", command, part, said)
					}
				}
				if code != exitEnvironment {
					t.Errorf("devloop %s: exit code %d", command, code)
				}
			}
			if beyond := n.beyond(); len(beyond) > 0 {
				t.Errorf("it was asked for %s", beyond)
			}
			n.mu.Lock()
			if len(n.asked) == 0 {
				t.Error("it was not asked who it is")
			}
			n.mu.Unlock()
			journals, err := filepath.Glob(filepath.Join(p.home(), ".local", "state", "devloop", "*.jsonl*"))
			if err != nil || len(journals) > 0 {
				t.Errorf("it was begun: %s, %v", journals, err)
			}
		})
	}
}

// firstLine is the first line of a log, without its time.
func firstLine(said string) string {
	line, _, _ := strings.Cut(said, "\n")
	_, line, _ = strings.Cut(line, " ")
	return line
}

func TestTheFirstLineNamesTheCluster(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(t *testing.T, p *workplace, n *neighbour)
		args    []string
		why     func(p *workplace) string
	}{
		"this machine's kernel": {
			prepare: func(t *testing.T, _ *workplace, n *neighbour) { n.runsOn(thisKernel(t)) },
			why:     func(*workplace) string { return "runs on this machine's kernel: node ip-10-0-3-7" }},
		"a flag": {args: []string{"--allow-context", "staging", "--allow-context", "prod"},
			why: func(*workplace) string { return "allowed by --allow-context" }},
		"the environment": {prepare: func(_ *testing.T, p *workplace, _ *neighbour) {
			p.env = append(p.env, "DEVLOOP_ALLOW_CONTEXT=staging\nprod")
		},
			why: func(*workplace) string { return "allowed by DEVLOOP_ALLOW_CONTEXT" }},
		"the user's settings": {prepare: func(t *testing.T, p *workplace, _ *neighbour) {
			p.write(t, p.settings(), "allowContexts:\n- staging\n- prod\n")
		}, why: func(p *workplace) string {
			return "allowed by " + p.settings()
		}},
		"the user's settings elsewhere": {prepare: func(t *testing.T, p *workplace, _ *neighbour) {
			p.env = append(p.env, "XDG_CONFIG_HOME="+p.dir)
			p.write(t, "devloop/config.yaml", "allowContexts: [prod]\n")
		}, why: func(p *workplace) string { return "allowed by " + filepath.Join(p.dir, "devloop", "config.yaml") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, p := newNeighbour(t, httptest.NewTLSServer), newWorkplace(t)
			p.points(t, "prod", n, "")
			if test.prepare != nil {
				test.prepare(t, p, n)
			}
			want := fmt.Sprintf("INFO devloop: cluster context=prod server=%s why=%q", n.URL, test.why(p))
			for _, command := range []string{"delete", "run"} {
				code, said := p.run(t, append([]string{command}, test.args...)...)
				if firstLine(said) != want || command == "delete" && code != 0 {
					t.Errorf("devloop %s: exit code %d, %s, not %s", command, code, said, want)
				}
			}
			if len(n.beyond()) == 0 {
				t.Error("devloop run asked for nothing")
			}
		})
	}
}

// Settings that are wrong allow nothing, also not what can be read of them.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	n, p := newNeighbour(t, httptest.NewTLSServer), newWorkplace(t)
	p.points(t, "prod", n, "")
	path := p.settings()
	p.write(t, path, "allowContexts: [prod]\nallow: all\n")
	if code, said := p.run(t, "delete"); code != exitInput || !strings.HasPrefix(said, path+`:2:1: unknown key "allow"`) {
		t.Errorf("exit code %d, %s", code, said)
	}
	p.write(t, path, "allowContexts: [prod]\n")
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	code, said := p.run(t, "delete")
	if code != exitInput || !strings.Contains(said, "others may write to it") ||
		!strings.Contains(said, "chmod go-w "+path) {
		t.Errorf("exit code %d, %s", code, said)
	}
	if beyond := n.beyond(); len(beyond) > 0 {
		t.Errorf("it was asked for %s", beyond)
	}
}

// What only reads needs no permission, and doctor says that what writes would need one.
func TestReadersNeedNoPermission(t *testing.T) {
	t.Parallel()
	n, p := newNeighbour(t, httptest.NewTLSServer), newWorkplace(t)
	p.points(t, "prod", n, "")
	found := "ok    cluster        context prod, Kubernetes v1.34.3, " + n.URL
	doubt := "\nwarn  cluster        kube context \"prod\" at " + n.URL + " is not known to be on this machine: "
	if _, said := p.run(t, "doctor"); !strings.Contains(said, found+doubt) {
		t.Error(said)
	}
	if _, said := p.run(t, "doctor", "--allow-context", "prod"); !strings.Contains(said,
		found+", allowed by --allow-context\n") {
		t.Error(said)
	}
	const unknown = "is not known to be on this machine"
	if _, said := p.run(t, "clusters", "stop", "--stale"); !strings.Contains(said, unknown) || len(n.beyond()) > 0 {
		t.Errorf("%s, %s", said, n.beyond())
	}
	if _, said := p.run(t, "clusters"); strings.Contains(said, unknown) || len(n.beyond()) == 0 {
		t.Errorf("%s, %s", said, n.beyond())
	}
}
