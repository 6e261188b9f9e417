package deploy

// The client with which Helm changes objects. Helm deletes by name, whoever has an object of that
// name by now: what somebody else has put in its place, and what a hook finds in its way. This one
// looks first.

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/devloop/devloop/pkg/event"
)

// helmClient is Helm's own, for the changes of one release.
type helmClient struct {
	*kube.Client
	release     Release
	hookObjects []object     // what hooks of the release have made before
	foreign     func(string) // gets each object that stays, since it is not of the release
}

// guardDeletions has Helm delete only what is of the release; history are its revisions.
func guardDeletions(say event.Stage, helm *action.Configuration, r Release, history []*release.Release) {
	client, ok := helm.KubeClient.(*kube.Client)
	if !ok {
		return
	}
	c := &helmClient{Client: client, release: r, foreign: func(object string) {
		say.Warn("object stays, it is not of the release any more", nil, "release", event.Name(r.Name),
			"namespace", event.Name(r.Namespace), "object", object)
	}}
	for _, made := range history {
		for _, hook := range made.Hooks {
			if !hook.LastRun.StartedAt.IsZero() {
				named, _ := parse(hook.Manifest, r.Namespace) // Helm has read it
				c.hookObjects = append(c.hookObjects, named...)
			}
		}
	}
	helm.KubeClient = c
}

// Create marks what hooks make: all else has Helm's annotations.
func (c *helmClient) Create(resources kube.ResourceList) (*kube.Result, error) {
	for _, info := range resources {
		o, err := meta.Accessor(info.Object)
		if err != nil {
			return nil, err
		}
		if o.GetAnnotations()[annotationHook] != "" && !belongsTo(o, c.release) {
			annotations := map[string]string{annotationHookOf: c.release.ID()}
			for key, value := range o.GetAnnotations() {
				annotations[key] = value
			}
			o.SetAnnotations(annotations)
		}
	}
	return c.Client.Create(resources)
}

// Update deletes what original has and target has not. Helm's would do so by name.
func (c *helmClient) Update(original, target kube.ResourceList, force bool) (*kube.Result, error) {
	result, err := c.Client.Update(original.Intersect(target), target, force)
	if err != nil {
		return result, err
	}
	deleted, errs := c.DeleteWithPropagationPolicy(original.Difference(target), metav1.DeletePropagationBackground)
	if len(errs) > 0 { // Helm's does not fail for that either, and leaves the object
		c.Log("delete what the release has no more: %v", errs)
	}
	result.Deleted = append(result.Deleted, deleted.Deleted...)
	return result, nil
}

// Delete is how Helm deletes what is in a hook's way, and what a hook has left. It waits for the
// end of these objects then, so one that stays is an error.
func (c *helmClient) Delete(resources kube.ResourceList) (*kube.Result, []error) {
	return c.delete(resources, metav1.DeletePropagationBackground, func(object string) error {
		err := fmt.Errorf("%s is there already, and no hook of the release %s made it", object, c.release.ID())
		return event.WithHint(err,
			"rename the hook's object, or delete the one that is there if nobody needs it")
	})
}

// DeleteWithPropagationPolicy is how Helm deletes the objects of a release.
func (c *helmClient) DeleteWithPropagationPolicy(resources kube.ResourceList,
	policy metav1.DeletionPropagation) (*kube.Result, []error) {
	return c.delete(resources, policy, func(object string) error {
		c.foreign(object)
		return nil
	})
}

// delete deletes resources that are of the release, those of a kind side by side; kept says what it
// means that another one stays.
func (c *helmClient) delete(resources kube.ResourceList, policy metav1.DeletionPropagation,
	kept func(object string) error) (*kube.Result, []error) {
	var mu sync.Mutex
	result, errs := &kube.Result{}, []error(nil)
	one := func(info *resource.Info) {
		isOurs, err := c.deleteOne(info, policy)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && !isOurs {
			err = kept(strings.ToLower(info.Mapping.GroupVersionKind.Kind) + "/" + info.Name)
		}
		if err != nil {
			errs = append(errs, err)
		} else {
			result.Deleted = append(result.Deleted, info)
		}
	}
	for len(resources) > 0 { // in Helm's order, a kind at a time
		kind, n := resources[0].Mapping.GroupVersionKind, 0
		group, _ := event.NewGroup(context.Background()) // Helm gives none
		group.SetLimit(atOnce)
		for n < len(resources) && resources[n].Mapping.GroupVersionKind == kind {
			info := resources[n]
			group.Go(func() error { one(info); return nil })
			n++
		}
		if err := group.Wait(); err != nil { // a panic; other errors are there already
			errs = append(errs, err)
		}
		resources = resources[n:]
	}
	return result, errs
}

// deleteOne deletes the live object, if it is there and of the release.
func (c *helmClient) deleteOne(info *resource.Info, policy metav1.DeletionPropagation) (ours bool, err error) {
	helper := resource.NewHelper(info.Client, info.Mapping)
	there, err := helper.Get(info.Namespace, info.Name)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	o, err := meta.Accessor(there)
	if err != nil {
		return false, err
	}
	named := object{kind: info.Mapping.GroupVersionKind, namespace: info.Namespace, name: info.Name}
	ran := false
	for _, made := range c.hookObjects {
		ran = ran || made.same(named) ||
			info.Namespace == "" && made.kind.GroupKind() == named.kind.GroupKind() && made.name == named.name
	}
	switch {
	case !belongsTo(o, c.release) && !madeByHook(o, c.release, ran):
		return false, nil
	case belongsTo(o, c.release) && o.GetAnnotations()[annotationPolicy] == policyKeep:
		return true, nil // of hooks, Helm does not heed it
	}
	_, err = helper.DeleteWithOptions(info.Namespace, info.Name,
		&metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: onlyUID(o.GetUID())})
	if isGone(err) {
		err = nil
	}
	return true, err
}

var _ interface {
	kube.Interface
	kube.InterfaceDeletionPropagation
} = (*helmClient)(nil)
