package deploy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/downloader"
	"helm.sh/helm/v3/pkg/getter"

	"github.com/devloop/devloop/pkg/event"
)

// chartText is a Chart.yaml.
func chartText(name, version, dependencies string) string {
	text := "apiVersion: v2\nname: " + name + "\nversion: " + version + "\n"
	if dependencies != "" {
		text += "dependencies: [" + dependencies + "]\n"
	}
	return text
}

// subchart is a chart named sub that renders its version, a text and its values.
func subchart(version, text string) map[string]string {
	return map[string]string{"Chart.yaml": chartText("sub", version, ""),
		"values.yaml":      "a: 1\nb: 2\nexports: {out: {given: " + text + "}}\n",
		"templates/s.yaml": "version: " + version + "\ntext: " + text + "\nvalues: {{ omit .Values \"global\" | toJson }}\n"}
}

// in returns files in a folder.
func in(folder string, files map[string]string) map[string]string {
	moved := map[string]string{}
	for name, content := range files {
		moved[path.Join(folder, name)] = content
	}
	return moved
}

// together returns all of the files.
func together(sets ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

// rendering is what a loaded chart renders.
func rendering(t *testing.T, loaded *chart.Chart, values map[string]any) map[string]string {
	t.Helper()
	options := chartutil.ReleaseOptions{Name: "app", Namespace: "demo"}
	want := &desired{Release: Release{Name: "app", InlineValues: values}}
	merged, _, err := want.valuesFor(loaded, options, chartutil.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	files, err := renderTemplates(t.Context(), loaded, merged, options, chartutil.DefaultCapabilities, nil)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A chart whose dependencies are as people leave them renders what it renders after helm dependency
// update, and its folder stays as it is.
func TestDependenciesAreThoseOfHelm(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		version, isArchive := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, ".tgz"), "/sub-")
		switch {
		case isArchive:
			_, _ = w.Write(archive(t, subchart(version, "repository")))
		case r.URL.Path == "/index.yaml":
			fmt.Fprint(w, "apiVersion: v1\nentries:\n  sub:\n  - {name: sub, version: 0.1.0, urls: [sub-0.1.0.tgz]}\n"+
				"  - {name: sub, version: 0.2.0, urls: [sub-0.2.0.tgz]}\n")
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	local := `{name: sub, version: 0.1.0, repository: "file://../sub"}`
	remote := func(version string) string {
		return fmt.Sprintf(`{name: sub, version: %q, repository: %q}`, version, server.URL)
	}
	app := func(dependencies string) map[string]string {
		return map[string]string{"app/Chart.yaml": chartText("app", "1.0.0", dependencies),
			"app/templates/a.yaml": "given: {{ .Values.given }}\n"}
	}
	packed := func(version, text string) map[string]string {
		return map[string]string{"app/charts/sub-" + version + ".tgz": string(archive(t, subchart(version, text)))}
	}
	beside := in("sub", subchart("0.1.0", "new"))
	for name, test := range map[string]struct {
		files  map[string]string
		values map[string]any
		want   string // in what is rendered
	}{
		"none packed": {files: together(app(local), beside), want: "text: new"},
		"an old copy": {files: together(app(local), beside, packed("0.1.0", "old")), want: "text: new"},
		"an old copy in a folder": {files: together(app(`{name: sub, version: ">=0.1.0", repository: "file://../sub"}`),
			in("sub", subchart("0.2.0", "new")), packed("0.1.0", "old")), want: "text: new"},
		"v1": {files: together(beside, packed("0.1.0", "old"), map[string]string{
			"app/Chart.yaml":        "apiVersion: v1\nname: app\nversion: 1.0.0\n",
			"app/requirements.yaml": "dependencies: [" + local + "]\n"}), want: "text: new"},
		"raised":     {files: together(app(remote("0.2.0")), packed("0.1.0", "old")), want: "version: 0.2.0"},
		"of a range": {files: together(app(remote("~0.2")), packed("0.1.0", "old")), want: "version: 0.2.0"},
		"null for an old version": {files: together(app(remote("0.2.0")), packed("0.1.0", "old")),
			values: map[string]any{"sub": map[string]any{"a": nil}}, want: `values: {"b":2,`},
		"null for an old copy": {files: together(app(local), beside, packed("0.1.0", "old")),
			values: map[string]any{"sub": map[string]any{"a": nil}}, want: `values: {"b":2,`},
		"two aliases": {files: together(app(`{name: sub, version: 0.1.0, alias: one, repository: "file://../sub"},
			{name: sub, version: 0.1.0, alias: two, repository: "file://../sub"}`), beside, packed("0.1.0", "old")),
			values: map[string]any{"two": map[string]any{"a": 7}}, want: `"a":7`},
		"a condition": {files: together(app(`{name: sub, version: 0.1.0, condition: sub.on, repository: "file://../sub"}`),
			beside, packed("0.1.0", "old")), values: map[string]any{"sub": map[string]any{"on": false}}, want: "given"},
		"tags": {files: together(app(`{name: sub, version: 0.1.0, tags: [extra], repository: "file://../sub"}`),
			beside, packed("0.1.0", "old")), values: map[string]any{"tags": map[string]any{"extra": false}}, want: "given"},
		"imported values": {files: together(app(
			`{name: sub, version: 0.1.0, import-values: [out], repository: "file://../sub"}`),
			beside, packed("0.1.0", "old")), want: "given: new"},
		"one of a dependency": {files: together(app(`{name: mid, version: 1.0.0, repository: "file://../mid"}`), beside,
			map[string]string{"mid/Chart.yaml": chartText("mid", "1.0.0", `{name: sub, version: 0.1.0, repository: ""}`)},
			in("mid/charts/sub", subchart("0.1.0", "inside"))), want: "text: inside"},
		"a folder that no dependency names": {files: together(app(local), beside,
			map[string]string{"app/charts/other/Chart.yaml": chartText("other", "1.0.0", ""),
				"app/charts/other/templates/o.yaml": "other: 1\n"}), want: "other: 1"},
		"without a repository": {files: together(app(`{name: sub, version: 0.1.0, repository: ""}`),
			in("app/charts/sub", subchart("0.1.0", "inside"))), want: "text: inside"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, helms := t.TempDir(), t.TempDir()
			write(t, ours, test.files)
			write(t, helms, test.files)
			settings := t.TempDir()
			update := downloader.Manager{Out: io.Discard, ChartPath: filepath.Join(helms, "app"),
				Getters: getter.All(cli.New()), RepositoryConfig: filepath.Join(settings, "repositories.yaml"),
				RepositoryCache: settings}
			if err := update.Update(); err != nil {
				t.Fatal(err)
			}
			theirs, err := loader.LoadDir(filepath.Join(helms, "app"))
			if err != nil {
				t.Fatal(err)
			}
			want := rendering(t, theirs, test.values)
			cache := &charts{dir: t.TempDir()}
			loaded, _, err := cache.opened(t, source{chart: filepath.Join(ours, "app")})
			if err != nil {
				t.Fatal(err)
			}
			got := rendering(t, loaded, test.values)
			if !maps.Equal(got, want) {
				t.Errorf("it renders\n%q\nand not\n%q", got, want)
			}
			if text := strings.Join(slices.Collect(maps.Values(got)), "---\n"); !strings.Contains(text, test.want) {
				t.Errorf("%q is not in\n%s", test.want, text)
			}
			if entries, err := os.ReadDir(filepath.Join(ours, "app", "charts")); err == nil &&
				len(entries) != len(packedIn(test.files)) {
				t.Errorf("the chart's own folder has %v now", entries)
			}
		})
	}
}

// packedIn returns the names in app/charts.
func packedIn(files map[string]string) map[string]bool {
	names := map[string]bool{}
	for name := range files {
		if inside, ok := strings.CutPrefix(name, "app/charts/"); ok {
			first, _, _ := strings.Cut(inside, "/")
			names[first] = true
		}
	}
	return names
}

// Where helm dependency update deletes what the user may have put there, or fails.
func TestDependenciesBeyondHelm(t *testing.T) {
	none := "http://127.0.0.1:1"
	old := string(archive(t, subchart("0.1.0", "old")))
	beside := in("sub", subchart("0.1.0", "new"))
	local := `{name: sub, version: 0.1.0, repository: "file://../sub"}`
	for name, test := range map[string]struct {
		files   map[string]string
		want    string // in what is rendered
		without string // not in it
		err     string
	}{
		"an archive that no dependency names": {files: map[string]string{
			"app/Chart.yaml":           chartText("app", "1.0.0", ""),
			"app/charts/sub-0.1.0.tgz": old}, want: "text: old"},
		"packed, and the repository is away": {files: map[string]string{
			"app/Chart.yaml":           chartText("app", "1.0.0", `{name: sub, version: ^0.1, repository: "`+none+`"}`),
			"app/charts/sub-0.1.0.tgz": old}, want: "text: old"},
		"the newest of two": {files: map[string]string{
			"app/Chart.yaml":            chartText("app", "1.0.0", `{name: sub, version: ">=0.1.0", repository: "`+none+`"}`),
			"app/charts/sub-0.1.0.tgz":  old,
			"app/charts/sub-0.10.0.tgz": string(archive(t, subchart("0.10.0", "newer"))),
			"app/charts/sub-0.9.0.tgz":  string(archive(t, subchart("0.9.0", "new")))},
			want: "text: newer", without: "text: old"},
		"the locked one of two": {files: map[string]string{
			"app/Chart.yaml":           chartText("app", "1.0.0", `{name: sub, version: ">=0.1.0", repository: "`+none+`"}`),
			"app/Chart.lock":           `dependencies: [{name: sub, version: 0.1.0, repository: "` + none + `"}]`,
			"app/charts/sub-0.1.0.tgz": old,
			"app/charts/sub-0.9.0.tgz": string(archive(t, subchart("0.9.0", "new")))}, want: "text: old", without: "text: new"},
		"aliases of a folder and an archive": {files: together(beside, map[string]string{
			"app/Chart.yaml": chartText("app", "1.0.0", `{name: sub, version: 0.1.0, alias: one, repository: "file://../sub"},
				{name: sub, version: 0.2.0, alias: two, repository: "`+none+`"}`),
			"app/charts/sub-0.1.0.tgz": old,
			"app/charts/sub-0.2.0.tgz": string(archive(t, subchart("0.2.0", "packed")))}), want: "text: packed", without: "old"},
		"its folder is not here": {files: map[string]string{
			"app/Chart.yaml":           chartText("app", "1.0.0", local),
			"app/charts/sub-0.1.0.tgz": old}, want: "text: old"},
		"neither is its archive": {files: map[string]string{"app/Chart.yaml": chartText("app", "1.0.0", local)},
			err: "its dependency sub: its charts folder has no version \"0.1.0\", and there is no folder ../sub"},
		"the folder has another version": {files: together(in("sub", subchart("0.3.0", "new")), map[string]string{
			"app/Chart.yaml":           chartText("app", "1.0.0", local),
			"app/charts/sub-0.1.0.tgz": old}), err: "what is there is sub 0.3.0, not sub 0.1.0"},
		"a copy in a folder": {files: together(beside, in("app/charts/sub", subchart("0.1.0", "old")),
			map[string]string{"app/Chart.yaml": chartText("app", "1.0.0", local)}), want: "text: new", without: "text: old"},
		"a copy in a dependency": {files: together(beside, map[string]string{
			"app/Chart.yaml": chartText("app", "1.0.0", `{name: mid, version: 1.0.0, repository: "file://../mid"}`),
			"mid/Chart.yaml": chartText("mid", "1.0.0", local), "mid/charts/sub-0.1.0.tgz": old}),
			want: "text: new", without: "text: old"},
		"a copy in a packed folder": {files: together(beside, map[string]string{
			"app/Chart.yaml": chartText("app", "1.0.0", ""),
			"app/charts/mid/Chart.yaml": chartText("mid", "1.0.0",
				`{name: sub, version: 0.1.0, repository: "file://../../../sub"}`),
			"app/charts/mid/charts/sub-0.1.0.tgz": old}), want: "text: new", without: "text: old"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, test.files)
			loaded, before, err := (&charts{dir: t.TempDir()}).opened(t, source{chart: filepath.Join(dir, "app")})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || event.Hint(err) == "" {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(slices.Collect(maps.Values(rendering(t, loaded, nil))), "---\n")
			if !strings.Contains(text, test.want) || test.without != "" && strings.Contains(text, test.without) {
				t.Errorf("it renders\n%s", text)
			}
			if !strings.Contains(test.want, "new") || test.files["sub/Chart.yaml"] == "" {
				return
			}
			if inputs := inputsOf(filepath.Join(dir, "app")); !slices.Contains(inputs, filepath.Join(dir, "sub")) {
				t.Errorf("what it is made from is %v", inputs)
			}
			write(t, dir, in("sub", subchart("0.1.0", "newest")))
			if _, after, err := (&charts{dir: t.TempDir()}).opened(t, source{chart: filepath.Join(dir, "app")}); err != nil ||
				after == before {
				t.Errorf("the folder does not count: %v", err)
			}
		})
	}
}

// A mistake in a dependency is reported where it is to be mended.
func TestPlacesInDependencies(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"app/Chart.yaml": chartText("app", "1.0.0", `{name: mid, version: 1.0.0, alias: web, repository: "file://../mid"}`),
		"mid/Chart.yaml": chartText("mid", "1.0.0", `{name: sub, version: 0.1.0, repository: "file://../sub"}`),
		"sub/Chart.yaml": chartText("sub", "0.1.0", "")})
	want := desired{Release: Release{Chart: filepath.Join(dir, "app")}}
	for name, file := range map[string]string{
		"app/templates/a.yaml":                         "app/templates/a.yaml",
		"app/charts/web/templates/a.yaml":              "mid/templates/a.yaml",
		"app/charts/web/charts/sub/templates/x/a.yaml": "sub/templates/x/a.yaml",
		"app/charts/other/templates/a.yaml":            "app/charts/other/templates/a.yaml",
	} {
		if got := want.file(name); got != filepath.Join(dir, file) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// An archive says file:// of folders that only its author has.
func TestArchiveWithLocalDependency(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, together(in("sub", subchart("0.1.0", "of the neighbor")), map[string]string{"app-1.0.0.tgz": string(
		archive(t, map[string]string{"Chart.yaml": chartText("app", "1.0.0",
			`{name: sub, version: 0.1.0, repository: "file://../sub"}`),
			"charts/sub-0.1.0.tgz": string(archive(t, subchart("0.1.0", "of the author")))}))}))
	loaded, _, err := new(charts).opened(t, source{chart: filepath.Join(dir, "app-1.0.0.tgz")})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(rendering(t, loaded, nil)); !strings.Contains(text, "of the author") {
		t.Error(text)
	}
}

func TestHelmSettingsAreInputs(t *testing.T) {
	dir := chartFolder(t, map[string]string{"Chart.yaml": chartText("app", "1.0.0",
		`{name: sub, version: 0.1.0, repository: "@mine"}`)})
	if got := (Release{Chart: dir}).Files(); !slices.Contains(got, cli.New().RepositoryConfig) {
		t.Errorf("%v", got)
	}
	if got := (Release{Chart: "oci://registry.invalid/web"}).Files(); !slices.Contains(got, cli.New().RegistryConfig) {
		t.Errorf("%v", got)
	}
}
