// Cleaning up: what users made through the platform first, then releases in reverse order, then namespaces that devloop made and
// that hold nothing else. Only what the journal names is deleted.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/storage/driver"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"

	"github.com/devloop/devloop/pkg/event"
)

// Deadlines of a clean-up's waits. Pods may take their grace period (traefik's is 60 s) to end.
const (
	goneTimeout  = 60 * time.Second
	emptyTimeout = 90 * time.Second
)

// Cleanup removes what was deployed: objects of the resources in before ("daskclusters.gateway.dask.org") in the namespaces of
// our releases, the releases, then empty namespaces. Releases that are ours and no longer in devloop.yaml go, too. It continues
// after an error, so that one trouble does not keep the rest.
func (d *Deployer) Cleanup(ctx context.Context, sink event.Sink, releases []Release, before []string) error {
	say := sink.For("cleanup")
	var (
		ours       []Release
		namespaces []string
		errs       []error
	)
	for _, r := range d.recorded(releases) {
		owned, err := d.stillOurs(r)
		errs = append(errs, err)
		if !owned {
			continue
		}
		ours = append(ours, r)
		if !slices.Contains(namespaces, r.Namespace) {
			namespaces = append(namespaces, r.Namespace)
		}
	}
	for _, resource := range before {
		for _, namespace := range namespaces {
			errs = append(errs, d.deleteAll(ctx, say, resource, namespace))
		}
	}
	for _, r := range slices.Backward(ours) {
		errs = append(errs, d.uninstall(ctx, say, r))
	}
	for _, namespace := range d.journal.Names(kindNamespace) {
		errs = append(errs, d.deleteNamespace(ctx, say, namespace))
	}
	return errors.Join(errs...)
}

// recorded returns the releases that the journal permits to delete: first those that are no longer in devloop.yaml, then the
// others in devloop.yaml's order.
func (d *Deployer) recorded(releases []Release) []Release {
	var gone, listed []Release
	for _, id := range d.journal.Names(kindRelease) {
		namespace, name, _ := strings.Cut(id, "/")
		if !slices.ContainsFunc(releases, func(r Release) bool { return r.ID() == id }) {
			gone = append(gone, Release{Name: name, Namespace: namespace})
		}
	}
	for _, r := range releases {
		if d.journal.Has(kindRelease, r.ID()) {
			listed = append(listed, r)
		}
	}
	return append(gone, listed...)
}

// stillOurs looks whether the release is there and ours; if not, the journal forgets it.
func (d *Deployer) stillOurs(r Release) (bool, error) {
	helm, err := d.helm(r.Namespace)
	if err != nil {
		return false, err
	}
	last, err := helm.Releases.Last(r.Name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return false, fmt.Errorf("clean up release %s: %w", r.ID(), err)
	}
	if last == nil || !d.owns(last) {
		return false, d.journal.Forget(kindRelease, r.ID())
	}
	return true, nil
}

// deleteAll deletes the objects of a resource in a namespace and waits until they and the pods that belong to them are gone.
func (d *Deployer) deleteAll(ctx context.Context, say event.Stage, name, namespace string) error {
	mapping, err := d.cluster.mapper.ResourceFor(schema.ParseGroupResource(name).WithVersion(""))
	if meta.IsNoMatchError(err) {
		return nil // the cluster knows no such kind, so there is none
	}
	if err != nil {
		return fmt.Errorf("clean up %s: %w", name, err)
	}
	objects := d.cluster.dynamic.Resource(mapping).Namespace(namespace)
	list, err := objects.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || err == nil && len(list.Items) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up %s in %s: %w", name, namespace, err)
	}
	return say.Step(ctx, "objects deleted", func(ctx context.Context) ([]any, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still there after %s", goneTimeout))
		defer cancel()
		owners := map[types.UID]bool{}
		for _, object := range list.Items {
			owners[object.GetUID()] = true
			err := objects.Delete(ctx, object.GetName(), metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("delete %s %s/%s: %w", name, namespace, object.GetName(), err)
			}
		}
		return nil, d.until(ctx, func() (string, error) {
			left, err := objects.List(ctx, metav1.ListOptions{})
			if err != nil {
				return "", err
			}
			for _, object := range left.Items {
				if owners[object.GetUID()] {
					return name + " " + object.GetName(), nil
				}
			}
			pods, err := d.cluster.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return "", err
			}
			for _, pod := range pods.Items {
				for _, owner := range pod.OwnerReferences {
					if owners[owner.UID] {
						return "pod " + pod.Name, nil
					}
				}
			}
			return "", nil
		})
	}, "resource", name, "namespace", namespace, "count", len(list.Items))
}

// uninstall removes a release that is ours.
func (d *Deployer) uninstall(ctx context.Context, say event.Stage, r Release) error {
	helm, err := d.helm(r.Namespace)
	if err != nil {
		return err
	}
	return say.Step(ctx, "release uninstalled", func(context.Context) ([]any, error) {
		uninstall := action.NewUninstall(helm)
		uninstall.Timeout = hookTimeout
		if _, err := uninstall.Run(r.Name); err != nil {
			return nil, fmt.Errorf("uninstall release %s: %w", r.ID(), err)
		}
		return nil, d.journal.Forget(kindRelease, r.ID())
	}, "release", r.Name)
}

// deleteNamespace deletes a namespace that devloop made, once nothing but what every namespace has is left in it.
func (d *Deployer) deleteNamespace(ctx context.Context, say event.Stage, name string) error {
	content := ""
	waitCtx, cancel := context.WithTimeoutCause(ctx, emptyTimeout, fmt.Errorf("not empty after %s", emptyTimeout))
	defer cancel()
	_, err := d.cluster.Client.CoreV1().Namespaces().Get(waitCtx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return d.journal.Forget(kindNamespace, name)
	}
	err = d.until(waitCtx, func() (left string, err error) {
		var ending bool
		content, ending, err = d.contents(waitCtx, name)
		if ending {
			return content, err // it goes by itself
		}
		return "", err
	})
	if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	if content != "" {
		say.Warn("namespace kept, it is not empty", nil, "namespace", name, "holds", content)
		return nil
	}
	return say.Step(ctx, "namespace deleted", func(ctx context.Context) ([]any, error) {
		err := d.cluster.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("delete namespace %s: %w", name, err)
		}
		waitCtx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still there after %s", goneTimeout))
		defer cancel()
		err = d.until(waitCtx, func() (string, error) {
			_, err := d.cluster.Client.CoreV1().Namespaces().Get(waitCtx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return "", nil
			}
			return "namespace " + name, err
		})
		if err != nil {
			return nil, err
		}
		return nil, d.journal.Forget(kindNamespace, name)
	}, "namespace", name)
}

// contents names an object that keeps the namespace from being empty; ending tells that this object goes by itself, because
// it is being deleted or because what owns it is gone and the garbage collector comes for it.
func (d *Deployer) contents(ctx context.Context, namespace string) (found string, ending bool, err error) {
	_, lists, err := d.cluster.discovery.ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return "", false, err
	}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists) {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return "", false, err
		}
		for _, resource := range list.APIResources {
			if !resource.Namespaced || strings.Contains(resource.Name, "/") {
				continue
			}
			objects, err := d.cluster.dynamic.Resource(version.WithResource(resource.Name)).Namespace(namespace).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return "", false, fmt.Errorf("list %s: %w", resource.Name, err)
			}
			for _, object := range objects.Items {
				if automatic(resource.Name, object.GetName()) {
					continue
				}
				found = resource.Name + "/" + object.GetName()
				if object.GetDeletionTimestamp() == nil && len(object.GetOwnerReferences()) == 0 {
					return found, false, nil
				}
				ending = true
			}
		}
	}
	return found, ending, nil
}

// automatic are the objects that a cluster puts into every namespace, or leaves there by itself.
func automatic(resource, name string) bool {
	switch resource {
	case "events", "endpoints", "endpointslices", "leases", "pods.metrics.k8s.io":
		return true
	case "serviceaccounts":
		return name == "default"
	case "configmaps":
		return name == "kube-root-ca.crt"
	}
	return false
}

// until asks again and again what is still waited for, until nothing is or ctx ends. A request that fails is asked again.
func (d *Deployer) until(ctx context.Context, ask func() (left string, err error)) error {
	for {
		left, err := ask()
		if left == "" && err == nil {
			return nil
		}
		if waitErr := sleep(ctx, pollInterval); waitErr != nil {
			if left != "" {
				return fmt.Errorf("%s: %w", left, waitErr)
			}
			return errors.Join(waitErr, err)
		}
	}
}
