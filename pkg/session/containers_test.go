package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
)

// made is a cluster whose containers hold files in memory. It is the reach, and the supply of
// images, of containers under test.
type made struct {
	t      *testing.T
	client *fake.Clientset
	*containers
	config *config.Config
	prover prover

	mu       sync.Mutex
	held     map[string]map[string]filesync.State // by the container's ID
	refuse   map[string]string                    // why containers refuse files
	fail     map[string]error                     // to write into containers
	looks    int
	writes   [][]string // the containers that got the same files together
	commands []string
	command  func(ctx context.Context) error
	builds   []string // tags that were built and loaded
	building func(ctx context.Context) error
	pruned   []string
	events   []event.Event
}

// noKinds maps no kinds, as in a cluster without Dask clusters.
type noKinds struct{ meta.RESTMapper }

func (noKinds) Reset() {}

func newMade(t *testing.T, pods ...*corev1.Pod) *made {
	t.Helper()
	m := &made{t: t, held: map[string]map[string]filesync.State{}, refuse: map[string]string{}, fail: map[string]error{},
		config: &config.Config{Images: []config.Image{{Name: "app", Sync: []config.Sync{{From: "src", To: "/app"},
			{From: "run", To: "/run", Then: []string{"reload", "it"}},
			{From: "conf", To: "/conf", Then: []string{"restart"}}}}},
			Timeouts: config.Timeouts{Rollout: time.Minute}}}
	m.client = fake.NewClientset()
	for _, pod := range pods {
		m.start(pod)
	}
	namespaces := func(*config.Config) []string { return []string{"n"} }
	cluster := &kube.Cluster{Client: m.client, Mapper: noKinds{meta.NewDefaultRESTMapper(nil)}}
	m.containers = newContainers(m.sink, cluster, namespaces, m, m,
		readKnownInputs(filepath.Join(t.TempDir(), "a", "known")))
	return m
}

// start has a pod run. Its containers hold what is in their image.
func (m *made) start(pod *corev1.Pod) {
	if _, err := m.client.CoreV1().Pods(pod.Namespace).Create(m.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		m.t.Fatal(err)
	}
	for _, c := range dask.RunningContainers(pod) {
		m.held[c.ContainerID] = map[string]filesync.State{"/app/a.py": {Mode: 0o644, Digest: "of the image"}}
	}
}

func pod(name, image string, edit ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("uid of " + name)},
		Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Name: "c", Image: image}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "c",
			ContainerID: "containerd://" + name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}
	for _, edit := range edit {
		edit(pod)
	}
	return pod
}

func ofDask(pod *corev1.Pod) { pod.Labels = map[string]string{dask.LabelCluster: "c1"} }

func startedBy(gateway string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Labels = map[string]string{dask.LabelCluster: "of " + gateway, "gateway.dask.org/instance": gateway}
	}
}

func (m *made) sink(e event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, e)
}

// said returns the events of a message, but for starts of steps.
func (m *made) said(message string) (list []event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Message == message && e.Phase != event.Started && e.Phase != event.Detailed {
			list = append(list, e)
		}
	}
	return list
}

func (*made) Shell(node string) (filesync.Shell, bool) { return nil, node != "far" }

func (m *made) PIDs(_ context.Context, _ string, ids []string) (map[string]int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pids := map[string]int{}
	for _, id := range ids {
		if m.held[id] != nil {
			pids[id] = 1
		}
	}
	return pids, nil
}

type insideMade struct {
	*made
	id string
}

func (m *made) Inside(c dask.Container) filesync.Shell { return insideMade{m, c.ContainerID} }

func (s insideMade) Run(ctx context.Context, _ io.Reader, args ...string) (string, error) {
	s.mu.Lock()
	s.commands = append(s.commands, s.id+": "+strings.Join(args, " "))
	s.mu.Unlock()
	if s.command == nil {
		return "", nil
	}
	return "what it said", s.command(ctx)
}

func (m *made) Look(_ context.Context, _ filesync.Shell, list []filesync.Container, paths []string) (
	listings []filesync.Listing, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	for _, c := range list {
		files := map[string]filesync.State{}
		for _, path := range paths {
			if state, there := m.held[c.ID][path]; there {
				files[path] = state
			} else {
				files[path] = filesync.State{Absent: true}
			}
		}
		listings = append(listings, filesync.Listing{Container: c, Files: files})
	}
	return listings, nil
}

func (m *made) Write(ctx context.Context, _ filesync.Shell, list []filesync.Container, files []filesync.File) (
	written []filesync.Written, err error) {
	m.mu.Lock()
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
		err := m.fail[c.ID]
		if m.refuse[c.ID] != "" {
			err = &filesync.Refusal{Reason: m.refuse[c.ID]}
		}
		if err == nil {
			for _, f := range files {
				m.held[c.ID][f.Path] = filesync.State{Absent: f.Absent, Mode: f.Mode, Digest: f.Digest, Link: f.Link}
			}
		}
		now := maps.Clone(m.held[c.ID])
		written = append(written, filesync.Written{Container: c, Files: now, Err: err})
	}
	slices.Sort(ids)
	m.writes = append(m.writes, ids)
	m.mu.Unlock()
	return written, ctx.Err()
}

func (m *made) Missing(_ context.Context, now *target) (missing []*loop.Image, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, image := range now.Images {
		if !slices.Contains(m.builds, image.Tag.TagStr()) {
			missing = append(missing, image)
		}
	}
	return missing, nil
}

func (m *made) Supply(ctx context.Context, _ event.Sink, now *target) ([]*loop.Image, error) {
	missing, _ := m.Missing(ctx, now)
	if m.building != nil {
		if err := m.building(ctx); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, image := range missing {
		m.builds = append(m.builds, image.Tag.TagStr())
	}
	return missing, nil
}

func (m *made) Prune(_ context.Context, _ event.Sink, now *target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, tag := range loop.Tags(now.Images) {
		m.pruned = append(m.pruned, tag.TagStr())
	}
}

// syncedTarget is a target whose image has a tag, and is to hold the files, by path, of the inputs
// of another one.
func syncedTarget(tag, inputs string, files map[string]string) *loop.Target {
	synced := &build.Synced{Rest: "rest"}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		rule := slices.Index([]string{"app", "run", "conf"}, strings.Split(path, "/")[1])
		synced.Files = append(synced.Files,
			build.SyncedFile{Path: path, Mode: 0o644, Size: 10, Digest: files[path], Rule: rule})
	}
	made, _ := name.NewTag("app:" + tag)
	newest, _ := name.NewTag("app:" + inputs)
	input := build.Input{Tag: newest, Synced: synced}
	return &loop.Target{Images: []*loop.Image{{Name: "app", Tag: made, Ref: "app:" + tag, Rest: "rest", Input: input}}}
}

func (m *made) stage() containerStage { return containerStage{m.containers, m.config, &m.prover} }

func (m *made) sync(target *loop.Target) (all bool, err error) {
	m.t.Helper()
	return m.stage().Sync(m.t.Context(), m.sink, target)
}

// holds returns what a container holds at a path.
func (m *made) holds(id, path string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[id][path].Digest
}

func TestSyncContainers(t *testing.T) {
	m := newMade(t, pod("one", "app:x"), pod("two", "docker.io/library/app:x@sha256:"+strings.Repeat("a", 64)),
		pod("older", "app:w", ofDask), pod("far", "app:x", func(p *corev1.Pod) { p.Spec.NodeName = "far" }),
		pod("unknown", "app:v", ofDask), pod("foreign", "other:x"),
		pod("init", "app:x", func(p *corev1.Pod) {
			p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, nil
			p.Status.InitContainerStatuses, p.Status.ContainerStatuses = p.Status.ContainerStatuses, nil
		}))
	if _, err := m.known.add("app", []string{"w"}, &build.Synced{Rest: "rest",
		Files: []build.SyncedFile{{Path: "/app/gone.py"}}}); err != nil {
		t.Fatal(err)
	}
	m.held["older"]["/app/gone.py"] = filesync.State{Mode: 0o644}
	target := syncedTarget("x", "y", map[string]string{"/app/a.py": "new", "/app/b.py": "added"})
	all, err := m.sync(target)
	if !all || err != nil {
		t.Fatal(all, err)
	}
	for _, id := range []string{"one", "two", "older", "far"} {
		if m.holds(id, "/app/a.py") != "new" || m.holds(id, "/app/b.py") != "added" {
			t.Errorf("%s holds %v", id, m.held[id])
		}
	}
	for _, id := range []string{"unknown", "foreign", "init"} {
		if m.holds(id, "/app/a.py") != "of the image" {
			t.Errorf("%s was written to", id)
		}
	}
	if !m.held["older"]["/app/gone.py"].Absent {
		t.Error("what is deleted is still in an older container")
	}
	slices.SortFunc(m.writes, slices.Compare)
	if hint := m.said("modules that were imported before are loaded again by client.restart()"); len(hint) != 1 {
		t.Errorf("said %+v", hint)
	}
	if want := "[[far] [older] [one two]]"; fmt.Sprint(m.writes) != want {
		t.Errorf("written to %v, not %s", m.writes, want)
	}
	said := m.said(event.FilesSynced)
	if len(said) != 1 || said[0].Phase != event.Succeeded || said[0].Took == 0 {
		t.Fatalf("said %+v", said)
	}
	if got, want := said[0].Payload, (event.SyncedFiles{Image: "app", Written: 2, Deleted: 1, Bytes: 20, Containers: 4,
		Python: true}); got != want {
		t.Errorf("said %+v", got)
	}
	m.events, m.writes, m.looks = nil, nil, 0
	if all, err := m.sync(target); !all || err != nil || len(m.writes) > 0 || len(m.events) > 0 || m.looks != 2 {
		t.Errorf("where nothing differs: %v %v, written to %v, %d looks, said %v", all, err, m.writes, m.looks, m.events)
	}
	files, err := m.containers.syncedFiles(t.Context(), *m.desired)
	if err != nil || len(files) != 4 || files[0].Is == "" || files[0].Want != "" {
		t.Errorf("files: %+v %v", files, err)
	}
	m.held["one"]["/app/b.py"] = filesync.State{Mode: 0o600, Digest: "added"}
	if files, _ := m.containers.syncedFiles(t.Context(), *m.desired); files[2].Want == "" || len(files[2].Differ) != 1 {
		t.Errorf("with other permissions: %+v", files)
	}
}

// What the last run had containers hold is expected no more once a run writes something else: it
// may take its time, or fail.
func TestSyncIsNoBrokenChain(t *testing.T) {
	m := newMade(t, pod("one", "app:x"))
	before := syncedTarget("x", "y", map[string]string{"/app/a.py": "old"})
	for _, test := range []struct {
		inputs   string
		expected bool
	}{{"y", true}, {"z", false}} {
		m.prover.expected.Store(&expected{target: target{before, m.config}})
		if _, err := m.sync(syncedTarget("x", test.inputs, map[string]string{"/app/a.py": test.inputs})); err != nil {
			t.Fatal(err)
		}
		if (m.prover.expected.Load() != nil) != test.expected {
			t.Errorf("%s: expected: %v, not %v", test.inputs, !test.expected, test.expected)
		}
	}
}

// Pods of releases outside of devloop.yaml may run the same image.
func TestOthersAreNotWrittenTo(t *testing.T) {
	m := newMade(t, pod("own", "app:x"), pod("theirs", "app:x", func(p *corev1.Pod) {
		p.Annotations = map[string]string{kube.AnnotationRelease: "theirs", kube.AnnotationReleaseNamespace: "n"}
	}), pod("own-worker", "app:x", startedBy("own")), pod("their-worker", "app:x", startedBy("theirs")))
	m.config.Releases = []config.Release{{Name: "own", Namespace: "n"}}
	for _, release := range []string{"own", "theirs"} {
		gateway := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: release,
			Labels:      map[string]string{"gateway.dask.org/instance": release},
			Annotations: map[string]string{kube.AnnotationRelease: release, kube.AnnotationReleaseNamespace: "n"}}}
		if _, err := m.client.CoreV1().Services("n").Create(t.Context(), gateway, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := m.sync(syncedTarget("x", "y", map[string]string{"/app/a.py": "new"})); !all || err != nil {
		t.Fatal(all, err)
	}
	for id, want := range map[string]bool{"own": true, "theirs": false, "own-worker": true, "their-worker": false} {
		if written := m.holds(id, "/app/a.py") == "new"; written != want {
			t.Errorf("%s: written to: %v, not %v", id, written, want)
		}
	}
}

func TestRefusal(t *testing.T) {
	m := newMade(t, pod("one", "app:x"), pod("readonly", "app:x"))
	m.refuse["readonly"] = "its file system is read-only"
	for n, digest := range []string{"new", "newer"} {
		all, err := m.sync(syncedTarget("x", "y", map[string]string{"/app/a.py": digest}))
		if all || err != nil || m.holds("one", "/app/a.py") != digest {
			t.Errorf("%d: %v %v", n, all, err)
		}
	}
	want := event.UnsyncedContainer{Image: "app", Container: "n/readonly/c", Reason: "its file system is read-only"}
	if said := m.said(event.SyncRefused); len(said) != 1 || said[0].Payload != want {
		t.Errorf("said %+v", said)
	}
	files, err := m.containers.syncedFiles(t.Context(), *m.desired)
	if err != nil || len(files) != 2 || files[0].Refused || !files[1].Refused || files[1].Want == "" {
		t.Errorf("the chain is told %+v, %v", files, err)
	}
	if all, err := m.sync(syncedTarget("y", "y", map[string]string{"/app/a.py": "newer"})); !all || err != nil {
		t.Error("where the image is the newest:", all, err)
	}
	m.refuse["one"] = "not it, either"
	if all, err := m.sync(syncedTarget("x", "y", map[string]string{"/app/a.py": "newest"})); all || err != nil {
		t.Error(all, err)
	}
	if said := m.said(event.FilesSynced); len(said) != 2 {
		t.Errorf("where nobody got files, it said %+v", said[2:])
	}
}

func TestSyncFails(t *testing.T) {
	m := newMade(t, pod("one", "app:x"), pod("broken", "app:x"), pod("gone", "app:x"))
	delete(m.held, "gone")
	m.fail["broken"] = event.Transient(errors.New("connection lost"))
	target := syncedTarget("x", "y", map[string]string{"/app/a.py": "new"})
	all, err := m.sync(target)
	want := "in 1 of 2 containers, not in n/broken/c: connection lost"
	if all || !event.IsTransient(err) || !strings.Contains(err.Error(), want) {
		t.Fatal(all, err)
	}
	m.fail["broken"] = errors.New("no such user")
	if all, err := m.sync(target); all || err != nil || len(m.said(event.SyncRefused)) != 1 {
		t.Error("for a reason that will not pass:", all, err)
	}
	delete(m.fail, "broken")
	if all, err := m.sync(target); !all || err != nil || m.holds("broken", "/app/a.py") != "new" {
		t.Error(all, err)
	}
}

func TestThenCommand(t *testing.T) {
	m := newMade(t, pod("one", "app:x"), pod("two", "app:x"))
	target := syncedTarget("x", "y", map[string]string{"/app/a.py": "new", "/run/b": "new"})
	m.command = func(context.Context) error { return errors.New("exit code 3") }
	all, err := m.sync(target)
	if all || err == nil || event.IsTransient(err) ||
		!strings.Contains(err.Error(), "reload it failed: exit code 3\nwhat it said") {
		t.Fatal(all, err)
	}
	m.command, m.commands = nil, nil
	if all, err := m.sync(target); !all || err != nil {
		t.Fatal("again:", all, err)
	}
	slices.Sort(m.commands)
	if want := "[one: reload it two: reload it]"; fmt.Sprint(m.commands) != want {
		t.Errorf("the commands that failed are run again: %v", m.commands)
	}
	m.commands = nil
	target = syncedTarget("x", "z", map[string]string{"/app/a.py": "newer", "/run/b": "new"})
	if _, err := m.sync(target); err != nil || m.commands != nil {
		t.Error("of a rule whose files did not change:", m.commands, err)
	}
	target = syncedTarget("x", "z", map[string]string{"/app/a.py": "newer"})
	if _, err := m.sync(target); err != nil || len(m.commands) != 2 {
		t.Error("of one whose files were deleted:", m.commands, err)
	}
}

func TestThenCommandIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMade(t, pod("one", "app:x"))
		m.command = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		_, err := m.sync(syncedTarget("x", "y", map[string]string{"/run/b": "new"}))
		if err == nil || !strings.Contains(err.Error(), "has not ended after 1m0s") {
			t.Error(err)
		}
	})
}

// kubelet restarts a container whose image was changed.
func (m *made) kubelet() {
	m.client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		patch := action.(clienttesting.PatchAction) //nolint:forcetypeassert // as the verb says
		tracker := m.client.Tracker()
		object, err := tracker.Get(patch.GetResource(), "n", patch.GetName())
		if err != nil {
			return true, nil, err
		}
		pod := object.(*corev1.Pod).DeepCopy() //nolint:forcetypeassert // as the resource says
		_, image, _ := strings.Cut(string(patch.GetPatch()), `"image":"`)
		image, _, _ = strings.Cut(image, `"`)
		pod.Spec.Containers[0].Image = image
		pod.Status.ContainerStatuses[0].ContainerID += "-again"
		return true, pod, tracker.Update(patch.GetResource(), pod, "n")
	})
}

func TestThenRestart(t *testing.T) {
	isController := true
	m := newMade(t, pod("one", "app:x", func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r",
			Controller: &isController}}
	}))
	m.kubelet()
	target := syncedTarget("x", "y", map[string]string{"/app/a.py": "new", "/conf/b": "new"})
	all, err := m.sync(target)
	if !all || err != nil {
		t.Fatal(all, err)
	}
	now, err := m.client.CoreV1().Pods("n").Get(t.Context(), "one", metav1.GetOptions{})
	if err != nil || now.Spec.Containers[0].Image != "app:y" {
		t.Fatal(now.Spec.Containers, err)
	}
	if fmt.Sprint(m.builds) != "[y]" || len(m.writes) > 0 {
		t.Errorf("built %v, written to %v: its process would come back without the files", m.builds, m.writes)
	}
	if said := m.said(event.FilesSynced); len(said) != 1 || said[0].Payload.(event.SyncedFiles).Restarted != 1 {
		t.Errorf("said %+v", said)
	}
	ofImage := filesync.State{Mode: 0o644, Digest: "new"}
	m.held["one-again"] = map[string]filesync.State{"/app/a.py": ofImage, "/conf/b": ofImage}
	if all, err := m.sync(target); !all || err != nil || len(m.said(event.FilesSynced)) != 1 {
		t.Error("once more:", all, err)
	}
}

func TestStartedContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan struct{})
		m := newMade(t, pod("one", "app:x"))
		go func() { m.containers.run(ctx); close(ended) }()
		target := syncedTarget("x", "y", map[string]string{"/app/a.py": "new"})
		early := pod("early", "app:x")
		m.start(early)
		m.PodSeen(early)
		synctest.Wait()
		if m.holds("early", "/app/a.py") != "of the image" {
			t.Error("files were written before it was known what is wanted")
		}
		if _, err := m.sync(target); err != nil {
			t.Fatal(err)
		}
		late := pod("late", "app:x", ofDask)
		m.start(late)
		m.PodSeen(late)
		m.PodSeen(pod("other", "other:x"))
		synctest.Wait()
		ready := pod("ready", "app:x", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = true })
		m.start(ready)
		m.PodSeen(ready)
		synctest.Wait()
		said := m.said(event.FilesSynced)
		if len(said) != 3 || m.holds("ready", "/app/a.py") != "new" || m.holds("late", "/app/a.py") != "new" {
			t.Fatalf("said %+v", said)
		}
		if got, want := said[1].Payload, (event.SyncedFiles{Image: "app", Written: 1, Bytes: 10, Containers: 1, Python: true,
			Started: "n/late/c", InTime: true}); got != want {
			t.Errorf("said %+v", got)
		}
		if last := said[2].Payload.(event.SyncedFiles); last.InTime || said[2].Phase != event.Noted {
			t.Errorf("of one that was ready: %+v", said[2])
		}

		m.fail["failing"] = event.Transient(errors.New("connection lost"))
		failing := pod("failing", "app:x")
		m.start(failing)
		m.PodSeen(failing)
		<-time.After(4 * startsRetry)
		synctest.Wait()
		m.mu.Lock()
		delete(m.fail, "failing")
		m.mu.Unlock()
		<-time.After(startsRetryMost)
		synctest.Wait()
		if m.holds("failing", "/app/a.py") != "new" {
			t.Error("it is not tried again")
		}
		warned := m.said("a container that has started does not have the synced files yet, tried again")
		if len(warned) != 1 {
			t.Errorf("said %+v", warned)
		}

		if err := m.suspend(ctx, syncedTarget("z", "z", nil)); err != nil {
			t.Fatal(err)
		}
		next := pod("next", "app:z")
		m.start(next)
		m.PodSeen(next)
		synctest.Wait()
		if m.holds("next", "/app/a.py") != "of the image" {
			t.Error("older files were written into a newer image")
		}
		m.PodGone(next)
		end()
		<-ended
	})
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		var running sync.WaitGroup
		m := newMade(t, pod("one", "app:x"))
		m.background = func(work func(context.Context)) { running.Go(func() { work(ctx) }) }
		first, second := syncedTarget("y", "y", nil), syncedTarget("z", "z", nil)
		if _, err := m.sync(syncedTarget("x", "y", nil)); err != nil {
			t.Fatal(err)
		}
		m.building = func(ctx context.Context) error {
			select {
			case <-time.After(time.Hour):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		m.stage().Renew(first)
		<-time.After(time.Minute)
		synctest.Wait()
		m.stopRenewing() // the next run begins
		m.stage().Renew(second)
		<-time.After(2 * time.Hour)
		synctest.Wait()
		if fmt.Sprint(m.builds, m.pruned) != "[z] [z x]" {
			t.Errorf("built %v, kept %v", m.builds, m.pruned)
		}
		if said := m.said(event.ImageRenewed); len(said) != 1 || len(m.rollouts) != 0 {
			t.Errorf("said %+v", said)
		}
		m.config.Images[0].Rollout = "now"
		m.building = func(context.Context) error { return errors.New("no such package") }
		for range 2 {
			m.stage().Renew(syncedTarget("v", "v", nil))
			<-time.After(2 * renewPause)
			synctest.Wait()
		}
		if said := m.said("the image of the synced files cannot be built"); len(said) != 1 || said[0].Phase != event.Warned ||
			len(m.rollouts) != 0 {
			t.Errorf("said %+v", said)
		}
		m.building = nil
		m.stage().Renew(syncedTarget("v", "v", nil))
		<-time.After(2 * renewPause)
		synctest.Wait()
		if len(m.rollouts) != 1 {
			t.Error("the pods are not replaced")
		}
		m.stage().Renew(syncedTarget("u", "u", nil))
		end()
		running.Wait()
		if slices.Contains(m.builds, "u") {
			t.Error("it went on after the end")
		}
	})
}

func TestKnownInputs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "synced", "known.json")
	add := func(k *knownInputs, rest, tag string, paths ...string) sameRest {
		synced := &build.Synced{Rest: rest}
		for _, p := range paths {
			synced.Files = append(synced.Files, build.SyncedFile{Path: p, Rule: 1})
		}
		same, err := k.add("app", []string{tag}, synced)
		if err != nil {
			t.Fatal(err)
		}
		return same
	}
	k := readKnownInputs(path)
	add(k, "r", "one", "/a")
	add(k, "r", "two", "/b")
	add(k, "other", "three", "/c")
	k = readKnownInputs(path)
	same := add(k, "r", "four", "/a name that\nno container can get")
	if fmt.Sprint(same.Tags, same.Paths) != "[one two four] map[/a:1 /b:1]" {
		t.Errorf("remembered %+v", same)
	}
	for n := range 2 * keptTags {
		same = add(k, "r", fmt.Sprint(n))
		add(k, fmt.Sprint("rest ", n), "x")
	}
	if len(same.Tags) != keptTags || same.Tags[keptTags-1] != "99" || len(k.images["app"]) != keptRests {
		t.Errorf("remembered %d tags, %d Rests", len(same.Tags), len(k.images["app"]))
	}
	var many []string
	for n := range keptPaths {
		many = append(many, fmt.Sprintf("/%0200d", n))
	}
	add(k, "large", "x", many...)
	if info, err := os.Stat(path); err != nil || info.Size() > keptInputs {
		t.Errorf("%v %v", info.Size(), err)
	}
	if err := os.WriteFile(path, []byte(`{"app": [{"rest": "r"}, {}]} x`), 0o600); err != nil {
		t.Fatal(err)
	}
	if same := add(readKnownInputs(path), "r", "one", "/a"); fmt.Sprint(same.Tags) != "[one]" {
		t.Errorf("of a file that cannot be read: %+v", same)
	}
}
