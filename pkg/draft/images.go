package draft

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
)

// image is an image of the draft.
type image struct {
	config.Image
	called       string // before a number made its name another one than others'
	bases        []build.BaseImage
	stages       []string // of its Dockerfile
	stage        bool     // it is a stage of another image's Dockerfile, to be left out unless it is used
	from         []*image // of the draft, that it is built from
	used         bool     // something that is deployed names it
	commentedOut bool
}

// notDockerfiles match files that lie beside a Dockerfile and are called like one.
var notDockerfiles = regexp.MustCompile(`(?i)\.(dockerignore|bak|old|orig|rej|save|te?mpl|tpl|j2|jinja2?|erb|` +
	`mustache|template|in|md|rst|txt|lock|json|ya?ml|toml|sh|py|patch|diff)$`)

// addDockerfile adds the image of a Dockerfile, unless a chartpress.yaml has named it.
func (d *draft) addDockerfile(file string) {
	isKnown := slices.ContainsFunc(d.images, func(i *image) bool { return i.Dockerfile == file })
	if isKnown || notDockerfiles.MatchString(file) {
		return
	}
	read, err := build.ReadDockerfile(file)
	if err != nil {
		d.note("left out: %s is no Dockerfile: %v", file, err)
		return
	}
	folder, base := filepath.Split(file)
	folder = filepath.Clean(folder)
	name := ""
	switch before, after, _ := strings.Cut(base, "."); {
	case strings.EqualFold(before, "dockerfile"), strings.EqualFold(before, "containerfile"):
		name = after
	case strings.Contains(base, "-") && !strings.HasSuffix(strings.ToLower(base), "file"): // Dockerfile-web
		_, name, _ = strings.Cut(base, "-")
	case strings.Contains(base, "."): // web.Dockerfile
		name = base[:strings.LastIndex(base, ".")]
	}
	switch {
	case slices.Contains(environments, strings.ToLower(name)): // what is in it is what the folder is about
		name = innermost(folder, d.name) + "-" + name
	case name == "":
		name = innermost(folder, d.name)
	}
	d.addImage(&image{bases: read.Bases, stages: read.Stages, Image: config.Image{Name: tree.Label(name, "image"),
		Context: contextOf(file, read.Sources), Dockerfile: file}})
}

// contextOf returns the folder that a Dockerfile most likely copies from: of its own and those
// around it, the nearest that has the most of the sources.
func contextOf(file string, sources []string) string {
	best, most := "", -1
	for folder := filepath.Dir(file); ; folder = filepath.Dir(folder) {
		count := 0
		for _, source := range sources {
			if hasSource(folder, source) {
				count++
			}
		}
		if count > most {
			best, most = folder, count
		}
		if folder == "." {
			return best
		}
	}
}

// hasSource tells whether a folder has what a Dockerfile copies. All of a folder is nothing where
// there are only Dockerfiles, each maybe in a folder of its own.
func hasSource(folder, source string) bool {
	if source != "" {
		matches, _ := fs.Glob(os.DirFS(folder), source)
		return len(matches) > 0
	}
	entries, _ := os.ReadDir(folder)
	return slices.ContainsFunc(entries, func(entry os.DirEntry) bool {
		name := entry.Name()
		if entry.IsDir() {
			dockerfiles, _ := fs.Glob(os.DirFS(filepath.Join(folder, name)), "*ockerfile*")
			return len(dockerfiles) == 0 && !isForeign(filepath.Join(folder, name))
		}
		return !dockerfileName.MatchString(name) && !strings.HasSuffix(name, ".dockerignore")
	})
}

// addStages adds the stages of Dockerfiles: some are images of their own.
func (d *draft) addStages() {
	for _, i := range slices.Clone(d.images) {
		for _, name := range i.stages {
			if i.Target == "" && tree.Label(name, "") == name && d.imageNamed(name) == nil {
				stage := &image{Image: i.Image, from: i.from, stage: true}
				stage.Name, stage.Target, stage.Aliases = name, name, nil
				d.images = append(d.images, stage)
			}
		}
	}
}

// addImage adds an image, by another name if its own is taken.
func (d *draft) addImage(i *image) {
	i.called = i.Name
	i.Name = unused(i.Name, func(name string) bool { return d.imageNamed(name) != nil })
	d.images = append(d.images, i)
}

func (d *draft) imageNamed(name string) *image {
	for _, i := range d.images {
		if i.Name == name || slices.Contains(i.Aliases, name) {
			return i
		}
	}
	return nil
}

// imageOf returns the image that a repository is called like, however long its name: web for
// registry.example/team/web. Of several, it is the one whose folders are in the name. It returns
// nil for none.
func (d *draft) imageOf(repository string) *image {
	if i := d.imageNamed(familiarName(repository)); i != nil {
		return i
	}
	last := path.Base(repository)
	var best *image
	most := -1
	for _, i := range d.images {
		names := append([]string{i.Name, i.called}, i.Aliases...)
		if !slices.ContainsFunc(names, func(name string) bool { return path.Base(name) == last }) {
			continue
		}
		if shared := sharedParts(path.Dir(repository), i.Dockerfile); shared > most {
			best, most = i, shared
		}
	}
	return best
}

// sharedParts counts the folders that two paths have in common, wherever they stand.
func sharedParts(a, b string) (count int) {
	parts := strings.Split(filepath.ToSlash(b), "/")
	for part := range strings.SplitSeq(a, "/") {
		if slices.Contains(parts, part) {
			count++
		}
	}
	return count
}

// addAlias has a repository stand for an image.
func (d *draft) addAlias(i *image, repository string) {
	if name := familiarName(repository); d.imageNamed(name) == nil {
		i.Aliases = append(i.Aliases, name)
		d.note("  %s is the image %s", name, i.Name)
	}
}

// markUsed notes which images objects that are deployed name, by their repositories.
func (d *draft) markUsed(repositories []string) {
	for _, repository := range repositories {
		if i := d.imageOf(repository); i != nil {
			i.used = true
			d.addAlias(i, repository)
		}
	}
}

// linkBases finds out which images are built from each other.
func (d *draft) linkBases() {
	for _, i := range d.images {
		for _, base := range i.bases {
			from := d.baseOf(base)
			switch {
			case from == nil || from == i || from.isFrom(i):
				continue
			case base.Arg == "":
				d.note("%s: names %s; to build it from the image %s, which is built here, it needs ARG BASE and FROM $BASE",
					i.Dockerfile, base.Reference, from.Name)
			case i.Args[base.Arg] == "":
				if i.Args == nil {
					i.Args = map[string]string{}
				}
				i.Args[base.Arg] = fmt.Sprintf("{{ image %q }}", from.Name)
			}
			i.from = append(i.from, from)
		}
	}
}

// baseOf returns the image that a base image is called like. Without a folder, a name with the
// number of a version is that of a public image.
func (d *draft) baseOf(base build.BaseImage) *image {
	if base.Reference == "" {
		name := strings.ToLower(base.Arg)
		for _, suffix := range []string{"_image", "_from"} {
			name = strings.TrimSuffix(name, suffix)
		}
		return d.imageNamed(strings.ReplaceAll(name, "_", "-"))
	}
	repository := untagged(base.Reference)
	tag := strings.TrimPrefix(base.Reference[len(repository):], ":")
	if !strings.Contains(repository, "/") && !slices.Contains([]string{"", "latest", "dev", "local"}, tag) {
		return nil
	}
	return d.imageOf(repository)
}

// isFrom tells whether an image is built from another one, whatever is between them.
func (i *image) isFrom(other *image) bool {
	return i == other || slices.ContainsFunc(i.from, func(from *image) bool { return from.isFrom(other) })
}

// commentOutUnused comments out the images that nothing needs.
func (d *draft) commentOutUnused() {
	if d.incomplete || !slices.ContainsFunc(d.releases, func(r *release) bool { return !r.commentedOut }) {
		return
	}
	for _, i := range d.images {
		i.commentedOut = !slices.ContainsFunc(d.images, func(user *image) bool { return user.used && user.isFrom(i) })
	}
}

// note says what the draft makes of an image.
func (i *image) note() string {
	note := fmt.Sprintf("image %s: %s", i.Name, i.Dockerfile)
	if i.Context != filepath.Dir(i.Dockerfile) {
		note += ", context " + i.Context
	}
	if i.Target != "" {
		note += ", target " + i.Target
	}
	if i.commentedOut {
		note += "; commented out, since no chart and no manifest that is deployed names it"
	}
	return note
}

// text is the image in devloop.yaml.
func (i *image) text() string {
	var keys []string
	add := func(key, value string) { keys = append(keys, key+": "+value) }
	if i.Context != "." {
		add("context", scalar(i.Context))
	}
	add("dockerfile", scalar(i.Dockerfile))
	if i.Target != "" {
		add("target", scalar(i.Target))
	}
	if len(i.Args) > 0 {
		var args []string
		for _, arg := range slices.Sorted(maps.Keys(i.Args)) {
			args = append(args, scalar(arg)+": '"+strings.ReplaceAll(i.Args[arg], "'", "''")+"'")
		}
		add("args", "{ "+strings.Join(args, ", ")+" }")
	}
	if len(i.Aliases) > 0 {
		add("aliases", list(i.Aliases))
	}
	return scalar(i.Name) + ": { " + strings.Join(keys, ", ") + " }"
}

// familiarName is a repository as people write it: web for docker.io/library/web.
func familiarName(repository string) string {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return repository
	}
	return reference.FamiliarName(named)
}

var tagOrDigest = regexp.MustCompile(`(:[^/@]*)?(@.*)?$`)

func untagged(reference string) string { return tagOrDigest.ReplaceAllString(reference, "") }

// generic are names of folders, charts and keys that say nothing about what is in them.
var generic = []string{
	"chart", "charts", "helm", "helm-chart", "deploy", "deployment", "deployments", "docker", "images", "image", "k8s",
	"kube", "kubernetes", "kustomize", "manifests", "overlays", "build", "container", "pod", "spec", "src", "dev",
	"development", "local", "minikube",
}

// innermost returns the last part of a path that says what it is about, or else otherwise.
func innermost(path, otherwise string) string {
	for _, part := range slices.Backward(strings.Split(filepath.ToSlash(path), "/")) {
		if part != "." && part != ".." && !slices.Contains(generic, strings.ToLower(part)) {
			return part
		}
	}
	return otherwise
}
