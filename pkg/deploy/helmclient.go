package deploy

// Helm deletes by name, whoever owns an object of that name by now. This client checks the owner
// first. It updates objects itself, with one look at each.
//
// Helm works in goroutines of its own, where a panic would end devloop. So each method returns a
// panic as an error, and Helm reaches its own client only through them.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/action"
	helmkube "helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/util/retry"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// helmClient is Helm's client, for the changes of one release.
type helmClient struct {
	client      *helmkube.Client
	stage       event.Stage
	release     Release
	hookObjects []object          // of hooks that were run
	foreign     func(string)      // called for each object that stays, since it is not the release's
	moves       func(object) bool // tells whether another release takes it over
	writes      *writeLog
}

// guardDeletions makes Helm delete only objects of the release, whose revisions are history, and
// records what Helm changes.
func (d *Deployer) guardDeletions(
	stage event.Stage, helm *action.Configuration, r Release, history []*release.Release, w *writeLog,
) {
	client, ok := helm.KubeClient.(*helmkube.Client)
	if !ok {
		return
	}
	c := &helmClient{client: client, stage: stage, release: r, writes: w, moves: d.movesFrom(r),
		foreign: func(object string) {
			stage.Warn("object stays, it no longer belongs to the release", nil, "release", event.Name(r.Name),
				"namespace", event.Name(r.Namespace), "object", object)
		}}
	for _, made := range history {
		for _, hook := range made.Hooks {
			if hasRun(hook) {
				named, _ := parseObjects(hook.Manifest, r.Namespace) // Helm has parsed it before
				c.hookObjects = append(c.hookObjects, named...)
			}
		}
	}
	helm.KubeClient = c
}

// guard calls Helm, and returns a panic as an error.
func (c *helmClient) guard(what string, work func() error) error {
	return c.stage.Guard("Helm's "+what, work)
}

func (c *helmClient) IsReachable() error { return c.guard("first question", c.client.IsReachable) }

func (c *helmClient) Build(reader io.Reader, validate bool) (list helmkube.ResourceList, err error) {
	err = c.guard("reading of manifests", func() (err error) {
		list, err = c.client.Build(reader, validate)
		return err
	})
	return list, err
}

// Create marks the objects of hooks, since only the others get Helm's annotations. Helm's own
// method would create each object in an unguarded goroutine.
func (c *helmClient) Create(resources helmkube.ResourceList) (*helmkube.Result, error) {
	err := c.guard("creation of objects", func() error {
		if len(resources) == 0 {
			return helmkube.ErrNoObjectsVisited
		}
		for _, info := range resources {
			o, err := meta.Accessor(info.Object)
			if err != nil {
				return err
			}
			if o.GetAnnotations()[kube.AnnotationHook] != "" && !belongsTo(o, c.release) {
				annotations := map[string]string{annotationHookOf: c.release.ID()}
				for key, value := range o.GetAnnotations() {
					annotations[key] = value
				}
				o.SetAnnotations(annotations)
			}
		}
		return errors.Join(perform(resources, func(info *resource.Info) error {
			err := createOne(info)
			if err != nil {
				c.writes.leave(objectName(info))
				return err
			}
			c.writes.add("created", objectName(info))
			return nil
		})...)
	})
	if err != nil {
		return nil, err
	}
	return &helmkube.Result{Created: resources}, nil
}

// createOne creates an object, and keeps the API server's version of it.
func createOne(info *resource.Info) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		helper := resource.NewHelper(info.Client, info.Mapping).WithFieldManager(kube.FieldManager)
		made, err := helper.Create(info.Namespace, true, info.Object)
		if err != nil {
			return err
		}
		return info.Refresh(made, true)
	})
}

// objectName is an object as people write it: deployment/web.
func objectName(info *resource.Info) string {
	return strings.ToLower(info.Mapping.GroupVersionKind.Kind) + "/" + info.Name
}

// Update deletes what original has and target has not. Helm's own method would do so by name.
// Custom resources are merged with the live ones, as other objects are: what was changed by hand is
// put back. The result is never nil: Helm uses it even after an error.
func (c *helmClient) Update(original, target helmkube.ResourceList, _ bool) (*helmkube.Result, error) {
	result := &helmkube.Result{}
	err := c.guard("update of objects", func() error {
		if err := c.updateAll(original, target, result); err != nil {
			return err
		}
		deleted, errs := c.DeleteWithPropagationPolicy(original.Difference(target), metav1.DeletePropagationBackground)
		if len(errs) > 0 { // Helm ignores that too, and leaves the object
			c.client.Log("delete what the release has no more: %v", errs)
		}
		result.Deleted = append(result.Deleted, deleted.Deleted...)
		return nil
	})
	return result, err
}

// UpdateThreeWayMerge is how Helm updates objects that a new release takes over.
func (c *helmClient) UpdateThreeWayMerge(original, target helmkube.ResourceList, force bool) (*helmkube.Result, error) {
	return c.Update(original, target, force)
}

// updateAll makes the live objects what target says, as Helm does, but sooner: Helm asks three
// times for each object, one after the other, and most of them are what they should be. As in Helm,
// a patch that is refused does not keep the others from being sent, and nothing follows an object
// that cannot be created.
func (c *helmClient) updateAll(original, target helmkube.ResourceList, result *helmkube.Result) error {
	live, err := readAll(target)
	if err != nil {
		c.leave(target)
		return err
	}
	var errs []error
	for i, info := range target {
		there := live[i]
		if there == nil { // one that was written before it may have brought it
			if there, err = readLive(info); err != nil {
				c.leave(target[i:])
				return errors.Join(append(errs, err)...)
			}
		}
		if there == nil {
			result.Created = append(result.Created, info)
		} else {
			result.Updated = append(result.Updated, info)
		}
		err := c.updateOne(original.Get(info), info, there)
		if there != nil && apierrors.IsNotFound(err) { // it was deleted since it was read
			err = c.updateOne(original.Get(info), info, nil)
		}
		if err == nil {
			continue
		}
		errs = append(errs, err)
		c.leave(target[i : i+1])
		if there == nil {
			c.leave(target[i+1:])
			break
		}
	}
	return errors.Join(errs...)
}

// leave records objects that are not written.
func (c *helmClient) leave(resources helmkube.ResourceList) {
	for _, info := range resources {
		c.writes.leave(objectName(info))
	}
}

// readAll returns the live objects, nil for one that is not there.
func readAll(resources helmkube.ResourceList) (live []*unstructured.Unstructured, err error) {
	live = make([]*unstructured.Unstructured, len(resources))
	group, _ := event.NewGroup(context.Background()) // Helm passes none
	group.SetLimit(maxRequests)
	for i, info := range resources {
		group.Go(func() (err error) {
			live[i], err = readLive(info)
			return err
		})
	}
	return live, group.Wait()
}

// readLive returns the live object, nil if it is not there.
func readLive(info *resource.Info) (live *unstructured.Unstructured, err error) {
	found, err := resource.NewHelper(info.Client, info.Mapping).Get(info.Namespace, info.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err == nil {
		live, err = fieldsOf(found)
	}
	if err != nil {
		return nil, fmt.Errorf("could not get information about the resource %s: %w", objectName(info), err)
	}
	return live, nil
}

// fieldsOf returns an object as Helm's clients read it.
func fieldsOf(o runtime.Object) (*unstructured.Unstructured, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u, nil
	}
	return nil, fmt.Errorf("%T instead of an object", o)
}

// updateOne makes a live object, nil if there is none, what info says. What original has and info
// has not goes; the live one stands in for an original that the release does not have.
func (c *helmClient) updateOne(original, info *resource.Info, live *unstructured.Unstructured) error {
	if live == nil {
		if err := createOne(info); err != nil {
			return fmt.Errorf("failed to create resource: %w", err)
		}
		c.writes.add("created", objectName(info))
		return nil
	}
	target, err := fieldsOf(info.Object)
	before := live
	if err == nil && original != nil {
		before, err = fieldsOf(original.Object)
	}
	if err != nil {
		return err
	}
	patch, err := threeWayPatch(before, target, live)
	if err != nil {
		return fmt.Errorf("failed to create patch: %w", err)
	}
	if patch.isEmpty() {
		return info.Refresh(live, true)
	}
	made, err := resource.NewHelper(info.Client, info.Mapping).WithFieldManager(kube.FieldManager).
		Patch(info.Namespace, info.Name, patch.format, patch.data, nil)
	if err != nil {
		return fmt.Errorf("cannot patch %q with kind %s: %w", info.Name, info.Mapping.GroupVersionKind.Kind, err)
	}
	if o, err := meta.Accessor(made); err != nil || o.GetResourceVersion() != live.GetResourceVersion() {
		c.writes.add("changed", objectName(info)) // else the patch was without effect
	}
	return info.Refresh(made, true)
}

// WatchUntilReady starts a goroutine of Helm's for each object, which is not guarded.
func (c *helmClient) WatchUntilReady(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.guard("wait for a hook", func() error { return c.client.WatchUntilReady(resources, timeout) })
}

func (c *helmClient) Wait(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.guard("wait for objects", func() error { return c.client.Wait(resources, timeout) })
}

func (c *helmClient) WaitWithJobs(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.guard("wait for jobs", func() error { return c.client.WaitWithJobs(resources, timeout) })
}

func (c *helmClient) WaitForDelete(resources helmkube.ResourceList, timeout time.Duration) error {
	return c.guard("wait for the end of objects", func() error { return c.client.WaitForDelete(resources, timeout) })
}

func (c *helmClient) WaitAndGetCompletedPodPhase(
	name string, timeout time.Duration,
) (phase corev1.PodPhase, err error) {
	err = c.guard("wait for a pod", func() (err error) {
		phase, err = c.client.WaitAndGetCompletedPodPhase(name, timeout)
		return err
	})
	return phase, err
}

// Delete is how Helm deletes what is in a hook's way, and what a hook has left. Helm then waits for
// their end, so an object that stays is an error.
func (c *helmClient) Delete(resources helmkube.ResourceList) (*helmkube.Result, []error) {
	return c.delete(resources, metav1.DeletePropagationBackground, func(object string) error {
		err := fmt.Errorf("%s is there already, and no hook of the release %s made it", object, c.release.ID())
		return event.WithHint(err,
			"rename the hook's object, or delete the one that is there if it is not needed")
	})
}

// DeleteWithPropagationPolicy is how Helm deletes the objects of a release.
func (c *helmClient) DeleteWithPropagationPolicy(resources helmkube.ResourceList,
	policy metav1.DeletionPropagation) (*helmkube.Result, []error) {
	return c.delete(resources, policy, func(object string) error {
		c.foreign(object)
		return nil
	})
}

// delete deletes the resources that belong to the release, and calls kept for the others. The
// result is never nil.
func (c *helmClient) delete(
	resources helmkube.ResourceList, policy metav1.DeletionPropagation, kept func(object string) error,
) (*helmkube.Result, []error) {
	var mu sync.Mutex
	result := &helmkube.Result{}
	var errs []error
	err := c.guard("deletion of objects", func() error {
		errs = perform(resources, func(info *resource.Info) error {
			isOurs, err := c.deleteOne(info, policy)
			if err == nil && !isOurs {
				err = kept(objectName(info))
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			result.Deleted = append(result.Deleted, info)
			return nil
		})
		return nil
	})
	if err != nil {
		errs = append(errs, err)
	}
	return result, errs
}

// perform calls one for all resources, in Helm's order: kind by kind, those of a kind concurrently.
// It goes on after an error or a panic.
func perform(resources helmkube.ResourceList, one func(*resource.Info) error) []error {
	var mu sync.Mutex
	var errs []error
	for len(resources) > 0 {
		kind, n := resources[0].Mapping.GroupVersionKind, 0
		group, _ := event.NewGroup(context.Background()) // Helm passes none
		group.SetLimit(maxRequests)
		for n < len(resources) && resources[n].Mapping.GroupVersionKind == kind {
			info := resources[n]
			group.Go(func() error {
				err := event.Guard(func() error { return one(info) })
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
				return nil
			})
			n++
		}
		_ = group.Wait() // they are in errs
		resources = resources[n:]
	}
	return errs
}

// deleteOne deletes the live object, if there is one that belongs to the release. It looks again if
// the object changes meanwhile: another release may have taken it over.
func (c *helmClient) deleteOne(info *resource.Info, policy metav1.DeletionPropagation) (ours bool, err error) {
	helper := resource.NewHelper(info.Client, info.Mapping)
	var uid types.UID
	for try := 1; ; try++ {
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
		if try > 1 && o.GetUID() != uid { // it is gone, and another one has its name
			return true, nil
		}
		uid = o.GetUID()
		if deletes, ours := c.mayDelete(info, o); !deletes {
			return ours, nil
		}
		version := o.GetResourceVersion()
		_, err = helper.DeleteWithOptions(info.Namespace, info.Name, &metav1.DeleteOptions{PropagationPolicy: &policy,
			Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
		switch {
		case apierrors.IsConflict(err) && try < maxConflicts:
		case isGone(err):
			return true, nil
		case err == nil:
			c.writes.add("deleted", objectName(info))
			return true, nil
		default:
			return true, err
		}
	}
}

// mayDelete tells whether a live object may be deleted for the release, and whether it belongs to
// it, or stays for a reason that need not be told.
func (c *helmClient) mayDelete(info *resource.Info, o metav1.Object) (deletes, ours bool) {
	named := object{kind: info.Mapping.GroupVersionKind, namespace: info.Namespace, name: info.Name}
	ran := false
	for _, made := range c.hookObjects {
		ran = ran || made.same(named) ||
			info.Namespace == "" && made.kind.GroupKind() == named.kind.GroupKind() && made.name == named.name
	}
	switch {
	case named.isNamespace(): // all that is in it would go; see deleteNamespace
		if belongsTo(o, c.release) {
			c.stage.Note("namespace stays, an earlier devloop or Helm itself made it for the release",
				"namespace", event.Name(named.name))
		}
		return false, true
	case c.moves(named):
		return false, true
	case !belongsTo(o, c.release) && !madeByHook(o, c.release, ran):
		return false, false
	case belongsTo(o, c.release) && o.GetAnnotations()[helmkube.ResourcePolicyAnno] == helmkube.KeepPolicy:
		return false, true // Helm ignores it on hooks
	}
	return true, true
}

var _ interface {
	helmkube.Interface
	helmkube.InterfaceExt
	helmkube.InterfaceDeletionPropagation
	helmkube.InterfaceThreeWayMerge
} = (*helmClient)(nil)
