package deploy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"helm.sh/helm/v3/pkg/release"
	helmtime "helm.sh/helm/v3/pkg/time"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clientgotesting "k8s.io/client-go/testing"

	"github.com/devloop/devloop/pkg/event"
	diskjournal "github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	things     = schema.GroupVersionResource{Group: "example.test", Version: "v1", Resource: "things"}
)

// kinds is a discovery cache: what it knows, and what the API server would say now.
type kinds struct {
	discovery.CachedDiscoveryInterface
	cached, now []*metav1.APIResourceList
	err         error // of what it says now
}

func (k *kinds) Invalidate() { k.cached = k.now }
func (k *kinds) ServerGroupsAndResources() ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	return nil, k.cached, k.err
}

func resources(of ...schema.GroupVersionResource) (lists []*metav1.APIResourceList) {
	for _, r := range of {
		lists = append(lists, &metav1.APIResourceList{GroupVersion: r.GroupVersion().String(), APIResources: []metav1.APIResource{
			{Name: r.Resource, Namespaced: true, Verbs: metav1.Verbs{"list", "delete"}},
		}})
	}
	return lists
}

// fixedMapper is a RESTMapper that never has to ask.
type fixedMapper struct{ *meta.DefaultRESTMapper }

func (fixedMapper) Reset() {}

// live is a cluster that holds these objects, and what was told of what is deleted in it.
type live struct {
	*Deployer
	client  *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	kinds   *kinds

	mu   sync.Mutex
	told []event.Event
}

func (l *live) say() event.Stage { return l.sink().For("cleanup") }

func (l *live) sink() event.Sink {
	return func(e event.Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.told = append(l.told, e)
	}
}

// says are the texts of the events so far.
func (l *live) says() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, e := range l.told {
		fmt.Fprintln(&b, e.Message, e.Fields, e.Err)
	}
	return b.String()
}

func cluster(t *testing.T, journal journal, objects ...*unstructured.Unstructured) *live {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{configMaps.GroupVersion(), things.GroupVersion(), definitions.GroupVersion()})
	mapper.Add(configMaps.GroupVersion().WithKind("ConfigMap"), meta.RESTScopeNamespace)
	mapper.Add(things.GroupVersion().WithKind("Thing"), meta.RESTScopeNamespace)
	mapper.Add(definitions.GroupVersion().WithKind("CustomResourceDefinition"), meta.RESTScopeRoot)
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	metadata := metadatafake.NewSimpleMetadataClient(scheme)
	l := &live{client: fake.NewClientset(), kinds: &kinds{cached: resources(configMaps), now: resources(configMaps)}}
	l.dynamic = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{configMaps: "ConfigMapList", things: "ThingList", definitions: "CustomResourceDefinitionList"})
	for _, o := range objects {
		resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		partial := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: o.GetAPIVersion(), Kind: o.GetKind()}, ObjectMeta: metav1.ObjectMeta{
			Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), Annotations: o.GetAnnotations(), Labels: o.GetLabels(), OwnerReferences: o.GetOwnerReferences()}}
		if err := errors.Join(l.dynamic.Tracker().Create(resource, o, o.GetNamespace()), metadata.Tracker().Create(resource, partial, o.GetNamespace())); err != nil {
			t.Fatal(err)
		}
	}
	l.Deployer = New(&kube.Cluster{Client: l.client, Dynamic: l.dynamic, Metadata: metadata, Discovery: l.kinds, Mapper: fixedMapper{mapper}}, "demo", journal, Options{})
	return l
}

// of is an object; change may give it annotations, labels, and owners.
func of(kind, name string, change ...func(*unstructured.Unstructured)) *unstructured.Unstructured {
	version := map[string]string{"ConfigMap": "v1", "Thing": "example.test/v1", "CustomResourceDefinition": "apiextensions.k8s.io/v1"}[kind]
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": name, "uid": "uid-" + name}}}
	if kind != "CustomResourceDefinition" {
		u.SetNamespace("demo")
	}
	for _, f := range change {
		f(u)
	}
	return u
}

func annotated(pairs ...string) func(*unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) {
		annotations := map[string]string{}
		for pair := range slices.Chunk(pairs, 2) {
			annotations[pair[0]] = pair[1]
		}
		u.SetAnnotations(annotations)
	}
}

func ofRelease(name string) func(*unstructured.Unstructured) {
	return annotated(kube.AnnotationRelease, name, kube.AnnotationReleaseNamespace, "demo")
}

func ownedBy(kind, name string, uid types.UID) func(*unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) {
		u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: of(kind, name).GetAPIVersion(), Kind: kind, Name: name, UID: uid}})
	}
}

// namespace makes the namespace demo, whose UID is now.
func (l *live) namespace(t *testing.T, labels map[string]string) {
	t.Helper()
	if err := l.client.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "demo", UID: "now", Labels: labels}}); err != nil {
		t.Fatal(err)
	}
}

// deletions are "namespace/name UID uid", the UID being that of the precondition.
func deletions(actions []clientgotesting.Action) (all []string) {
	for _, a := range actions {
		d, ok := a.(clientgotesting.DeleteAction)
		if !ok {
			continue
		}
		one := strings.TrimPrefix(a.GetNamespace()+"/"+d.GetName(), "/")
		if p := d.GetDeleteOptions().Preconditions; p != nil && p.UID != nil {
			one += " UID " + string(*p.UID)
		}
		all = append(all, one)
	}
	slices.Sort(all)
	return all
}

const gatewayLabel = "gateway.dask.org/instance"

var made = map[string]string{kube.LabelManagedBy: kube.FieldManager}

func TestCleanupBeforeDeletesOnlyWhatIsOurs(t *testing.T) {
	web := Release{Name: "web", Namespace: "demo"}
	objects := []*unstructured.Unstructured{
		of("ConfigMap", "of-the-release", ofRelease("web")),
		of("ConfigMap", "of-another", ofRelease("theirs")),
		of("ConfigMap", "by-hand"),
		of("ConfigMap", "labelled", func(u *unstructured.Unstructured) {
			u.SetLabels(map[string]string{kube.LabelInstance: "web", kube.LabelManagedBy: "Helm"})
		}),
		of("ConfigMap", "of-a-hook", annotated(annotationHookOf, "demo/web")),
		of("ConfigMap", "of-another-hook", annotated(annotationHookOf, "demo/theirs")),
		of("ConfigMap", "of-the-gateway", func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{gatewayLabel: "web-gateway"}) }),
		of("ConfigMap", "of-another-gateway", func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{gatewayLabel: "their-gateway"}) }),
		of("Thing", "middle", ownedBy("ConfigMap", "of-the-release", "uid-of-the-release")),
		of("ConfigMap", "below", ownedBy("Thing", "middle", "uid-middle")),
		of("ConfigMap", "below-an-earlier-one", ownedBy("Thing", "middle", "another uid")),
		of("ConfigMap", "below-by-hand", ownedBy("ConfigMap", "by-hand", "uid-by-hand")),
	}
	ours := []string{"below", "of-a-hook", "of-the-gateway", "of-the-release"}
	all := []string{"below", "below-an-earlier-one", "below-by-hand", "by-hand", "labelled", "of-a-hook", "of-another", "of-another-gateway", "of-another-hook", "of-the-gateway", "of-the-release"}
	for _, test := range []struct {
		name    string
		journal permits
		labels  map[string]string
		want    []string
	}{
		{"in a namespace of somebody else's", permits{}, nil, ours},
		{"in one that has our label only", permits{}, made, ours},
		{"in one that only the journal knows", permits{kindNamespace: {"demo"}}, nil, ours},
		{"in one that was made anew by somebody else", permits{kindNamespace: {"demo"}, kindUID: {"namespace demo@before"}}, made, ours},
		{"in one that devloop made", permits{kindNamespace: {"demo"}, kindUID: {"namespace demo@now"}}, made, all},
		{"in one that an earlier devloop made", permits{kindNamespace: {"demo"}}, made, all},
		{"in one with a release of another folder", permits{kindNamespace: {"demo"}, kindRelease: {"demo/web", "demo/theirs"},
			kindFolder: {"release demo/theirs@/other"}}, made, ours},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := cluster(t, test.journal, objects...)
			l.namespace(t, test.labels)
			l.options.OperatorLabels = func(_ context.Context, namespace string) (map[kube.Label]string, error) {
				if namespace != "demo" {
					return nil, fmt.Errorf("asked for namespace %q", namespace)
				}
				return map[kube.Label]string{
					{Key: gatewayLabel, Value: "web-gateway"}: "demo/web", {Key: gatewayLabel, Value: "their-gateway"}: "demo/theirs",
				}, nil
			}
			if err := l.deleteAll(t.Context(), l.say(), "configmaps", "demo", []Release{web}); err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, name := range test.want {
				want = append(want, "demo/"+name+" UID uid-"+name)
			}
			if got := deletions(l.dynamic.Actions()); !slices.Equal(got, want) {
				t.Errorf("deleted\n%q, want\n%q", got, want)
			}
			left := len(all) - len(test.want)
			if says := l.says(); strings.Contains(says, "left alone") != (left > 0) || left > 0 && !strings.Contains(says, fmt.Sprintf("count %d", left)) {
				t.Errorf("%d stay, and it says\n%s", left, says)
			}
		})
	}
}

func TestCleanupBeforeLeavesAnObjectThatWasMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{}, of("ConfigMap", "a", ofRelease("web"), func(u *unstructured.Unstructured) {
			u.SetFinalizers([]string{"example.test/never"})
			now := metav1.Now()
			u.SetDeletionTimestamp(&now)
		}))
		l.namespace(t, nil)
		l.dynamic.PrependReactor("delete", "configmaps", func(clientgotesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
		err := l.deleteAll(t.Context(), l.say(), "configmaps", "demo", []Release{{Name: "web", Namespace: "demo"}})
		if err == nil || !strings.Contains(err.Error(), "configmaps a: still there") {
			t.Errorf("it ends with %v", err)
		}
		for _, a := range l.dynamic.Actions() {
			if p, ok := a.(clientgotesting.PatchAction); ok && !strings.Contains(string(p.GetPatch()), `"uid":"uid-a"`) {
				t.Errorf("the finalizers of any object of that name are taken away: %s", p.GetPatch())
			}
		}
	})
}

func TestNamespaceIsDeletedOnlyIfItIsOursAndEmpty(t *testing.T) {
	unlisted := &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{things.GroupVersion(): errors.New("no endpoints")}}
	ours := permits{kindNamespace: {"demo"}, kindUID: {"namespace demo@now"}}
	for _, test := range []struct {
		name    string
		journal permits
		labels  map[string]string
		objects []*unstructured.Unstructured
		change  func(*live)
		deleted bool
		says    string
	}{
		{"empty", ours, made, nil, nil, true, "namespace deleted"},
		{"with what every namespace has", ours, made, []*unstructured.Unstructured{of("ConfigMap", "kube-root-ca.crt")}, nil, true, "namespace deleted"},
		{"made by an earlier devloop", permits{kindNamespace: {"demo"}}, made, nil, nil, true, "namespace deleted"},
		{"made anew by somebody else", permits{kindNamespace: {"demo"}, kindUID: {"namespace demo@before"}}, made, nil, nil, false, ""},
		{"without our label", ours, nil, nil, nil, false, ""},
		{"with an object", ours, made, []*unstructured.Unstructured{of("ConfigMap", "theirs")}, nil, false, "not empty"},
		{"with an object of a kind that came since", ours, made, []*unstructured.Unstructured{of("Thing", "theirs")},
			func(l *live) { l.kinds.now = resources(configMaps, things) }, false, "things/theirs"},
		{"with kinds that the API server does not list", ours, made, nil, func(l *live) { l.kinds.err = unlisted }, false, "does not list all"},
		{"with an object, and kinds that are not listed", ours, made, []*unstructured.Unstructured{of("ConfigMap", "theirs")},
			func(l *live) { l.kinds.err = unlisted }, false, "configmaps/theirs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := cluster(t, test.journal, test.objects...)
				l.namespace(t, test.labels)
				if test.change != nil {
					test.change(l)
				}
				if err := l.deleteNamespace(t.Context(), l.say(), "demo"); err != nil {
					t.Fatal(err)
				}
				var want []string
				if test.deleted {
					want = []string{"demo UID now"}
				}
				if got := deletions(l.client.Actions()); !slices.Equal(got, want) {
					t.Errorf("deleted %q, want %q", got, want)
				}
				if says := l.says(); !strings.Contains(says, test.says) || test.says == "" && says != "" {
					t.Errorf("it says %q", says)
				}
			})
		})
	}
}

func TestNamespaceThatCannotBeAskedForStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := cluster(t, permits{kindNamespace: {"demo"}})
		l.namespace(t, made)
		l.client.PrependReactor("get", "namespaces", func(clientgotesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("etcd is away")
		})
		if err := l.deleteNamespace(t.Context(), l.say(), "demo"); err == nil || len(deletions(l.client.Actions())) > 0 {
			t.Errorf("deleted %v, %v", deletions(l.client.Actions()), err)
		}
	})
}

func TestEnsuredNamespaceIsKnownByItsUID(t *testing.T) {
	remembered := onDisk(t)
	l := cluster(t, remembered)
	l.client.PrependReactor("create", "namespaces", func(a clientgotesting.Action) (bool, runtime.Object, error) {
		namespace := a.(clientgotesting.CreateAction).GetObject().(*corev1.Namespace)
		namespace.UID = "made"
		return false, namespace, nil
	})
	if err := l.ensureNamespace(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	there := &metav1.ObjectMeta{Name: "demo", UID: "made", Labels: made}
	another := &metav1.ObjectMeta{Name: "demo", UID: "another", Labels: made}
	if !l.madeNamespace(there) || l.madeNamespace(another) {
		t.Errorf("the journal has %q", remembered.Names(kindUID))
	}
	if err := l.forgetMade(kindNamespace, "demo"); err != nil || len(remembered.Names(kindUID))+len(remembered.Names(kindNamespace)) > 0 {
		t.Errorf("forgotten: %v, the journal has %q", err, remembered.Names(kindUID))
	}
}

func TestSweepDeletesOnlyWhatTheReleaseMade(t *testing.T) {
	l := cluster(t, permits{}, of("ConfigMap", "ours", ofRelease("web")), of("ConfigMap", "theirs", ofRelease("other")), of("ConfigMap", "bare"),
		of("ConfigMap", "next", ofRelease("web")), of("ConfigMap", "kept", annotated(kube.AnnotationRelease, "web", kube.AnnotationReleaseNamespace, "demo", annotationPolicy, policyKeep)),
		of("CustomResourceDefinition", "things.example.test", ofRelease("web")))
	manifest := ""
	for _, o := range []string{"ours", "theirs", "bare", "next", "kept", "gone"} {
		manifest += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + o + "}\n"
	}
	manifest += "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.test}\n"
	manifest += "---\napiVersion: unknown/v1\nkind: Unknown\nmetadata: {name: ours}\n"
	next := []object{{kind: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, namespace: "demo", name: "next"}}
	err := l.sweep(t.Context(), Release{Name: "web", Namespace: "demo"}, []*release.Release{{Manifest: manifest}, {Manifest: manifest}}, next)
	if got := deletions(l.dynamic.Actions()); err != nil || !slices.Equal(got, []string{"demo/ours UID uid-ours"}) {
		t.Errorf("deleted %q, %v", got, err)
	}
}

func TestHooksObjectsAreDeletedIfTheHookMadeThem(t *testing.T) {
	l := cluster(t, permits{}, of("ConfigMap", "marked", annotated(kube.AnnotationHook, "pre-install", annotationHookOf, "demo/web")),
		of("ConfigMap", "of-another", annotated(kube.AnnotationHook, "pre-install", annotationHookOf, "demo/other")),
		of("ConfigMap", "of-an-earlier-devloop", annotated(kube.AnnotationHook, "pre-install")), of("ConfigMap", "by-hand"))
	var hooks []*release.Hook
	for _, name := range []string{"marked", "of-another", "of-an-earlier-devloop", "by-hand"} {
		hook := &release.Hook{Manifest: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n"}
		hook.LastRun.StartedAt.Time = metav1.Now().Time
		hooks = append(hooks, hook)
	}
	err := l.removeHooks(t.Context(), Release{Name: "web", Namespace: "demo"}, []*release.Release{{Hooks: hooks}}, func(*release.Hook) bool { return true })
	want := []string{"demo/marked UID uid-marked", "demo/of-an-earlier-devloop UID uid-of-an-earlier-devloop"}
	if got := deletions(l.dynamic.Actions()); err != nil || !slices.Equal(got, want) {
		t.Errorf("deleted %q, %v", got, err)
	}
}

func TestVolumeClaimsOfOthersStay(t *testing.T) {
	remembered := onDisk(t)
	l := cluster(t, remembered)
	installed := time.Date(2024, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	claim := func(name string, uid types.UID, app string, after time.Duration) {
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: uid, Labels: map[string]string{"app": app},
			CreationTimestamp: metav1.NewTime(installed.Truncate(time.Second).Add(after))}}
		if err := l.client.Tracker().Add(pvc); err != nil {
			t.Fatal(err)
		}
	}
	claim("data-db-0", "first", "db", 0) // in the same second, of which the API server writes the beginning
	claim("data-db-1", "made by hand", "", time.Second)
	claim("data-db-2", "third", "db", time.Second)
	claim("data-db-3", "older", "db", -time.Second)
	claim("data-db-4", "of an earlier install", "db", -time.Hour)
	claim("data-db-5", "older than an earlier install's was", "db", -time.Hour)
	for id, uid := range map[string]types.UID{"demo/data-db-4": "of an earlier install", "demo/data-db-5": "another"} {
		if err := errors.Join(remembered.Record(kindVolume, id), l.recordUID(kindVolume, id, uid)); err != nil {
			t.Fatal(err)
		}
	}
	manifest := "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {selector: {matchLabels: {app: db}}, volumeClaimTemplates: [{metadata: {name: data}}]}\n"
	revision := &release.Release{Manifest: manifest, Info: &release.Info{FirstDeployed: helmtime.Time{Time: installed}}}
	if err := l.recordClaims(t.Context(), l.say(), Release{Name: "web", Namespace: "demo"}, []*release.Release{revision, revision}); err != nil {
		t.Fatal(err)
	}
	for _, older := range []string{"demo/data-db-3", "demo/data-db-5"} {
		if says := l.says(); strings.Count(says, "before the release [claim "+older+"]") != 1 {
			t.Errorf("of %s it says\n%s", older, says)
		}
	}
	volumes := corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	if err := l.client.Tracker().Delete(volumes, "demo", "data-db-2"); err != nil {
		t.Fatal(err)
	}
	claim("data-db-2", "another", "db", time.Minute)
	if err := l.removeClaims(t.Context(), l.say(), true); err != nil {
		t.Fatal(err)
	}
	got, want := deletions(l.client.Actions()), []string{"demo/data-db-0 UID first", "demo/data-db-4 UID of an earlier install"}
	if !slices.Equal(got, want) || len(remembered.Names(kindVolume)) > 0 {
		t.Errorf("deleted %q, the journal has %q", got, remembered.Names(kindVolume))
	}
}

func TestCRDsOfOthersStay(t *testing.T) {
	remembered := onDisk(t)
	by := func(manager string) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager}})
		}
	}
	l := cluster(t, remembered, of("CustomResourceDefinition", "ours", by(kube.FieldManager)), of("CustomResourceDefinition", "theirs", by("kubectl")),
		of("CustomResourceDefinition", "of-an-earlier-devloop", by(kube.FieldManager)), of("CustomResourceDefinition", "made-anew", by(kube.FieldManager)))
	for name, uid := range map[string]types.UID{"ours": "uid-ours", "theirs": "", "gone": "uid-gone", "of-an-earlier-devloop": "", "made-anew": "uid-before"} {
		if err := remembered.Record(kindCRD, name); err != nil {
			t.Fatal(err)
		}
		if uid != "" {
			if err := l.recordUID(kindCRD, name, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.removeCRDs(t.Context(), l.say(), false); err != nil {
		t.Fatal(err)
	}
	if says := l.says(); strings.Count(says, "\n") != 1 || !strings.Contains(says, "CRDs stay") || strings.Contains(says, "theirs") || strings.Contains(says, "made-anew") {
		t.Errorf("it says %q", says)
	}
	if err := l.removeCRDs(t.Context(), l.say(), true); err != nil {
		t.Fatal(err)
	}
	got, want := deletions(l.dynamic.Actions()), []string{"of-an-earlier-devloop UID uid-of-an-earlier-devloop", "ours UID uid-ours"}
	if left := slices.Concat(remembered.Names(kindCRD), remembered.Names(kindUID)); !slices.Equal(got, want) || len(left) > 0 {
		t.Errorf("deleted %q, the journal has %q", got, left)
	}
}

// Two folders with projects of one name have one journal. What is made from one of them is not removed from the other.
func TestCleanupLeavesWhatAnotherFolderMade(t *testing.T) {
	dir, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	web, db := Release{Name: "web", Namespace: "demo"}, Release{Name: "db", Namespace: "demo"}
	from := func(folder string, installed bool) (*live, *diskjournal.Journal) {
		remembered, err := diskjournal.Open(dir, "uid", "demo")
		if err != nil {
			t.Fatal(err)
		}
		crd := of("CustomResourceDefinition", "crd", func(u *unstructured.Unstructured) {
			u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: kube.FieldManager}})
		})
		l := cluster(t, remembered, crd)
		l.Deployer = New(l.cluster, "demo", remembered, Options{Folder: folder})
		if err := l.client.Tracker().Add(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "data", UID: "data"}}); err != nil {
			t.Fatal(err)
		}
		if installed {
			helms := record(1, release.StatusDeployed, map[string]string{labelProject: "demo", labelRevision: "1"})
			if err := l.cluster.Metadata.(*metadatafake.FakeMetadataClient).Tracker().Create(secrets, helms, "demo"); err != nil {
				t.Fatal(err)
			}
		}
		return l, remembered
	}
	end := func(j *diskjournal.Journal) {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}

	l, remembered := from(first, true)
	err := errors.Join(l.recordRelease(web), remembered.Record(kindVolume, "demo/data"), l.recordFolder(kindVolume, "demo/data"),
		remembered.Record(kindCRD, "crd"), l.recordFolder(kindCRD, "crd"))
	if err != nil {
		t.Fatal(err)
	}
	end(remembered)

	everything := Removal{CRDs: true, Volumes: true}
	l, remembered = from(second, true)
	if err := errors.Join(l.recordRelease(db), l.Cleanup(t.Context(), l.sink(), []Release{db}, everything)); err != nil {
		t.Fatal(err)
	}
	if got := slices.Concat(deletions(l.client.Actions()), deletions(l.dynamic.Actions())); len(got) > 0 || !remembered.Has(kindRelease, "demo/web") || remembered.Has(kindRelease, "demo/db") {
		t.Errorf("deleted %q, the journal has the releases %q", got, remembered.Names(kindRelease))
	}
	folder, err := filepath.EvalSymlinks(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"releases left alone", "volume claim left alone", "CRD left alone"} {
		if says := l.says(); strings.Count(says, left) != 1 || strings.Count(says, folder) != 3 {
			t.Errorf("it does not say %q, with the folder %s:\n%s", left, folder, says)
		}
	}
	end(remembered)

	l, remembered = from(first, false) // uninstalled by hand, and no longer in this folder's devloop.yaml
	if err := l.Cleanup(t.Context(), l.sink(), nil, everything); err != nil {
		t.Fatal(err)
	}
	got, want := slices.Concat(deletions(l.client.Actions()), deletions(l.dynamic.Actions())), []string{"demo/data UID data", "crd UID uid-crd"}
	left := slices.Concat(remembered.Names(kindRelease), remembered.Names(kindFolder), remembered.Names(kindUID))
	if !slices.Equal(got, want) || len(left) > 0 {
		t.Errorf("deleted %q, the journal has %q", got, left)
	}
	end(remembered)
}

func TestNeverInstalled(t *testing.T) {
	d := &Deployer{project: "demo"}
	history := func(project string, states ...release.Status) (all []*release.Release) {
		for i, state := range states {
			all = append(all, &release.Release{Version: len(states) - i, Info: &release.Info{Status: state}, Labels: map[string]string{labelProject: project}})
		}
		return all
	}
	for _, test := range []struct {
		history []*release.Release
		want    bool
	}{
		{nil, false},
		{history("demo", release.StatusPendingInstall), true},
		{history("demo", release.StatusFailed), true},
		{history("demo", release.StatusFailed, release.StatusFailed), true},
		{history("demo", release.StatusUninstalling, release.StatusSuperseded), true},
		{history("demo", release.StatusDeployed), false},
		{history("demo", release.StatusFailed, release.StatusDeployed), false},
		{history("demo", release.StatusPendingUpgrade, release.StatusSuperseded), false},
		{history("demo", release.StatusUninstalled), false},
		{history("theirs", release.StatusPendingInstall), false},
		{history("", release.StatusFailed), false},
		{history("theirs", release.StatusUninstalling), false},
	} {
		if got := d.neverInstalled(test.history); got != test.want {
			t.Errorf("%d revisions, the last one %v of %v: removed and begun anew: %v", len(test.history), test.history[0].Info.Status, test.history[0].Labels, got)
		}
	}
}

func TestAbandoned(t *testing.T) {
	r := Release{Name: "web", Namespace: "demo"}
	for what, test := range map[string]struct {
		project, revision string // that the record's labels name
		journal           permits
		want              bool
	}{
		"ours":                           {"demo", "3", permits{kindRelease: {"demo/web"}}, true},
		"another user's":                 {"demo", "3", permits{}, false},
		"ours, with an earlier's labels": {"demo", "2", permits{kindRelease: {"demo/web"}}, false},
		"a rollback of ours":             {"demo", "2", permits{kindRelease: {"demo/web"}, kindRevision: {"demo/web@3"}}, true},
		"another project's":              {"theirs", "3", permits{kindRelease: {"demo/web"}, kindRevision: {"demo/web@3"}}, false},
		"somebody's by hand":             {"", "", permits{}, false},
	} {
		last := revision{version: 3, status: release.StatusPendingUpgrade, labels: map[string]string{labelProject: test.project, labelRevision: test.revision}}
		if got := New(nil, "demo", test.journal, Options{}).abandoned(r, last); got != test.want {
			t.Errorf("%s counts as abandoned: %v", what, got)
		}
	}
}

func TestOnlyPodsOfTheStatefulSetAreUnblocked(t *testing.T) {
	l := cluster(t, permits{})
	yes := true
	for name, owner := range map[string]types.UID{"a-by-hand": "", "b-of-another": "another", "db-0": "set"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "db"}},
			Status: waits("ErrImageNeverPull", "not there")}
		if owner != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "StatefulSet", Name: "db", UID: owner, Controller: &yes}}
		}
		if err := l.client.Tracker().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	w := &wait{Deployer: l.Deployer, say: l.say(), foreign: map[int]bool{0: true}}
	w.unblock(t.Context(), workload{"statefulset", "demo", "db", 0}, rollout{all: "app=db", uid: "set"})
	if got := deletions(l.client.Actions()); len(got) > 0 {
		t.Errorf("deleted %q of a release that is not ours", got)
	}
	w.foreign = nil
	for range 3 {
		w.unblock(t.Context(), workload{"statefulset", "demo", "db", 0}, rollout{all: "app=db", uid: "set"})
	}
	if got := deletions(l.client.Actions()); !slices.Equal(got, []string{"demo/db-0 UID uid-db-0"}) {
		t.Errorf("deleted %q", got)
	}
}
