package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/distribution/reference"
	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/skaffold"
)

// searchDepth is how many folders deep Dockerfiles and charts are looked for.
const searchDepth = 4

// draft is a devloop.yaml in the making.
type draft struct {
	Name     string
	Images   []config.Image
	Releases []config.Release
	Forwards []config.Forward
	notes    []string // for the user
}

// survey returns a devloop.yaml for the Dockerfiles and charts in a folder, and notes for the user.
func survey(ctx context.Context, root string) (text string, notes []string, err error) {
	folder, err := filepath.Abs(root)
	if err != nil {
		return "", nil, err
	}
	d := &draft{Name: tree.Label(filepath.Base(folder), "app")}
	var charts []string
	var plain plainManifests
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil && path == root:
			return err
		case err != nil: // a folder that this user may not read has nothing for them
			return fs.SkipDir
		case !entry.IsDir():
			if image, ok := d.imageOf(path); ok {
				d.Images = append(d.Images, image)
			}
			plain.see(path)
		case path != root && (name == "charts" || name == "templates") &&
			isFile(filepath.Join(filepath.Dir(path), "Chart.yaml")):
			return fs.SkipDir // subcharts belong to the chart
		case path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "vendor" ||
			strings.Count(path, string(filepath.Separator)) >= searchDepth):
			return fs.SkipDir
		case isFile(filepath.Join(path, "Chart.yaml")):
			charts = append(charts, path)
		}
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	for _, chart := range charts {
		d.addRelease(ctx, chart)
	}
	if len(d.Releases) == 0 {
		d.addManifests(ctx, folder, plain)
	}
	for _, file := range skaffold.FileNames {
		if isFile(file) {
			d.note("there is a %s: devloop init --from %s writes what it says; "+
				"this here is made from the Dockerfiles and charts", file, file)
		}
	}
	if len(d.Images)+len(d.Releases) == 0 {
		return "", nil, usageError("go to the folder of your project",
			"init: there is no Dockerfile, no Helm chart and no Kubernetes manifest in %s", folder)
	}
	if len(d.Releases) == 0 {
		d.note("there is no Helm chart and no Kubernetes manifest here: add releases: to %s, or make a chart "+
			"(helm create deploy/%s) and call devloop init --force", config.FileName, d.Name)
	}
	var out strings.Builder
	err = draftText.Execute(&out, d)
	return out.String(), d.notes, err
}

func (d *draft) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// imageOf recognizes a Dockerfile by its name: Dockerfile, Dockerfile.worker, worker.Dockerfile.
func (d *draft) imageOf(path string) (config.Image, bool) {
	folder, file := filepath.Split(path)
	folder = filepath.Clean(folder)
	name := ""
	switch lower := strings.ToLower(file); {
	case strings.HasSuffix(lower, ".dockerignore"):
		return config.Image{}, false
	case lower == "dockerfile" && folder == ".":
		name = d.Name
	case lower == "dockerfile":
		name = filepath.Base(folder)
	case strings.HasPrefix(lower, "dockerfile."):
		name = file[len("dockerfile."):]
	case strings.HasSuffix(lower, ".dockerfile"):
		name = file[:len(file)-len(".dockerfile")]
	default:
		return config.Image{}, false
	}
	if !isFile(path) {
		return config.Image{}, false
	}
	image := config.Image{Name: tree.Label(name, "image"), Context: folder, Dockerfile: path}
	taken := func(name string) bool {
		return slices.ContainsFunc(d.Images, func(i config.Image) bool { return i.Name == name })
	}
	image.Name = unused(image.Name, taken)
	d.note("image %s: %s", image.Name, path)
	return image, true
}

// addRelease guesses how a chart is meant to be deployed.
func (d *draft) addRelease(ctx context.Context, folder string) {
	r := config.Release{Name: tree.Label(filepath.Base(folder), d.Name), Chart: folder, Namespace: d.Name,
		CreateNamespace: true, Set: map[string]any{}}
	if folder == "." {
		r.Name, r.Chart = d.Name, "./"
	}
	r.Name = unused(r.Name, func(name string) bool {
		return slices.ContainsFunc(d.Releases, func(r config.Release) bool { return r.Name == name })
	})
	info, err := deploy.Inspect(ctx, folder, r.Name, r.Namespace)
	switch {
	case err != nil:
		d.note("left out: %v", err)
		return
	case info.Library:
		return
	}
	d.setImages(info.Values, "", r.Set, info.Images)
	d.note("release %s: %s", r.Name, folder)
	for _, repository := range info.Images {
		d.addAlias(repository)
	}
	if len(r.Set) > 0 {
		d.note("  with %s set to images that are built here", count(len(r.Set), "value"))
	}
	if info.Err != nil {
		d.note("  its services are not known, since its default values do not suffice: %v", info.Err)
	}
	d.addForwards(info.Services)
	d.Releases = append(d.Releases, r)
}

// addForwards forwards a local port to each service.
func (d *draft) addForwards(services []deploy.ChartService) {
	for _, service := range services {
		local := service.Port
		if local < 1024 { // 80 would need root
			local += 8000
		}
		for slices.ContainsFunc(d.Forwards, func(f config.Forward) bool { return f.Local == local }) {
			local = max((local+1)%65536, 1024)
		}
		if tree.Label(service.Name, "") != service.Name || tree.Label(service.Namespace, "") != service.Namespace {
			d.note("  left out: service %q, which is no name for Kubernetes", service.Name)
			continue
		}
		d.Forwards = append(d.Forwards, config.Forward{Service: service.Name, Namespace: service.Namespace,
			Port: strconv.Itoa(service.Port), Local: local})
		d.note("forward localhost:%d: service %s, port %d", local, service.Name, service.Port)
	}
}

// addAlias notes that a chart's containers name one of the images by a longer name.
func (d *draft) addAlias(repository string) {
	name := familiarName(repository)
	for i, image := range d.Images {
		if image.Name == filepath.Base(name) && image.Name != name && !slices.Contains(image.Aliases, name) {
			d.Images[i].Aliases = append(image.Aliases, name)
			d.note("  %s is the image %s", name, image.Name)
		}
	}
}

// familiarName is a repository as people write it: web for docker.io/library/web.
func familiarName(repository string) string {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return repository
	}
	return reference.FamiliarName(named)
}

// isNamed tells whether a chart's containers name one of the images by its own name, or by a longer
// one: such an image is found without its value.
func (d *draft) isNamed(repository string, named []string) bool {
	name := filepath.Base(repository)
	return slices.ContainsFunc(d.Images, func(i config.Image) bool { return i.Name == name }) &&
		slices.ContainsFunc(named, func(n string) bool { return filepath.Base(n) == name })
}

// setImages sets the values of a chart that name an image: "repository" and "tag" side by side, or
// "image" alone. The chart's containers name some images anyway.
func (d *draft) setImages(values map[string]any, path string, set map[string]any, named []string) {
	if repository, ok := values["repository"].(string); ok && path != "" {
		if image := d.imageFor(repository, path); image != "" && !d.isNamed(repository, named) {
			set[path+".repository"] = fmt.Sprintf("{{ repository %q }}", image)
			set[path+".tag"] = fmt.Sprintf("{{ tag %q }}", image)
			for _, key := range []string{"registry", "digest"} { // either would make it another image
				if _, given := values[key]; given {
					set[path+"."+key] = ""
				}
			}
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !plainKey.MatchString(key) {
			continue // other characters have a meaning in Helm's paths
		}
		at := strings.ReplaceAll(key, ".", `\.`)
		if path != "" {
			at = path + "." + at
		}
		switch value := values[key].(type) {
		case map[string]any:
			d.setImages(value, at, set, named)
		case string:
			image := d.imageFor(value, at)
			if image != "" && strings.HasSuffix(strings.ToLower(key), "image") && !d.isNamed(untagged(value), named) {
				set[at] = fmt.Sprintf("{{ image %q }}", image)
			}
		}
	}
}

var plainKey = regexp.MustCompile(`^[-\w.]+$`)

var tagOrDigest = regexp.MustCompile(`[:@][^/]*$`)

func untagged(reference string) string { return tagOrDigest.ReplaceAllString(reference, "") }

// imageFor guesses the image that a chart's value asks for: the one of that name, the one that is
// part of the value's path, or the only one if the value is the chart's main image; "" for none.
func (d *draft) imageFor(reference, path string) string {
	name := filepath.Base(untagged(reference))
	for _, image := range d.Images {
		if image.Name == name {
			return image.Name
		}
	}
	for part := range strings.SplitSeq(path, ".") {
		for _, image := range d.Images {
			if strings.EqualFold(strings.TrimSuffix(part, "Image"), image.Name) {
				return image.Name
			}
		}
	}
	if len(d.Images) == 1 && path == "image" {
		return d.Images[0].Name
	}
	return ""
}

// draftText is a devloop.yaml.
var draftText = template.Must(template.New("").Funcs(template.FuncMap{"scalar": scalar}).Parse(
	`# yaml-language-server: $schema=` + schemaName + `
apiVersion: ` + config.Version + `
name: {{ scalar .Name }}
{{ with .Images }}images:
{{ range . }}  {{ scalar .Name }}: { {{ if ne .Context "." }}context: {{ scalar .Context }}, {{ end -}}
	dockerfile: {{ scalar .Dockerfile }}{{ with .Aliases }}, aliases: [{{ range $i, $name := . -}}
	{{ if $i }}, {{ end }}{{ scalar $name }}{{ end }}]{{ end }} }
{{ end }}{{ end }}{{ with .Releases }}releases:
{{ range . }}  - name: {{ scalar .Name }}
{{ with .Chart }}    chart: {{ scalar . }}
{{ end }}{{ with .Manifests }}    manifests: [{{ range $i, $name := . -}}
	{{ if $i }}, {{ end }}{{ scalar $name }}{{ end }}]
{{ end }}{{ with .Kustomize }}    kustomize: {{ scalar . }}
{{ end }}    namespace: {{ scalar .Namespace }}
    createNamespace: true
{{ with .Set }}    set:
{{ range $path, $value := . }}      {{ scalar $path }}: '{{ $value }}'
{{ end }}{{ end }}{{ end }}{{ end }}{{ with .Forwards }}forwards:
{{ range . }}  - { service: {{ scalar .Service }}, namespace: {{ scalar .Namespace }}, port: {{ .Port }}, ` +
		`local: {{ .Local }} }
{{ end }}{{ end }}`))

// scalar returns text for use within YAML's { }, in quotes only where it needs them. YAML reads
// them as Go does.
func scalar(text string) string {
	plain, err := yaml.Marshal(text)
	if err == nil && string(plain) == text+"\n" && !strings.ContainsAny(text, ",{}[]") {
		return text
	}
	return strconv.Quote(text)
}

// unused returns name, or name with the first number behind it that makes it new.
func unused(name string, taken func(string) bool) string {
	free := name
	for n := 2; taken(free); n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	return free
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
