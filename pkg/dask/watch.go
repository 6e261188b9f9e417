package dask

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// watchTimeout ends a watch of the clusters before the connection's own limit does.
const watchTimeout = 50 * time.Second

// rewatch is the backoff of a lost watch.
var rewatch = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 6, Cap: 2 * time.Second, Jitter: 0.2}

// watch follows the clusters that a selector selects, in all namespaces; "" ends that.
func (f *Follower) watch(ctx context.Context, selector string) {
	if f.stopWatch != nil {
		f.stopWatch()
		f.stopWatch = nil
	}
	f.selector = selector
	if selector == "" {
		f.change(func() { clear(f.objects) })
		return
	}
	silent := klog.Logger{} // libraries must not log between our lines
	ctx, f.stopWatch = context.WithCancel(klog.NewContext(ctx, silent))
	store := &clusterStore{follower: f, ctx: ctx}
	away := false
	note := func(err error) error {
		switch {
		case apierrors.IsNotFound(err): // the kind is not there
			_ = store.Replace(nil, "")
		case err != nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) && !away && ctx.Err() == nil:
			f.stage.Detail("Dask clusters cannot be watched, tried again", "reason", err.Error())
		}
		away = err != nil
		return err
	}
	client := func() (dynamic.NamespaceableResourceInterface, error) {
		client, err := clusterClient(f.cluster)
		if err == nil && client == nil {
			err = apierrors.NewNotFound(clusterKind.GroupResource(), "")
		}
		return client, err
	}
	asks := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = selector
			clusters, err := client()
			if err != nil {
				return nil, note(err)
			}
			list, err := clusters.List(ctx, o)
			return list, note(err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			seconds := int64(watchTimeout.Seconds())
			o.LabelSelector, o.TimeoutSeconds = selector, &seconds
			clusters, err := client()
			if err != nil {
				return nil, note(err)
			}
			watching, err := clusters.Watch(ctx, o)
			return watching, note(err)
		},
	}
	backoff := rewatch
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(asks, f.cluster.Client),
		&unstructured.Unstructured{}, store,
		cache.ReflectorOptions{Backoff: &backoff, Logger: &silent, Name: "Dask clusters"})
	f.running.Go(func() { f.stage.Supervise(ctx, "watch of Dask clusters", reflector.RunWithContext) })
}

// clusterStore is the store of a reflector: it passes the clusters on, until its watch is stopped.
type clusterStore struct {
	follower *Follower
	ctx      context.Context //nolint:containedctx // of the watch
}

func (s *clusterStore) change(what func(objects map[string]*unstructured.Unstructured)) error {
	s.follower.change(func() {
		if s.ctx.Err() == nil {
			what(s.follower.objects)
		}
	})
	return nil
}

func (s *clusterStore) Add(o any) error {
	return s.change(func(objects map[string]*unstructured.Unstructured) { put(objects, o) })
}

func (s *clusterStore) Update(o any) error { return s.Add(o) }

func (s *clusterStore) Delete(o any) error {
	return s.change(func(objects map[string]*unstructured.Unstructured) {
		if object, ok := o.(*unstructured.Unstructured); ok {
			delete(objects, fullName(object))
		}
	})
}

func (s *clusterStore) Replace(all []any, _ string) error {
	return s.change(func(objects map[string]*unstructured.Unstructured) {
		clear(objects)
		for _, o := range all {
			put(objects, o)
		}
	})
}

func (s *clusterStore) Resync() error { return nil }

func put(objects map[string]*unstructured.Unstructured, o any) {
	if object, ok := o.(*unstructured.Unstructured); ok {
		object.SetManagedFields(nil)
		objects[fullName(object)] = object
	}
}

// fullName is the name that a cluster's user sees.
func fullName(object *unstructured.Unstructured) string {
	return object.GetNamespace() + "." + object.GetName()
}
