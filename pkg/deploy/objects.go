package deploy

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json" // whole numbers stay whole
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// maxRequests limits concurrent requests to the API server.
const maxRequests = 16

// object is an object that a manifest names.
type object struct {
	kind            schema.GroupVersionKind
	namespace, name string            // the manifest's namespace, or the release's
	expires         bool              // a job that the cluster removes when it is done
	claims          []string          // names of a stateful set's claim templates
	selector        map[string]string // of a stateful set's pods, and of its claims
	content         *unstructured.Unstructured
	definition      bool // a CRD or a namespace: it is in no manifest
}

// contents are the parts of a revision that are needed again and again.
type contents struct {
	objects []object // its CRDs included
	hooks   bool     // that were run
	images  []ContainerImage
}

// same tells whether both are the same object, in whatever version of its kind.
func (o object) same(other object) bool {
	return o.kind.GroupKind() == other.kind.GroupKind() && o.namespace == other.namespace && o.name == other.name
}

func (o object) String() string { return strings.ToLower(o.kind.Kind) + "/" + o.name }

func (o object) isNamespace() bool { return o.kind.GroupKind() == namespaceKind }

// parseObjects returns the objects of a manifest, those in lists included.
func parseObjects(manifest, namespace string) ([]object, error) {
	var all []object
	for _, document := range splitManifest(manifest) {
		content, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			return nil, err
		}
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal(content, &u.Object); err != nil {
			return nil, err
		}
		items, err := itemsOf(u)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			if item.GetKind() != "" && item.GetName() != "" {
				all = append(all, newObject(item, namespace))
			}
		}
	}
	return all, nil
}

// newObject describes an object, which lies in that namespace unless it says another one.
func newObject(u *unstructured.Unstructured, namespace string) object {
	o := object{kind: u.GroupVersionKind(), namespace: cmp.Or(u.GetNamespace(), namespace), name: u.GetName(), content: u}
	_, found, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished")
	o.expires = o.kind.Kind == "Job" && found
	o.selector, _, _ = unstructured.NestedStringMap(u.Object, "spec", "selector", "matchLabels")
	templates, _, _ := unstructured.NestedSlice(u.Object, "spec", "volumeClaimTemplates")
	for _, template := range templates {
		if claim, ok := template.(map[string]any); ok {
			name, _, _ := unstructured.NestedString(claim, "metadata", "name")
			o.claims = append(o.claims, name)
		}
	}
	return o
}

// remember caches the contents of a revision.
func (d *Deployer) remember(r Release, made *release.Release) contents {
	objects, err := parseObjects(made.Manifest, r.Namespace)
	if err != nil {
		return contents{} // Helm has parsed it before
	}
	for _, file := range crdsOf(made) { // not in the manifest
		if named, err := parseObjects(string(file.File.Data), r.Namespace); err == nil {
			for _, o := range named {
				o.definition = true
				objects = append(objects, o)
			}
		}
	}
	known := contents{objects, slices.ContainsFunc(made.Hooks, hasRun), imagesIn(made.Hooks, made.Manifest)}
	d.mu.Lock()
	defer d.mu.Unlock()
	// Only those of the last revision are needed.
	maps.DeleteFunc(d.revisionContents, func(id string, _ contents) bool { return strings.HasPrefix(id, r.ID()+"@") })
	maps.DeleteFunc(d.clean, func(id, _ string) bool { return strings.HasPrefix(id, r.ID()+"@") })
	d.revisionContents[revisionID(r, made.Version)] = known
	return known
}

func crdsOf(made *release.Release) []chart.CRD {
	if made.Chart == nil {
		return nil
	}
	return made.Chart.CRDObjects()
}

// contentsOf returns those of a revision. Helm's record is read once: it holds the whole chart.
func (d *Deployer) contentsOf(ctx context.Context, r Release, version int) (contents, error) {
	d.mu.Lock()
	known, found := d.revisionContents[revisionID(r, version)]
	d.mu.Unlock()
	if found {
		return known, nil
	}
	record, err := d.record(ctx, r, version)
	if err != nil {
		return contents{}, err
	}
	return d.remember(r, record), nil
}

// metadata returns an object's metadata, nil if there is no such object.
func (d *Deployer) metadata(ctx context.Context, o object) (*metav1.PartialObjectMetadata, error) {
	resource, namespace, err := d.endpoint(o)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	there, err := d.cluster.Metadata.Resource(resource).Namespace(namespace).Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return there, err
}

// resource returns the API of an object's kind and namespace.
func (d *Deployer) resource(o object) (dynamic.ResourceInterface, error) {
	resource, namespace, err := d.endpoint(o)
	if err != nil {
		return nil, err
	}
	return d.cluster.Dynamic.Resource(resource).Namespace(namespace), nil
}

// endpoint returns an object's resource, and its namespace, "" if its kind has none.
func (d *Deployer) endpoint(o object) (resource schema.GroupVersionResource, namespace string, err error) {
	mapping, err := d.cluster.Mapper.RESTMapping(o.kind.GroupKind(), o.kind.Version)
	if err != nil {
		return resource, "", err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace = o.namespace
	}
	return mapping.Resource, namespace, nil
}
