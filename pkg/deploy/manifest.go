package deploy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// manifestObject is an object of a manifest, with all its fields.
type manifestObject struct {
	*unstructured.Unstructured
	file string // the template that it is from
}

// in names the object, which lies in that namespace unless it says another one.
func (o manifestObject) in(namespace string) object {
	return object{kind: o.GroupVersionKind(), namespace: cmp.Or(o.GetNamespace(), namespace), name: o.GetName()}
}

// manifestObjects returns the objects of a manifest as Helm records it, those in lists included.
// What it cannot read is left to Helm.
func manifestObjects(manifest string) (all []manifestObject) {
	for _, document := range splitManifest(manifest) {
		file := ""
		for line := range strings.Lines(document) {
			if source, found := strings.CutPrefix(line, "# Source: "); found {
				file = strings.TrimSpace(source)
				break
			}
		}
		all = append(all, decodeObjects(file, document)...)
	}
	return all
}

// parseDefinitions returns the CRDs and namespaces of a chart's files, whose paths are those that
// place returns.
func parseDefinitions(files []chart.CRD, place func(name string) string) (all []manifestObject, err error) {
	for _, file := range files {
		name := place(file.Filename)
		for _, document := range splitManifest(string(file.File.Data)) {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, objectsIn(name, u)...)
		}
	}
	return all, nil
}

// decodeObjects returns the objects of one document.
func decodeObjects(file, document string) (all []manifestObject) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
		return nil
	}
	return objectsIn(file, u)
}

// objectsIn returns the objects of a list, or the object itself if it is none.
func objectsIn(file string, u *unstructured.Unstructured) (all []manifestObject) {
	if u.GetKind() == "" {
		return nil
	}
	items, _ := itemsOf(u)
	for _, item := range items {
		if item.GetKind() != "" {
			all = append(all, manifestObject{item, file})
		}
	}
	return all
}

// splitManifest returns the documents of a manifest in their order.
func splitManifest(manifest string) (documents []string) {
	byName := releaseutil.SplitManifests(manifest)
	names := slices.Collect(maps.Keys(byName))
	sort.Sort(releaseutil.BySplitManifestsOrder(names))
	for _, name := range names {
		documents = append(documents, byName[name])
	}
	return documents
}

// itemsOf returns the objects of a list, or the object itself if it is none.
func itemsOf(u *unstructured.Unstructured) (items []*unstructured.Unstructured, err error) {
	if !u.IsList() {
		return []*unstructured.Unstructured{u}, nil
	}
	err = u.EachListItem(func(item runtime.Object) error {
		if object, ok := item.(*unstructured.Unstructured); ok {
			items = append(items, object)
		}
		return nil
	})
	return items, err
}
