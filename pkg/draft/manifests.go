package draft

import (
	"context"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/manifests"
)

// plainManifests is where manifests may be that belong to no chart.
type plainManifests struct {
	kustomizations []string // folders
	files          []string
}

// classify notes a file that may be one of them.
func (p *plainManifests) classify(file string) {
	switch name := filepath.Base(file); {
	case slices.Contains(manifests.KustomizationNames, name):
		if text, _ := files.Read(file, maxManifest); isComponent.Match(text) {
			break // it can only be a part of another one
		}
		p.kustomizations = append(p.kustomizations, filepath.Dir(file))
	case slices.Contains(manifests.Extensions, path.Ext(name)) && !strings.HasPrefix(name, "."):
		p.files = append(p.files, file)
	}
}

const maxManifest = 1 << 20 // bytes

var (
	isComponent = regexp.MustCompile(`(?m)^kind: *Component`)
	// isObject matches what is meant for Kubernetes, whether it is YAML or not.
	isObject = regexp.MustCompile(`(?m)^apiVersion: *(v1\s|apps/|batch/|\w+\.k8s\.io/)`)
)

// addManifests adds the kustomizations for development, or else the manifests that lie in folders
// of the project. Beside a chart, they are commented out unless they run an image that no chart
// runs: projects often have both for the same.
func (d *draft) addManifests(ctx context.Context, folder string, plain plainManifests) {
	tops := d.overlays(folder, plain.kustomizations)
	for _, top := range tops {
		r := &release{Release: config.Release{Kustomize: top}}
		documents, _, err := manifests.Source{Folder: folder, Kustomization: top}.Read(ctx)
		if err != nil {
			d.note("kustomization %s is not complete: %v", top, err)
			d.incomplete = true
		}
		name := d.name
		if len(tops) > 1 {
			name = kustomizationName(top, d.name)
		}
		d.addPlain(r, name, "kustomization "+top, documents)
	}
	if len(plain.kustomizations) > 0 {
		return
	}
	patterns, documents := d.read(ctx, folder, plain)
	if len(documents) > 0 {
		d.addPlain(&release{Release: config.Release{Manifests: patterns}}, d.name, strings.Join(patterns, ", "), documents)
	}
}

// addPlain adds a release without a chart.
func (d *draft) addPlain(r *release, name, what string, documents []manifests.Document) {
	r.Name, r.Namespace, r.CreateNamespace = d.unusedRelease(tree.Label(name, d.name)), d.name, true
	found := deploy.InspectManifests(documents, r.Namespace)
	if len(found.Namespaces) == 1 && isOwn(found.Namespaces[0]) {
		r.Namespace = found.Namespaces[0]
		found = deploy.InspectManifests(documents, r.Namespace)
	}
	r.commentedOut = d.charts > 0 && !slices.ContainsFunc(found.Images, func(repository string) bool {
		i := d.imageOf(repository)
		return i != nil && !i.used
	})
	d.releases = append(d.releases, r)
	if r.commentedOut {
		r.comment = "Beside the charts, there is this, too. If it is no other way to deploy the same, remove the #."
		d.note("release %s: %s; commented out, since it may be another way to deploy what the charts do", r.Name, what)
		return
	}
	d.note("release %s: %s", r.Name, what)
	d.seeNamespaces(r, found)
	d.markUsed(found.Images)
	d.addForwards(found.Services)
}

// seeNamespaces notes the namespaces that neither the release makes nor a new cluster has.
func (d *draft) seeNamespaces(r *release, found deploy.Inspection) {
	for _, namespace := range found.Namespaces {
		if namespace != r.Namespace && isOwn(namespace) {
			d.note("  the namespace %s has to exist: kubectl create namespace %[1]s", namespace)
		}
	}
}

// isOwn tells whether a namespace is none of those that each cluster has.
func isOwn(namespace string) bool {
	return namespace != "default" && !strings.HasPrefix(namespace, "kube-") && tree.Label(namespace, "") == namespace
}

// read returns the files that are manifests, most .yaml and .json files being something else. A
// glob stands for those of a folder if all that it matches are manifests.
func (d *draft) read(ctx context.Context, folder string, p plainManifests) (patterns []string,
	documents []manifests.Document) {
	read := func(pattern string) bool {
		found, _, err := manifests.Source{Folder: folder, Patterns: []string{pattern}}.Read(ctx)
		if err == nil {
			documents, patterns = append(documents, found...), append(patterns, pattern)
		} else if text, _ := files.Read(pattern, maxManifest); isObject.Match(text) {
			d.note("left out: %v", err)
		}
		return err == nil
	}
	isWhole := map[string]bool{} // by globs
	for _, file := range p.files {
		glob := filepath.Dir(file) + "/*" + path.Ext(file)
		if _, known := isWhole[glob]; !known {
			isWhole[glob] = filepath.Dir(file) != "." && read(glob)
		}
		if !isWhole[glob] {
			read(file)
		}
	}
	return patterns, documents
}

// overlays returns the kustomizations that are most likely meant for development: of those that are
// made of the same, or lie side by side, one.
func (d *draft) overlays(folder string, kustomizations []string) (chosen []string) {
	bases, isBase := basesOf(folder, kustomizations), map[string]bool{}
	for _, one := range kustomizations {
		for _, base := range bases[one] {
			isBase[base] = true
		}
	}
	type trait struct{ parent, base string } // what alternatives have in common: one of them
	groupWith := map[trait]int{}
	var groups [][]string // of alternatives
	for _, top := range kustomizations {
		if isBase[top] {
			continue
		}
		traits := []trait{{parent: filepath.Dir(top)}}
		for _, base := range bases[top] {
			traits = append(traits, trait{base: base})
		}
		at := len(groups)
		for _, one := range traits {
			if group, ok := groupWith[one]; ok {
				at = min(at, group)
			}
		}
		if at == len(groups) {
			groups = append(groups, nil)
			for _, one := range traits {
				groupWith[one] = at
			}
		}
		groups[at] = append(groups[at], top)
	}
	for _, group := range groups {
		slices.SortStableFunc(group, func(a, b string) int { return environment(a) - environment(b) })
		if len(group) > 1 && environment(group[0]) >= forDevelopment {
			d.note("there are several kustomizations, of which the first is taken: %s", strings.Join(group, ", "))
		}
		chosen = append(chosen, group[0])
	}
	return chosen
}

// environments are usual names of overlays, the first of them for development.
var environments = []string{
	"dev", "development", "local", "minikube", "test", "testing", "qa", "ci", "stage", "staging", "prod", "production",
}

const forDevelopment = 4 // of environments

// environment returns the index of the environment that a kustomization is for; others come before
// those for production.
func environment(folder string) int {
	at := slices.Index(environments, strings.ToLower(filepath.Base(folder)))
	if at < 0 {
		return slices.Index(environments, "prod") - 1
	}
	return at
}

// kustomizationName names what a kustomization deploys, whatever for.
func kustomizationName(folder, otherwise string) string {
	for slices.Contains(environments, strings.ToLower(filepath.Base(folder))) {
		folder = filepath.Dir(folder)
	}
	return innermost(folder, otherwise)
}

// basesOf returns the kustomizations that each is made of.
func basesOf(root string, kustomizations []string) map[string][]string {
	folders := map[string]string{} // by the files that they may have
	for _, folder := range kustomizations {
		for _, name := range manifests.KustomizationNames {
			folders[filepath.Join(root, folder, name)] = folder
		}
	}
	bases := map[string][]string{}
	for _, one := range kustomizations {
		for _, file := range (manifests.Source{Folder: root, Kustomization: one}).Watched() {
			if base, ok := folders[file]; ok && base != one && !slices.Contains(bases[one], base) {
				bases[one] = append(bases[one], base)
			}
		}
	}
	return bases
}
