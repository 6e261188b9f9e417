//go:build e2e

// Where images are built, and every way for them to get into a node.
package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/moby/client"
	"golang.org/x/crypto/ssh"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/node"
)

// baseImage is what testdata/small is built on.
const baseImage = "python:3.11-slim"

func TestNode(t *testing.T) {
	t.Run("docker", func(t *testing.T) {
		startCluster(t, "built", "--runtime", "docker", "--bare")
		t.Run("built in the node", func(t *testing.T) { builtInTheNode(t, "docker") })
	})
	t.Run("containerd", func(t *testing.T) {
		startCluster(t, "built", "--bare")
		t.Run("built in the node", func(t *testing.T) { builtInTheNode(t, "containerd") })
		t.Run("built without Docker on this machine", builtWithoutDocker)
		t.Run("built by another BuildKit", builtElsewhere)
		t.Run("pushed to a registry", pushed)
		t.Run("the same content under another name", sameContent)
		t.Run("ssh that breaks off or stalls", brokenTransfer)
		t.Run("cri-o", givenToCRIO)
	})
	t.Run("kind", givenToKind)
}

func content(text string) string { return text + " " + strconv.FormatInt(time.Now().UnixNano(), 36) }

// builtInTheNode is about a node whose own daemon can build: nothing is moved.
func builtInTheNode(t *testing.T, runtime string) {
	p := newProject(t, "small")
	first := content("first") // which this machine's Docker does not hold either
	p.write(t, "index.html", first+"\n")
	d := p.start(t, "--verbose")
	d.says(t, 0, `images are built in the node`)

	// The node holds no base image and reaches no registry.
	d.wait(0, `image loaded.* image=`+regexp.QuoteMeta(baseImage), smallRun)
	d.says(t, 0, `image built.* image=page:\w+`)
	d.await(t, 0, ready)
	p.awaitPage(t, first)

	var image string
	t.Run("a save", func(t *testing.T) {
		mark := d.mark()
		saved := content("built in the node")
		p.write(t, "index.html", saved+"\n")
		image = d.says(t, mark, `image built.* image=(page:\w+)`)[1]
		d.await(t, mark, ready)
		p.awaitPage(t, saved)
		if n := d.count(mark, "loading image"); n != 0 {
			t.Errorf("%d images were moved", n)
		}
		if out, err := command(t.Context(), os.Environ(), "docker", "image", "inspect", "--format", "{{.Id}}", image); err == nil {
			t.Errorf("this machine's Docker holds %s, too: %s", image, out)
		}
		if names := nodeImages(t, runtime); !strings.Contains(names, image) || strings.Contains(names, "devloop.invalid") {
			t.Errorf("the node's images: %s", names)
		}
	})

	t.Run("an undo builds nothing", func(t *testing.T) {
		mark := d.mark()
		p.write(t, "index.html", first+"\n")
		d.says(t, mark, `image found, tagging.* on=node`)
		d.await(t, mark, ready)
	})

	t.Run("a base image that only this machine has", func(t *testing.T) {
		const base = "devloop-test-base"
		defer func() { _, _ = command(context.Background(), os.Environ(), "docker", "image", "rm", base) }()
		for _, holds := range []string{"one", "two"} { // the second is another one under the same name
			dockerBuild(t, base, "FROM "+baseImage+"\nRUN echo "+holds+" > /base\n")
			mark := d.mark()
			if holds == "one" {
				p.edit(t, "Dockerfile", "FROM "+baseImage, "FROM "+base)
			} else must(t, d.cmd.Process.Signal(syscall.SIGHUP))
			d.wait(mark, `image loaded run=.* image=`+base, smallRun)
			d.says(t, mark, `image built run=.* image=page`)
			d.await(t, mark, ready)
			if got := strings.TrimSpace(kubectl(t, "exec", "-n", "small", "deploy/small", "--", "cat", "/base")); got != holds {
				t.Errorf("the pod's base image is %q, not %q", got, holds)
			}
		}
		mark := d.mark()
		p.edit(t, "Dockerfile", "FROM "+base, "FROM "+baseImage)
		d.await(t, mark, ready)
	})

	t.Run("what needs a network is built on this machine", func(t *testing.T) {
		mark := d.mark()
		p.append(t, "Dockerfile", "RUN pip download --no-deps --retries 1 --timeout 10 six\n")
		d.says(t, mark, `image is built on this machine, since the node cannot`)
		d.says(t, mark, `image loaded.* image=page:\w+`)
		d.await(t, mark, ready)
		mark = d.mark()
		p.append(t, "Dockerfile", "RUN pip download --no-deps --retries 1 --timeout 10 idna\n")
		d.says(t, mark, `image is built on this machine.* why=`) // it is not tried again
		d.await(t, mark, ready)
		d.wait(0, `old image removed.* image=`+image, time.Second) // three newer ones are there
		if names := nodeImages(t, runtime); strings.Contains(names, image) {
			t.Errorf("the node's images: %s", names)
		}
	})
	d.stop(t)
}

// nodeImages lists the names of the images that the node "built" holds.
func nodeImages(t *testing.T, runtime string) string {
	t.Helper()
	if runtime == "docker" {
		return script(t, "exec", "built", "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	}
	return script(t, "exec", "built", "ctr", "--namespace", "k8s.io", "images", "ls", "--quiet")
}

// dockerBuild has Docker on this machine build an image.
func dockerBuild(t *testing.T, tag, dockerfile string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if out, err := command(ctx, append(os.Environ(), "DOCKER_BUILDKIT=1"), "/usr/bin/docker", "build", "--quiet", "--tag", tag, dir); err != nil {
		t.Fatal(out, err)
	}
}

// builtWithoutDocker: the node has the base image since it was built in before.
func builtWithoutDocker(t *testing.T) {
	p := newProject(t, "small")
	p.env = append(p.env, "DOCKER_HOST=unix://"+filepath.Join(t.TempDir(), "none.sock"))
	saved := content("without Docker")
	p.write(t, "index.html", saved+"\n")
	d := p.start(t)
	d.says(t, 0, `this machine needs no Docker`)
	d.await(t, 0, ready)
	p.awaitPage(t, saved)
	p.call(t, 0, "diff", "--exit-code") // which has the same tag
	d.stop(t)
}

// builtElsewhere has BUILDKIT_HOST name a BuildKit that is not this machine's: the node's, by another way.
func builtElsewhere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "buildkit.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join("..", "cluster", "cluster"), "exec", "built", "buildctl", "dial-stdio")
			cmd.Stdin, cmd.Stdout = conn, conn
			go func() {
				_ = cmd.Run()
				_ = conn.Close()
			}()
		}
	}()
	p := newProject(t, "small")
	p.env = append(p.env, "BUILDKIT_HOST=unix://"+socket)
	saved := content("built elsewhere")
	p.write(t, "index.html", saved+"\n")
	d := p.start(t)
	d.says(t, 0, `images are built by another BuildKit`)
	d.says(t, 0, `image loaded.* image=page:\w+`)
	d.await(t, 0, ready)
	p.awaitPage(t, saved)
	sendsLittle(t, p, d)
	d.stop(t)
}

// sendsLittle saves a page of some bytes, and wants no more to be moved.
func sendsLittle(t *testing.T, p *project, d *devloop) {
	t.Helper()
	mark := d.mark()
	saved := content("little")
	p.write(t, "index.html", saved+"\n")
	sent := d.says(t, mark, `image loaded.* bytes=(\d+)`)[1]
	if n, err := strconv.Atoi(sent); err != nil || n > 100_000 {
		t.Errorf("a page of some bytes took %s", sent)
	}
	d.await(t, mark, ready)
	p.awaitPage(t, saved)
}

// nodeSSH is an ssh connection to the node "built", beside devloop's.
func nodeSSH(t *testing.T) *ssh.Client {
	t.Helper()
	folder := filepath.Join(setting(t, "MINIKUBE_HOME"), ".minikube", "machines", "built")
	key, err := os.ReadFile(filepath.Join(folder, "id_rsa"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(folder, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var machine struct{ Driver struct{ IPAddress string } }
	if err := json.Unmarshal(content, &machine); err != nil {
		t.Fatal(err)
	}
	conn, err := ssh.Dial("tcp", machine.Driver.IPAddress+":22", &ssh.ClientConfig{User: "docker",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// pushed has the node's kubelet pull from a registry, which is on the loopback of both.
func pushed(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	address := server.Listener.Addr().String()
	there, err := nodeSSH(t).Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(there, server.Config.Handler) }()
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "push: "+address+"/dev\n")
	p.edit(t, "chart/templates/deployment.yaml", "imagePullPolicy: Never", "imagePullPolicy: IfNotPresent")
	d := p.start(t)
	d.says(t, 0, `images are built on this machine.*pushed to`)
	d.says(t, 0, `image loaded.* image=\S+/dev/page:\w+ .*registry=`)
	d.await(t, 0, ready)
	p.awaitPage(t, "first")
	pods, err := kubernetesClient(t).CoreV1().Pods("small").List(t.Context(), metav1.ListOptions{LabelSelector: "app=small"})
	if err != nil {
		t.Fatal(err)
	}
	digest := regexp.MustCompile(`^` + regexp.QuoteMeta(address) + `/dev/page:\w+@(sha256:\w+)$`)
	for _, pod := range pods.Items {
		match := digest.FindStringSubmatch(pod.Spec.Containers[0].Image)
		if match == nil || !strings.HasSuffix(pod.Status.ContainerStatuses[0].ImageID, match[1]) {
			t.Errorf("pod %s: image %s, runs %s", pod.Name, pod.Spec.Containers[0].Image, pod.Status.ContainerStatuses[0].ImageID)
		}
	}
	sendsLittle(t, p, d)
	mark := d.mark()
	must(t, d.cmd.Process.Signal(syscall.SIGHUP))
	d.await(t, mark, ready)
	if n := d.count(mark, "release applied"); n != 0 {
		t.Errorf("%d releases were applied though nothing had changed", n)
	}
	d.stop(t)
}

// sameContent: a second image of the same inputs.
func sameContent(t *testing.T) {
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "buildIn: host\n")
	p.write(t, "index.html", content("same")+"\n")
	d := p.start(t)
	d.await(t, 0, ready)
	mark := d.mark()
	p.edit(t, "devloop.yaml", "page: {}", "page: {}\n  twin: {}")
	if sent := d.says(t, mark, `image loaded.* image=twin:\w+ bytes=(\d+)`)[1]; sent != "0" {
		t.Errorf("%s bytes were moved", sent)
	}
	d.await(t, mark, ready)
	d.stop(t)
}

// brokenTransfer ends and stops the node's sshd while a layer is on its way.
func brokenTransfer(t *testing.T) {
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "buildIn: host\n")
	p.edit(t, "Dockerfile", "COPY index.html .", "COPY index.html big* ./")
	p.append(t, ".dockerignore", "!big\n")
	d := p.start(t, "--verbose")
	d.await(t, 0, ready)
	for _, test := range []struct{ fault, repair string }{{"kill", "restart"}, {"pause", "unpause"}} {
		t.Run(test.fault, func(t *testing.T) {
			big := make([]byte, 300<<20)
			_, _ = rand.Read(big)
			mark := d.mark()
			if err := os.WriteFile(filepath.Join(p.dir, "big"), big, 0o644); err != nil {
				t.Fatal(err)
			}
			tag := d.says(t, mark, `loading image.* image=(page:\w+)`)[1]
			eventually(t, "the node receives a layer", func() bool {
				return strings.Contains(script(t, "exec", "built", "ctr", "--namespace", "k8s.io", "content", "active"), "layer-sha256")
			})
			script(t, test.fault, "built", "sshd")
			begin := time.Now()
			d.await(t, mark, failed)
			t.Logf("told after %s", time.Since(begin).Round(time.Second))
			if names := nodeImages(t, "containerd"); strings.Contains(names, tag) {
				t.Errorf("a tag was left of a transfer that broke: %s", names)
			}
			script(t, test.repair, "built", "sshd")
			t.Log(d.wait(mark, `image loaded run=.* image=`+tag+`.*`, 2*time.Minute)[0])
			d.await(t, mark, ready)
			if names := nodeImages(t, "containerd"); !strings.Contains(names, tag) || regexp.MustCompile(`127\.0\.0\.1:\d+/library/page`).MatchString(names) {
				t.Errorf("after all: %s", names)
			}
		})
	}
	d.stop(t)
}

// given has a cluster hold one image under two names, and lets go of it.
func given(t *testing.T, cluster *node.Cluster, docker *client.Client, holds func(tag name.Tag) string) {
	t.Helper()
	named := func(suffix string) name.Tag {
		t.Helper()
		tag, err := name.NewTag("devloop-test-given:" + strconv.FormatInt(time.Now().UnixNano(), 36) + suffix)
		if err != nil {
			t.Fatal(err)
		}
		return tag
	}
	tag, changed, twin := named("-1"), named("-2"), named("-3")
	image := func(tag name.Tag, text string) {
		t.Helper()
		dockerBuild(t, tag.String(), "FROM "+baseImage+"\nRUN echo "+text+" > /given\n")
		t.Cleanup(func() {
			_, _ = command(context.Background(), os.Environ(), "docker", "image", "rm", tag.String())
		})
	}
	r, err := node.OpenRegistry(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	events := &recorder{}
	give := func(tag name.Tag) (bytes int64) {
		t.Helper()
		if err := cluster.Give(t.Context(), event.Sink(events.record), node.Docker{Client: docker}, r, []name.Tag{tag}); err != nil {
			t.Fatal(err)
		}
		if missing, err := cluster.Missing(t.Context(), []name.Tag{tag}); err != nil || len(missing) > 0 {
			t.Errorf("given, and missing: %v, %v", missing, err)
		}
		return events.bytes
	}
	if missing, err := cluster.Missing(t.Context(), []name.Tag{tag}); err != nil || len(missing) != 1 {
		t.Errorf("before: %v, %v", missing, err)
	}
	image(tag, "first")
	first := give(tag)
	if got := holds(tag); got != "first" {
		t.Errorf("the node's image holds %q", got)
	}
	image(changed, "second")
	if second := give(changed); second > 100_000 || second > first {
		t.Errorf("a file of some bytes took %d, the whole image %d", second, first)
	} else {
		t.Logf("bytes: %d for the whole image, %d for one changed layer", first, second)
	}
	if got := holds(changed); got != "second" {
		t.Errorf("the node's image holds %q", got)
	}
	image(twin, "second")
	if third := give(twin); third > 0 {
		t.Errorf("the same under another name took %d bytes", third)
	}
	for _, tag := range []name.Tag{tag, changed, twin} {
		if err := cluster.Remove(t.Context(), tag); err != nil {
			t.Error(err)
		}
		if err := cluster.Remove(t.Context(), tag); err != nil {
			t.Errorf("what is not there: %v", err)
		}
	}
}

// recorder keeps how many bytes the last image took.
type recorder struct{ bytes int64 }

func (r *recorder) record(e event.Event) {
	if n, ok := e.Field("bytes").(int64); ok {
		r.bytes = n
	}
}

func dockerClient(t *testing.T) *client.Client {
	t.Helper()
	docker, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	return docker
}

// givenToCRIO: the node's podman shares its images with a CRI-O that is not there; the profile says that it is.
func givenToCRIO(t *testing.T) {
	home := t.TempDir()
	if err := os.CopyFS(home, os.DirFS(setting(t, "MINIKUBE_HOME"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(home, ".minikube", "profiles", "built", "config.json")
	profile, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct{ Nodes []struct{ IP string } }
	if err := json.Unmarshal(profile, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(profile), `"containerd"`, `"crio"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MINIKUBE_HOME", home)
	docker := dockerClient(t)
	cluster, err := node.Find(t.Context(), "built", "https://"+parsed.Nodes[0].IP+":8443", docker, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cluster.Close() }()
	given(t, cluster, docker, func(tag name.Tag) string {
		return strings.TrimSpace(script(t, "exec", "built", "bash", "-c",
			`cat "$(podman image mount docker.io/library/`+tag.String()+`)/given"; podman image unmount --all > /dev/null`))
	})
}

// givenToKind: a container that looks like a node of kind, with a containerd of its own.
func givenToKind(t *testing.T) {
	const container, image = "devloop-test-control-plane", "devloop-test-kind-node"
	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // also when the test is over
		defer cancel()
		out, err := command(ctx, append(os.Environ(), "DOCKER_BUILDKIT=1"), "/usr/bin/docker", args...)
		if err != nil {
			t.Fatal(out, err)
		}
		return strings.TrimSpace(out)
	}
	dockerBuild(t, image, "FROM "+baseImage+"\nRUN apt-get update && apt-get install -y --no-install-recommends containerd\n")
	_, _ = command(t.Context(), os.Environ(), "docker", "rm", "--force", "--volumes", container)
	t.Cleanup(func() { run("rm", "--force", "--volumes", container) })
	run("run", "--detach", "--name", container, "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run", "--volume", "/var/lib/containerd", "--publish", "127.0.0.1::6443",
		"--label", "io.x-k8s.kind.cluster=devloop-test", "--label", "io.x-k8s.kind.role=control-plane", image, "containerd")
	eventually(t, "containerd answers", func() bool {
		_, err := command(t.Context(), os.Environ(), "docker", "exec", container, "ctr", "version")
		return err == nil
	})
	t.Setenv("MINIKUBE_HOME", t.TempDir())
	docker := dockerClient(t)
	cluster, err := node.Find(t.Context(), "renamed", "https://"+run("port", container, "6443"), docker, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cluster.Close() }()
	given(t, cluster, docker, func(tag name.Tag) string {
		return run("exec", container, "sh", "-c", "mkdir -p /run/m && ctr --namespace k8s.io images mount docker.io/library/"+tag.String()+
			" /run/m > /dev/null && cat /run/m/given && ctr --namespace k8s.io images unmount --rm /run/m > /dev/null")
	})
	run("stop", "--time", "1", container)
	if _, err := node.Find(t.Context(), "kind-devloop-test", "https://127.0.0.1:6443", docker, false); err == nil || event.Hint(err) != "docker start "+container {
		t.Errorf("stopped: %v (%s)", err, event.Hint(err))
	}
}
