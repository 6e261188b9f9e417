//go:build e2e

// What devloop never does: end in the middle of a save, take another machine's cluster for the
// user's own, delete what it did not make, let others in.
package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/devloop/devloop/pkg/event"
)

func TestNever(t *testing.T) {
	step(t, "a loopback address is no proof", testTunnel)
	startCluster(t, "never", "--bare")
	for _, story := range []struct {
		name string
		test func(*testing.T)
	}{
		{"a save that only Docker understood", testUnusualDockerfile},
		{"what somebody else made stays", testForeign},
		{"a neighbour on this machine", testNeighbour},
		{"a terminal that is closed", testClosedTerminal},
	} {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			story.test(t)
		})
	}
}

// tunnel opens a port on this machine that leads to an address, as ssh -L does.
func tunnel(t *testing.T, to string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, end := context.WithCancel(context.Background())
	var carrying sync.WaitGroup
	t.Cleanup(func() {
		end()
		_ = listener.Close()
		carrying.Wait()
	})
	carry := func(near net.Conn) {
		defer near.Close()
		far, err := new(net.Dialer).DialContext(ctx, "tcp", to)
		if err != nil {
			return
		}
		defer far.Close()
		defer context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })()
		carrying.Go(func() {
			_, _ = io.Copy(far, near)
			_ = far.(*net.TCPConn).CloseWrite()
		})
		_, _ = io.Copy(near, far)
	}
	carrying.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			carrying.Go(func() { carry(near) })
		}
	})
	return listener.Addr().String()
}

// throughTunnel gives the project a kubeconfig that reaches the cluster of KUBECONFIG through a
// tunnel, and returns the context's server.
func (p *project) throughTunnel(t *testing.T, name string) (server string) {
	t.Helper()
	config, err := clientcmd.LoadFromFile(setting(t, "KUBECONFIG"))
	must(t, err)
	context := config.Contexts[config.CurrentContext]
	cluster := config.Clusters[context.Cluster]
	parsed, err := url.Parse(cluster.Server)
	must(t, err)
	cluster.TLSServerName = parsed.Hostname()
	cluster.Server = "https://" + tunnel(t, parsed.Host)
	delete(config.Contexts, config.CurrentContext)
	config.Contexts[name], config.CurrentContext = context, name
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*config, file))
	p.env = append(p.env, "KUBECONFIG="+file)
	return cluster.Server
}

// testTunnel: of two clusters behind a port of this machine, one is on this machine and one is not.
func testTunnel(t *testing.T) {
	step(t, "another machine's cluster is asked for first", func(t *testing.T) {
		startCluster(t, "elsewhere", "--bare", "--elsewhere")
		kubectl(t, "create", "configmap", "theirs", "--namespace", "default")
		for _, name := range []string{"prod-eu-admin", "elsewhere"} { // the second one is a minikube profile's
			p := newProject(t, "deploy/never")
			p.edit(t, "devloop.yaml", "namespace: "+p.name, "namespace: default")
			p.append(t, "devloop.yaml", "kubeContext: "+name+"\nallowContexts: ["+name+"]\n")
			server := p.throughTunnel(t, name)
			before := inventory(t)
			for _, args := range [][]string{{}, {"run"}, {"delete"}} {
				_, log := p.call(t, 3, args...)
				for _, want := range []string{name, server, "--allow-context " + name} {
					if !strings.Contains(log, want) {
						t.Errorf("devloop %v does not name %q:\n%s", args, want, log)
					}
				}
			}
			compare(t, "after it was refused", inventory(t), before)

			p.edit(t, "devloop.yaml", "allowContexts: ["+name+"]\n", "") // of which a warning comes first
			_, log := p.call(t, 0, "run", "--allow-context", name)
			if first, _, _ := strings.Cut(log, "\n"); !strings.Contains(first, name) || !strings.Contains(first, server) {
				t.Errorf("the first line does not name the cluster: %s", first)
			}
			kubectl(t, "get", "configmap", "notes", "--namespace", "default")
			p.call(t, 0, "delete", "--allow-context", name)
			compare(t, "after it was allowed and removed", inventory(t), before)
		}
	})
	step(t, "this machine's is its own by the boot ID of its nodes", func(t *testing.T) {
		startCluster(t, "here", "--bare")
		p := newProject(t, "deploy/never")
		kubectl(t, "create", "namespace", p.name)
		p.throughTunnel(t, "mine")
		p.call(t, 0, "run")
		kubectl(t, "get", "configmap", "notes", "--namespace", p.name)
	})
}

// testUnusualDockerfile: what a build may write to while it lasts.
func testUnusualDockerfile(t *testing.T) {
	p := newProject(t, "small")
	d := p.start(t)
	d.await(t, 0, ready)
	for i, options := range []string{"source=.,target=/src,rw", "target=/src,readwrite",
		"from=python:3.11-slim,target=/src,rw"} {
		before := "CMD "
		if i > 0 {
			before = "RUN --mount"
		}
		d.replace(t, "Dockerfile", before, "RUN --mount=type=bind,"+options+" true\n"+before).arrives(t)
	}
	d.stop(t)
	p.gone(t)
}

// testForeign: in a namespace that was there, only what the release made goes. One that devloop
// made stays for an object of a kind that was not known before.
func testForeign(t *testing.T) {
	p := newProject(t, "deploy/never")
	mine := p.name + "-mine"
	kubectl(t, "create", "namespace", p.name)
	kubectl(t, "create", "configmap", "theirs", "--namespace", p.name)
	p.edit(t, "devloop.yaml", "cleanup:", fmt.Sprintf(
		"  - { name: more, chart: workload, namespace: %s, createNamespace: true, "+
			"inlineValues: { kind: none } }\ncleanup:", mine))
	d := p.start(t)
	d.await(t, 0, ready)
	p.write(t, "theirs.yaml", strings.ReplaceAll(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: things.$NAME.test }
spec:
  group: $NAME.test
  scope: Namespaced
  names: { plural: things, singular: thing, kind: Thing }
  versions:
    - name: v1
      served: true
      storage: true
      schema: { openAPIV3Schema: { type: object } }
`, "$NAME", p.name))
	kubectl(t, "apply", "--filename", p.dir+"/theirs.yaml")
	things := "things." + p.name + ".test"
	eventually(t, "the API server serves "+things, func() bool { // kubectl wait fails on an object without conditions
		return kubectl(t, "get", "crd", things, "--output",
			`jsonpath={.status.conditions[?(@.type=="Established")].status}`) == "True"
	})
	p.write(t, "theirs.yaml", "{ apiVersion: "+p.name+".test/v1, kind: Thing, metadata: { name: theirs } }")
	kubectl(t, "apply", "--namespace", mine, "--filename", p.dir+"/theirs.yaml")

	d.stop(t)
	kubectl(t, "get", "configmap", "theirs", "--namespace", p.name)
	if got := kubectl(t, "get", "configmap", "notes", "--namespace", p.name, "--ignore-not-found"); got != "" {
		t.Errorf("left: %s", got)
	}
	d.only(t, on(leftAlone).with("resource", "^configmaps$").with("namespace", "^"+p.name+"$").with("objects",
		`\btheirs\b`))
	d.only(t, on(namespaceHas).with("namespace", "^"+mine+"$").with("holds", "^things/theirs$"))
	kubectl(t, "get", things, "theirs", "--namespace", mine)

	kubectl(t, "delete", "crd", things)
	kubectl(t, "delete", "namespace", p.name)
	p.remove(t)
}

// leftAlone is what a clean-up says of the objects of others.
const leftAlone = "objects left alone, they belong to none of devloop's releases"

// neighbour runs a command as another user of this machine.
func neighbour(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	as := []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--"}
	return command(ctx, []string{"PATH=" + os.Getenv("PATH")}, "setpriv", append(as, args...)...)
}

// asked is the code of a neighbour's HTTP request, and its answer.
func asked(t *testing.T, args ...string) (code, answer string) {
	t.Helper()
	out, err := neighbour(t, append([]string{"curl", "--silent", "--max-time", "60", "--write-out", "\n%{http_code}"},
		args...)...)
	must(t, err)
	end := strings.LastIndex(out, "\n")
	return out[end+1:], out[:end]
}

// testNeighbour: another user of this machine reaches the ports, and gets nothing from them.
func testNeighbour(t *testing.T) {
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "buildIn: host\n")
	d := p.start(t)
	page, err := url.Parse(d.await(t, 0, on(event.PageServed)).field("url"))
	must(t, err)
	image := d.await(t, 0, on(event.ImageLoaded)).field("image")
	d.await(t, 0, ready)

	for path, want := range map[string]string{"/": "403", "/api/state": "403", "/api/events": "403",
		"/api/stream": "403", "/metrics": "200"} { // figures are open, names not
		code, answer := asked(t, "http://"+page.Host+path)
		if code != want || strings.Contains(answer, p.name) {
			t.Errorf("the page answers %s to GET %s: %s", code, path, answer)
		}
	}
	if code, _ := asked(t, "--request", "POST", "http://"+page.Host+"/api/pause"); code != "403" {
		t.Errorf("the page answers %s to a POST", code)
	}
	if code, _ := asked(t, "--location", "--cookie", "", page.String()); code != "200" {
		t.Errorf("the address in the log is answered with %s", code)
	}

	registry := p.registry(t)
	tag, err := name.NewTag(image)
	must(t, err)
	manifest := fmt.Sprintf("http://%s/v2/devloop/images/manifests/%x", registry, sha256.Sum256([]byte(tag.Name())))
	for _, args := range [][]string{
		{"http://" + registry + "/v2/"},
		{manifest},
		{"--request", "PUT", "--data", "{}", manifest},
		{"--request", "POST", "http://" + registry + "/v2/x/blobs/uploads/"},
		{"--request", "PUT", "--path-as-is", "http://" + registry + "/v2/x/blobs/uploads/."},
	} {
		if code, answer := asked(t, args...); code != "401" && code != "403" {
			t.Errorf("the registry answers %s to %v: %s", code, args, answer)
		}
	}
	sockets := ""
	for _, variable := range p.env { // the last one counts
		if value, ok := strings.CutPrefix(variable, "XDG_RUNTIME_DIR="); ok {
			sockets = value
		}
	}
	if sockets == "" {
		t.Fatal("the project has no folder for its socket")
	}
	must(t, os.Chmod(sockets, 0o755)) // what devloop makes in it is to be enough
	found, err := filepath.Glob(filepath.Join(sockets, "devloop", "*.sock"))
	if err != nil || len(found) != 1 {
		t.Fatalf("sockets: %v (%v)", found, err)
	}
	out, err := neighbour(t, "curl", "--silent", "--max-time", "60", "--unix-socket", found[0], "http://devloop/api/state")
	if err == nil {
		t.Errorf("the socket answers: %s", out)
	}
	mark := d.mark()
	must(t, os.WriteFile(filepath.Join(p.dir, "index.html"), []byte("still at work\n"), 0o644))
	d.await(t, mark, ready)
	p.awaitPage(t, "still at work")
	d.stop(t)
	p.gone(t)
}

// registry is the address of devloop's own one.
func (p *project) registry(t *testing.T) (address string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.cache, "devloop", "registry", "*", "address"))
	must(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		must(t, err)
		address = strings.TrimSpace(string(content))
	}
	if address == "" {
		t.Fatalf("the registry's address is not in %s", p.cache)
	}
	return address
}

// testClosedTerminal: the kernel and the shell both hang up, and devloop still cleans up.
func testClosedTerminal(t *testing.T) {
	p := newProject(t, "deploy/never")
	kubectl(t, "create", "namespace", p.name)
	w := openTerminal(t, p, "exec bash --norc --noprofile -i")
	log := filepath.Join(p.cache, "log")
	w.press(t, setting(t, "DEVLOOP_BIN")+" --log-file "+log+" --log-format json --verbose\n")
	w.await(t, 0, ready)
	kubectl(t, "get", "configmap", "notes", "--namespace", p.name)
	w.kill(t) // script(1) alone, and its terminal goes
	eventually(t, "it has cleaned up", func() bool {
		content, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(content), "nothing left behind")
	})
	if got := kubectl(t, "get", "configmap", "notes", "--namespace", p.name, "--ignore-not-found"); got != "" {
		t.Errorf("left: %s", got)
	}
	kubectl(t, "delete", "namespace", p.name)
	p.gone(t)
}
