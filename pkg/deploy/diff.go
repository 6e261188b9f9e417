package deploy

// For devloop render and devloop diff, which change nothing.

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
)

// Difference is what applying a release would change.
type Difference struct {
	Release  string   // namespace/name
	Revision int      // in the cluster, 0 if none
	Changed  bool     // a new revision would be written
	Drifted  []string // what others have changed since the last one
	Why      string   // it would be written, or not
	Set      []SetImage
	Text     string // unified diff of the objects; the values of secrets are hidden
}

func (d *Deployer) readWithRecord(ctx context.Context, sink event.Sink, r Release) (desired, revision, error) {
	want, err := d.readInputs(ctx, sink.Stage("deploy"), r)
	if err != nil {
		return want, revision{}, err
	}
	last, err := d.last(ctx, r)
	return want, last, err
}

// Diff compares a release with the last revision in the cluster.
func (d *Deployer) Diff(ctx context.Context, sink event.Sink, r Release) (Difference, error) {
	want, last, err := d.readWithRecord(ctx, sink, r)
	if err != nil {
		return Difference{}, err
	}
	found := Difference{Release: r.ID(), Revision: last.version}
	var drifted []drift
	if d.wasApplied(last) {
		if drifted, err = d.drifts(ctx, sink.Stage("deploy"), r, last); err != nil {
			return found, err
		}
	}
	secret := d.secretTexts(ctx, r, last, drifted)
	for _, one := range drifted {
		found.Drifted = append(found.Drifted, one.line(secret))
	}
	upToDate, err := d.upToDate(ctx, last, want)
	if err != nil {
		return found, err
	}
	if upToDate {
		if found.Why = "nothing differs"; len(drifted) > 0 {
			found.Why = "others have changed it"
		}
		found.Text = driftDiff(drifted)
		return found, nil
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return found, err
	}
	found.Changed, found.Why, found.Set = true, d.whyDiffers(r, last), made.set
	after := definitionsOf(made.crds, r.Namespace)
	var before []document
	if last.exists() {
		record, err := d.record(ctx, r, last.version)
		if err != nil {
			return found, err
		}
		before = append(withoutStaying(definitionsOf(crdsOf(record), r.Namespace), after),
			documentsOf(record.Manifest, r.Namespace)...)
		for _, hook := range record.Hooks {
			before = append(before, documentOf(hook.Manifest, r.Namespace, "hook "))
		}
	}
	for _, m := range made.manifests {
		after = append(after, documentOf(m.Content, r.Namespace, ""))
	}
	for _, hook := range made.hooks {
		after = append(after, documentOf(hook.Manifest, r.Namespace, "hook "))
	}
	found.Text = unifiedDiff(before, after)
	return found, nil
}

// driftDiff shows what putting drift back changes.
func driftDiff(drifted []drift) string {
	var before, after []document
	for _, one := range drifted {
		wanted := one.result
		switch {
		case one.isGone():
			wanted = one.content
		case wanted == nil:
			wanted = one.restored
		}
		if one.live != nil && !one.ending {
			before = append(before, one.document(one.live))
		}
		after = append(after, one.document(wanted))
	}
	return unifiedDiff(before, after)
}

// document returns a version of the object without what the API server itself writes into it.
func (f drift) document(u *unstructured.Unstructured) document {
	u = u.DeepCopy()
	delete(u.Object, "status")
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	text, err := yaml.Marshal(u.Object)
	if err != nil {
		text = []byte("it cannot be shown: " + err.Error())
	}
	return documentOf(string(text), f.namespace, "")
}

func (d *Deployer) whyDiffers(r Release, last revision) string {
	switch {
	case !last.exists():
		return "it is not there yet"
	case !d.labelled(last):
		return "it was not made by devloop for this project"
	case last.status != release.StatusDeployed:
		return "its last revision is " + last.status.String()
	case !last.byDevloop():
		return "its last revision was not made by devloop"
	}
	if r.isPlain() {
		return "its manifests, its images or its commands differ"
	}
	return "its chart, its values, its images or its commands differ"
}

// documentsOf returns the documents of a manifest, definitionsOf those of files with CRDs and
// namespaces.
func documentsOf(manifest, namespace string) (all []document) {
	for _, text := range splitManifest(manifest) {
		all = append(all, documentOf(text, namespace, ""))
	}
	return all
}

func definitionsOf(files []chart.CRD, namespace string) (all []document) {
	for _, file := range files {
		all = append(all, documentsOf(string(file.File.Data), namespace)...)
	}
	return all
}

// withoutStaying returns the definitions without those that the release no longer has: CRDs and
// namespaces stay in the cluster.
func withoutStaying(definitions, after []document) []document {
	return slices.DeleteFunc(definitions, func(definition document) bool {
		return !slices.ContainsFunc(after, func(d document) bool { return d.name == definition.name })
	})
}

// document is one object of a manifest.
type document struct{ name, text string }

// documentOf names a document, and hides the values of secrets.
func documentOf(text, namespace, prefix string) document {
	lines := slices.DeleteFunc(strings.Split(text, "\n"),
		func(line string) bool {
			return strings.HasPrefix(line, "# Source: ") || strings.HasPrefix(line, imageComment)
		})
	text = strings.TrimSpace(strings.Join(lines, "\n")) + "\n"
	u := &unstructured.Unstructured{}
	if yaml.Unmarshal([]byte(text), &u.Object) != nil || u.Object == nil {
		return document{prefix + "?", text}
	}
	if u.GetNamespace() != "" {
		namespace = u.GetNamespace()
	}
	if hideSecrets(u.Object) {
		hidden, err := yaml.Marshal(u.Object)
		if err != nil {
			hidden = []byte("hidden: it cannot be shown without its secrets\n")
		}
		text = string(hidden)
	}
	return document{fmt.Sprintf("%s%s %s/%s", prefix, u.GroupVersionKind().GroupKind(), namespace, u.GetName()), text}
}

// hideSecrets replaces the values of secrets, including those in a list, and tells whether there
// are any.
func hideSecrets(object map[string]any) (found bool) {
	if items, ok := object["items"].([]any); ok {
		for _, item := range items {
			if inner, ok := item.(map[string]any); ok && hideSecrets(inner) {
				found = true
			}
		}
	}
	if object["kind"] != "Secret" {
		return found
	}
	unstructured.RemoveNestedField(object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation) // holds them
	for _, field := range []string{"data", "stringData"} {
		secret, _ := object[field].(map[string]any)
		for key, value := range secret {
			secret[key] = "hidden, sha256 " + sum256(fmt.Append(nil, value))[:8]
		}
	}
	return true
}

// unifiedDiff compares two lists of documents, object by object.
func unifiedDiff(before, after []document) string {
	var out strings.Builder
	write := func(name, old, now string) {
		if old != now {
			out.Write(diff.Diff(name, []byte(old), name, []byte(now)))
		}
	}
	left := map[string]string{}
	for _, d := range before {
		left[d.name] = d.text
	}
	for _, d := range after {
		write(d.name, left[d.name], d.text)
		delete(left, d.name)
	}
	for _, d := range before { // in their order
		if old, gone := left[d.name]; gone {
			write(d.name, old, "")
			delete(left, d.name)
		}
	}
	return out.String()
}
