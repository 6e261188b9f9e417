// Package skaffold_test runs small made-up repositories, one for each row of the table in
// docs/skaffold.md, through what reads a skaffold.yaml, and through what renders its releases.
//
// Each is an archive in repositories/. Its first lines may say how devloop is called:
//
//	profiles: dev -ci
//	env: NAME=value
//	file: sub/skaffold.yaml
//	charts: elsewhere, so that nothing can be rendered
//
// want/notes are the notes, each by its level, its place and its key, or an error's beginning.
// want/devloop.yaml is what devloop init --from writes, want/objects what is deployed: each object
// with the images of its containers, where the image web that was built is web:built.
package skaffold_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/manifests"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/skaffold"
)

var update = flag.Bool("update", false, "write what comes out into the repositories")

func TestMain(m *testing.M) {
	switch { // the processes that templates and kustomizations run in
	case len(os.Args) == 2 && os.Args[1] == deploy.RenderArgument:
		os.Exit(deploy.ServeRender(os.Stdin, os.Stdout))
	case len(os.Args) == 2 && os.Args[1] == manifests.KustomizeArgument:
		os.Exit(manifests.ServeKustomize(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// row is a line of the table: its repository, and what devloop does.
var row = regexp.MustCompile(
	`(?m)^\|[^|]*\]\(\.\./test/skaffold/repositories/([a-z0-9-]+)\.txtar\).*\| (works|warns|refused): [^|]*\|$`)

func TestTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/skaffold.md")
	if err != nil {
		t.Fatal(err)
	}
	classes := map[string]string{}
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		if classes[found[1]] != "" {
			t.Errorf("the repository %s has two rows", found[1])
		}
		classes[found[1]] = found[2]
	}
	archives, err := filepath.Glob("repositories/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, archive := range archives {
		name := strings.TrimSuffix(filepath.Base(archive), ".txtar")
		t.Run(name, func(t *testing.T) {
			if class := run(t, archive); class != classes[name] {
				t.Errorf("%s: it %s, and the table says %q", name, class, classes[name])
			}
		})
		delete(classes, name)
	}
	for name := range classes {
		t.Errorf("there is no repository %s", name)
	}
}

// run checks one repository, and returns what devloop does with it.
func run(t *testing.T, archive string) (class string) {
	t.Helper()
	content, err := txtar.ParseFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(archive)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source := config.Source{Files: []string{"skaffold.yaml"},
		Translate: skaffold.Options{Dir: dir, CurrentContext: "minikube"}.Translate}
	isElsewhere := false
	for line := range strings.Lines(string(content.Comment)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "profiles":
			source.Profiles = strings.Fields(value)
		case "charts":
			isElsewhere = true
		case "file":
			source.Files = []string{value}
		case "env":
			variable, value, _ := strings.Cut(value, "=")
			t.Setenv(variable, value)
		}
	}
	want := map[string]string{}
	for _, file := range content.Files {
		if of, ok := strings.CutPrefix(file.Name, "want/"); ok {
			want[of] = string(file.Data)
			continue
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file.Name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file.Name), file.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBECONFIG", apiServer(t))
	t.Setenv("HELM_REPOSITORY_CONFIG", filepath.Join(dir, "repositories.yaml"))
	t.Chdir(dir)

	got := map[string]string{}
	c, err := config.Load(source)
	if err == nil {
		err = c.CheckDeploys()
	}
	if wrong := (*tree.Error)(nil); errors.As(err, &wrong) {
		class, got["notes"] = "refused", wrong.Error()+"\n"
	} else if err != nil {
		t.Fatal(err)
	} else {
		class = "works"
		for _, note := range c.Notes {
			level := "INFO"
			if !note.Harmless {
				class, level = "warns", "WARN"
			}
			got["notes"] += level + " " + note.String() + "\n"
		}
		got["devloop.yaml"] = written(t, c)
		if !isElsewhere {
			objects, err := objects(t, c)
			if got["objects"] = objects; err != nil {
				class, got["notes"] = "refused", strings.ReplaceAll(err.Error(), dir+"/", "")+"\n"
			}
		}
	}
	if *update {
		save(t, path, content, got)
		return class
	}
	checkLines(t, got["notes"], want["notes"])
	for _, name := range []string{"devloop.yaml", "objects"} {
		if got[name] != want[name] {
			t.Errorf("%s:\n%s\nwant:\n%s", name, got[name], want[name])
		}
	}
	return class
}

// checkLines holds that each line begins as it should: the words after that are tested where they
// are written.
func checkLines(t *testing.T, got, want string) {
	t.Helper()
	lines, beginnings := strings.Split(got, "\n"), strings.Split(want, "\n")
	if !slices.EqualFunc(lines, beginnings, func(line, beginning string) bool {
		return strings.HasPrefix(line, beginning) && (line == "") == (beginning == "")
	}) {
		t.Errorf("it says:\n%s\nwant:\n%s", got, want)
	}
}

// written is the devloop.yaml that devloop init --from writes, without its comments.
func written(t *testing.T, c *config.Config) string {
	t.Helper()
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// objects renders the releases, and returns what they consist of.
func objects(t *testing.T, c *config.Config) (string, error) {
	t.Helper()
	target := &loop.Target{}
	for _, image := range c.Images {
		ref := c.Repository(image.Name) + ":built"
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		target.Images = append(target.Images, &loop.Image{Name: image.Name, Tag: tag, Ref: ref})
	}
	list, err := session.ResolvedReleases(c, target)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kube.OpenCluster("")
	if err != nil {
		t.Fatal(err)
	}
	deployer := deploy.New(cluster, c.Name, nil, deploy.Options{CacheDir: t.TempDir(), Folder: c.Dir,
		Secret: func(...string) {}})
	var out strings.Builder
	for _, release := range list {
		text, err := deployer.Render(t.Context(), event.Sink(func(event.Event) {}), release)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "%s:\n", release.ID())
		for _, document := range strings.Split(text, "---\n") {
			var object struct {
				Kind     string
				Metadata struct{ Name, Namespace string }
			}
			var whole any
			err := errors.Join(yaml.Unmarshal([]byte(document), &object), yaml.Unmarshal([]byte(document), &whole))
			switch namespace := object.Metadata.Namespace; {
			case err != nil:
				t.Fatalf("%v\n%s", err, document)
			case object.Kind == "":
			case namespace == "" || namespace == release.Namespace:
				fmt.Fprintln(&out, " ", object.Kind, object.Metadata.Name, strings.Join(images(whole), " "))
			default:
				fmt.Fprintln(&out, " ", object.Kind, namespace+"/"+object.Metadata.Name, strings.Join(images(whole), " "))
			}
		}
	}
	return regexp.MustCompile(`(?m) +$`).ReplaceAllString(out.String(), ""), nil
}

// images returns the images that containers have, at any depth.
func images(value any) (list []string) {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if image, ok := value[key].(string); ok && key == "image" {
				list = append(list, image)
			}
			list = append(list, images(value[key])...)
		}
	case []any:
		for _, item := range value {
			list = append(list, images(item)...)
		}
	}
	return list
}

// apiServer starts an API server with nothing in it, and returns a kubeconfig for it.
func apiServer(t *testing.T) (kubeconfig string) {
	t.Helper()
	answers := map[string]string{
		"/version": `{"major": "1", "minor": "31", "gitVersion": "v1.31.0"}`,
		"/api":     `{"kind": "APIVersions", "versions": ["v1"]}`,
		"/apis":    `{"kind": "APIGroupList", "apiVersion": "v1", "groups": []}`,
		"/api/v1": `{"kind": "APIResourceList", "groupVersion": "v1", "resources": [{"name": "secrets", "kind": "Secret",
			"namespaced": true, "verbs": ["get", "list"]}]}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, known := answers[r.URL.Path]
		if !known {
			answer = `{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": []}`
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: minikube\n"+
		"contexts: [{ name: minikube, context: { cluster: minikube, user: minikube } }]\n"+
		"clusters: [{ name: minikube, cluster: { server: %q } }]\nusers: [{ name: minikube, user: {} }]\n", server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// note is the level, the place and the key of a note.
var noteBeginning = regexp.MustCompile(`^((INFO |WARN |release \S+ )?\S+:\d+:\d+: [^ :]+)`)

// save writes what came out into the repository.
func save(t *testing.T, path string, content *txtar.Archive, got map[string]string) {
	t.Helper()
	content.Files = slices.DeleteFunc(content.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") })
	for _, of := range []string{"notes", "devloop.yaml", "objects"} {
		text := got[of]
		if of == "notes" {
			text = ""
			for line := range strings.Lines(got[of]) {
				if found := noteBeginning.FindString(line); found != "" {
					line = found + "\n"
				}
				text += line
			}
		}
		if text != "" {
			content.Files = append(content.Files, txtar.File{Name: "want/" + of, Data: []byte(text)})
		}
	}
	if err := os.WriteFile(path, txtar.Format(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
