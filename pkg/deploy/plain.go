package deploy

// Plain manifests, and what a kustomization makes, become a chart in memory whose templates are
// constants. So everything that is done for a release of a chart is done for them, too.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/manifests"
)

// isPlain tells whether a release is made of manifests or of a kustomization. One that is only
// known from the journal is made of nothing.
func (r Release) isPlain() bool { return len(r.Manifests) > 0 || r.Kustomize != "" }

// manifests returns where the manifests of a plain release come from; folder is that of
// devloop.yaml.
func (r Release) manifests(folder string) manifests.Source {
	return manifests.Source{Folder: folder, Patterns: r.Manifests, Kustomization: r.Kustomize, RemoteBases: r.RemoteBases}
}

// openPlain reads the manifests of a plain release.
func (d *Deployer) openPlain(ctx context.Context, r Release) (chartRef, error) {
	documents, _, err := r.manifests(d.options.Folder).Read(ctx)
	if err != nil {
		return chartRef{}, err
	}
	sum := sha256.New()
	for _, document := range documents { // without their lines: a new comment above them changes nothing
		_, _ = fmt.Fprintf(sum, "%q %q\n", document.File, document.Text) // a hash never fails
	}
	return chartRef{hex.EncodeToString(sum.Sum(nil)),
		func(context.Context) (*chart.Chart, error) { return wrap(r.Name, documents), nil }}, nil
}

// wrap returns a chart that renders to the documents. As in other charts, CRDs are in its folder of
// that name.
func wrap(name string, documents []manifests.Document) *chart.Chart {
	wrapped := &chart.Chart{Metadata: &chart.Metadata{
		APIVersion: chart.APIVersionV2, Name: name, Version: "0.0.0", Description: "plain manifests, wrapped by devloop"}}
	templates := map[string]string{}
	var names []string // in the order of the documents
	for _, document := range documents {
		place, text := placeName(document), withoutVersion(document.Text)
		if isDefinition(text) {
			wrapped.Files = append(wrapped.Files, &chart.File{Name: "crds/" + place + ".yaml", Data: []byte(text)})
			continue
		}
		if _, known := templates[place]; !known {
			names = append(names, place)
		}
		templates[place] += "---\n" + text
	}
	for _, place := range names {
		wrapped.Templates = append(wrapped.Templates,
			&chart.File{Name: "templates/" + place, Data: asTemplate(templates[place])})
	}
	return wrapped
}

// withoutVersion returns a document without the version and the UID that kubectl get prints of a
// live object: with these, the API server refuses to change any other version than that.
func withoutVersion(text string) string {
	if !strings.Contains(text, "resourceVersion") && !strings.Contains(text, "uid") {
		return text
	}
	content, err := decodeDocument(text)
	if err != nil {
		return text // Helm says what is wrong with it
	}
	object, _ := content.(map[string]any)
	metadata, _ := object["metadata"].(map[string]any)
	if metadata["resourceVersion"] == nil && metadata["uid"] == nil {
		return text
	}
	delete(metadata, "resourceVersion")
	delete(metadata, "uid")
	encoded, err := encodeDocument(content)
	if err != nil {
		return text
	}
	return string(encoded)
}

// isDefinition tells whether a document is a CRD.
func isDefinition(text string) bool {
	var head struct {
		Kind string `json:"kind"`
	}
	return strings.Contains(text, "CustomResourceDefinition") && yaml.Unmarshal([]byte(text), &head) == nil &&
		head.Kind == "CustomResourceDefinition"
}

// placeName is the place of a document as the name of a template. Helm ignores templates whose file
// names begin with _, and shortens names with .. and //, so these are escaped.
func placeName(document manifests.Document) string {
	place := placeEscapes.Replace("/" + document.File)[1:]
	if document.Line > 0 {
		place += ":" + strconv.Itoa(document.Line)
	}
	return place
}

var placeEscapes = strings.NewReplacer("%", "%25", "//", "/%2F", "/..", "/%2E.", "/_", "/%5F",
	"NOTES.txt", "NOTES%2Etxt")

// placeOf returns the place that the name of a template or CRD of a wrapped chart stands for:
// k8s/web.yaml:12.
func placeOf(name string) string {
	_, inside, _ := strings.Cut(name, "/") // after the chart's name
	folder, place, _ := strings.Cut(inside, "/")
	if folder == "crds" {
		place = strings.TrimSuffix(place, ".yaml")
	}
	if unescaped, err := url.PathUnescape(place); err == nil {
		return unescaped
	}
	return place
}
