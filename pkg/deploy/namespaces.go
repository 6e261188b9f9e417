package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

// createdNamespaces returns the namespaces that releases ask for.
func createdNamespaces(releases []Release) (names []string) {
	for _, r := range releases {
		if r.CreateNamespace && !slices.Contains(names, r.Namespace) {
			names = append(names, r.Namespace)
		}
	}
	return names
}

// endingNamespace tells whether a namespace that releases ask for is being deleted.
func (d *Deployer) endingNamespace(ctx context.Context, releases []Release) bool {
	return slices.ContainsFunc(createdNamespaces(releases), func(name string) bool {
		found, err := d.cluster.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		return err == nil && found.Status.Phase == corev1.NamespaceTerminating // an error is met again
	})
}

// ensureNamespaces creates the namespaces that releases ask for.
func (d *Deployer) ensureNamespaces(ctx context.Context, stage event.Stage, releases []Release) error {
	group, ctx := event.NewGroup(ctx)
	for _, name := range createdNamespaces(releases) {
		group.Go(func() error {
			_, err := d.ensureNamespace(ctx, stage, name)
			return err
		})
	}
	return group.Wait()
}

// ensureNamespace creates a namespace if there is none, and records first that devloop may delete
// it. One call at a time: a second one for the same namespace would take it for someone else's.
func (d *Deployer) ensureNamespace(ctx context.Context, stage event.Stage, name string) (created bool, err error) {
	d.namespaces.Lock()
	defer d.namespaces.Unlock()
	namespaces := d.cluster.Client.CoreV1().Namespaces()
	found, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	if err == nil && found.Status.Phase == corev1.NamespaceTerminating { // of a clean-up that has not finished
		waitCtx, cancel := context.WithTimeoutCause(ctx, kube.EndingTimeout,
			fmt.Errorf("still being deleted after %s", kube.EndingTimeout))
		defer cancel()
		if err := d.awaitNamespaceGone(waitCtx, stage, found); err != nil {
			return false, err
		}
		_, err = namespaces.Get(ctx, name, metav1.GetOptions{})
	}
	if err == nil {
		return false, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("namespace %s: %w", name, err)
	}
	if err := d.journal.Record(journal.Namespace, name); err != nil {
		return false, err
	}
	made, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{kube.LabelManagedBy: kube.FieldManager}}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return false, d.forgetEntry(journal.Namespace, name) // someone else created it
	}
	if err != nil {
		return false, fmt.Errorf("create namespace %s: %w", name, err)
	}
	return true, d.recordUID(journal.Namespace, name, made.UID)
}

// awaitNamespaceGone waits for the end of a namespace that is being deleted.
func (d *Deployer) awaitNamespaceGone(ctx context.Context, stage event.Stage, there *corev1.Namespace) error {
	return d.awaitGone(ctx, stage, func() ([]ending, error) {
		now, err := d.cluster.Client.CoreV1().Namespaces().Get(ctx, there.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && now.UID != there.UID:
			return nil, nil
		case err != nil:
			return nil, err
		}
		e := endingObject(corev1.Resource("namespaces"), now)
		for _, c := range now.Status.Conditions { // what the namespace's controller says
			remains := c.Type == corev1.NamespaceFinalizersRemaining || c.Type == corev1.NamespaceDeletionDiscoveryFailure
			if remains && c.Status == corev1.ConditionTrue {
				e.why = c.Message
			}
		}
		return []ending{e}, nil
	})
}

// isOurNamespace tells whether devloop made this namespace, and not someone else one of its name
// since.
func (d *Deployer) isOurNamespace(there metav1.Object) bool {
	name := there.GetName()
	return d.journal.Has(journal.Namespace, name) && there.GetLabels()[kube.LabelManagedBy] == kube.FieldManager &&
		d.matchesUID(journal.Namespace, name, there.GetUID())
}

const emptyTimeout = 90 * time.Second

// deleteNamespaces deletes namespaces side by side: Kubernetes takes 5 s for each.
func (d *Deployer) deleteNamespaces(ctx context.Context, stage event.Stage, names []string) error {
	errs := make([]error, len(names))
	var group sync.WaitGroup
	for i, name := range names {
		group.Go(func() {
			errs[i] = stage.Guard("namespace", func() error { return d.deleteNamespace(ctx, stage, name) })
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// deleteNamespace deletes a namespace that devloop made, once it holds only what every namespace
// has. An object created between the last look and the deletion is lost: the API server has no
// precondition for that.
func (d *Deployer) deleteNamespace(ctx context.Context, stage event.Stage, name string) error {
	namespaces := d.cluster.Client.CoreV1().Namespaces()
	waitCtx, cancel := context.WithTimeoutCause(ctx, emptyTimeout, fmt.Errorf("not empty after %s", emptyTimeout))
	defer cancel()
	there, err := namespaces.Get(waitCtx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && !d.isOurNamespace(there): // someone else's of that name
		return d.forgetEntry(journal.Namespace, name)
	case err == nil && there.Annotations[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy:
		return nil
	case err != nil:
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	content, err := d.remains(waitCtx, stage, name)
	switch {
	case discovery.IsGroupDiscoveryFailedError(err):
		stage.Warn("namespace kept, the API server does not list all that may be in it", err,
			"namespace", event.Name(name))
		return nil
	case err != nil:
		return fmt.Errorf("namespace %s: %w", name, err)
	case content != "":
		stage.Warn("namespace kept, it is not empty", nil, "namespace", event.Name(name), "holds", content)
		return nil
	}
	return stage.Step(ctx, "namespace deleted", func(ctx context.Context) ([]any, error) {
		err := namespaces.Delete(ctx, name, metav1.DeleteOptions{Preconditions: onlyUID(there.UID)})
		if err != nil && !isGone(err) { // a conflict may also mean that it is being deleted
			return nil, fmt.Errorf("delete namespace %s: %w", name, err)
		}
		waitCtx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still there after %s", goneTimeout))
		defer cancel()
		err = d.awaitNamespaceGone(waitCtx, stage, there)
		if err != nil {
			return nil, err
		}
		return nil, d.forgetEntry(journal.Namespace, name)
	}, "namespace", event.Name(name))
}

// remains waits for objects that are going away by themselves, and names one that is not, "" if the
// namespace is empty. If the API server does not list some kinds for longer than AnswerTimeout, the
// error is discovery's: these may hold objects.
func (d *Deployer) remains(ctx context.Context, stage event.Stage, namespace string) (content string, err error) {
	var unlisted error
	since := time.Now()
	err = d.awaitGone(ctx, stage, func() (left []ending, err error) {
		content, left, err = d.contents(ctx, namespace)
		unlisted = nil
		switch {
		case discovery.IsGroupDiscoveryFailedError(err) && time.Since(since) > kube.AnswerTimeout:
			unlisted = err
			return nil, nil
		case content != "":
			return nil, err
		}
		return left, err
	}, "namespace", event.Name(namespace))
	if err == nil {
		err = unlisted
	}
	return content, err
}

// contents names an object that keeps the namespace from being empty, or else returns those that go
// by themselves: they are being deleted, or their owners are gone and the garbage collector comes
// for them. If nothing is found but some kinds are not listed now, the error is discovery's.
func (d *Deployer) contents(ctx context.Context, namespace string) (stays string, left []ending, err error) {
	d.cluster.Discovery.Invalidate() // include kinds that are new
	_, lists, unlisted := d.cluster.Discovery.ServerGroupsAndResources()
	if unlisted != nil && !discovery.IsGroupDiscoveryFailedError(unlisted) {
		return "", nil, unlisted
	}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists) {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return "", nil, err
		}
		for _, resource := range list.APIResources {
			if !resource.Namespaced || strings.Contains(resource.Name, "/") {
				continue
			}
			objects, err := d.cluster.Dynamic.Resource(version.WithResource(resource.Name)).Namespace(namespace).List(ctx,
				metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return "", nil, fmt.Errorf("list %s: %w", resource.Name, err)
			}
			for i := range objects.Items {
				object := &objects.Items[i]
				switch {
				case automatic(resource.Name, object.GetName()):
				case object.GetDeletionTimestamp() == nil && len(object.GetOwnerReferences()) == 0:
					return resource.Name + "/" + object.GetName(), nil, nil
				default:
					left = append(left, endingObject(version.WithResource(resource.Name).GroupResource(), object))
				}
			}
		}
	}
	if len(left) == 0 {
		err = unlisted
	}
	return "", left, err
}

// automatic tells whether a cluster puts this object into every namespace, or leaves it there.
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
