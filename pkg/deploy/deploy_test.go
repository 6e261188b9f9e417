package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ocireg "github.com/google/go-containerregistry/pkg/registry"
	"helm.sh/helm/v3/pkg/chart"
	helmregistry "helm.sh/helm/v3/pkg/registry"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// archive packs a chart's files as "helm package" does.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	packed := tar.NewWriter(compressed)
	for name, content := range files {
		if err := packed.WriteHeader(&tar.Header{Name: "demo/" + name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := packed.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var demo = map[string]string{"Chart.yaml": "apiVersion: v2\nname: demo\nversion: 1.0.0\n", "templates/a.yaml": "# {{ .Values.a }}\n"}

// opened finds a chart and reads it.
func (c *charts) opened(t *testing.T, from source) (*chart.Chart, string, error) {
	t.Helper()
	found, err := c.open(t.Context(), event.Stage{}, from)
	if err != nil {
		return nil, "", err
	}
	loaded, err := found.load(t.Context())
	return loaded, found.digest, err
}

func TestChartIsDownloadedOnce(t *testing.T) {
	asked := 0
	content := archive(t, demo)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write(content)
	}))
	defer server.Close()
	url := server.URL + "/demo-1.0.0.tgz"
	cache := &charts{dir: t.TempDir()}
	if err := os.Chmod(cache.dir, 0o755); err != nil { // as an earlier devloop made it
		t.Fatal(err)
	}
	for range 2 {
		loaded, digest, err := cache.opened(t, source{chart: url})
		if err != nil {
			t.Fatal(err)
		}
		if loaded.Name() != "demo" || len(digest) != 64 {
			t.Errorf("chart %s, digest %q", loaded.Name(), digest)
		}
	}
	for path, want := range map[string]os.FileMode{cache.dir: 0o700, cache.file(url): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	server.Close()
	if _, _, err := cache.opened(t, source{chart: url, sha256: sum256(content)}); err != nil || asked != 1 {
		t.Errorf("asked %d times; without the server: %v", asked, err)
	}
	if _, _, err := cache.opened(t, source{chart: url, sha256: strings.Repeat("0", 64)}); err == nil || event.Hint(err) == "" {
		t.Errorf("another sha256 was asked for: %v", err)
	}
	if err := os.WriteFile(cache.file(url), archive(t, map[string]string{"Chart.yaml": "apiVersion: v2\nname: other\nversion: 1.0.0\n"}), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := cache.opened(t, source{chart: url}); err == nil || !strings.Contains(err.Error(), "not the file that was downloaded") {
		t.Errorf("a copy that was changed: %v", err)
	}
}

func TestChartThatIsNone(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/login.tgz" {
			_, _ = w.Write([]byte("<html>please log in</html>"))
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	cache := &charts{dir: t.TempDir()}
	lacking := chartFolder(t, map[string]string{"Chart.yaml": demo["Chart.yaml"] + "dependencies: [{name: redis, version: 1.0.0}]\n"})
	loop := chartFolder(t, map[string]string{"Chart.yaml": demo["Chart.yaml"] + "dependencies: [{name: demo, version: 1.0.0, repository: \"file://.\"}]\n"})
	for where, says := range map[source]string{
		{chart: server.URL + "/login.tgz"}:              "gzip",
		{chart: server.URL + "/missing.tgz"}:            "404",
		{chart: "ftp://charts.invalid/demo"}:            "not a kind of address",
		{chart: "demo", repo: server.URL}:               "404",
		{chart: "demo", repo: "http://me:pass@[::1]:1"}: "chart http://me:xxxxx@[::1]:1 demo",
		{chart: lacking}:                                "redis",
		{chart: loop}:                                   "depend on each other",
		{chart: t.TempDir()}:                            "Chart.yaml",
	} {
		_, _, err := cache.opened(t, where)
		if err == nil || !strings.Contains(err.Error(), says) || event.Hint(err) == "" && where.chart != loop {
			t.Errorf("%s: %v", where, err)
		}
		if err != nil && strings.Contains(err.Error(), ":pass@") {
			t.Errorf("%v tells a password", err)
		}
	}
}

// chartFolder writes the files of a chart into a new folder.
func chartFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	return dir
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChartRepository(t *testing.T) {
	asked := map[string]int{}
	content := archive(t, demo)
	newest := "1.2.0"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		switch r.URL.Path {
		case "/charts/index.yaml":
			for _, version := range []string{"1.0.0", newest} {
				fmt.Fprintf(w, "%s- {name: demo, version: %s, urls: [demo-%s.tgz], digest: %s}\n",
					map[bool]string{true: "apiVersion: v1\nentries:\n  demo:\n  ", false: "  "}[version == "1.0.0"], version, version, sum256(content))
			}
		case "/charts/demo-1.0.0.tgz", "/charts/demo-1.2.0.tgz":
			_, _ = w.Write(content)
		case "/charts/demo-1.3.0.tgz":
			_, _ = w.Write(archive(t, demo)[1:])
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	open := func(version string) (*charts, error) {
		cache := &charts{dir: dir} // as after a restart
		_, _, err := cache.opened(t, source{chart: "demo", repo: server.URL + "/charts", version: version})
		return cache, err
	}
	for version, file := range map[string]string{"1.0.0": "/charts/demo-1.0.0.tgz", "^1.0": "/charts/demo-1.2.0.tgz", "": "/charts/demo-1.2.0.tgz"} {
		if _, err := open(version); err != nil || asked[file] != 1 {
			t.Errorf("version %q: %v, asked for %v", version, err, asked)
		}
	}
	before := asked["/charts/index.yaml"]
	if _, err := open("1.0.0"); err != nil || asked["/charts/index.yaml"] != before {
		t.Errorf("an exact version that is known: %v, the index was asked for %d times more", err, asked["/charts/index.yaml"]-before)
	}
	newest = "1.3.0"
	if _, err := open("^1.0"); err == nil || !strings.Contains(err.Error(), "its repository lists "+sum256(content)) {
		t.Errorf("an archive that is not the listed one: %v", err)
	}
	newest = "1.2.0"
	cache, err := open("^1.0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open("2.0.0"); err == nil || event.Hint(err) == "" {
		t.Errorf("a version that is not there: %v", err)
	}
	server.Close()
	for _, version := range []string{"1.0.0", "^1.0"} {
		if _, err := open(version); err != nil {
			t.Errorf("offline, version %q: %v", version, err)
		}
	}
	if _, _, err := cache.opened(t, source{chart: "demo", repo: server.URL + "/charts", version: "^1.0"}); err != nil {
		t.Error(err)
	}
}

func TestChartFromRegistry(t *testing.T) {
	server := httptest.NewServer(ocireg.New(ocireg.Logger(log.New(io.Discard, "", 0))))
	host := strings.TrimPrefix(server.URL, "http://")
	client, err := helmregistry.NewClient(helmregistry.ClientOptPlainHTTP())
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		files := map[string]string{"Chart.yaml": strings.ReplaceAll(demo["Chart.yaml"], "1.0.0", version), "templates/a.yaml": "# a\n"}
		if _, err := client.Push(archive(t, files), host+"/charts/demo:"+version); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for _, offline := range []bool{false, true} {
		if offline {
			server.Close()
		}
		for from, version := range map[source]string{
			{chart: "oci://" + host + "/charts/demo", version: "1.0.0"}: "1.0.0",
			{chart: "oci://" + host + "/charts/demo:1.0.0"}:             "1.0.0",
			{chart: "oci://" + host + "/charts/demo", version: "~1"}:    "1.1.0",
			{chart: "oci://" + host + "/charts/demo"}:                   "1.1.0",
		} {
			loaded, _, err := (&charts{dir: dir}).opened(t, from)
			if err != nil || loaded.Metadata.Version != version {
				t.Errorf("%s, offline %t: %v, %v", from, offline, loaded, err)
			}
		}
	}
	if _, _, err := (&charts{dir: dir}).opened(t, source{chart: "oci://" + host + "/charts/other", version: "1.0.0"}); err == nil || event.Hint(err) == "" {
		t.Errorf("a chart that is not there: %v", err)
	}
}

func TestDependencies(t *testing.T) {
	content := archive(t, demo)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/index.yaml" {
			fmt.Fprint(w, "apiVersion: v1\nentries:\n  demo:\n  - {name: demo, version: 1.0.0, urls: [demo.tgz]}\n  - {name: demo, version: 1.0.1, urls: [none.tgz]}\n")
			return
		}
		if r.URL.Path == "/demo.tgz" {
			_, _ = w.Write(content)
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"app/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies:\n- {name: demo, version: ^1, repository: \"" + server.URL + "\"}\n- {name: lib, version: 1.0.0, repository: \"file://../lib\"}\n",
		"app/Chart.lock": "dependencies:\n- {name: demo, version: 1.0.0, repository: \"" + server.URL + "\"}\n",
		"lib/Chart.yaml": "apiVersion: v2\nname: lib\nversion: 1.0.0\n", "lib/templates/a.yaml": "# a\n",
	})
	cache := &charts{dir: t.TempDir()}
	app := source{chart: filepath.Join(dir, "app")}
	loaded, before, err := cache.opened(t, app)
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Dependencies()) != 2 {
		t.Errorf("%d dependencies", len(loaded.Dependencies()))
	}
	write(t, dir, map[string]string{"lib/templates/a.yaml": "# b\n"})
	if _, after, err := cache.opened(t, app); err != nil || after == before {
		t.Errorf("a file of a chart that it depends on does not count: %v", err)
	}
	r := Release{Chart: app.chart}
	if files := r.Files(); !slices.Contains(files, filepath.Join(dir, "lib")) {
		t.Errorf("watched: %v", files)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "app")); err != nil || len(entries) != 2 {
		t.Errorf("the chart's own folder has %v now, %v", entries, err)
	}
}

// read returns what a release is made from.
func read(t *testing.T, version string, files map[string]string, r Release) (desired, map[string]any) {
	t.Helper()
	dir := t.TempDir()
	r.Name, r.Namespace, r.Chart = "demo", "demo", filepath.Join(dir, "demo.tgz")
	if err := os.WriteFile(r.Chart, archive(t, demo), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if content, ok := files[name]; ok {
			r.ValuesFiles = append(r.ValuesFiles, filepath.Join(dir, name))
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := New(&kube.Cluster{Version: version}, "demo", nil, Options{CacheDir: dir}).read(t.Context(), event.Stage{}, r)
	if err != nil {
		t.Fatal(err)
	}
	values, err := merge(r)
	if err != nil {
		t.Fatal(err)
	}
	return want, values
}

func TestValues(t *testing.T) {
	want, values := read(t, "v1.34.3", map[string]string{"a.yaml": "a: 1\nb: {c: 2, d: 3}\n", "b.yaml": "b: {c: 4}\n"}, Release{
		InlineValues: map[string]any{"b": map[string]any{"d": int64(1000680000), "g": "inline"}, "drop": nil},
		Set: map[string]any{
			"b.e":          1000680000,
			"b.f":          "8",
			`labels.x\.y`:  "a,b=c",
			"list[0].name": "first",
			"on":           true,
			"half":         0.5,
			"gone":         nil,
		},
		SetString: map[string]string{"number": "007"},
	})
	if got := fmt.Sprintf("%T %v %v", values["b"].(map[string]any)["e"], values, want.inputs != ""); got !=
		"int64 map[a:1 b:map[c:4 d:1000680000 e:1000680000 f:8 g:inline] drop:<nil> gone:<nil> half:0.5 labels:map[x.y:a,b=c] list:[map[name:first]] number:007 on:true] true" {
		t.Error(got)
	}
}

func TestInputs(t *testing.T) {
	values := map[string]string{"a.yaml": "a: 1\n"}
	inputs := func(version string, files map[string]string, r Release) string {
		want, _ := read(t, version, files, r)
		return want.inputs
	}
	first := inputs("v1.34.3", values, Release{})
	if got := inputs("v1.34.3", values, Release{DependsOn: []string{"other"}, Rollback: true}); got != first {
		t.Error("the same inputs have another hash")
	}
	for name, other := range map[string]string{
		"values":      inputs("v1.34.3", map[string]string{"a.yaml": "a: 2\n"}, Release{}),
		"inline":      inputs("v1.34.3", values, Release{InlineValues: map[string]any{"b": 1}}),
		"set":         inputs("v1.34.3", values, Release{Set: map[string]any{"b": 1}}),
		"setString":   inputs("v1.34.3", values, Release{SetString: map[string]string{"b": "1"}}),
		"a command":   inputs("v1.34.3", values, Release{After: []Command{{Args: []string{"true"}}}}),
		"the cluster": inputs("v1.35.0", values, Release{}),
	} {
		if other == first {
			t.Errorf("%s does not count", name)
		}
	}
	if len(first) > 63 {
		t.Errorf("%q does not fit into a label", first)
	}
}

func TestLacking(t *testing.T) {
	for _, test := range []struct {
		want, all, updated, available int32
		says                          string
	}{
		{2, 2, 2, 2, ""},
		{0, 0, 0, 0, ""},
		{2, 2, 1, 2, "1 of 2 replicas updated"},
		{2, 3, 2, 2, "1 old replicas are ending"},
		{2, 2, 2, 1, "1 of 2 replicas available"},
	} {
		if got := lacking(test.want, test.all, test.updated, test.available); got != test.says {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	of := workload{kind: "deployment", namespace: "demo", name: "web"}
	long := time.Now().Add(-time.Minute)
	for _, test := range []struct {
		name, reason, message string
		restarts              int32
		since                 time.Time
		ending                bool
		bad                   bool
	}{
		{"an image that nobody has", "ErrImageNeverPull", "because", 0, time.Time{}, false, true},
		{"a pull that failed just now", "ImagePullBackOff", "because", 0, time.Time{}, false, false},
		{"an image that is not there", "ErrImagePull", "manifest unknown", 0, time.Time{}, false, true},
		{"a pull that keeps failing", "ImagePullBackOff", "because", 0, long, false, true},
		{"one crash", "CrashLoopBackOff", "because", 1, long, false, false},
		{"crash after crash", "CrashLoopBackOff", "because", 2, time.Time{}, false, true},
		{"a pod that is ending", "CrashLoopBackOff", "because", 9, long, true, false},
		{"a pod that starts", "ContainerCreating", "", 0, long, false, false},
		{"a secret that may come", "CreateContainerConfigError", "because", 0, time.Time{}, false, false},
		{"a secret that does not come", "CreateContainerConfigError", "because", 0, long, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1", Labels: map[string]string{"app": "web"}}}
			if test.ending {
				pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				pod.Finalizers = []string{"test/keep"}
			}
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: test.restarts,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: test.reason, Message: test.message}}}}
			w := &wait{Deployer: New(&kube.Cluster{Client: fake.NewClientset(pod)}, "demo", nil, Options{}), seen: map[string]span{}}
			if !test.since.IsZero() {
				for _, trouble := range troubles(pod, false) {
					w.seen["web-1 "+trouble.key] = span{test.since, time.Now()}
				}
			}
			_, err := w.verdict(t.Context(), of, rollout{lacks: "1 of 1 replicas available", selector: "app=web"})
			if (err != nil) != test.bad {
				t.Errorf("verdict %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), test.reason+": "+test.message) || event.Hint(err) == "") {
				t.Errorf("verdict %v, hint %q", err, event.Hint(err))
			}
		})
	}
}

// TestKilledContainer is about what helps a container that was killed: nothing is said of its memory that was not seen.
func TestKilledContainer(t *testing.T) {
	limited := func(name string) corev1.Container {
		return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}}}
	}
	const raise = "raise the container's memory limit"
	const perhaps = "exit code 137 is SIGKILL, and its memory limit is 32Mi: if it reached that, " + raise
	for _, test := range []struct {
		name   string
		spec   corev1.PodSpec
		code   int32
		reason string
		hint   string // how it begins
	}{
		{"the node saw the memory kill", corev1.PodSpec{Containers: []corev1.Container{limited("main")}}, 137, "OOMKilled", raise},
		{"the node saw its end first", corev1.PodSpec{Containers: []corev1.Container{{Name: "other"}, limited("main")}}, 137, "Error", perhaps},
		{"an init container", corev1.PodSpec{InitContainers: []corev1.Container{limited("main")}}, 137, "Error", perhaps},
		{"without a limit", corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, limited("other")}}, 137, "Error", hintLines},
		{"another end", corev1.PodSpec{Containers: []corev1.Container{limited("main")}}, 1, "Error", hintLines},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: test.spec, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name: "main", RestartCount: crashes,
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: test.code, Reason: test.reason}},
			}}}}
			all := troubles(pod, false)
			if len(all) != 1 || !strings.HasPrefix(all[0].hint, test.hint) {
				t.Errorf("%+v, not the hint %q", all, test.hint)
			}
		})
	}
}

// TestFactsOfTheFailure: what hindered a container before it started is not why it failed.
func TestFactsOfTheFailure(t *testing.T) {
	started := metav1.NewTime(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1", UID: "1"},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, StartedAt: started}}}}}}
	for after, want := range map[time.Duration]bool{-time.Second: false, 0: true, time.Second: true} {
		mount := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1.1"}, Type: corev1.EventTypeWarning,
			InvolvedObject: corev1.ObjectReference{UID: "1"}, Reason: "FailedMount", Message: "not yet",
			LastTimestamp: metav1.NewTime(started.Add(after))}
		d := New(&kube.Cluster{Client: fake.NewClientset(pod, mount)}, "demo", nil, Options{})
		facts := d.facts(t.Context(), pod, trouble{container: "main"})
		if got := strings.Contains(facts, "FailedMount: not yet"); got != want {
			t.Errorf("an event %s after the start: %q", after, facts)
		}
	}
}

// TestUnsteady is about containers that Kubernetes calls ready as soon as they run.
func TestUnsteady(t *testing.T) {
	of := workload{kind: "deployment", namespace: "demo", name: "web"}
	probe := &corev1.Probe{}
	for _, test := range []struct {
		name     string
		probe    *corev1.Probe
		restarts int32
		runs     time.Duration // as devloop has seen it
		says     time.Duration // as the node does
		lacks    bool
	}{
		{"just started", nil, 0, 0, 0, true},
		{"seen for long enough", nil, 0, steady, 0, false},
		{"restarted", nil, 1, steady, 0, true},
		{"restarted, and running since", nil, 1, steadyAgain, 0, false},
		{"a clock that is off", nil, 0, 0, 30 * time.Second, true},
		{"since long ago", nil, 3, 0, time.Hour, false},
		{"probed", probe, 0, 0, 0, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1", Labels: map[string]string{"app": "web"}}}
		pod.Spec.Containers = []corev1.Container{{Name: "main", ReadinessProbe: test.probe}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: test.restarts, ContainerID: "c", Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-test.says))}}}}
		w := &wait{Deployer: New(&kube.Cluster{Client: fake.NewClientset(pod)}, "demo", nil, Options{}), seen: map[string]span{}}
		if test.runs > 0 {
			w.started["c"] = time.Now().Add(-test.runs)
		}
		if lacks, err := w.verdict(t.Context(), of, rollout{selector: "app=web"}); err != nil || (lacks != "") != test.lacks {
			t.Errorf("%s: %q, %v", test.name, lacks, err)
		}
	}
}

// TestPassing is about what decides whether a run is tried again: what Helm or the API server said, and not what pods printed.
func TestPassing(t *testing.T) {
	refused := errors.New("Get \"https://192.0.2.1\": dial tcp 192.0.2.1:8443: connect: connection refused")
	failed := errors.New("job failed: BackoffLimitExceeded")
	report := func(err error) error {
		return event.WithHint(fmt.Errorf("%w\n%s", plain(err), "hook job/a: pod a-1 failed\nfirst try: connection refused"), "mend it")
	}
	for name, test := range map[string]struct {
		err    error
		passes bool
	}{
		"the API server is away":           {fmt.Errorf("release a: %w", refused), true},
		"the same beside something":        {errors.Join(fmt.Errorf("release a: %w", refused), errors.New("b")), true},
		"a hook that printed it":           {errors.Join(report(failed), nil), false},
		"a hook while the server was away": {errors.Join(report(refused), nil), true},
		"a pod that printed it":            {event.WithHint(finalError{errors.New("pod a-1: connection refused")}, "mend it"), false},
		"Helm's list of one":               {plain(errors.New("1 error occurred:\n\t* Get \"https://192.0.2.1\": i/o timeout\n\n")), true},
		"an API server that starts":        {fmt.Errorf("create: %w", apierrors.NewForbidden(pods, "a", errors.New("not yet ready to handle request"))), true},
		"a quota":                          {apierrors.NewForbidden(pods, "a", errors.New("exceeded quota")), false},
		"a mistake":                        {errors.New("parse error"), false},
	} {
		if got := event.IsTransient(passing(test.err)); got != test.passes {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestOrdered(t *testing.T) {
	var got []string
	for _, r := range ordered([]Release{{Name: "web", DependsOn: []string{"db", "queue"}}, {Name: "db"}, {Name: "queue", DependsOn: []string{"db"}}}) {
		got = append(got, r.Name)
	}
	if strings.Join(got, " ") != "db queue web" {
		t.Errorf("%v", got)
	}
}

func TestParse(t *testing.T) {
	objects, err := parse(`
# Source: nothing here
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
- {apiVersion: v1, kind: Secret, metadata: {name: b, namespace: other}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: c}
spec: {ttlSecondsAfterFinished: 0}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: d}
spec: {volumeClaimTemplates: [{metadata: {name: data}}]}
`, "demo")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", objects)
	if got != "[configmap/a secret/b job/c statefulset/d]" || objects[0].namespace != "demo" || objects[1].namespace != "other" || !objects[2].passing || objects[3].claims[0] != "data" {
		t.Error(got)
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"chart/values.yaml": "replicas: one\nimage:\n  tag: 1\n", "values.yaml": "a: 1\nimage: {tag: 2}\n"})
	want := &desired{Release: Release{Name: "demo", Chart: filepath.Join(dir, "chart"), ValuesFiles: []string{filepath.Join(dir, "values.yaml")},
		InlineValues: map[string]any{"deep": map[string]any{"list": []any{"a"}}}, Set: map[string]any{`x.y\.z`: 1}, SetString: map[string]string{"x.s": "1"}}, name: "demo"}
	schema := func(lines ...string) error {
		return want.against(errors.New("demo:\n" + strings.Join(lines, "\n") + "\n"))
	}
	for line, says := range map[string]string{
		"- at '/replicas': got string, want integer":     filepath.Join(dir, "chart/values.yaml") + ":1:1: release demo: value replicas: got string",
		"- at '/image/tag': got number, want string":     filepath.Join(dir, "values.yaml") + ":2:9: release demo: value image.tag: got number",
		"- at '/x/y.z': got number":                      "release demo: value x.y.z: got number",
		"- at '/nothing': got number":                    "release demo: value nothing: got number",
		"sub:\n- at '/a': got number, want string":       "release demo: value sub.a: got number",
		"- at '/deep/list/0': got string, want a number": "release demo: value deep.list.0: got string",
	} {
		if err := schema(line); !strings.HasPrefix(err.Error(), says) || event.Hint(err) == "" {
			t.Errorf("%s: %v", line, err)
		}
	}
	for line, in := range map[string]string{"- at '/x/y.z': no": "set", "- at '/x/s': no": "setString", "- at '/deep/list/0': no": "inlineValues"} {
		var wrong *ValueError
		if err := schema(line); !errors.As(err, &wrong) || wrong.In != in {
			t.Errorf("%s is given by %v", line, err)
		}
	}
	for text, says := range map[string]string{
		`template: demo/templates/a.yaml:3:14: executing "demo/templates/a.yaml" at <.Values.a.b>: nil pointer evaluating interface {}.b`: "templates/a.yaml:3:14: at <.Values.a.b>: nil pointer evaluating interface {}.b",
		`parse error at (demo/templates/a.yaml:7): function "nope" not defined`:                                                           `templates/a.yaml:7: function "nope" not defined`,
		`execution error at (demo/templates/a.yaml:2:4): a is needed`:                                                                     "templates/a.yaml:2:4: a is needed",
		`template: demo/templates/a.yaml:5:3: executing "demo/templates/a.yaml" at <include "x" .>: error calling include: template: demo/templates/_helpers.tpl:9:4: executing "x" at <.Values.b.c>: nil pointer evaluating interface {}.c`: "templates/_helpers.tpl:9:4: at <.Values.b.c>: nil pointer evaluating interface {}.c",
	} {
		if got := want.inTemplate(errors.New(text)).Error(); got != filepath.Join(dir, "chart", says) {
			t.Errorf("%s", got)
		}
	}
}

func TestDiff(t *testing.T) {
	before := []document{documentOf("# Source: demo/a\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: one\n", "demo", ""),
		documentOf("kind: Secret\nmetadata: {name: s}\nstringData: {password: one}\n", "demo", ""), documentOf("kind: Pod\nmetadata: {name: gone}\n", "demo", "")}
	after := []document{documentOf("# Source: demo/b\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  x: two\n", "demo", ""),
		documentOf("kind: Secret\nmetadata: {name: s}\nstringData: {password: two}\n", "demo", ""), documentOf("kind: Job\nmetadata: {name: new}\n", "demo", "hook ")}
	got := compare(before, after)
	for _, line := range []string{"-  x: one", "+  x: two", "--- ConfigMap demo/a", "+++ hook Job demo/new", "-kind: Pod", "+  password: hidden"} {
		if !strings.Contains(got, line+"\n") && !strings.Contains(got, "\n"+line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
	if strings.Contains(got, "password: one") || strings.Contains(got, "password: two") {
		t.Errorf("a secret is told:\n%s", got)
	}
	if compare(before, before) != "" {
		t.Error("equal lists differ")
	}
}

// permits is a journal in memory.
type permits map[string][]string

func (p permits) Record(kind, name string) error { p[kind] = append(p[kind], name); return nil }
func (p permits) Forget(string, string) error    { return nil }
func (p permits) Names(kind string) []string     { return p[kind] }
func (p permits) Has(kind, name string) bool     { return slices.Contains(p[kind], name) }

func TestOnlyWhatIsRecordedIsRemoved(t *testing.T) {
	here, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(here, link); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.EvalSymlinks(here) // where temporary files are may be a link, too
	if err != nil {
		t.Fatal(err)
	}
	d := New(nil, "demo", permits{
		kindRelease: {"old/gone", "demo/b", "old/here", "old/elsewhere", "demo/c"},
		kindFolder:  {"release old/here@" + here, "release old/elsewhere@/other", "release demo/c@/other", "crd old/gone@/other"},
	}, Options{Folder: link})
	recorded, elsewhere := d.recorded([]Release{{Name: "a", Namespace: "demo"}, {Name: "b", Namespace: "demo"}, {Name: "c", Namespace: "demo"}})
	var got []string
	for _, r := range recorded {
		got = append(got, r.ID())
	}
	if strings.Join(got, " ") != "old/gone old/here demo/b demo/c" || !slices.Equal(elsewhere, []string{"old/elsewhere"}) {
		t.Errorf("%v, of another folder %v", got, elsewhere)
	}
}

// silent is an API server that takes requests and answers none.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// An API server that hangs takes a run no longer than it may take to answer: tries of a run start half a minute apart.
func TestSilentAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://192.0.2.1", Transport: silent{}})
		if err != nil {
			t.Fatal(err)
		}
		d := New(&kube.Cluster{Context: "minikube", Client: client}, "demo", nil, Options{})
		releases := []Release{{Name: "web", Namespace: "demo", CreateNamespace: true}}
		sink := func(event.Event) {}

		begin := time.Now()
		if err := d.Validate(t.Context(), sink, releases); err != nil {
			t.Errorf("no mistake of a chart: %v", err)
		}
		if took := time.Since(begin); took != kube.AnswerTimeout {
			t.Errorf("validation took %s", took)
		}
		begin = time.Now()
		err = d.Apply(t.Context(), sink, releases, time.Minute)
		if took := time.Since(begin); took != kube.AnswerTimeout {
			t.Errorf("it took %s to give up", took)
		}
		const want = `kube context "minikube": its API server does not answer: `
		if !event.IsTransient(err) || event.Hint(err) != kube.HintCluster || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v", err)
		}
	})
}
