package main

import (
	"context"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/manifests"
)

// plainManifests is where manifests may be that belong to no chart.
type plainManifests struct {
	kustomizations []string // folders
	files          []string
}

// see notes a file that may be one of them.
func (p *plainManifests) see(file string) {
	switch name := filepath.Base(file); {
	case slices.Contains(manifests.KustomizationNames, name):
		p.kustomizations = append(p.kustomizations, filepath.Dir(file))
	case slices.Contains(manifests.Extensions, path.Ext(name)) && !strings.HasPrefix(name, "."):
		p.files = append(p.files, file)
	}
}

// addManifests adds a release of the kustomization for development, or else of the manifests that
// lie in folders of the project.
func (d *draft) addManifests(ctx context.Context, folder string, plain plainManifests) {
	r := config.Release{Name: d.Name, Namespace: d.Name, CreateNamespace: true}
	var documents []manifests.Document
	if r.Kustomize = d.overlay(folder, plain.kustomizations); r.Kustomize != "" {
		var err error
		source := manifests.Source{Folder: folder, Kustomization: r.Kustomize}
		if documents, _, err = source.Read(ctx); err != nil {
			d.note("kustomization %s is not complete: %v", r.Kustomize, err)
		}
		d.note("release %s: kustomization %s", r.Name, r.Kustomize)
	} else {
		if r.Manifests, documents = plain.read(ctx, folder); len(documents) == 0 {
			return
		}
		d.note("release %s: %s", r.Name, strings.Join(r.Manifests, ", "))
	}
	info := deploy.InspectManifests(documents, r.Namespace)
	for _, repository := range info.Images {
		d.addAlias(repository)
	}
	d.addForwards(info.Services)
	d.Releases = append(d.Releases, r)
}

// read returns the files that are manifests, most .yaml and .json files being something else. A
// glob stands for those of a folder if all that it matches are manifests.
func (p *plainManifests) read(ctx context.Context, folder string) (patterns []string, documents []manifests.Document) {
	read := func(pattern string) bool {
		found, _, err := manifests.Source{Folder: folder, Patterns: []string{pattern}}.Read(ctx)
		if err == nil {
			documents, patterns = append(documents, found...), append(patterns, pattern)
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

// overlay returns the kustomization that is most likely meant for development, "" for none.
func (d *draft) overlay(folder string, kustomizations []string) string {
	var tops []string // that no other one is made of
	for _, candidate := range kustomizations {
		if !slices.ContainsFunc(kustomizations, func(other string) bool {
			return other != candidate && slices.ContainsFunc(kustomizationFiles(folder, candidate), func(file string) bool {
				return slices.Contains(manifests.Source{Folder: folder, Kustomization: other}.Watched(), file)
			})
		}) {
			tops = append(tops, candidate)
		}
	}
	for _, name := range []string{"dev", "development", "local", "minikube"} {
		for _, top := range tops {
			if filepath.Base(top) == name {
				return top
			}
		}
	}
	switch len(tops) {
	case 0:
		return ""
	case 1:
	default:
		d.note("there are several kustomizations, of which the first is taken: %s", strings.Join(tops, ", "))
	}
	return tops[0]
}

// kustomizationFiles are the names that the kustomization in a folder may have.
func kustomizationFiles(root, folder string) (files []string) {
	for _, name := range manifests.KustomizationNames {
		files = append(files, filepath.Join(root, folder, name))
	}
	return files
}
