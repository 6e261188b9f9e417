//go:build e2e

// Everything that can go wrong with a release: what is said of it, how soon, and that a save mends
// it.
package e2e

import (
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

// testFailures: that a failure is told early needs no clock. The time of a rollout is longer than a
// test waits, so only a diagnosis ends one, and a container that crashes is in its second back-off,
// which is of 20 s, and in no later one.
func testFailures(t *testing.T, cluster kubernetes.Interface) {
	const (
		applied, rollout, command = event.ReleaseApplied, event.RolloutComplete, event.CommandRun

		notPulled    = "ErrImagePull: failed to pull and unpack image "
		crashedTwice = "CrashLoopBackOff: back-off 20s restarting failed container"
		lastLines    = "its last lines say why; fix it and save"
		endsWith0    = "the release is applied once the command ends with 0"
		hookOf       = " of workload/templates/hooks.yaml: "
	)
	p := newProject(t, "deploy/failures")
	fill := strings.NewReplacer("NAME", p.name, "SLEEP", p.sleep())
	d := p.once(t, 1)
	whole := d.only(t, failed).Err.Error()
	for _, failure := range []struct {
		release, step string
		hint          string
		err           string // parts, in their order
	}{
		{"image", rollout, "correct the name or tag",
			"deployment NAME/image: container main of pod image-…" + notPulled + `"example.org/not/there:1"`},
		{"crash", rollout, lastLines,
			"deployment NAME/crash: container main of pod crash-…" + crashedTwice +
				"…(exit code 3, Error)…\ngoing down, with a probe"},
		{"crash-unprobed", rollout, lastLines,
			"deployment NAME/crash-unprobed: container main of pod crash-unprobed-…" + crashedTwice +
				"…(exit code 4, Error)…\ngoing down, without a probe"},
		{"no-command", rollout, "correct the container's command",
			"deployment NAME/no-command: container main of pod no-command-…RunContainerError: " +
				`…exec: "not-in-the-image": executable file not found`},
		// The reason may be no more than Error: Kubernetes does not always learn who has killed it.
		{"memory", rollout, "raise the container's memory limit",
			"deployment NAME/memory: container main of pod memory-…" + crashedTwice + "…(exit code 137, "},
		{"config", rollout, "create the config map or secret that it names",
			"deployment NAME/config: container main of pod config-" +
				`…CreateContainerConfigError: configmap "nobody-makes-it" not found`},
		{"huge", rollout, "lower its resources' requests",
			"deployment NAME/huge: pod huge-…Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."},
		{"quota", rollout, "raise the namespace's quota",
			"deployment NAME-quota/quota: FailedCreate: " +
				"…exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"},
		{"job", rollout, "the lines above say why; fix it and save",
			"job NAME/job: BackoffLimitExceeded: Job has reached the specified backoff limit…\nthe job gives up"},
		{"hook", applied, "its last lines say why; fix the hook and save",
			"release NAME/hook: failed pre-install: job hook-hook0 failed: BackoffLimitExceeded\n" +
				"hook job/hook-hook0" + hookOf + "pod hook-hook0-… failed\nthe hook gives up"},
		{"hook-image", applied, "correct the name or tag",
			"release NAME/hook-image: failed pre-install: job hook-image-hook0 failed…\n" +
				"hook job/hook-image-hook0" + hookOf + "container hook of pod hook-image-hook0-" +
				"…" + notPulled + `"example.org/not/there:2"`},
		{"command", command, endsWith0,
			"release NAME/command: command before it: sh -c echo the command gives up; exit 7: exit status 7\n" +
				"the command gives up"},
		{"command-slow", command, endsWith0,
			"release NAME/command-slow: command before it: sh -c echo before the nap; SLEEP: not done after 3s\n" +
				"before the nap"},
	} {
		t.Run(failure.release, func(t *testing.T) {
			got := d.only(t, onRelease(failure.release, failure.step, event.Failed))
			rest := got.Err.Error()
			for _, want := range strings.Split(fill.Replace(failure.err), "…") {
				_, after, said := strings.Cut(rest, want)
				if !said {
					t.Fatalf("it does not say %q:\n%s", want, got.Err)
				}
				rest = after
			}
			if hint := event.Hint(got.Err); !strings.Contains(hint, failure.hint) {
				t.Errorf("the hint is %q", hint)
			}
			if !strings.Contains(whole, got.Err.Error()) {
				t.Errorf("the run ends without it:\n%s", whole)
			}
		})
	}
	if strings.Contains(whole, p.name+"/last") {
		t.Errorf("the run ends with a release that was left out:\n%s", whole)
	}
	if !strings.Contains(whole, "it stays as it is, since no revision of it was ever up") {
		t.Errorf("a release that was never up is to stay as it is:\n%s", whole)
	}
	eventually(t, "a command whose time is over has gone", func() bool { return !runs(p.sleep()) })
	d.only(t, onRelease("last", leftOut))

	t.Run("mended, all come up without hands", func(t *testing.T) {
		p.once(t, 0, "--profile", "mended").only(t, onRelease("hook", rollout))
		want := map[string]string{}
		for _, release := range []string{"hook", "hook-image", "command", "command-slow", "last"} {
			want[release] = "deployed" // it was never written before
		}
		for _, release := range strings.Fields("image crash crash-unprobed no-command memory config huge job") {
			want[release] = "superseded deployed"
		}
		if got := records(t, cluster, p.name); !reflect.DeepEqual(got, want) {
			t.Errorf("Helm's records: %v", got)
		}
	})
	p.remove(t)
}

// sleep is a command line that no other project has, where a template says sleep 7$PORT.
func (p *project) sleep() string { return "sleep 7" + strconv.Itoa(p.port) }

func testMistakes(t *testing.T, _ kubernetes.Interface) {
	p := newProject(t, "deploy/mistakes")
	_, log := p.call(t, 2, "run")
	for _, want := range []string{
		filepath.Join(p.dir, "values.yaml") + ":5:3: release file: value port.number: maximum: got 99,999, want 65,535",
		"devloop.yaml:10:17: releases[1].inlineValues.port.number: value port.number: got string, want integer",
		"devloop.yaml:15:17: releases[2].set.replicas: value replicas: got string, want integer",
		"devloop.yaml:19:28: releases[3].setString.replicas: value replicas: got string, want integer",
		"release " + p.name + "/template: " + filepath.Join(p.dir, "template/templates/_parts.tpl") +
			":2:16: at <.Values.no.such.value>: nil pointer evaluating interface {}.such",
		"release " + p.name + "/output: " + filepath.Join(p.dir, "output/templates/map.yaml") +
			`: its output is no YAML: line 5 of it ("text: \"never closed"): found unexpected end of stream`,
		"the chart's values.schema.json says what it takes",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("it does not say %s:\n%s", want, log)
		}
	}
	p.gone(t) // rather, it was never there
}

func testMend(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/mend")
	d := p.start(t)

	// A config map that is late is waited for: the node looks again only ten seconds later.
	d.await(t, 0, on(event.RolloutComplete, event.Started))
	d.await(t, 0, on(event.PodChanged).with("reason", "CreateContainerConfigError"))
	late := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Data: map[string]string{"a": "b"}}
	_, err := cluster.CoreV1().ConfigMaps(p.name).Create(t.Context(), late, metav1.CreateOptions{})
	must(t, err)
	d.await(t, 0, ready)
	if n := d.count(0, failed); n != 0 {
		t.Errorf("%d runs failed", n)
	}

	c := d.replace(t, "values.yaml", `ready: "true"`, `ready: "false"`)
	c.happens(t, onRelease("web", event.ReleaseApplied).with("revision", "^2$"))
	c.happens(t, on(event.RolloutComplete, event.Started))
	pods := readyPods(t, cluster, p.name)
	next := d.replace(t, "values.yaml", `ready: "false"`, `ready: test -d /tmp`)
	next.happens(t, superseded)
	next.arrives(t)

	d.replace(t, "values.yaml", "run: sleep infinity", "run: echo I cannot; exit 1").fails(t, `\nI cannot\n`)
	if now := readyPods(t, cluster, p.name); len(now) != 1 || reflect.DeepEqual(now, pods) {
		t.Errorf("ready while the new pod crashes: %v, at first %v", now, pods)
	}
	d.replace(t, "values.yaml", "run: echo I cannot; exit 1", "run: exec sleep infinity").arrives(t)
	if got := records(t, cluster, p.name)["web"]; got != "superseded superseded superseded superseded deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	d.stop(t)
	// The config map is not devloop's, and so the namespace that holds it is not empty.
	kubectl(t, "delete", "configmap", "late", "--namespace", p.name)
	p.remove(t)
}

// readyPods returns the names of a namespace's ready pods.
func readyPods(t *testing.T, cluster kubernetes.Interface, namespace string) (names []string) {
	t.Helper()
	pods, err := cluster.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, pod := range pods.Items {
		if takesConnections(&pod) {
			names = append(names, pod.Name)
		}
	}
	return names
}
