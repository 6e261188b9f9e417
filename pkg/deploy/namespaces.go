package deploy

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// ensureNamespaces creates those that releases ask for.
func (d *Deployer) ensureNamespaces(ctx context.Context, releases []Release) error {
	var names []string
	for _, r := range releases {
		if r.CreateNamespace && !slices.Contains(names, r.Namespace) {
			names = append(names, r.Namespace)
		}
	}
	group, ctx := event.NewGroup(ctx)
	for _, name := range names {
		group.Go(func() error { return d.ensureNamespace(ctx, name) })
	}
	return group.Wait()
}

// ensureNamespace creates the namespace if it is not there, and in that case writes down first that it is devloop's to delete.
func (d *Deployer) ensureNamespace(ctx context.Context, name string) error {
	namespaces := d.cluster.Client.CoreV1().Namespaces()
	ctx, cancel := context.WithTimeoutCause(ctx, kube.EndingTimeout, fmt.Errorf("not gone after %s", kube.EndingTimeout))
	defer cancel()
	for {
		found, err := namespaces.Get(ctx, name, metav1.GetOptions{})
		if err == nil && found.Status.Phase != corev1.NamespaceTerminating {
			return nil
		}
		if err == nil { // left over from a clean-up that has not ended: wait for its end
			if err := sleep(ctx, pollInterval); err != nil {
				return event.WithHint(fmt.Errorf("namespace %s is still being deleted: %w", name, err),
					"an object in it may have a finalizer that nobody takes away: kubectl describe namespace "+name)
			}
			continue
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
		if err := d.journal.Record(kindNamespace, name); err != nil {
			return err
		}
		made, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{kube.LabelManagedBy: kube.FieldManager}}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return d.forgetMade(kindNamespace, name) // somebody was faster: it is theirs
		}
		if err != nil {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
		return d.recordUID(kindNamespace, name, made.UID)
	}
}
