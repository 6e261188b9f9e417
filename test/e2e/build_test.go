//go:build e2e

// Images, built by a real Docker: what reaches a build and what does not, what is told of it, and
// what is kept.
package e2e

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/devloop/devloop/pkg/event"
)

func TestBuild(t *testing.T) {
	t.Parallel()
	t.Run("secrets reach the build and are no inputs", buildSecrets)
	t.Run("ssh", buildSSH)
	t.Run("a step that fails", buildFailure)
	t.Run("an input that changes during the build", buildOutdated)
	t.Run("an image that gets no name", func(t *testing.T) { testPackage(t, "TestDiscard", os.Environ()) })
	t.Run("the daemon of a docker context", buildInContext)
	t.Run("only the newest images are kept", buildKeep)
	t.Run("an image that is built from another one", builtFromAnother)
	t.Run("files that are synced are where BuildKit copies them", buildSynced)
}

// newImageProject has one image, of the project's name.
func newImageProject(t *testing.T, more, dockerfile string) *project {
	t.Helper()
	p := &project{name: "built-" + unique(), dir: t.TempDir(), cache: t.TempDir()}
	p.env = append(os.Environ(), "XDG_STATE_HOME="+t.TempDir(), "XDG_CACHE_HOME="+p.cache,
		"XDG_RUNTIME_DIR="+t.TempDir(), "TOKEN=one", "SSH_AUTH_SOCK=")
	p.write(t, "devloop.yaml", "apiVersion: devloop/v1\nname: "+p.name+"\nimages:\n  "+p.name+":\n    context: .\n"+more)
	p.write(t, "Dockerfile", "FROM "+baseImage+"\n"+dockerfile)
	return p
}

// build builds and returns the name of what was built.
func (p *project) build(t *testing.T, args ...string) (image, log string) {
	t.Helper()
	out, log := p.call(t, 0, append([]string{"build", "--json"}, args...)...)
	var built []struct{ Image string }
	if err := json.Unmarshal([]byte(out), &built); err != nil || len(built) != 1 {
		t.Fatalf("%v:\n%s%s", err, out, log)
	}
	t.Cleanup(func() { docker(t, "image", "rm", "--force", built[0].Image) })
	return built[0].Image, log
}

func buildSecrets(t *testing.T) {
	p := newImageProject(t, "    secrets: { conf: { file: pip.conf }, token: { env: TOKEN }, none: { file: ~/none } }\n", `
RUN --mount=type=secret,id=conf,target=/etc/pip.conf --mount=type=secret,id=token --mount=type=secret,id=none \
    sleep 0.3 && : `+unique()+` && grep --quiet index /etc/pip.conf && \
    test "$(cat /run/secrets/token)" = one && test ! -e /run/secrets/none
RUN for word in out layer; do echo in-the-$word; done | tee /words
`)
	p.write(t, "pip.conf", "[global]\nindex-url = https://user:hunter2@index.example/simple\n")
	_, log := p.build(t)
	if !regexp.MustCompile(`INFO build: build step image=` + p.name + ` step="\[2/3\] RUN .*" took=`).MatchString(log) {
		t.Errorf("the step and its time are not told:\n%s", log)
	}
	p.edit(t, "Dockerfile", "index /etc/pip.conf", "-- index /etc/pip.conf") // built again, and told in full
	again, log := p.build(t, "-v")
	kept, err := filepath.Glob(filepath.Join(p.cache, "devloop", "builds", "*.log"))
	if err != nil || len(kept) != 2 {
		t.Errorf("output kept: %v, %v", kept, err)
	}
	for _, file := range kept {
		text, err := os.ReadFile(file)
		must(t, err)
		log += string(text)
	}
	saved := savedImage(t, again)
	if strings.Contains(log, "hunter2") || strings.Contains(saved, "hunter2") {
		t.Errorf("the secret is in the log or in the image:\n%s", log)
	}
	// The Dockerfile does not hold these words as they are: they come from the step's output, and
	// from the layer.
	if !strings.Contains(log, "in-the-out") || !strings.Contains(saved, "in-the-layer") {
		t.Errorf("what is there is not found, so that the secret would not be either:\n%s", log)
	}
	p.write(t, "pip.conf", "[global]\nindex-url = https://user:hunter3@index.example/simple\n")
	if other, _ := p.build(t); other != again {
		t.Errorf("another secret makes another image: %s, %s", again, other)
	}
	p.edit(t, "Dockerfile", "id=none", "id=none,required=true")
	if _, log := p.call(t, 1, "build"); !strings.Contains(log, "secret none not found") {
		t.Errorf("a required secret that is not there:\n%s", log)
	}
}

// savedImage is all that an image consists of, as Docker saves it: each file of it, unpacked
// where it is compressed.
func savedImage(t *testing.T, image string) string {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	docker(t, "save", "--output", archive, image)
	file, err := os.Open(archive)
	must(t, err)
	defer func() { _ = file.Close() }()
	var all strings.Builder
	for archive := tar.NewReader(file); ; {
		_, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all.String()
		}
		must(t, err)
		content := bufio.NewReader(archive)
		var plain io.Reader = content
		if magic, _ := content.Peek(2); string(magic) == "\x1f\x8b" {
			plain, err = gzip.NewReader(content)
			must(t, err)
		}
		_, err = io.Copy(&all, plain)
		must(t, err)
	}
}

// buildSSH asks for the keys of an agent, and of a file.
func buildSSH(t *testing.T) {
	p := newImageProject(t, "    ssh: [default, deploy=key]\n", `COPY one.py /
RUN --mount=type=ssh python3 one.py
RUN --mount=type=ssh,id=deploy python3 one.py
`)
	p.write(t, "one.py", "# "+p.dir+`: not in any cache
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['SSH_AUTH_SOCK'])
s.send(b'\0\0\0\1\x0b')
assert s.makefile('rb').read(9)[4:] == b'\x0c\0\0\0\1', 'not one key'
`)
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.dir, "key"), pem.EncodeToMemory(block), 0o600))

	if _, log := p.call(t, 1, "build"); !strings.Contains(log, "ssh: ") || !strings.Contains(log, "ssh-add") {
		t.Errorf("without an agent:\n%s", log)
	}
	keys := agent.NewKeyring()
	must(t, keys.Add(agent.AddedKey{PrivateKey: key}))
	p.env = append(p.env, "SSH_AUTH_SOCK="+serveAgent(t, keys))
	p.build(t)
}

func buildFailure(t *testing.T) {
	p := newImageProject(t, "", `RUN for i in $(seq 400); do echo "Collecting package-$i"; done; \
    echo "ERROR: No matching distribution found for nowhere"; exit 1
`)
	_, log := p.call(t, 1, "build")
	n := strings.Count(log, "│ Collecting package-")
	if n == 0 || n > 12 || !strings.Contains(log, "Collecting package-400\n") {
		t.Errorf("%d lines of the step's output:\n%s", n, log)
	}
	found := regexp.MustCompile(`failed: ERROR: No matching distribution found for nowhere
  → fix it and save; .*whole output is in (/\S+/` + p.name + `-[0-9a-f]{16}\.log)
`).FindStringSubmatch(log)
	if found == nil {
		t.Fatalf("the error does not say what, what to do and where the output is:\n%s", log)
	}
	whole, err := os.ReadFile(found[1])
	if err != nil || !strings.Contains(string(whole), "Collecting package-1\n") {
		t.Errorf("%s: %v:\n%s", found[1], err, whole)
	}
}

// buildOutdated has a step of the build change an input, through its ssh agent.
func buildOutdated(t *testing.T) {
	p := newImageProject(t, "    ssh: [default]\n", `COPY one.py input /
RUN --mount=type=ssh python3 one.py
`)
	p.append(t, "Dockerfile", "LABEL project="+p.name+"\n")
	p.write(t, "input", "before\n")
	p.write(t, "one.py", "# "+p.dir+`: not in any cache
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect(os.environ['SSH_AUTH_SOCK'])
s.send(b'\0\0\0\1\x0b')
assert s.recv(1) == b'\0'
`)
	p.env = append(p.env, "SSH_AUTH_SOCK="+serveAgent(t, listingAgent{agent.NewKeyring(), func() error {
		return os.WriteFile(filepath.Join(p.dir, "input"), []byte("after\n"), 0o644)
	}}))
	image, log := p.build(t)
	if n := strings.Count(log, "image built"); n != 1 || !strings.Contains(savedImage(t, image), "after\n") {
		t.Errorf("%d builds made an image, and %s may hold what the disk does not:\n%s", n, image, log)
	}
	left := docker(t, "image", "ls", "--all", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "label=project="+p.name)
	if left = strings.TrimSpace(left); left != image {
		t.Errorf("these images are there, and not only %s:\n%s", image, left)
	}
}

// listingAgent calls asked before it lists its keys.
type listingAgent struct {
	agent.Agent
	asked func() error
}

func (a listingAgent) List() ([]*agent.Key, error) {
	if err := a.asked(); err != nil {
		return nil, err
	}
	return a.Agent.List()
}

// serveAgent serves an ssh agent until the test ends, and returns its socket.
func serveAgent(t *testing.T, keys agent.Agent) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	serve(t, listener, func(conn net.Conn) { _ = agent.ServeAgent(keys, conn) }) // until the build lets go
	return socket
}

func buildInContext(t *testing.T) {
	p := newImageProject(t, "", "RUN true\n")
	usual := setting(t, "DOCKER_HOST")
	config := t.TempDir()
	p.env = append(p.env, "DOCKER_HOST=", "DOCKER_CONFIG="+config)
	_, err := command(t.Context(), p.env, "docker", "context", "create", "elsewhere", "--docker", "host="+usual)
	must(t, err)
	p.env = append(p.env, "DOCKER_CONTEXT=missing")
	if _, log := p.call(t, 3, "build"); !strings.Contains(log, `docker context "missing"`) {
		t.Errorf("a context that is not there:\n%s", log)
	}
	p.env = append(p.env, "DOCKER_CONTEXT=elsewhere")
	if _, log := p.build(t); !strings.Contains(log, "image built") {
		t.Error(log)
	}
}

// buildKeep saves again and again, and undoes.
func buildKeep(t *testing.T) {
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "keepImages: 2\n")
	d := p.start(t)
	d.await(t, 0, ready)
	var built []string
	for i := range 4 {
		c := d.save(t, "index.html", fmt.Sprintf("page %d of %s\n", i, p.name))
		built = append(built, c.happens(t, on(event.ImageBuilt)).field("image"))
		c.arrives(t)
		p.awaitPage(t, fmt.Sprintf("page %d of %s", i, p.name))
	}
	c := d.save(t, "index.html", "page 2 of "+p.name+"\n")
	c.arrives(t)
	p.awaitPage(t, "page 2 of "+p.name)
	if c.counts(building) != 0 || c.counts(on(event.ImageFound).with("image", "^"+built[2]+"$")) != 1 {
		t.Error("what was undone is built anew")
	}
	step(t, "builds that fail evict nothing", func(t *testing.T) {
		d.replace(t, "Dockerfile", "CMD", "RUN false\nCMD").fails(t, "RUN false")
		for i := range 2 {
			d.save(t, "index.html", fmt.Sprintf("broken %d of %s\n", i, p.name)).fails(t, "RUN false")
		}
		d.replace(t, "Dockerfile", "RUN false\nCMD", "CMD").arrives(t)
		c := d.save(t, "index.html", "page 2 of "+p.name+"\n")
		c.arrives(t)
		if c.counts(building) != 0 {
			t.Error("what was undone is built anew")
		}
	})
	// Whichever run removed it: one that a pod still names when it ends waits for the next run.
	removed := on("old image removed")
	for _, image := range []string{built[0], built[1], built[3]} {
		d.await(t, 0, removed.with("image", "^"+image+"$"))
	}
	eventually(t, "the one before these is removed", func() bool { return d.count(0, removed) >= 4 })
	if n := d.count(0, removed); n != 4 {
		t.Errorf("%d images were removed, not 4", n)
	}
	d.stop(t)
	if pods := p.podByNode(t, kubernetesClient(t)); len(pods) != 0 {
		t.Errorf("pods left: %v", pods)
	}
}

// addBase has the project's image built from another one, whose name it returns.
func (p *project) addBase(t *testing.T, holds string) (base string) {
	t.Helper()
	base = p.name + "-base"
	p.edit(t, "devloop.yaml", "context: . }", "context: ., args: { BASE: '{{ image \""+base+"\" }}' } }\n  "+
		base+": { context: base }")
	p.edit(t, "Dockerfile", "FROM "+baseImage, "ARG BASE\nFROM $BASE")
	must(t, os.Mkdir(filepath.Join(p.dir, "base"), 0o755))
	p.write(t, "base/Dockerfile", "FROM "+baseImage+"\nCOPY base /\n")
	p.write(t, "base/base", holds+"\n")
	t.Cleanup(func() {
		for _, image := range strings.Fields(docker(t, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", base)) {
			docker(t, "image", "rm", image)
		}
	})
	return base
}

// builtFromAnother has a chain of two images wherever they can be: only on this machine, both in
// the node, and one in the node that this machine needs.
func builtFromAnother(t *testing.T) {
	p := newProject(t, "small")
	base := p.addBase(t, "one "+p.name)
	upper, lower := "^"+p.name+":", "^"+base+":"
	holds := func(t *testing.T, want string) {
		t.Helper()
		if got := strings.TrimSpace(kubectl(t, "exec", "-n", p.name, "deploy/small", "--", "cat", "/base")); got != want {
			t.Errorf("the pod's base image is %q, not %q", got, want)
		}
	}
	out, log := p.call(t, 0, "build", "--json") // on this machine
	var built []struct{ Image string }
	if err := json.Unmarshal([]byte(out), &built); err != nil || len(built) != 2 ||
		!strings.HasPrefix(built[0].Image, base) {
		t.Fatalf("%v:\n%s%s", err, out, log)
	}
	first := p.page(t, "first") // another image, from the base that this machine has
	d := p.start(t)
	step(t, "the node gets the lower one from this machine", func(t *testing.T) {
		d.await(t, 0, on(event.ImageLoaded).with("image", lower))
		d.await(t, 0, on(event.ImageBuilt).with("image", upper))
		d.await(t, 0, ready)
		p.awaitPage(t, first)
		holds(t, "one "+p.name)
		if d.count(0, on(event.ImageBuilt).with("image", lower)) != 0 || d.count(0, p.loaded()) != 0 {
			t.Error("the lower one is built again, or the upper one was moved")
		}
	})
	step(t, "a change of the lower one builds both in the node", func(t *testing.T) {
		c := d.save(t, "base/base", "two "+p.name+"\n")
		built := c.happens(t, on(event.ImageBuilt).with("image", lower))
		if c.happens(t, building.with("image", upper)).Time.Before(built.Time) {
			t.Error("the upper one does not wait")
		}
		c.happens(t, on(event.ImageBuilt).with("image", upper))
		c.arrives(t)
		holds(t, "two "+p.name)
		if c.counts(on(event.LoadingImage)) != 0 {
			t.Error("images were moved")
		}
	})
	step(t, "a change of the upper one builds only that", func(t *testing.T) {
		c := d.next()
		saved := p.page(t, "second")
		c.arrives(t)
		p.awaitPage(t, saved)
		if c.counts(building.with("image", lower)) != 0 {
			t.Error("the lower one is built, too")
		}
	})
	step(t, "one that fails fails once", func(t *testing.T) {
		d.replace(t, "base/Dockerfile", "COPY base /", "RUN false").fails(t, "^image "+base+": Dockerfile: .*RUN false")
		d.replace(t, "base/Dockerfile", "RUN false", "COPY base /").arrives(t)
	})
	step(t, "this machine builds what it needs for one that the node cannot build", func(t *testing.T) {
		c := d.next()
		p.append(t, "Dockerfile", "RUN pip download --no-deps --retries 1 six\n")
		c.happens(t, on("image is built on this machine, too, for one that is built from it").with("image", lower))
		c.happens(t, p.loaded())
		c.arrives(t)
		holds(t, "two "+p.name)
		if c.counts(on(event.ImageLoaded).with("image", lower)) != 0 {
			t.Error("the node gets the lower one, which it has")
		}
	})
	d.stop(t)
}

// buildSynced runs the comparison of pkg/build with the BuildKit of the test cluster.
func buildSynced(t *testing.T) {
	cache, err := os.UserCacheDir()
	must(t, err)
	cache = cmp.Or(os.Getenv("DEVLOOP_TEST_CACHE"), filepath.Join(cache, "devloop-test"))
	daemons, err := filepath.Glob(filepath.Join(cache, "buildkit-*", "buildkitd"))
	must(t, err)
	if len(daemons) == 0 {
		t.Fatal("no buildkitd in", cache)
	}
	testPackage(t, "TestSyncedInBuildKit", append(os.Environ(), "BUILDKITD="+daemons[0]))
}

// testPackage runs a test of pkg/build that is one of these tests.
func testPackage(t *testing.T, name string, env []string) {
	t.Helper()
	_, err := command(t.Context(), env, "go", "test", "-tags", "e2e", "-count", "1", "-run", "^"+name+"$",
		"github.com/devloop/devloop/pkg/build")
	must(t, err)
}
