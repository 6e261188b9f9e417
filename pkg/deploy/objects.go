// The objects of a release: what its manifest names, and which of them the cluster lacks.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// atOnce is how many questions the API server is asked side by side.
const atOnce = 16

// object is one that a manifest names.
type object struct {
	kind            schema.GroupVersionKind
	namespace, name string // the namespace is the release's where the manifest names none; of no meaning for what is in none
	passing         bool   // is removed by the cluster once it is done
	kept            bool   // stays when the release is uninstalled
	claims          []string
}

// same tells whether both are the same object, whatever version of its kind they name.
func (o object) same(other object) bool {
	return o.kind.GroupKind() == other.kind.GroupKind() && o.namespace == other.namespace && o.name == other.name
}

func (o object) String() string { return strings.ToLower(o.kind.Kind) + "/" + o.name }

// parse returns the objects of a manifest, those of lists included.
func parse(manifest, namespace string) ([]object, error) {
	var all []object
	add := func(u *unstructured.Unstructured) {
		if u.GetKind() == "" || u.GetName() == "" {
			return
		}
		o := object{kind: u.GroupVersionKind(), namespace: u.GetNamespace(), name: u.GetName(), kept: u.GetAnnotations()["helm.sh/resource-policy"] == "keep"}
		if o.namespace == "" {
			o.namespace = namespace
		}
		_, found, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished")
		o.passing = o.kind.Kind == "Job" && found
		templates, _, _ := unstructured.NestedSlice(u.Object, "spec", "volumeClaimTemplates")
		for _, template := range templates {
			if claim, ok := template.(map[string]any); ok {
				name, _, _ := unstructured.NestedString(claim, "metadata", "name")
				o.claims = append(o.claims, name)
			}
		}
		all = append(all, o)
	}
	for _, document := range releaseutil.SplitManifests(manifest) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
			return nil, err
		}
		if !u.IsList() {
			add(u)
			continue
		}
		if err := u.EachListItem(func(item runtime.Object) error {
			if inner, ok := item.(*unstructured.Unstructured); ok {
				add(inner)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// keep remembers what a revision names.
func (d *Deployer) keep(r Release, made *release.Release) []object {
	objects, err := parse(made.Manifest, r.Namespace)
	if err != nil {
		return nil // Helm has read it, too
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.named {
		if strings.HasPrefix(id, r.ID()+"@") { // only the last one is of use
			delete(d.named, id)
		}
	}
	d.named[revisionID(r, made.Version)] = objects
	return objects
}

// objects returns what a revision names. Helm's record is read once: it holds the whole chart.
func (d *Deployer) objects(ctx context.Context, r Release, version int) ([]object, error) {
	d.mu.Lock()
	objects, known := d.named[revisionID(r, version)]
	d.mu.Unlock()
	if known {
		return objects, nil
	}
	helm, err := d.helm(ctx, r.Namespace)
	if err != nil {
		return nil, err
	}
	made, err := helm.Releases.Get(r.Name, version)
	if err != nil {
		return nil, fmt.Errorf("release %s: read Helm's record of revision %d: %w", r.ID(), version, err)
	}
	return d.keep(r, made), nil
}

// missing names an object of a revision that the cluster does not hold, or "".
func (d *Deployer) missing(ctx context.Context, r Release, last revision) (string, error) {
	objects, err := d.objects(ctx, r, last.version)
	if err != nil {
		return "", err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, o := range objects {
		if o.passing {
			continue
		}
		group.Go(func() error {
			mapping, err := d.cluster.mapper.RESTMapping(o.kind.GroupKind(), o.kind.Version)
			if meta.IsNoMatchError(err) {
				return missingError(o.String()) // the kind itself is gone
			}
			if err != nil {
				return err
			}
			namespaced := mapping.Scope.Name() == meta.RESTScopeNameNamespace
			if namespaced {
				_, err = d.cluster.metadata.Resource(mapping.Resource).Namespace(o.namespace).Get(ctx, o.name, metav1.GetOptions{})
			} else {
				_, err = d.cluster.metadata.Resource(mapping.Resource).Get(ctx, o.name, metav1.GetOptions{})
			}
			if apierrors.IsNotFound(err) {
				return missingError(o.String())
			}
			if err != nil {
				return fmt.Errorf("look for %s: %w", o, err)
			}
			return nil
		})
	}
	err = group.Wait()
	var gone missingError
	if errors.As(err, &gone) {
		return string(gone), nil
	}
	return "", err
}

// missingError ends the search.
type missingError string

func (m missingError) Error() string { return string(m) + " is missing" }

// resource is how objects of a kind are asked for.
func (c *Cluster) resource(o object) (dynamic.ResourceInterface, error) {
	mapping, err := c.mapper.RESTMapping(o.kind.GroupKind(), o.kind.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(mapping.Resource).Namespace(o.namespace), nil
	}
	return c.dynamic.Resource(mapping.Resource), nil
}
