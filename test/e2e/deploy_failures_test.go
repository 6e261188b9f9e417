//go:build e2e

// Everything that can go wrong with a release: what is said of it, how soon, and that a save mends it.
package e2e

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	applied = "release applied"
	rollout = "rollout complete"
	ran     = "command run"

	// How soon a failure is told, on a busy machine; timeouts.rollout is five minutes.
	atOnce     = 20 * time.Second
	soon       = 45 * time.Second // what is given a moment to mend itself
	afterTwice = 75 * time.Second // what has to crash twice, with the cluster's back-off in between
)

func testFailures(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/failures")
	story := p.story(t, 1, "run")
	const cannotPull = "the node does not hold example.org/not/there:"
	whole := story[len(story)-1]
	for _, failure := range []struct {
		release, step string
		within        time.Duration
		err           []string
		hint          string
	}{
		{"image", rollout, soon, []string{"deployment failures/image: container main of pod image-", "ErrImagePull: failed to pull and unpack image \"example.org/not/there:1\""}, cannotPull + "1 and cannot pull it: correct the name or tag"},
		{"crash", rollout, afterTwice, []string{"deployment failures/crash: container main of pod crash-", "CrashLoopBackOff: back-off ", "(exit code 3, Error)", "\ngoing down, with a probe"}, "its last lines say why; mend it and save"},
		{"crash-unprobed", rollout, afterTwice, []string{"deployment failures/crash-unprobed: container main of pod crash-unprobed-", "CrashLoopBackOff: back-off ", "(exit code 4, Error)", "\ngoing down, without a probe"}, "its last lines say why; mend it and save"},
		{"no-command", rollout, soon, []string{"deployment failures/no-command: container main of pod no-command-", "RunContainerError: ", `exec: "not-in-the-image": executable file not found`}, "correct the container's command"},
		{"memory", rollout, afterTwice, []string{"deployment failures/memory: container main of pod memory-", "CrashLoopBackOff: back-off ", "(exit code 137, "}, "raise the container's memory limit"},
		{"config", rollout, soon, []string{"deployment failures/config: container main of pod config-", `CreateContainerConfigError: configmap "nobody-makes-it" not found`}, "make the config map or secret that it names"},
		{"huge", rollout, atOnce, []string{"deployment failures/huge: pod huge-", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."}, "lower its resources' requests"},
		{"quota", rollout, soon, []string{"deployment failures-quota/quota: FailedCreate: ", "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"}, "raise the namespace's quota"},
		{"job", rollout, atOnce, []string{"job failures/job: BackoffLimitExceeded: Job has reached the specified backoff limit", "\nthe job gives up"}, "the lines above say why; mend it and save"},
		{"hook", applied, atOnce, []string{"release failures/hook: failed pre-install: job hook-hook0 failed: BackoffLimitExceeded\nhook job/hook-hook0 of workload/templates/hooks.yaml: pod hook-hook0-", " failed\nthe hook gives up"}, "its last lines say why; mend the hook and save"},
		{"hook-image", applied, soon, []string{"release failures/hook-image: failed pre-install: job hook-image-hook0 failed", "\nhook job/hook-image-hook0 of workload/templates/hooks.yaml: container hook of pod hook-image-hook0-", "ErrImagePull: failed to pull and unpack image \"example.org/not/there:2\""}, cannotPull + "2 and cannot pull it"},
		{"command", ran, atOnce, []string{"release failures/command: command before it: sh -c echo the command gives up; exit 7: exit status 7\nthe command gives up"}, "the release is applied when the command ends with 0"},
		{"command-slow", ran, atOnce, []string{"release failures/command-slow: command before it: sh -c echo before the nap; sleep 600: not done after 3s\nbefore the nap"}, "the release is applied when the command ends with 0"},
	} {
		t.Run(failure.release, func(t *testing.T) {
			got := story.line(t, failure.step, "failed", failure.release)
			for _, want := range failure.err {
				if !strings.Contains(got.Err, want) {
					t.Errorf("it does not say %q:\n%s", want, got.Err)
				}
			}
			if !strings.Contains(got.Hint, failure.hint) {
				t.Errorf("the hint is %q", got.Hint)
			}
			if took := time.Duration(got.Took * float64(time.Second)); took > failure.within {
				t.Errorf("it was told after %s only", took)
			}
			if !strings.Contains(whole.Err, got.Err) {
				t.Errorf("the run ends without it:\n%s", whole.Err)
			}
		})
	}
	if whole.Stage != "loop" || whole.Phase != "failed" || strings.Contains(whole.Err, "failures/last") {
		t.Errorf("the last line is %+v", whole)
	}
	if !strings.Contains(whole.Err, "it stays as it is, since no revision of it was ever up") {
		t.Errorf("a release that was never up is to stay as it is:\n%s", whole.Err)
	}
	if runs("sleep 600") {
		t.Error("a command whose time is over still runs")
	}
	story.line(t, "release left out, what it depends on is not up", "noted", "last")

	t.Run("mended, all come up without hands", func(t *testing.T) {
		p.story(t, 0, "run", "--profile", "mended").line(t, rollout, "succeeded", "hook")
		deployed := "superseded deployed"
		want := map[string]string{"image": deployed, "crash": deployed, "crash-unprobed": deployed, "no-command": deployed, "memory": deployed, "config": deployed, "huge": deployed,
			"job": deployed, "hook": "deployed", "hook-image": "deployed", "command": "deployed", "command-slow": "deployed", "last": "deployed"}
		if got := records(t, cluster, "failures"); !reflect.DeepEqual(got, want) {
			t.Errorf("Helm's records: %v", got)
		}
	})
	p.remove(t)
}

func testMistakes(t *testing.T, _ kubernetes.Interface) {
	p := newProject(t, "deploy/mistakes")
	_, log := p.call(t, 2, "run")
	for _, want := range []string{
		filepath.Join(p.dir, "values.yaml") + ":5:3: release file: value port.number: maximum: got 99,999, want 65,535",
		"devloop.yaml:10:17: releases[1].inlineValues.port.number: value port.number: got string, want integer",
		"devloop.yaml:15:17: releases[2].set.replicas: value replicas: got string, want integer",
		"devloop.yaml:19:28: releases[3].setString.replicas: value replicas: got string, want integer",
		"release mistakes/template: " + filepath.Join(p.dir, "template/templates/_parts.tpl") + ":2:16: at <.Values.no.such.value>: nil pointer evaluating interface {}.such",
		"release mistakes/output: " + filepath.Join(p.dir, "output/templates/map.yaml") + `: its output is no YAML: line 5 of it ("text: \"never closed"): found unexpected end of stream`,
		"the chart's values.schema.json says what it takes",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("it does not say %s:\n%s", want, log)
		}
	}
	if got := kubectl(t, "get", "namespace", "mistakes", "--ignore-not-found"); got != "" {
		t.Errorf("something was written: %s", got)
	}
}

func testMend(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/mend")
	d := p.start(t, "--verbose")

	// A config map that is late is waited for.
	eventually(t, "a container lacks its config map", func() bool {
		pods, err := cluster.CoreV1().Pods("mend").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(pods.Items) == 1 && waits(pods.Items[0], "CreateContainerConfigError")
	})
	pass(t, 5*time.Second)
	kubectl(t, "create", "configmap", "late", "--namespace", "mend", "--from-literal=a=b")
	d.await(t, 0, ready)
	if n := d.count(0, failed); n != 0 {
		t.Errorf("%d runs failed", n)
	}

	mark := d.mark()
	p.edit(t, "values.yaml", `ready: "true"`, `ready: "false"`)
	d.says(t, mark, `release applied .*revision=2`)
	d.says(t, mark, `rollout complete: started`)
	pods := p.pods(t, cluster, "mend")
	mark = d.mark()
	p.edit(t, "values.yaml", `ready: "false"`, `ready: test -d /tmp`)
	d.await(t, mark, superseded)
	d.await(t, mark, ready)

	mark = d.mark()
	p.edit(t, "values.yaml", "run: sleep infinity", "run: echo I cannot; exit 1")
	d.await(t, mark, failed)
	d.says(t, mark, `│ I cannot`)
	if now := p.pods(t, cluster, "mend"); len(now) != 1 || reflect.DeepEqual(now, pods) {
		t.Errorf("ready while the new pod crashes: %v, at first %v", now, pods)
	}
	mark = d.mark()
	p.edit(t, "values.yaml", "run: echo I cannot; exit 1", "run: exec sleep infinity")
	d.await(t, mark, ready)
	if got := records(t, cluster, "mend")["web"]; got != "superseded superseded superseded superseded deployed" {
		t.Errorf("Helm's records: %s", got)
	}
	d.stop(t)
	// The config map is not devloop's, and so the namespace that holds it is not empty.
	kubectl(t, "delete", "configmap", "late", "--namespace", "mend")
	p.remove(t)
}

// pods names those in a namespace that are ready.
func (p *project) pods(t *testing.T, cluster kubernetes.Interface, namespace string) (names []string) {
	t.Helper()
	pods, err := cluster.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if takesConnections(&pod) {
			names = append(names, pod.Name)
		}
	}
	return names
}

// waits tells whether a container of the pod waits for that reason.
func waits(pod corev1.Pod, reason string) bool {
	for _, status := range pod.Status.ContainerStatuses {
		if status.State.Waiting != nil && status.State.Waiting.Reason == reason {
			return true
		}
	}
	return false
}
