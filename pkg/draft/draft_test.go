package draft

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config"
)

// TestImageValues: how charts spell the images in their values, and what is set for each.
func TestImageValues(t *testing.T) {
	for values, want := range map[string]map[string]string{
		`image: team/api:v1`:                              {"image": "image"},
		`image: { repository: api, tag: v1 }`:             {"image.repository": "repository", "image.tag": "tag"},
		`image: { name: api, tag: v1 }`:                   {"image.name": "repository", "image.tag": "tag"},
		`image: { repository: "api:v1" }`:                 {"image.repository": "image"},
		`image: { repository: api, tag: v1, digest: "" }`: {"image.repository": "repository", "image.tag": "tag"},
		`api: { repository: api, tag: v1 }`:               {"api.repository": "repository", "api.tag": "tag"},
		`{ workerImage: w, workerTag: v1 }`:               {"workerImage": "repository", "workerTag": "tag"},
		`{ imageRepository: w, imageTag: v1 }`:            {"imageRepository": "repository", "imageTag": "tag"},
		`a.b: { image: x }`:                               {`a\.b.image`: "image"},
		`image: { registry: r.example, name: api, tag: null }`: {"image.registry": "", "image.name": "repository",
			"image.tag": "tag"},
		`image: { repository: api, tag: v1, digest: "sha256:0" }`: {"image.digest": "",
			"image.repository": "repository", "image.tag": "tag"},
		`person: { name: Ada }`:              nil,
		`chart: { repository: "https://x" }`: nil,
		`imagePullPolicy: Always`:            nil,
		`sub: { global: { image: x } }`:      nil,
		`"a,b": { image: x }`:                nil,
	} {
		got := map[string]string{}
		for _, value := range imageValues(parse(t, values)) {
			for path, function := range value.set {
				got[path] = function
			}
		}
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, not %v", values, got, want)
		}
	}
	inList := imageValues(parse(t, `containers: [{ image: x }]`))
	if len(inList) != 1 || inList[0].path != "containers.0.image" || inList[0].set != nil {
		t.Errorf("a value in a list: %+v", inList)
	}
}

// TestValueAt: a value that chartpress.yaml names is one, whatever its key.
func TestValueAt(t *testing.T) {
	values := parse(t, `user: { env: "team/env:v1", hub: { name: team/hub, tag: v1 }, count: 1 }`)
	for path, want := range map[string]map[string]string{
		"user.env":   {"user.env": "image"},
		"user.hub":   {"user.hub.name": "repository", "user.hub.tag": "tag"},
		"user.count": nil,
		"user.env.x": nil,
		"gone.a.b":   nil,
	} {
		got, is := valueAt(values, path)
		if is != (want != nil) || !reflect.DeepEqual(got.set, want) {
			t.Errorf("%s: %v, %v, not %v", path, got.set, is, want)
		}
	}
}

// TestImageNames: an image is called like its Dockerfile, or else like the folder.
func TestImageNames(t *testing.T) {
	for file, want := range map[string]string{
		"Dockerfile":                     "shop",
		"Dockerfile.api":                 "api",
		"api.Dockerfile":                 "api",
		"Dockerfile-api":                 "api",
		"Containerfile":                  "shop",
		"Containerfile.api":              "api",
		"docker/dockerfile":              "shop",
		"docker/api.dockerfile":          "api",
		"services/My_API/Dockerfile":     "my-api",
		"services/api/docker/Dockerfile": "api",
		"services/api/Dockerfile.prod":   "api-prod",
		"Dockerfile.dev":                 "shop-dev",
		"Dockerfile.requirements.txt":    "",
		"Dockerfile.j2":                  "",
		"Dockerfile.dockerignore":        "",
	} {
		write(t, map[string]string{file: "FROM scratch"})
		d := &draft{name: "shop"}
		d.addDockerfile(filepath.FromSlash(file))
		got := ""
		for _, i := range d.images {
			got += i.Name
		}
		if got != want {
			t.Errorf("%s: %q, not %q", file, got, want)
		}
	}
}

// TestContextOf: a Dockerfile copies from the nearest folder that has the most of what it names.
func TestContextOf(t *testing.T) {
	write(t, map[string]string{"requirements.txt": "", "api/main.py": "", "api/Dockerfile": "", "docker/a.Dockerfile": "",
		"docker/a.Dockerfile.dockerignore": "", "docker/worker/Dockerfile": "", "web/src/x.ts": "", "web/Dockerfile": "",
		"shop [2]/main.go": "", "shop [2]/docker/Dockerfile": ""})
	for _, test := range []struct{ file, sources, want string }{
		{"api/Dockerfile", "", "api"},
		{"api/Dockerfile", "main.py", "api"},
		{"api/Dockerfile", "*.py requirements.txt", "api"},
		{"api/Dockerfile", "api requirements.txt", "."},
		{"api/Dockerfile", "requirements.txt", "."},
		{"api/Dockerfile", "gone dist", "api"},
		{"api/Dockerfile", ".", "api"},
		{"web/Dockerfile", ".", "web"},
		{"docker/a.Dockerfile", ".", "."},
		{"docker/worker/Dockerfile", ".", "."},
		{"shop [2]/docker/Dockerfile", "*.go", "shop [2]"},
	} {
		sources := strings.Fields(test.sources)
		for n := range sources {
			sources[n] = strings.TrimPrefix(sources[n], ".")
		}
		if got := contextOf(filepath.FromSlash(test.file), sources); got != test.want {
			t.Errorf("%s, which copies %q: %s, not %s", test.file, test.sources, got, test.want)
		}
	}
}

// TestChartpressOptions: build arguments and targets are taken, and what is not is said.
func TestChartpressOptions(t *testing.T) {
	for text, want := range map[string]struct {
		target string
		args   map[string]string
		left   []string
	}{
		`buildArgs: { A: 1, B: true }`: {"", map[string]string{"A": "1", "B": "true"}, nil},
		`extraBuildCommandOptions: [--target, small, --build-arg, "A=b c"]`: {
			"small", map[string]string{"A": "b c"}, nil},
		`extraBuildCommandOptions: [--target=small, --rm, --platform, linux/amd64, --no-cache]`: {
			"small", nil, []string{"--rm", "--platform linux/amd64", "--no-cache"}},
		`extraBuildCommandOptions: [--target]`: {"", nil, nil},
		`buildArgs: { C: "{LAST_COMMIT}" }`:    {"", nil, []string{"the build argument C, which changes with each commit"}},
		`buildArgs: { C: "{{ x }}" }`:          {"", nil, []string{`the build argument C: "{{ x }}"`}},
	} {
		var read chartpressImage
		if err := yaml.Unmarshal([]byte(text), &read); err != nil {
			t.Fatal(err)
		}
		i := &image{}
		left := read.options(i)
		if i.Target != want.target || !reflect.DeepEqual(i.Args, want.args) || !slices.Equal(left, want.left) {
			t.Errorf("%s: target %q, arguments %v, without %q", text, i.Target, i.Args, left)
		}
	}
}

// TestOverlays: of kustomizations side by side, the one for development is taken.
func TestOverlays(t *testing.T) {
	for _, test := range []struct{ folders, want string }{
		{"k8s", "k8s"},
		{"k8s/prod k8s/dev", "k8s/dev"},
		{"k8s/prod k8s/eu", "k8s/eu"},
		{"k8s/staging k8s/test", "k8s/test"},
		{"a/k8s b/k8s", "a/k8s b/k8s"},
		{"a/k8s/dev a/k8s/prod b/k8s/prod", "a/k8s/dev b/k8s/prod"},
	} {
		files := map[string]string{}
		for _, folder := range strings.Fields(test.folders) {
			files[folder+"/kustomization.yaml"] = "resources: []"
		}
		folder := write(t, files)
		d := &draft{name: "shop"}
		if got := strings.Join(d.overlays(folder, strings.Fields(test.folders)), " "); got != test.want {
			t.Errorf("%s: %s, not %s", test.folders, got, test.want)
		}
	}
}

// TestImageOf: a repository stands for an image that has its name, or its last part.
func TestImageOf(t *testing.T) {
	d := &draft{images: []*image{{Image: config.Image{Name: "api", Aliases: []string{"registry.example/team/the-api"}}}}}
	for repository, want := range map[string]bool{
		"api": true, "docker.io/library/api": true, "registry.example/other/api": true, "the-api": true,
		"registry.example/team/the-api": true, "api-2": false, "registry.example/api/web": false,
	} {
		if got := d.imageOf(repository) != nil; got != want {
			t.Errorf("%s: %v", repository, got)
		}
	}
	write(t, map[string]string{"a/api/Dockerfile": "FROM scratch", "b/api/Dockerfile": "FROM scratch"})
	d = &draft{name: "shop"}
	d.addDockerfile("a/api/Dockerfile")
	d.addDockerfile("b/api/Dockerfile")
	for repository, want := range map[string]string{
		"registry.example/a/api": "a/api/Dockerfile",
		"registry.example/b/api": "b/api/Dockerfile",
		"x/api":                  "a/api/Dockerfile",
	} {
		if got := d.imageOf(repository); got == nil || got.Dockerfile != want {
			t.Errorf("%s: %+v", repository, got)
		}
	}
}

func parse(t *testing.T, text string) (values map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

// write makes files in a new folder, and that the current one.
func write(t *testing.T, files map[string]string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for name, text := range files {
		file := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	return folder
}
