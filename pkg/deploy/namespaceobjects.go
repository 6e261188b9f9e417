package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// namespaceKind is the kind of what Helm must never delete: others may have objects in it.
var namespaceKind = schema.GroupKind{Kind: "Namespace"}

// takeNamespaces takes the namespaces out of what the templates of a chart have rendered, hooks
// included, and returns them by their templates. Helm would delete them with the release, and
// refuse those that are there. So devloop applies them itself, and they are in Helm's record like
// CRDs, which Helm does not touch either.
func takeNamespaces(files map[string]string) (taken []chart.CRD) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.Contains(files[name], namespaceKind.Kind) || strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		var rest, namespaces []string
		for _, document := range splitManifest(files[name]) {
			found, others := splitNamespaces(document)
			namespaces = append(namespaces, found...)
			if others != "" {
				rest = append(rest, others)
			}
		}
		if len(namespaces) == 0 {
			continue
		}
		files[name] = strings.Join(rest, "\n---\n")
		text := strings.Join(namespaces, "\n---\n")
		taken = append(taken, chart.CRD{Name: name, Filename: name, File: &chart.File{Name: name, Data: []byte(text)}})
	}
	return taken
}

// splitNamespaces returns the namespaces of a document, which may be a list, and the document
// without them.
func splitNamespaces(document string) (namespaces []string, others string) {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil || u.Object == nil {
		return nil, document // Helm says what is wrong with it
	}
	if u.GroupVersionKind().GroupKind() == namespaceKind {
		return []string{document}, ""
	}
	items, isList := u.Object["items"].([]any)
	if !isList {
		return nil, document
	}
	var kept []any
	for _, item := range items {
		fields, _ := item.(map[string]any)
		one := &unstructured.Unstructured{Object: fields}
		text, err := yaml.Marshal(fields)
		if err != nil || one.GroupVersionKind().GroupKind() != namespaceKind {
			kept = append(kept, item)
			continue
		}
		namespaces = append(namespaces, string(text))
	}
	if len(namespaces) == 0 {
		return nil, document
	}
	u.Object["items"] = kept
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		return nil, document
	}
	return namespaces, string(text)
}

// hasNamespaces tells whether namespaces were rendered.
func (made rendered) hasNamespaces() bool {
	return slices.ContainsFunc(made.definitions, func(o manifestObject) bool {
		return o.GroupVersionKind().GroupKind() == namespaceKind
	})
}

// namespacesFile is how Helm's record has the namespaces of a release.
func namespacesFile(namespaces []chart.CRD) *chart.File {
	var text strings.Builder
	for _, file := range namespaces {
		fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", file.Filename, file.File.Data)
	}
	return &chart.File{Name: "crds/devloop-namespaces.yaml", Data: []byte(text.String())}
}

// applyNamespaces makes the namespaces of a release what they should be. One that others made gets
// what the release sets, and stays theirs.
func (d *Deployer) applyNamespaces(
	ctx context.Context, stage event.Stage, r Release, definitions []manifestObject, w *writeLog,
) error {
	for _, o := range definitions {
		if o.GroupVersionKind().GroupKind() != namespaceKind || o.GetName() == "" {
			continue
		}
		made, err := d.ensureNamespace(ctx, stage, o.GetName())
		if made {
			w.add("created", "namespace/"+o.GetName())
		}
		if err == nil {
			err = d.sendNamespace(ctx, r, o.Unstructured, nil)
		}
		if err != nil {
			return event.WithHint(fmt.Errorf("release %s: namespace %s: %w", r.ID(), o.GetName(), err), r.hintFix())
		}
	}
	return nil
}

// Namespaces returns the namespaces that objects of the releases are or lie in, those of the
// releases included, as far as their last revisions are known.
func (d *Deployer) Namespaces(releases []Release) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, r := range releases {
		all = append(all, r.Namespace)
		for id, made := range d.revisionContents {
			if strings.HasPrefix(id, r.ID()+"@") {
				for _, o := range made.objects { // one without a namespace counts for the release's
					if all = append(all, o.namespace); o.kind.GroupKind() == namespaceKind {
						all = append(all, o.name)
					}
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// checkNamespaces returns an error if a namespace that the release needs is not there, once all
// that may make it have run.
func (d *Deployer) checkNamespaces(ctx context.Context, want *desired, made rendered) error {
	checked := map[string]bool{}
	check := func(o manifestObject, namespace string) error {
		if namespace == "" || checked[namespace] {
			return nil
		}
		checked[namespace] = true
		_, err := d.cluster.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		switch {
		case !apierrors.IsNotFound(err): // Helm's requests tell more
			return nil
		case namespace == want.Namespace:
			return event.WithHint(fmt.Errorf("release %s: there is no namespace %s", want.ID(), namespace),
				"set createNamespace: true for the release, or create it")
		}
		return event.WithHint(fmt.Errorf("release %s: %s: %s lies in the namespace %s, and there is none of that name",
			want.ID(), o.file, o.in(want.Namespace), namespace), "create it, or add a Namespace object to the release")
	}
	if err := check(manifestObject{}, want.Namespace); err != nil {
		return err
	}
	for _, o := range made.objects {
		if _, namespace, err := d.endpoint(o.in(want.Namespace)); err == nil {
			if err := check(o, namespace); err != nil {
				return err
			}
		}
	}
	return nil
}

// sendNamespace sets the labels and annotations that a release's manifest of a namespace has. Each
// release has a field manager of its own, so that it removes only what it has set.
func (d *Deployer) sendNamespace(
	ctx context.Context, r Release, manifest *unstructured.Unstructured, dryRun []string,
) error {
	metadata := map[string]any{"name": manifest.GetName()}
	for _, field := range []string{"labels", "annotations"} { // as they are: the API server says what is wrong with them
		if value, found, _ := unstructured.NestedFieldCopy(manifest.Object, "metadata", field); found {
			metadata[field] = value
		}
	}
	if labels, ok := metadata["labels"].(map[string]any); ok && d.journal != nil &&
		d.journal.Has(journal.Namespace, manifest.GetName()) {
		delete(labels, kube.LabelManagedBy) // by which devloop knows its own
	}
	patch, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": namespaceKind.Kind, "metadata": metadata})
	if err != nil {
		return err
	}
	force := true
	_, err = d.cluster.Dynamic.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).Patch(ctx,
		manifest.GetName(), types.ApplyPatchType, patch,
		metav1.PatchOptions{FieldManager: kube.FieldManager + "/" + r.ID(), Force: &force, DryRun: dryRun})
	return mistyped(err)
}
