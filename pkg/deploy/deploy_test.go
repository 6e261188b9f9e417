package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/devloop/devloop/pkg/event"
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

func TestChartIsDownloadedOnce(t *testing.T) {
	asked := 0
	content := archive(t, demo)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write(content)
	}))
	defer server.Close()
	url := server.URL + "/demo-1.0.0.tgz"
	cache := charts{t.TempDir()}
	for range 2 {
		loaded, digest, err := cache.load(t.Context(), event.Stage{}, url, "")
		if err != nil {
			t.Fatal(err)
		}
		if loaded.Name() != "demo" || len(digest) != 64 {
			t.Errorf("chart %s, digest %q", loaded.Name(), digest)
		}
	}
	server.Close()
	if _, _, err := cache.load(t.Context(), event.Stage{}, url, ""); err != nil || asked != 1 {
		t.Errorf("asked %d times; without the server: %v", asked, err)
	}
	if _, _, err := cache.load(t.Context(), event.Stage{}, url, strings.Repeat("0", 64)); err == nil || event.Hint(err) == "" {
		t.Errorf("another sha256 was asked for: %v", err)
	}
	if err := os.WriteFile(cache.file(url), archive(t, map[string]string{"Chart.yaml": "apiVersion: v2\nname: other\nversion: 1.0.0\n"}), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := cache.load(t.Context(), event.Stage{}, url, ""); err == nil || !strings.Contains(err.Error(), "not the file that was downloaded") {
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
	cache := charts{t.TempDir()}
	lacking := filepath.Join(t.TempDir(), "demo")
	if err := os.MkdirAll(lacking, 0o755); err != nil {
		t.Fatal(err)
	}
	needs := demo["Chart.yaml"] + "dependencies: [{name: redis, version: 1.0.0, repository: \"https://charts.invalid\"}]\n"
	if err := os.WriteFile(filepath.Join(lacking, "Chart.yaml"), []byte(needs), 0o644); err != nil {
		t.Fatal(err)
	}
	for where, says := range map[string]string{
		server.URL + "/login.tgz":   "gzip",
		server.URL + "/missing.tgz": "404",
		"oci://charts.invalid/demo": "not a kind of address",
		lacking:                     "redis",
		t.TempDir():                 "Chart.yaml",
	} {
		if _, _, err := cache.load(t.Context(), event.Stage{}, where, ""); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// read returns what a release is made from.
func read(t *testing.T, version string, files map[string]string, set map[string]any) desired {
	t.Helper()
	dir := t.TempDir()
	r := Release{Name: "demo", Namespace: "demo", Chart: filepath.Join(dir, "demo.tgz"), Set: set}
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
	want, err := New(&Cluster{version: version}, "demo", nil, dir).read(t.Context(), event.Stage{}, r)
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func TestValues(t *testing.T) {
	want := read(t, "v1.34.3", map[string]string{"a.yaml": "a: 1\nb: {c: 2, d: 3}\n", "b.yaml": "b: {c: 4}\n"}, map[string]any{
		"b.e":          1000680000,
		"b.f":          "8",
		`labels.x\.y`:  "a,b=c",
		"list[0].name": "first",
		"on":           true,
		"half":         0.5,
		"gone":         nil,
	})
	if got := fmt.Sprintf("%T %v %v", want.values["b"].(map[string]any)["e"], want.values, want.inputs != ""); got !=
		"int64 map[a:1 b:map[c:4 d:3 e:1000680000 f:8] gone:<nil> half:0.5 labels:map[x.y:a,b=c] list:[map[name:first]] on:true] true" {
		t.Error(got)
	}
}

func TestInputs(t *testing.T) {
	values := map[string]string{"a.yaml": "a: 1\n"}
	first := read(t, "v1.34.3", values, nil).inputs
	if got := read(t, "v1.34.3", values, nil).inputs; got != first {
		t.Error("the same inputs have another hash")
	}
	for name, other := range map[string]string{
		"values":      read(t, "v1.34.3", map[string]string{"a.yaml": "a: 2\n"}, nil).inputs,
		"set":         read(t, "v1.34.3", values, map[string]any{"b": 1}).inputs,
		"the cluster": read(t, "v1.35.0", values, nil).inputs,
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
	w := workload{"deployment", "demo", "web"}
	long := time.Now().Add(-time.Minute)
	for _, test := range []struct {
		name, reason string
		restarts     int32
		since        time.Time
		ending       bool
		bad          bool
	}{
		{"an image that nobody has", "ErrImageNeverPull", 0, time.Time{}, false, true},
		{"a pull that failed just now", "ImagePullBackOff", 0, time.Time{}, false, false},
		{"a pull that keeps failing", "ImagePullBackOff", 0, long, false, true},
		{"one crash", "CrashLoopBackOff", 1, long, false, false},
		{"crash after crash", "CrashLoopBackOff", 2, time.Time{}, false, true},
		{"a pod that is ending", "CrashLoopBackOff", 9, long, true, false},
		{"a pod that starts", "ContainerCreating", 0, long, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "web-1", Labels: map[string]string{"app": "web"}}}
			if test.ending {
				pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				pod.Finalizers = []string{"test/keep"}
			}
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: test.restarts,
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: test.reason, Message: "because"}}}}
			d := New(&Cluster{Client: fake.NewClientset(pod)}, "demo", nil, "")
			seen := map[string]time.Time{}
			if !test.since.IsZero() {
				seen["web-1 main "+test.reason] = test.since
			}
			err := d.verdict(t.Context(), w, "app=web", seen)
			if (err != nil) != test.bad {
				t.Errorf("verdict %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), test.reason+": because") || event.Hint(err) == "") {
				t.Errorf("verdict %v, hint %q", err, event.Hint(err))
			}
		})
	}
}

// permits is a journal in memory.
type permits map[string][]string

func (p permits) Record(kind, name string) error { p[kind] = append(p[kind], name); return nil }
func (p permits) Forget(string, string) error    { return nil }
func (p permits) Names(kind string) []string     { return p[kind] }
func (p permits) Has(kind, name string) bool     { return slices.Contains(p[kind], name) }

func TestOnlyWhatIsRecordedIsRemoved(t *testing.T) {
	d := New(nil, "demo", permits{kindRelease: {"old/gone", "demo/b"}}, "")
	var got []string
	for _, r := range d.recorded([]Release{{Name: "a", Namespace: "demo"}, {Name: "b", Namespace: "demo"}}) {
		got = append(got, r.ID())
	}
	if strings.Join(got, " ") != "old/gone demo/b" {
		t.Errorf("%v", got)
	}
}
