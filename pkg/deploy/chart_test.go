package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
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

	ocireg "github.com/google/go-containerregistry/pkg/registry"
	"helm.sh/helm/v3/pkg/chart"
	helmregistry "helm.sh/helm/v3/pkg/registry"

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

// opened loads a chart.
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
	if _, _, err := cache.opened(t, source{chart: url, sha256: strings.Repeat("0", 64)}); err == nil ||
		event.Hint(err) == "" {
		t.Errorf("another sha256 was asked for: %v", err)
	}
	if err := os.WriteFile(cache.file(url), archive(t,
		map[string]string{"Chart.yaml": "apiVersion: v2\nname: other\nversion: 1.0.0\n"}), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := cache.opened(t, source{chart: url}); err == nil ||
		!strings.Contains(err.Error(), "not the file that was downloaded") {
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
	lacking := chartFolder(t, map[string]string{"Chart.yaml": demo["Chart.yaml"] +
		"dependencies: [{name: redis, version: 1.0.0}]\n"})
	loop := chartFolder(t, map[string]string{"Chart.yaml": demo["Chart.yaml"] +
		"dependencies: [{name: demo, version: 1.0.0, repository: \"file://.\"}]\n"})
	for where, wantErr := range map[source]string{
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
		if err == nil || !strings.Contains(err.Error(), wantErr) || event.Hint(err) == "" && where.chart != loop {
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
					map[bool]string{true: "apiVersion: v1\nentries:\n  demo:\n  ", false: "  "}[version == "1.0.0"], version, version,
					sum256(content))
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
	for version, file := range map[string]string{"1.0.0": "/charts/demo-1.0.0.tgz", "^1.0": "/charts/demo-1.2.0.tgz",
		"": "/charts/demo-1.2.0.tgz"} {
		if _, err := open(version); err != nil || asked[file] != 1 {
			t.Errorf("version %q: %v, asked for %v", version, err, asked)
		}
	}
	before := asked["/charts/index.yaml"]
	if _, err := open("1.0.0"); err != nil || asked["/charts/index.yaml"] != before {
		t.Errorf("an exact version that is known: %v, the index was asked for %d times more", err,
			asked["/charts/index.yaml"]-before)
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

// A repository is asked as helm repo add has set it: its certificate, its user, also for archives
// at another place of its host.
func TestChartRepositoryThatWasAdded(t *testing.T) {
	content := archive(t, demo)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/charts/index.yaml":
			fmt.Fprint(w, "apiVersion: v1\nentries:\n  demo:\n  - {name: demo, version: 1.0.0, urls: [/files/demo.tgz]}\n")
		case "/files/demo.tgz":
			_, _ = w.Write(content)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		"repositories.yaml": fmt.Sprintf("repositories:\n- {name: mine, url: %s/charts, username: me, password: secret, "+
			"caFile: %s/ca.pem}\n", server.URL, dir),
		"app/Chart.yaml": chartText("app", "1.0.0", `{name: demo, version: ^1, repository: "@mine"}`)})
	t.Setenv("HELM_REPOSITORY_CONFIG", filepath.Join(dir, "repositories.yaml"))
	for _, from := range []source{{chart: "demo", repo: server.URL + "/charts"}, {chart: filepath.Join(dir, "app")}} {
		if _, _, err := (&charts{dir: t.TempDir()}).opened(t, from); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	_, _, err := (&charts{dir: t.TempDir()}).opened(t, source{chart: "demo", repo: server.URL + "/charts"})
	if err == nil || !strings.Contains(err.Error(), `the repository "mine"`) || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("without its certificate: %v", err)
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
		files := map[string]string{"Chart.yaml": strings.ReplaceAll(demo["Chart.yaml"], "1.0.0", version),
			"templates/a.yaml": "# a\n"}
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
	if _, _, err := (&charts{dir: dir}).opened(t, source{chart: "oci://" + host + "/charts/other",
		version: "1.0.0"}); err == nil || event.Hint(err) == "" {
		t.Errorf("a chart that is not there: %v", err)
	}
}

func TestDependencies(t *testing.T) {
	content := archive(t, demo)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/index.yaml" {
			fmt.Fprint(w,
				"apiVersion: v1\nentries:\n  demo:\n  - {name: demo, version: 1.0.0, urls: [demo.tgz]}\n  - {name: demo, "+
					"version: 1.0.1, urls: [none.tgz]}\n")
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
		"app/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\ndependencies:\n- {name: demo, version: ^1, " +
			"repository: \"" + server.URL + "\"}\n- {name: lib, version: 1.0.0, repository: \"file://../lib\"}\n",
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

var demo = map[string]string{"Chart.yaml": "apiVersion: v2\nname: demo\nversion: 1.0.0\n",
	"templates/a.yaml": "# {{ .Values.a }}\n"}
