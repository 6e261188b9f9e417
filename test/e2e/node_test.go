//go:build e2e

// Where images are built, and every way for them to get into a node.
package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/moby/client"
	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/node"
)

// baseImage is what testdata/small is built on.
const baseImage = "python:3.11-slim"

func TestNode(t *testing.T) {
	step(t, "docker", func(t *testing.T) {
		startCluster(t, "built", "--runtime", "docker", "--bare")
		step(t, "built in the node", func(t *testing.T) { builtInTheNode(t, "docker") })
		step(t, "found on this machine", foundHere)
		step(t, "built from another image", builtFromAnother) // in containerd: part build
		step(t, "DOCKER_HOST is the node's own daemon", builtByTheNodesOwn)
	})
	step(t, "containerd", func(t *testing.T) {
		startCluster(t, "built", "--bare")
		// First, since it brings the base image that the node needs where this machine has no
		// Docker.
		step(t, "built in the node", func(t *testing.T) { builtInTheNode(t, "containerd") })
		step(t, "found on this machine", foundHere)
		step(t, "cri-o", givenToCRIO)
		step(t, "side by side", func(t *testing.T) {
			for what, test := range map[string]func(*testing.T){
				"built without Docker on this machine": builtWithoutDocker,
				"built by another BuildKit":            builtElsewhere,
				"pushed to a registry":                 pushed,
				"pushed to a registry with a login":    pushedWithLogin,
				"the same content under another name":  sameContent,
				"ssh that breaks off or stalls":        brokenTransfer,
			} {
				t.Run(what, func(t *testing.T) {
					t.Parallel()
					test(t)
				})
			}
		})
	})
	step(t, "kind", givenToKind)
}

// page saves a page that nobody has built before, and returns its text.
func (p *project) page(t *testing.T, text string) string {
	t.Helper()
	text += " " + unique()
	p.write(t, "index.html", text+"\n")
	return text
}

// loaded is that the project's image was moved.
func (p *project) loaded() expectation {
	return on(event.ImageLoaded).with("image", `(^|/)`+p.name+`:`)
}

// builtInTheNode is about a node whose own daemon can build: nothing is moved.
func builtInTheNode(t *testing.T, runtime string) {
	p := newProject(t, "small")
	first := p.page(t, "first") // which this machine's Docker does not hold either
	d := p.start(t)
	d.await(t, 0, on("images are built in the node"))

	// The node holds no base image and reaches no registry.
	d.await(t, 0, on(event.ImageLoaded).with("image", regexp.QuoteMeta(baseImage)))
	d.await(t, 0, ready)
	p.awaitPage(t, first)

	step(t, "a save", func(t *testing.T) {
		c := d.next()
		saved := p.page(t, "built in the node")
		image := c.happens(t, on(event.ImageBuilt)).field("image")
		c.arrives(t)
		p.awaitPage(t, saved)
		nothingMoved(t, d, c.since, image)
		if names := nodeImages(t, runtime); !strings.Contains(names, image) || strings.Contains(names, "devloop.invalid") {
			t.Errorf("the node's images: %s", names)
		}
	})

	step(t, "files in its containers", func(t *testing.T) { filesFromTheNode(t, p) })

	if runtime == "docker" { // in containerd: see buildKeep
		step(t, "an undo builds nothing", func(t *testing.T) {
			c := d.save(t, "index.html", first+"\n")
			c.happens(t, on(event.ImageFound).with("on", "node"))
			c.arrives(t)
			if c.counts(building) != 0 {
				t.Error("what was undone is built anew")
			}
		})
	}

	step(t, "its checks", func(t *testing.T) { checkedInTheBuild(t, p, d) })

	var old []string
	step(t, "a base image that only this machine has", func(t *testing.T) {
		base := "base-" + unique()
		defer docker(t, "image", "rm", base)
		run := func(holds string, change func() change) {
			dockerBuild(t, base, "FROM "+baseImage+"\nRUN echo "+holds+" > /base\n")
			c := change()
			c.happens(t, on(event.ImageLoaded).with("image", "^"+base))
			old = append(old, c.happens(t, on(event.ImageBuilt).with("image", "^"+p.name+":")).field("image"))
			c.arrives(t)
			if got := strings.TrimSpace(kubectl(t, "exec", "-n", p.name, "deploy/small", "--", "cat", "/base")); got != holds {
				t.Errorf("the pod's base image is %q, not %q", got, holds)
			}
		}
		run("one", func() change { return d.replace(t, "Dockerfile", "FROM "+baseImage, "FROM "+base) })
		run("two", func() change { return d.again(t) }) // another one under the same name
		d.replace(t, "Dockerfile", "FROM "+base, "FROM "+baseImage).arrives(t)
	})

	if runtime == "docker" {
		step(t, "its Docker restarts during a save", func(t *testing.T) {
			mend := fault(t, "built", "kill dockerd")
			c := d.next()
			saved := p.page(t, "built by a Docker that is back")
			c.happens(t, on("waiting for the node to build again").with("for", "Docker of node built"))
			mend()
			c.arrives(t)
			p.awaitPage(t, saved)
			if d.count(c.since, on("image is built on this machine, since the node cannot")) != 0 {
				t.Error("this machine builds, though the node is back")
			}
		})
	}

	step(t, "what needs a network is built on this machine", func(t *testing.T) {
		nameAgain(t, runtime, old[1])
		c := d.next()
		// One retry, by whose warning the cause is known; devloop itself tries again, too.
		p.append(t, "Dockerfile", "RUN pip download --no-deps --retries 1 six\n")
		c.happens(t, on("image is built on this machine, since the node cannot"))
		c.happens(t, p.loaded())
		c.arrives(t)
		c = d.next()
		saved := p.page(t, "built here")
		c.happens(t, on("image is built on this machine").with("why", "could not")) // it is not tried again
		c.arrives(t)
		p.awaitPage(t, saved)
		for _, image := range old { // of each there are three newer ones by now
			d.await(t, 0, on("old image removed").with("image", "^"+image+"$"))
			if names := nodeImages(t, runtime); strings.Contains(names, image) {
				t.Errorf("%s was removed, and the node has %s", image, names)
			}
		}
	})
	d.stop(t)
}

// checkedInTheBuild is about what an image has to pass: the build in the node tries it, and a pod
// only what did not pass there.
func checkedInTheBuild(t *testing.T, p *project, d *devloop) {
	plain := p.read(t, "devloop.yaml")
	check := func(command string) change { // the image is there: a pod tries it
		return d.save(t, "devloop.yaml", plain+"verify:\n  - { image: "+p.name+", command: ["+command+"] }\n")
	}
	pods := func() int {
		names := strings.Fields(kubectl(t, "get", "events", "--all-namespaces", "--output",
			"jsonpath={.items[*].involvedObject.name}"))
		slices.Sort(names)
		return len(slices.DeleteFunc(slices.Compact(names),
			func(name string) bool { return !strings.HasPrefix(name, "devloop-verify-"+p.name) }))
	}
	saves := func(text string, tries, inPods int) {
		t.Helper()
		before, c := pods(), d.next()
		saved := p.page(t, text)
		c.arrives(t)
		p.awaitPage(t, saved)
		if n := c.counts(on(event.ImageVerified, event.Started)); n != tries {
			t.Errorf("%s: it is tried %d times, not %d", text, n, tries)
		}
		if n := pods() - before; n != inPods {
			t.Errorf("%s: it is tried in %d pods, not %d", text, n, inPods)
		}
	}
	check("test, -e, /site/index.html").arrives(t)
	saves("passes in the build", 1, 0)
	check(`sh, -c, 'test -n "$KUBERNETES_SERVICE_HOST"'`).arrives(t)
	saves("passes only in a pod", 2, 1)
	saves("is known to pass only in a pod", 1, 1)

	check("test, -e, /nowhere").fails(t, "ended with exit code 1")
	c := d.next()
	shown := p.page(t, "bad")
	c.fails(t, "ended with exit code 1")
	d.replace(t, "devloop.yaml", "/nowhere", "/site").arrives(t)
	p.awaitPage(t, shown)
	d.save(t, "devloop.yaml", plain).arrives(t)
}

// foundHere is about images that this machine's Docker has, too. The node holds the base image by
// now.
func foundHere(t *testing.T) {
	p := newProject(t, "small")
	found := func(t *testing.T, line string) (d *devloop, image string) {
		p.edit(t, "Dockerfile", "COPY", line+"\nCOPY")
		image, _ = p.build(t)
		return p.start(t), image
	}
	step(t, "a small one is moved", func(t *testing.T) {
		d, _ := found(t, "RUN true")
		d.await(t, 0, p.loaded())
		d.await(t, 0, ready)
		if d.count(0, building) != 0 {
			t.Error("the node builds it")
		}
		d.stop(t)
	})
	step(t, "a large one is built in the node", func(t *testing.T) {
		d, image := found(t, "RUN head -c 100000000 /dev/urandom > /large")
		d.await(t, 0, on("image is built in the node, though this machine has it"))
		d.await(t, 0, ready)
		inTime := d.count(0, on("image is taken from this machine after all").with("why", "it takes longer")) == 0
		built := d.count(0, on(event.ImageBuilt).with("image", "^"+image+"$")) == 1
		if inTime && (!built || d.count(0, on(event.LoadingImage)) != 0) { // a busy machine is slow
			t.Error("it was moved")
		}
		d.stop(t)
	})
	step(t, "a large one that the node cannot build is moved", func(t *testing.T) {
		d, _ := found(t, "RUN pip download --no-deps --retries 1 six && head -c 100000000 /dev/urandom > /larger")
		d.await(t, 0, on("image is taken from this machine after all").with("why", "pip download|it takes longer"))
		d.await(t, 0, p.loaded())
		d.await(t, 0, ready)
		d.stop(t)
	})
}

// nothingMoved checks that an image was built in the node and brought nowhere.
func nothingMoved(t *testing.T, d *devloop, mark int, image string) {
	t.Helper()
	if n := d.count(mark, on(event.LoadingImage)); n != 0 {
		t.Errorf("%d images were moved", n)
	}
	out, err := command(t.Context(), os.Environ(), "docker", "image", "inspect", "--format", "{{.Id}}", image)
	if err == nil {
		t.Errorf("this machine's Docker holds %s, too: %s", image, out)
	}
}

// filesFromTheNode writes into the containers of a project, by the processes that the runtime says.
func filesFromTheNode(t *testing.T, p *project) {
	_, ip := machine(t, "built")
	docker := dockerClient(t)
	cluster, err := node.Find(t.Context(), "built", "https://"+ip+":8443", docker, t.TempDir())
	must(t, err)
	defer func() { _ = cluster.Close() }()
	name := onlyNode(t)
	shell, ok := cluster.Shell(name)
	if !ok {
		t.Fatalf("node %s cannot be reached", name)
	}
	pods, err := kubernetesClient(t).CoreV1().Pods(p.name).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	var ids []string
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			if status.State.Running != nil && pod.DeletionTimestamp == nil {
				_, id, _ := strings.Cut(status.ContainerID, "://")
				ids = append(ids, id)
			}
		}
	}
	processes, err := cluster.PIDs(t.Context(), name, append(ids, strings.Repeat("0", 64))) // the last does not exist
	must(t, err)
	if len(ids) == 0 || len(processes) != len(ids) {
		t.Fatalf("containers %q: processes %v", ids, processes)
	}
	var containers []filesync.Container
	for _, id := range ids {
		containers = append(containers, filesync.Container{ID: id, PID: processes[id]})
	}
	content := unique()
	source := filepath.Join(t.TempDir(), "source")
	must(t, os.WriteFile(source, []byte(content), 0o600))
	sum := sha256.Sum256([]byte(content))
	file := filesync.File{Path: "/srv/it's new/file", Source: source, Mode: 0o640, Size: int64(len(content)),
		Digest: hex.EncodeToString(sum[:])}
	written, err := filesync.Write(t.Context(), shell, containers, []filesync.File{file})
	must(t, err)
	start := time.Now()
	listings, err := filesync.Look(t.Context(), shell, containers, []string{file.Path})
	must(t, err)
	looked := time.Since(start)
	must(t, os.Chtimes(source, time.Time{}, time.Now().Add(time.Minute)))
	start = time.Now()
	_, err = filesync.Write(t.Context(), shell, containers, []filesync.File{file})
	must(t, err)
	t.Logf("%d containers: a look took %s, a write %s", len(containers), looked, time.Since(start))
	for i := range containers {
		if written[i].Err != nil || !written[i].Files[file.Path].Matches(file) ||
			!listings[i].Files[file.Path].Matches(file) {
			t.Errorf("written: %+v; seen: %+v", written[i], listings[i])
		}
	}
	if got := kubectl(t, "exec", "-n", p.name, "deploy/small", "--", "cat", file.Path); got != content {
		t.Errorf("in the container: %q, not %q", got, content)
	}
}

// nodeImages lists the names of the images that the node "built" holds.
func nodeImages(t *testing.T, runtime string) string {
	t.Helper()
	if runtime == "docker" {
		return script(t, "exec", "built", "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	}
	return script(t, "exec", "built", "ctr", "--namespace", "k8s.io", "images", "ls", "--quiet")
}

// nameAgain gives an image on the node "built" another name, which a build leaves that is killed at
// its end.
func nameAgain(t *testing.T, runtime, image string) {
	t.Helper()
	temporary := "devloop.invalid/library/" + image
	if runtime == "docker" {
		script(t, "exec", "built", "docker", "image", "tag", image, temporary)
		return
	}
	script(t, "exec", "built", "ctr", "--namespace", "k8s.io", "images", "tag", "docker.io/library/"+image, temporary)
}

// dockerBuild has Docker on this machine build an image.
func dockerBuild(t *testing.T, tag, dockerfile string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	env := append(os.Environ(), "DOCKER_BUILDKIT=1")
	_, err := command(ctx, env, "/usr/bin/docker", "build", "--quiet", "--tag", tag, dir)
	must(t, err)
}

// dockerEnv is what "minikube docker-env" prints: the way to a node's own Docker daemon.
func dockerEnv(t *testing.T, node corev1.Node) []string {
	t.Helper()
	certificates := filepath.Join(setting(t, "MINIKUBE_HOME"), ".minikube", "certs")
	return []string{"DOCKER_TLS_VERIFY=1", "DOCKER_HOST=tcp://" + node.Status.Addresses[0].Address + ":2376",
		"DOCKER_CERT_PATH=" + certificates, "MINIKUBE_ACTIVE_DOCKERD=" + node.Name}
}

// builtByTheNodesOwn has devloop take the node's daemon for this machine's. It holds the base
// image by now.
func builtByTheNodesOwn(t *testing.T) {
	for _, where := range []string{"auto", "host"} {
		step(t, "buildIn: "+where, func(t *testing.T) {
			nodes, err := kubernetesClient(t).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
			must(t, err)
			p := newProject(t, "small")
			p.env = append(p.env, dockerEnv(t, nodes.Items[0])...)
			p.append(t, "devloop.yaml", "buildIn: "+where+"\n")
			saved := p.page(t, "by the node's own")
			d := p.start(t)
			image := d.await(t, 0, on(event.ImageBuilt)).field("image")
			d.await(t, 0, ready)
			p.awaitPage(t, saved)
			nothingMoved(t, d, 0, image)
			d.stop(t)
		})
	}
}

// builtWithoutDocker: the node has the base image since it was built in before.
func builtWithoutDocker(t *testing.T) {
	p := newProject(t, "small")
	p.env = append(p.env, "DOCKER_HOST=unix://"+filepath.Join(t.TempDir(), "none.sock"))
	saved := p.page(t, "without Docker")
	d := p.start(t)
	d.await(t, 0, on("this machine needs no Docker"))
	d.await(t, 0, ready)
	p.awaitPage(t, saved)
	p.call(t, 0, "diff", "--exit-code") // which has the same tag
	d.stop(t)
}

// builtElsewhere has BUILDKIT_HOST name a BuildKit that is not this machine's: the node's, by
// another way.
func builtElsewhere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "buildkit.sock")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	serve(t, listener, func(conn net.Conn) {
		script := filepath.Join("..", "cluster", "cluster")
		cmd := exec.CommandContext(t.Context(), script, "exec", "built", "buildctl", "dial-stdio")
		cmd.Stdin, cmd.Stdout = conn, conn
		_ = cmd.Run()
	})
	p := newProject(t, "small")
	p.env = append(p.env, "BUILDKIT_HOST=unix://"+socket)
	p.addBase(t, "elsewhere")
	saved := p.page(t, "built elsewhere")
	d := p.start(t)
	d.await(t, 0, on("images are built by another BuildKit"))
	d.await(t, 0, p.loaded())
	d.await(t, 0, ready)
	p.awaitPage(t, saved)
	sendsLittle(t, d)
	d.stop(t)
}

// serve handles each connection by itself until the test ends.
func serve(t *testing.T, listener net.Listener, handle func(net.Conn)) {
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				handle(conn)
				_ = conn.Close()
			}()
		}
	}()
}

// sendsLittle saves a page of some bytes, and wants no more to be moved.
func sendsLittle(t *testing.T, d *devloop) {
	t.Helper()
	c := d.next()
	saved := d.page(t, "little")
	if n := moved(t, c.happens(t, d.loaded())); n > 100_000 {
		t.Errorf("a page of some bytes took %d", n)
	}
	c.arrives(t)
	d.awaitPage(t, saved)
}

// moved is how many bytes an event tells of.
func moved(t *testing.T, l line) int {
	t.Helper()
	n, err := strconv.Atoi(l.field("bytes"))
	must(t, err)
	return n
}

// machine is minikube's folder of a node, and its address.
func machine(t *testing.T, node string) (folder, ip string) {
	t.Helper()
	folder = filepath.Join(setting(t, "MINIKUBE_HOME"), ".minikube", "machines", node)
	content, err := os.ReadFile(filepath.Join(folder, "config.json"))
	must(t, err)
	var config struct{ Driver struct{ IPAddress string } }
	must(t, json.Unmarshal(content, &config))
	return folder, config.Driver.IPAddress
}

// nodeSSH is an ssh connection to the node "built", beside devloop's.
func nodeSSH(t *testing.T) *ssh.Client {
	t.Helper()
	folder, ip := machine(t, "built")
	key, err := os.ReadFile(filepath.Join(folder, "id_rsa"))
	must(t, err)
	signer, err := ssh.ParsePrivateKey(key)
	must(t, err)
	conn, err := ssh.Dial("tcp", ip+":22", &ssh.ClientConfig{User: "docker",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// pushed has the node's kubelet pull from a registry, which is on the loopback of both.
func pushed(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	address := server.Listener.Addr().String()
	there, err := nodeSSH(t).Listen("tcp", address)
	must(t, err)
	go func() { _ = http.Serve(there, server.Config.Handler) }()
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "push: "+address+"/dev\n")
	p.edit(t, "chart/templates/deployment.yaml", "imagePullPolicy: Never", "imagePullPolicy: IfNotPresent")
	d := p.start(t)
	d.await(t, 0, on("images are built on this machine").with("why", "pushed to"))
	d.await(t, 0, p.loaded().with("registry", regexp.QuoteMeta(address)))
	d.await(t, 0, ready)
	p.awaitPage(t, "first")
	runsDigest(t, p, address)
	sendsLittle(t, d)
	c := d.again(t)
	c.arrives(t)
	if n := c.counts(on(event.ReleaseApplied)); n != 0 {
		t.Errorf("%d releases were applied though nothing had changed", n)
	}
	d.stop(t)
}

// runsDigest checks that the project's pods name what is in a registry by its digest, and run that.
func runsDigest(t *testing.T, p *project, address string) {
	t.Helper()
	small := metav1.ListOptions{LabelSelector: "app=small"}
	pods, err := kubernetesClient(t).CoreV1().Pods(p.name).List(t.Context(), small)
	must(t, err)
	digest := regexp.MustCompile(`^` + regexp.QuoteMeta(address) + `/dev/` + p.name + `:\w+@(sha256:\w+)$`)
	for _, pod := range pods.Items {
		named, runs := pod.Spec.Containers[0].Image, pod.Status.ContainerStatuses[0].ImageID
		if match := digest.FindStringSubmatch(named); match == nil || !strings.HasSuffix(runs, match[1]) {
			t.Errorf("pod %s: image %s, runs %s", pod.Name, named, runs)
		}
	}
}

// pushedWithLogin is about a registry as a team has one: on another machine, as far as devloop and
// the node can tell, with a certificate of its own authority, and for those who log in. The node
// knows the authority, and pulls with what the chart gives its pods.
func pushedWithLogin(t *testing.T) {
	_, ip := machine(t, "built")
	toNode, err := net.Dial("tcp", ip+":22")
	must(t, err)
	host, _, err := net.SplitHostPort(toNode.LocalAddr().String())
	must(t, errors.Join(err, toNode.Close()))
	certificate, authority := selfSigned(t, host)
	blobs := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "team" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="team"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		blobs.ServeHTTP(w, r)
	}))
	must(t, server.Listener.Close())
	server.Listener, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	must(t, err)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	defer server.Close()
	address := server.Listener.Addr().String()
	certs := "/etc/containerd/certs.d/" + address
	script(t, "exec", "built", "bash", "-euc", `mkdir -p "$0"; echo "$1" > "$0/ca.crt"`, certs, authority)

	p := newProject(t, "small")
	login := func(password string) string { // as "docker login" stores it
		both := base64.StdEncoding.EncodeToString([]byte("team:" + password))
		return fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, address, both)
	}
	config := t.TempDir()
	p.env = append(p.env, "DOCKER_CONFIG="+config)
	p.append(t, "devloop.yaml", "push: "+address+"/dev\n")
	p.write(t, "chart/templates/pull.yaml", `apiVersion: v1
kind: Secret
metadata: { name: pull }
type: kubernetes.io/dockerconfigjson
stringData: { .dockerconfigjson: '`+login("hunter2")+`' }
`)
	const deployment = "chart/templates/deployment.yaml"
	p.edit(t, deployment, "imagePullPolicy: Never", "imagePullPolicy: IfNotPresent")
	p.edit(t, deployment, "      containers:", "      imagePullSecrets: [{ name: pull }]\n      containers:")

	const trust = "have this machine trust the registry's certificate"
	if _, log := p.call(t, 1, "run"); !strings.Contains(log, trust) {
		t.Errorf("without the authority:\n%s", log)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(file, []byte(authority), 0o644))
	p.env = append(p.env, "SSL_CERT_FILE="+file)
	must(t, os.WriteFile(filepath.Join(config, "config.json"), []byte(login("hunter1")), 0o600))
	d := p.start(t)
	d.await(t, 0, failed.because("docker login "+regexp.QuoteMeta(address)))
	must(t, os.WriteFile(filepath.Join(config, "config.json"), []byte(login("hunter2")), 0o600))
	d.again(t).arrives(t)
	p.awaitPage(t, "first")
	runsDigest(t, p, address)
	if strings.Contains(d.text(), "hunter") {
		t.Error("a password is in the log")
	}
	d.stop(t)
}

// selfSigned makes a certificate for an address, which is its own authority.
func selfSigned(t *testing.T, host string) (certificate tls.Certificate, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}))
}

// sameContent: a second image of the same inputs.
func sameContent(t *testing.T) {
	p := newProject(t, "small")
	p.append(t, "devloop.yaml", "buildIn: host\n")
	p.page(t, "same")
	d := p.start(t)
	d.await(t, 0, ready)
	twin := p.name + "-twin"
	c := d.replace(t, "devloop.yaml", "images:\n", "images:\n  "+twin+": { dockerfile: Dockerfile, context: . }\n")
	if n := moved(t, c.happens(t, on(event.ImageLoaded).with("image", "^"+twin+":"))); n != 0 {
		t.Errorf("%d bytes were moved", n)
	}
	c.arrives(t)
	d.stop(t)
}

// brokenTransfer breaks devloop's wire to the node while a layer is on its way.
func brokenTransfer(t *testing.T) {
	const size = 32 << 20
	p := newProject(t, "small")
	_, ip := machine(t, "built")
	w := newWire(t, ip+":22")
	home := otherMinikube(t, "machines", "built", ip, "127.0.0.1", `"SSHPort": 22`, `"SSHPort": `+w.port)
	p.env = append(p.env, "MINIKUBE_HOME="+home)
	p.append(t, "devloop.yaml", "buildIn: host\n")
	p.edit(t, "Dockerfile", "COPY index.html .", "COPY index.html big* ./")
	p.append(t, ".dockerignore", "!big\n")
	d := p.start(t)
	d.await(t, 0, ready)
	for _, what := range []string{"breaks off", "stalls"} {
		step(t, what, func(t *testing.T) {
			big := make([]byte, size)
			_, _ = rand.Read(big)
			mend := w.breaks(what == "stalls", size/2)
			c := d.next()
			must(t, os.WriteFile(filepath.Join(p.dir, "unseen"), big, 0o644))
			must(t, os.Rename(filepath.Join(p.dir, "unseen"), filepath.Join(p.dir, "big"))) // whole, or not at all
			tag := c.happens(t, on(event.LoadingImage)).field("image")
			c.happens(t, failed)
			if names := nodeImages(t, "containerd"); strings.Contains(names, tag) {
				t.Errorf("a tag was left of a transfer that broke: %s", names)
			}
			mend()
			// It is tried again by itself, and goes on where it was unless containerd has thrown
			// that away.
			again := c.happens(t, on(event.ImageLoaded).with("image", "^"+tag+"$"))
			c.await(t, c.since, ready)
			t.Logf("%d of %d bytes were sent again", moved(t, again), size)
			names := nodeImages(t, "containerd")
			if !strings.Contains(names, tag) || regexp.MustCompile(`127\.0\.0\.1:\d+/library/`+p.name).MatchString(names) {
				t.Errorf("after all: %s", names)
			}
		})
	}
	d.stop(t)
}

// wire is a port of this machine that leads to an address, and that can break.
type wire struct {
	port  string
	fault atomic.Pointer[breakage]
}

// breakage comes after some bytes. Then nothing passes until it is mended: connections are cut,
// or stall.
type breakage struct {
	left   atomic.Int64
	stalls bool
	mended chan struct{}
}

func newWire(t *testing.T, address string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	must(t, err)
	w := &wire{port: port}
	serve(t, listener, func(conn net.Conn) {
		there, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		go w.carry(conn, there)
		w.carry(there, conn)
	})
	return w
}

func (w *wire) breaks(stalls bool, after int64) (mend func()) {
	fault := &breakage{stalls: stalls, mended: make(chan struct{})}
	fault.left.Store(after)
	w.fault.Store(fault)
	return func() {
		w.fault.Store(nil)
		close(fault.mended)
	}
}

// broke tells whether it has.
func (w *wire) broke() bool {
	fault := w.fault.Load()
	return fault != nil && fault.left.Load() < 0
}

// carry moves bytes one way until either side ends, which ends both.
func (w *wire) carry(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	for p := make([]byte, 32<<10); ; {
		n, err := from.Read(p)
		if fault := w.fault.Load(); fault != nil && fault.left.Add(-int64(n)) < 0 {
			if fault.stalls {
				<-fault.mended
			}
			return
		}
		if _, failed := to.Write(p[:n]); err != nil || failed != nil {
			return
		}
	}
}

// otherMinikube returns a copy of minikube's folder that says something else of a cluster: its
// profile, or its machine.
func otherMinikube(t *testing.T, below, cluster string, oldnew ...string) (home string) {
	t.Helper()
	home = t.TempDir()
	must(t, os.CopyFS(home, os.DirFS(setting(t, "MINIKUBE_HOME"))))
	file := filepath.Join(home, ".minikube", below, cluster, "config.json")
	content, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.NewReplacer(oldnew...).Replace(string(content))), 0o600))
	return home
}

// given has a cluster hold one image under two names, and lets go of it.
func given(t *testing.T, cluster *node.Cluster, docker *client.Client, holds func(tag name.Tag) string) {
	t.Helper()
	named := func(suffix string) name.Tag {
		t.Helper()
		tag, err := name.NewTag("devloop-test-given:" + unique() + suffix)
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
	must(t, err)
	defer func() { _ = r.Close() }()
	events := &recorder{}
	give := func(tag name.Tag) (bytes int64) {
		t.Helper()
		source := node.DockerSource{Client: docker}
		must(t, cluster.Load(t.Context(), event.Sink(events.record), source, r, []node.Wanted{{Name: "worker", Tag: tag}}))
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
	must(t, err)
	t.Cleanup(func() { _ = docker.Close() })
	return docker
}

// givenToCRIO: the node's podman shares its images with a CRI-O that is not there; the profile
// says that it is.
func givenToCRIO(t *testing.T) {
	_, ip := machine(t, "built")
	t.Setenv("MINIKUBE_HOME", otherMinikube(t, "profiles", "built", `"containerd"`, `"crio"`))
	docker := dockerClient(t)
	cluster, err := node.Find(t.Context(), "built", "https://"+ip+":8443", docker, t.TempDir())
	must(t, err)
	defer func() { _ = cluster.Close() }()
	given(t, cluster, docker, func(tag name.Tag) string {
		return strings.TrimSpace(script(t, "exec", "built", "bash", "-c",
			`cat "$(podman image mount docker.io/library/`+tag.String()+`)/given"; podman image unmount --all > /dev/null`))
	})
}

// givenToKind: a container that looks like a node of kind, with a containerd of its own.
func givenToKind(t *testing.T) {
	const image = "devloop-test-kind-node"
	kind := "devloop-test-" + unique()
	container := kind + "-control-plane"
	run := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), longEnough) // also when the test is over
		defer cancel()
		out, err := command(ctx, append(os.Environ(), "DOCKER_BUILDKIT=1"), "/usr/bin/docker", args...)
		if err != nil {
			t.Fatal(out, err)
		}
		return strings.TrimSpace(out)
	}
	const install = "RUN apt-get update && apt-get install -y --no-install-recommends containerd\n"
	dockerBuild(t, image, "FROM "+baseImage+"\n"+install)
	t.Cleanup(func() { run("rm", "--force", "--volumes", container) })
	run("run", "--detach", "--name", container, "--cap-add", "SYS_ADMIN",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run", "--volume", "/var/lib/containerd", "--publish", "127.0.0.1::6443",
		"--label", "io.x-k8s.kind.cluster="+kind, "--label", "io.x-k8s.kind.role=control-plane", image, "containerd")
	eventually(t, "containerd answers", func() bool {
		_, err := command(t.Context(), os.Environ(), "docker", "exec", container, "ctr", "version")
		return err == nil
	})
	t.Setenv("MINIKUBE_HOME", t.TempDir())
	docker := dockerClient(t)
	cluster, err := node.Find(t.Context(), "renamed", "https://"+run("port", container, "6443"), docker, t.TempDir())
	must(t, err)
	defer func() { _ = cluster.Close() }()
	if want := (node.Origin{Tool: "kind", Name: kind}); cluster.Origin() != want {
		t.Errorf("its address is served by %+v, not %+v", cluster.Origin(), want)
	}
	given(t, cluster, docker, func(tag name.Tag) string {
		return run("exec", container, "sh", "-euc", `mkdir -p /run/m
ctr --namespace k8s.io images mount "docker.io/library/$0" /run/m > /dev/null
cat /run/m/given
ctr --namespace k8s.io images unmount --rm /run/m > /dev/null`, tag.String())
	})
	run("stop", "--time", "1", container)
	_, err = node.Find(t.Context(), "kind-"+kind, "https://127.0.0.1:6443", docker, t.TempDir())
	if err == nil || event.Hint(err) != "docker start "+container {
		t.Errorf("stopped: %v (%s)", err, event.Hint(err))
	}
}
