//go:build e2e

// Files that are synced into what runs. What containers hold is asked of the containers: devloop's
// own word counts only for what it says, not for what is there.
package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func TestSync(t *testing.T) {
	t.Run("a project", syncProject)
	t.Run("Dask clusters", syncClusters)
}

// synced is a copy of testdata/sync.
type synced struct {
	*project
	cluster kubernetes.Interface
	wire    *wire // to the node
}

func newSynced(t *testing.T) *synced {
	t.Helper()
	s := &synced{newProject(t, "sync"), kubernetesClient(t), nil}
	look := filepath.Join(s.dir, "look", "look")
	_, err := command(t.Context(), append(os.Environ(), "CGO_ENABLED=0"), "go", "build", "-trimpath", "-o", look,
		"./testdata/sync/look")
	must(t, err)
	for _, context := range []string{"app", "bare", "sealed"} {
		must(t, os.Link(look, filepath.Join(s.dir, context, "look")))
	}
	t.Cleanup(func() {
		for _, suffix := range []string{"-bare", "-sealed"} {
			images := docker(t, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", s.name+suffix)
			for _, image := range strings.Fields(images) {
				docker(t, "image", "rm", image)
			}
		}
	})
	node := onlyNode(t)
	_, ip := machine(t, node)
	s.wire = newWire(t, net.JoinHostPort(ip, "22"))
	s.env = append(s.env, "MINIKUBE_HOME="+
		otherMinikube(t, "machines", node, ip, "127.0.0.1", `"SSHPort": 22`, `"SSHPort": `+s.wire.port))
	return s
}

// pods returns those of a deployment that are to stay, by name.
func (s *synced) pods(t *testing.T, deployment string) (pods []corev1.Pod) {
	t.Helper()
	list, err := s.cluster.CoreV1().Pods(s.name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + deployment})
	must(t, err)
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
}

// running tells the pods of a deployment, what each runs and how often it was restarted.
func (s *synced) running(t *testing.T, deployments ...string) (all []string) {
	t.Helper()
	for _, deployment := range deployments {
		for _, pod := range s.pods(t, deployment) {
			all = append(all, fmt.Sprintf("%s %s %d", pod.Name, pod.Spec.Containers[0].Image,
				pod.Status.ContainerStatuses[0].RestartCount))
		}
	}
	return all
}

// in runs a command in a pod.
func (s *synced) in(t *testing.T, pod string, args ...string) string {
	t.Helper()
	return kubectl(t, append([]string{"exec", "--namespace", s.name, pod, "--"}, args...)...)
}

// held is a folder of the project, where it is in pods, and what prints that there.
type held struct{ deployment, folder, at, look, owner string }

func inApp(deployment string) held {
	return held{deployment, "app/src", "/srv/src", "/bin/look", "1234:1234"}
}

// differ returns how what the pods of a deployment hold differs from the folder, "" if it does not.
func (s *synced) differ(t *testing.T, h held) string {
	t.Helper()
	local, err := command(t.Context(), os.Environ(), filepath.Join(s.dir, "look", "look"), filepath.Join(s.dir, h.folder))
	must(t, err)
	_, want, _ := strings.Cut(local, "\n")
	want = "[" + h.owner + "]\n" + want
	pods := s.pods(t, h.deployment)
	if len(pods) == 0 {
		return "there is no pod of " + h.deployment
	}
	for _, pod := range pods {
		got, err := command(t.Context(), os.Environ(), "kubectl", "exec", "--namespace", s.name, pod.Name, "--", h.look, h.at)
		if err != nil {
			return err.Error()
		}
		if got != want {
			return "in " + pod.Name + " is not what is on the disk:\n" + lineDiff(want, got)
		}
	}
	return ""
}

// lineDiff shows what is only in one of two texts.
func lineDiff(want, got string) (diff string) {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			diff += "- " + line + "\n"
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			diff += "+ " + line + "\n"
		}
	}
	return diff
}

// holds checks that pods hold the folder, right now.
func (s *synced) holds(t *testing.T, all ...held) {
	t.Helper()
	for _, h := range all {
		if diff := s.differ(t, h); diff != "" {
			t.Error(diff)
		}
	}
}

// awaits waits until they do.
func (s *synced) awaits(t *testing.T, all ...held) {
	t.Helper()
	for _, h := range all {
		diff := ""
		defer func() {
			if t.Failed() {
				t.Log(diff)
			}
		}()
		eventually(t, "pods of "+h.deployment+" hold "+h.folder, func() bool {
			diff = s.differ(t, h)
			return diff == ""
		})
	}
}

// revisions are Helm's.
func (s *synced) revisions(t *testing.T) int {
	t.Helper()
	records := helmRecords(t, s.cluster, s.name)["sync"]
	return records[len(records)-1].version
}

// random saves a file of noise, in one step.
func (s *synced) random(t *testing.T, name string, bytes int) {
	t.Helper()
	noise := make([]byte, bytes)
	_, _ = rand.Read(noise)
	s.write(t, name, string(noise))
}

func (s *synced) path(name string) string { return filepath.Join(s.dir, name) }

func syncProject(t *testing.T) {
	t.Parallel()
	s := newSynced(t)
	d := s.start(t, "--cleanup=false")
	t.Cleanup(func() { // of a test that failed
		_, _ = command(context.Background(), os.Environ(), "kubectl", "delete", "namespace", s.name, "--ignore-not-found")
	})
	d.await(t, 0, ready)
	web, more := inApp("web"), inApp("more")
	bare := held{"bare", "bare/data", "/srv/data", "/look", "0:0"}
	sealed := held{"sealed", "sealed/data", "/data", "/bin/look", "0:0"}
	s.holds(t, web, more, bare, sealed)
	all := []string{"web", "more", "bare", "sealed"}
	first := s.read(t, "app/src/index.html")

	// stays checks that what was done since replaced no pod and made no revision.
	stays := func(t *testing.T, do func()) {
		t.Helper()
		pods, revision := s.running(t, all...), s.revisions(t)
		do()
		same(t, "pods", pods, s.running(t, all...))
		same(t, "the revision", revision, s.revisions(t))
	}

	step(t, "a save is in all pods of two deployments", func(t *testing.T) {
		stays(t, func() {
			c := d.save(t, "app/src/index.html", "second\n")
			told := c.happens(t, on(event.FilesSynced).with("image", "^"+s.name+"$"))
			same(t, "containers that got it", "3", told.field("containers"))
			c.arrives(t)
			s.holds(t, web, more)
			s.awaitPage(t, "second")
			s.chain(t)
		})
	})

	for _, change := range []struct {
		what string
		do   func(t *testing.T)
	}{
		{"added", func(t *testing.T) { s.write(t, "app/src/new", "new\n") }},
		{"added in new folders", func(t *testing.T) {
			made := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(made, "a/b/c"), 0o755))
			must(t, os.WriteFile(filepath.Join(made, "a/b/c/file"), nil, 0o640))
			must(t, os.Rename(filepath.Join(made, "a"), s.path("app/src/a")))
		}},
		{"deleted", func(t *testing.T) { must(t, os.Remove(s.path("app/src/goes"))) }},
		{"renamed", func(t *testing.T) { must(t, os.Rename(s.path("app/src/new"), s.path("app/src/newer"))) }},
		{"a renamed folder", func(t *testing.T) { must(t, os.Rename(s.path("app/src/a"), s.path("app/src/z"))) }},
		{"executable", func(t *testing.T) { must(t, os.Chmod(s.path("app/src/newer"), 0o755)) }},
		{"for nobody else", func(t *testing.T) { must(t, os.Chmod(s.path("app/src/newer"), 0o600)) }},
		{"a link", func(t *testing.T) { must(t, os.Symlink("newer", s.path("app/src/link"))) }},
		{"a link that leads out", func(t *testing.T) { must(t, os.Symlink("../../../etc/passwd", s.path("app/src/out"))) }},
		{"a link in place of a file, which stays where it leads", func(t *testing.T) {
			must(t, os.Symlink("sub/stays", s.path("saved")))
			must(t, os.Rename(s.path("saved"), s.path("app/src/newer")))
		}},
		{"a file in place of a link", func(t *testing.T) { s.write(t, "app/src/out", "a file\n") }},
		{"a name with all sorts of characters", func(t *testing.T) {
			s.write(t, "app/src/-n it's \"$HOME\" `a` ü\\n * ?.txt", "odd\n")
		}},
		{"a binary", func(t *testing.T) { s.random(t, "app/src/binary", 100_000) }},
		{"50 MB", func(t *testing.T) { s.random(t, "app/src/large", 50_000_000) }},
		{"small again", func(t *testing.T) { s.write(t, "app/src/large", "small\n") }},
	} {
		step(t, change.what, func(t *testing.T) {
			stays(t, func() {
				c := d.next()
				change.do(t)
				c.arrives(t)
				s.holds(t, web, more)
			})
		})
	}

	step(t, "what changes its kind, and two hundred files", func(t *testing.T) {
		stays(t, func() {
			c := d.next()
			must(t, os.RemoveAll(s.path("app/src/z"))) // a folder that becomes a file, a file that becomes a folder
			s.write(t, "app/src/z", "a file\n")
			must(t, os.Remove(s.path("app/src/binary")))
			must(t, os.Mkdir(s.path("app/src/binary"), 0o755))
			for i := range 200 {
				s.write(t, fmt.Sprintf("app/src/binary/%d", i), fmt.Sprintln(i))
			}
			c.arrives(t)
			s.awaits(t, web, more)
			must(t, os.RemoveAll(s.path("app/src/binary")))
			s.awaits(t, web, more)
			s.chain(t)
			if n := c.counts(on(event.RunStarts)); n > 20 {
				t.Errorf("%d runs", n)
			}
		})
	})

	step(t, "Python takes a module of the same size for another one", func(t *testing.T) {
		stays(t, func() {
			must(t, os.Mkdir(s.path("app/src/lib"), 0o755))
			s.write(t, "app/src/lib/module.py", "answer = 1\n")
			s.awaits(t, web, more)
			pods := append(s.pods(t, "web"), s.pods(t, "more")...)
			answers := func(want string) {
				for _, pod := range pods {
					same(t, "the answer in "+pod.Name, want,
						s.in(t, pod.Name, "env", "PYTHONPATH=src", "python3", "-c", "import lib.module; print(lib.module.answer)"))
				}
			}
			answers("1\n")
			d.save(t, "app/src/lib/module.py", "answer = 2\n").arrives(t)
			answers("2\n")
			must(t, os.RemoveAll(s.path("app/src/lib")))
			eventually(t, "it is gone", func() bool {
				return !slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
					return strings.Contains(s.in(t, pod.Name, "/bin/look", "/srv/src"), "/module.py")
				})
			})
			s.chain(t)
			for _, pod := range pods { // what Python has compiled
				s.in(t, pod.Name, "rm", "-rf", "src/lib")
			}
			s.holds(t, web, more)
		})
	})

	step(t, "a container with neither tar nor a shell", func(t *testing.T) {
		stays(t, func() {
			d.save(t, "bare/data/file", "second\n").arrives(t)
			s.holds(t, bare)
			c := d.next()
			must(t, os.Rename(s.path("bare/data/file"), s.path("bare/data/other")))
			c.arrives(t)
			s.holds(t, bare)
		})
	})

	step(t, "a command follows", func(t *testing.T) {
		stays(t, func() {
			d.save(t, "app/tasks/task.sh", "echo second >> /tmp/ran\n").arrives(t)
			for _, pod := range append(s.pods(t, "web"), s.pods(t, "more")...) {
				same(t, "what ran in "+pod.Name, "second\n", s.in(t, pod.Name, "cat", "/tmp/ran"))
			}
			c := d.save(t, "app/tasks/task.sh", "echo breaks >&2; exit 3\n")
			c.happens(t, on(event.RunStarts))
			d.find(t, c.since, "why the command failed", func(l line) bool {
				return l.Err != nil && strings.Contains(l.Err.Error(), "breaks")
			})
			d.save(t, "app/tasks/task.sh", "echo third >> /tmp/ran\n").arrives(t)
			same(t, "what ran", "second\nthird\n", s.in(t, s.pods(t, "more")[0].Name, "cat", "/tmp/ran"))
		})
	})

	step(t, "a restart follows", func(t *testing.T) {
		names := func() (names []string) {
			for _, pod := range append(s.pods(t, "web"), s.pods(t, "more")...) {
				names = append(names, pod.Name)
			}
			return names
		}
		pods, revision := names(), s.revisions(t)
		d.save(t, "app/conf/settings", "second\n").arrives(t)
		for _, pod := range pods {
			eventually(t, pod+" runs with the new file", func() bool {
				got, err := command(t.Context(), os.Environ(), "kubectl", "exec", "--namespace", s.name, pod, "--",
					"cat", "/tmp/settings")
				return err == nil && got == "second\n"
			})
		}
		same(t, "pods", pods, names())
		same(t, "the revision", revision, s.revisions(t))
		s.awaits(t, web, more)
		s.chain(t)
	})

	refuses := func(t *testing.T, deployment, why string) {
		t.Helper()
		before, revision := s.pods(t, deployment)[0].Name, s.revisions(t)
		c := d.save(t, "sealed/data/file", "for "+deployment+"\n")
		c.happens(t, on(event.SyncRefused).with("container", deployment).with("reason", why))
		c.happens(t, on(event.ImageBuilt).with("image", "^"+s.name+"-sealed:"))
		c.arrives(t)
		if s.pods(t, deployment)[0].Name == before || s.revisions(t) != revision+1 {
			t.Errorf("the image was not rolled out: revision %d, before %d", s.revisions(t), revision)
		}
		s.holds(t, sealed)
	}
	step(t, "a file system that is read-only gets an image", func(t *testing.T) { refuses(t, "sealed", "read-only") })
	step(t, "so does a folder below a volume", func(t *testing.T) {
		d.save(t, "k8s/covered.yaml", s.read(t, "covered.yaml")).arrives(t)
		refuses(t, "covered", "volume|mount")
		c := d.next()
		must(t, os.Remove(s.path("k8s/covered.yaml")))
		c.arrives(t)
		s.chain(t)
	})

	step(t, "pods that start later hold the files, too", func(t *testing.T) {
		d.save(t, "app/src/index.html", "third\n").arrives(t)
		mark := d.mark()
		kubectl(t, "scale", "--namespace", s.name, "deployment/more", "--replicas=2")
		gone := s.pods(t, "web")[0].Name
		kubectl(t, "delete", "pod", "--namespace", s.name, gone, "--wait=false")
		for _, deployment := range []string{"more", "web"} {
			told := d.await(t, mark, on(event.FilesSynced).with("started", "/"+deployment+"-"))
			t.Logf("before it was ready: %s", told.field("inTime"))
		}
		s.awaits(t, web, more)
		same(t, "pods", 2, len(s.pods(t, "more")))
		kubectl(t, "scale", "--namespace", s.name, "deployment/more", "--replicas=1")
		eventually(t, "one is gone", func() bool { return len(s.pods(t, "more")) == 1 })
	})

	step(t, "so do containers that are started again", func(t *testing.T) {
		pod := s.pods(t, "web")[0]
		// The shell may end with the container, by the same signal. What counts is the restart.
		_, _ = command(t.Context(), os.Environ(), "kubectl", "exec", "--namespace", s.name, pod.Name, "--",
			"sh", "-c", "kill 1")
		eventually(t, "it is started again", func() bool {
			for _, now := range s.pods(t, "web") {
				status := now.Status.ContainerStatuses[0]
				if now.Name == pod.Name && status.RestartCount > pod.Status.ContainerStatuses[0].RestartCount && status.Ready {
					return true
				}
			}
			return false
		})
		s.awaits(t, web)
		s.chain(t)
	})

	step(t, "the first content again", func(t *testing.T) {
		stays(t, func() {
			d.save(t, "app/src/index.html", first).arrives(t)
			s.holds(t, web, more)
			d.save(t, "app/src/index.html", "fourth\n").arrives(t)
			s.holds(t, web, more)
		})
	})

	// replaced checks that pods were replaced by what the disk holds.
	replaced := func(t *testing.T, do func(t *testing.T) change) {
		t.Helper()
		before := s.running(t, "web", "more")
		do(t).arrives(t)
		for _, pod := range s.running(t, "web", "more") {
			if slices.Contains(before, pod) {
				t.Errorf("%s is still there", pod)
			}
		}
		s.holds(t, web, more)
		s.chain(t)
	}
	step(t, "asked for, the image replaces the pods", func(t *testing.T) { replaced(t, d.again) })
	step(t, "a save of synced files and of others", func(t *testing.T) {
		replaced(t, func(t *testing.T) change {
			s.write(t, "app/src/index.html", "fifth\n")
			return d.replace(t, "app/Dockerfile", "MADE=first", "MADE=second")
		})
	})
	step(t, "a save of others after one of synced files", func(t *testing.T) {
		d.save(t, "app/src/index.html", "sixth\n").arrives(t)
		replaced(t, func(t *testing.T) change { return d.replace(t, "app/Dockerfile", "MADE=second", "MADE=third") })
		made := s.in(t, s.pods(t, "web")[0].Name, "sh", "-c", "echo $MADE")
		same(t, "the image", "third\n", made)
		stays(t, func() { d.save(t, "app/src/index.html", "seventh\n").arrives(t) })
		s.holds(t, web, more)
	})

	step(t, "an image that cannot be built is a warning", func(t *testing.T) {
		stays(t, func() {
			c := d.save(t, "app/src/index.html", "no build holds this\n")
			c.arrives(t)
			s.holds(t, web, more)
			d.find(t, c.since, "that the image cannot be built", func(l line) bool {
				return l.Phase == event.Warned && strings.Contains(fmt.Sprint(l.Err, l.Details()), "no build holds this")
			})
			s.chain(t)
			c = d.save(t, "app/src/index.html", "eighth\n")
			c.arrives(t)
			c.happens(t, on(event.ImageRenewed).with("image", "^"+s.name+":"))
		})
	})

	step(t, "files that somebody has changed in a container", func(t *testing.T) {
		pod := s.pods(t, "web")[0].Name
		s.in(t, pod, "sh", "-c", "echo tampered > src/index.html")
		eventually(t, "the chain is broken", func() bool {
			var chain strings.Builder
			cmd := exec.CommandContext(t.Context(), setting(t, "DEVLOOP_BIN"), "status", "--chain")
			cmd.Dir, cmd.Env, cmd.Stdout = s.dir, s.env, &chain
			return cmd.Run() != nil && regexp.MustCompile(pod+`.*BROKEN`).MatchString(chain.String())
		})
		d.save(t, "app/src/index.html", "ninth\n").arrives(t)
		s.holds(t, web, more)
		s.chain(t)
	})

	step(t, "a destination that the Dockerfile does not fill", func(t *testing.T) {
		d.replace(t, "devloop.yaml", "to: src }", "to: lib }").fails(t, `devloop\.yaml:\d+.*lib`)
		d.replace(t, "devloop.yaml", "to: lib }", "to: src }").arrives(t)
	})

	step(t, "rollout: now", func(t *testing.T) {
		d.replace(t, "devloop.yaml", "rollout: later", "rollout: now").arrives(t)
		revision := s.revisions(t)
		c := d.save(t, "app/src/index.html", "tenth\n")
		told := c.happens(t, on(event.FilesSynced).with("image", "^"+s.name+"$"))
		image := c.happens(t, on(event.ImageRenewed).with("image", "^"+s.name+":"))
		if image.Time.Before(told.Time) {
			t.Error("it is built first")
		}
		c.happens(t, on(event.ReleaseApplied))
		d.await(t, c.since, on(event.RunComplete, event.Succeeded).with("total", "."))
		eventually(t, "all pods run the image", func() bool {
			return !slices.ContainsFunc(append(s.pods(t, "web"), s.pods(t, "more")...), func(pod corev1.Pod) bool {
				return pod.Spec.Containers[0].Image != image.field("image")
			})
		})
		same(t, "the revision", revision+1, s.revisions(t))
		s.chain(t)
		s.holds(t, web, more)
		d.replace(t, "devloop.yaml", "rollout: now", "rollout: later").arrives(t)
	})

	// untouched checks that pods hold what they held before, and that nothing is left of a write that
	// was broken off.
	untouched := func(t *testing.T, before string) {
		t.Helper()
		for _, pod := range append(s.pods(t, "web"), s.pods(t, "more")...) {
			if got := s.in(t, pod.Name, "/bin/look", "/srv/src"); got != before {
				t.Errorf("in %s:\n%s", pod.Name, lineDiff(before, got))
			}
			eventually(t, "nothing is left in "+pod.Name, func() bool {
				return !strings.Contains(s.in(t, pod.Name, "ls", "-a", "/", "/srv", "/srv/src"), ".devloop")
			})
		}
		eventually(t, "nothing is left on the node", func() bool {
			return !strings.Contains(script(t, "exec", onlyNode(t), "ls", "/tmp", "/var/tmp"), "devloop-sync")
		})
	}
	const large = 32 << 20
	step(t, "a connection that breaks off in the middle", func(t *testing.T) {
		s.random(t, "app/src/large", large)
		s.awaits(t, web, more)
		s.chain(t)
		before := s.in(t, s.pods(t, "more")[0].Name, "/bin/look", "/srv/src")
		mend := s.wire.breaks(false, large/2)
		c := d.next()
		s.random(t, "app/src/large", large)
		c.happens(t, failed)
		untouched(t, before)
		mend()
		s.awaits(t, web, more)
		s.chain(t)
	})

	step(t, "it costs nothing while nothing changes", func(t *testing.T) {
		pass(t, 2*time.Second) // what the last run took goes back
		begin, ticks := time.Now(), cpuTicks(t, d)
		pass(t, 5*time.Second)
		share := float64(cpuTicks(t, d)-ticks) / 100 / time.Since(begin).Seconds() // a tick is 10 ms
		if t.Logf("idle: %.3f %% of a core", 100*share); share > 0.03 {
			t.Error("it takes too much")
		}
	})

	step(t, "Ctrl+C in the middle", func(t *testing.T) {
		before := s.in(t, s.pods(t, "more")[0].Name, "/bin/look", "/srv/src")
		mend := s.wire.breaks(true, large/2)
		c := d.next()
		s.random(t, "app/src/large", large)
		c.happens(t, on(event.FilesSynced, event.Started))
		eventually(t, "half of it is on its way", func() bool { return s.wire.broke() })
		d.stop(t)
		mend()
		untouched(t, before)
	})

	step(t, "the next devloop is ready only when all is right", func(t *testing.T) {
		s.write(t, "app/src/index.html", "while nobody looked\n")
		d = s.start(t)
		d.await(t, 0, ready)
		s.holds(t, web, more, bare, sealed)
		s.chain(t)
		stays(t, func() { d.save(t, "app/src/index.html", "at last\n").arrives(t) })
		s.holds(t, web, more)
		for _, l := range d.log(0) {
			if l.Level() == event.Error {
				t.Errorf("it tells an error: %s", l)
			}
		}
		d.stop(t)
		s.remove(t)
	})
}

// syncClusters edits a function that the workers of a cluster compute with.
func syncClusters(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)
	p := newProject(t, platform)
	python := laptop(t)
	d := p.start(t)
	removeImages(t, d)
	worker := d.image(t, 0, "worker")
	d.await(t, 0, ready)
	user := startClient(t, python, "--loose", "--workers", "2")
	name := user.next(t, "cluster")["cluster"].(string)
	asks := func(t *testing.T, line, key string) map[string]any {
		t.Helper()
		_, err := io.WriteString(user.stdin, line+"\n")
		must(t, err)
		return user.next(t, key)
	}
	const (
		file        = "analysis/robust.py"
		expression  = "analysis.robust:trimmed_mean([1, 2, 3, 100])"
		before, now = 2.5, 26.5
	)
	answers := func(t *testing.T, workers int, want float64) {
		t.Helper()
		said := asks(t, expression, "answers")["answers"]
		same(t, "answers of the workers", any(slices.Repeat([]any{want}, workers)), said)
	}
	names := func() (names []string) {
		for _, pod := range daskPods(t, cluster, worker, 3) {
			names = append(names, pod.Name)
		}
		return names
	}
	var pods []string
	step(t, "two workers compute with it", func(t *testing.T) {
		answers(t, 2, before)
		pods = names()
	})
	step(t, "the function is edited", func(t *testing.T) {
		revision := revisions(t, cluster)
		c := d.replace(t, file, "share: float = 0.25", "share: float = 0")
		told := c.happens(t, on(event.FilesSynced).with("image", "^worker$"))
		same(t, "containers that got it", "3", told.field("containers"))
		c.arrives(t)
		c.happens(t, on("modules that were imported before are loaded again by client.restart()"))
		same(t, "revisions", revision, revisions(t, cluster))
		same(t, "pods", pods, names())
		for _, pod := range pods {
			same(t, "the file in "+pod, p.read(t, file),
				kubectl(t, "exec", "-n", namespace, pod, "--", "cat", "/opt/platform/"+file))
		}
		answers(t, 2, before) // Python has imported what it has imported
	})
	step(t, "the same cluster computes with it after client.restart()", func(t *testing.T) {
		asks(t, "restart", "restarted")
		answers(t, 2, now)
		same(t, "pods", pods, names())
	})
	step(t, "so does a worker that starts later", func(t *testing.T) {
		asks(t, "3", "scaled")
		answers(t, 3, now)
	})
	step(t, "the cluster is not outdated", func(t *testing.T) {
		p.chain(t)
		if out, _ := p.call(t, 0, "clusters"); !strings.Contains(out, name) || strings.Contains(out, "stale") {
			t.Errorf("devloop clusters says\n%s", out)
		}
		if n := d.count(0, on(event.ClustersOutdated)); n != 0 {
			t.Error("it was told as outdated")
		}
	})
	asks(t, "", "done")
	d.stop(t)
	nothingLeft(t, cluster)
}
