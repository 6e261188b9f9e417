package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"helm.sh/helm/v3/pkg/release"
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
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	things     = schema.GroupVersionResource{Group: "example.test", Version: "v1", Resource: "things"}
)

// kinds is a discovery cache: cached is its content, now the API server's answer.
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
		lists = append(lists, &metav1.APIResourceList{GroupVersion: r.GroupVersion().String(),
			APIResources: []metav1.APIResource{
				{Name: r.Resource, Namespaced: true, Verbs: metav1.Verbs{"list", "delete"}},
			}})
	}
	return lists
}

// fixedMapper is a RESTMapper that needs no discovery.
type fixedMapper struct{ *meta.DefaultRESTMapper }

func (fixedMapper) Reset() {}

// live is a fake cluster, with the events of a clean-up.
type live struct {
	*Deployer
	client  *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	kinds   *kinds

	mu     sync.Mutex
	events []event.Event
}

func (l *live) stage() event.Stage { return l.sink().Stage("cleanup") }

func (l *live) sink() event.Sink {
	return func(e event.Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
	}
}

// log returns the events so far as text.
func (l *live) log() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, e := range l.events {
		fmt.Fprintln(&b, e.Message, e.Details(), e.Err)
	}
	return b.String()
}

func cluster(t *testing.T, journal permissions, objects ...*unstructured.Unstructured) *live {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{configMaps.GroupVersion(), things.GroupVersion(),
		definitions.GroupVersion()})
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
		map[schema.GroupVersionResource]string{configMaps: "ConfigMapList", things: "ThingList",
			definitions: "CustomResourceDefinitionList"})
	for _, o := range objects {
		resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		partial := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: o.GetAPIVersion(), Kind: o.GetKind()},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), Annotations: o.GetAnnotations(),
				Labels: o.GetLabels(), OwnerReferences: o.GetOwnerReferences(),
				DeletionTimestamp: o.GetDeletionTimestamp(), Finalizers: o.GetFinalizers()}}
		if err := errors.Join(l.dynamic.Tracker().Create(resource, o, o.GetNamespace()), metadata.Tracker().Create(resource,
			partial, o.GetNamespace())); err != nil {
			t.Fatal(err)
		}
	}
	l.Deployer = New(&kube.Cluster{Client: l.client, Dynamic: l.dynamic, Metadata: metadata, Discovery: l.kinds,
		Mapper: fixedMapper{mapper}}, "demo", journal, Options{})
	return l
}

// of returns an object; change may add annotations, labels and owners.
func of(kind, name string, change ...func(*unstructured.Unstructured)) *unstructured.Unstructured {
	version := map[string]string{"ConfigMap": "v1", "Thing": "example.test/v1",
		"CustomResourceDefinition": "apiextensions.k8s.io/v1"}[kind]
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind,
		"metadata": map[string]any{"name": name, "uid": "uid-" + name}}}
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
		u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: of(kind, name).GetAPIVersion(), Kind: kind, Name: name,
			UID: uid}})
	}
}

// namespace creates the namespace demo with the UID now.
func (l *live) namespace(t *testing.T, labels map[string]string) {
	t.Helper()
	if err := l.client.Tracker().Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "demo", UID: "now",
		Labels: labels}}); err != nil {
		t.Fatal(err)
	}
}

// deletions returns "namespace/name UID uid" for each deletion, with the UID of its precondition.
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
		of("ConfigMap", "of-the-gateway",
			func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{gatewayLabel: "web-gateway"}) }),
		of("ConfigMap", "of-another-gateway",
			func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{gatewayLabel: "their-gateway"}) }),
		of("Thing", "middle", ownedBy("ConfigMap", "of-the-release", "uid-of-the-release")),
		of("ConfigMap", "below", ownedBy("Thing", "middle", "uid-middle")),
		of("ConfigMap", "below-an-earlier-one", ownedBy("Thing", "middle", "another uid")),
		of("ConfigMap", "below-by-hand", ownedBy("ConfigMap", "by-hand", "uid-by-hand")),
	}
	ours := []string{"below", "of-a-hook", "of-the-gateway", "of-the-release"}
	all := []string{"below", "below-an-earlier-one", "below-by-hand", "by-hand", "labelled", "of-a-hook", "of-another",
		"of-another-gateway", "of-another-hook", "of-the-gateway", "of-the-release"}
	for _, test := range []struct {
		name    string
		journal permits
		labels  map[string]string
		want    []string
	}{
		{"in a namespace of someone else's", permits{}, nil, ours},
		{"in one that has our label only", permits{}, made, ours},
		{"in one that only the journal knows", permits{journal.Namespace: {"demo"}}, nil, ours},
		{"in one that was recreated by someone else", permits{journal.Namespace: {"demo"},
			journal.UID: {"namespace demo@before"}}, made, ours},
		{"in one that devloop made", permits{journal.Namespace: {"demo"}, journal.UID: {"namespace demo@now"}}, made, all},
		{"in one that an earlier devloop made", permits{journal.Namespace: {"demo"}}, made, all},
		{"in one with a release of another folder", permits{journal.Namespace: {"demo"}, journal.Release: {"demo/web",
			"demo/theirs"},
			journal.Folder: {"release demo/theirs@/other"}}, made, ours},
		{"in one with a release that stays", permits{journal.Namespace: {"demo"}, journal.Release: {"demo/web",
			"demo/theirs"}}, made, ours},
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
			if err := l.deleteAll(t.Context(), l.stage(), "configmaps", "demo", []Release{web}); err != nil {
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
			if log := l.log(); strings.Contains(log, "left alone") != (left > 0) || left > 0 &&
				!strings.Contains(log, fmt.Sprintf("count %d", left)) {
				t.Errorf("%d stay, and it says\n%s", left, log)
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
		l.dynamic.PrependReactor("delete", "configmaps", func(clientgotesting.Action) (bool, runtime.Object,
			error) {
			return true, nil, nil
		})
		err := l.deleteAll(t.Context(), l.stage(), "configmaps", "demo", []Release{{Name: "web", Namespace: "demo"}})
		if err == nil || !strings.Contains(err.Error(), "configmaps/a: still there") {
			t.Errorf("it ends with %v", err)
		}
		if log := l.log(); !strings.Contains(log, "configmaps/a (finalizers example.test/never): still there") {
			t.Errorf("it does not say which finalizers it has removed:\n%s", log)
		}
		for _, a := range l.dynamic.Actions() {
			if p, ok := a.(clientgotesting.PatchAction); ok && !strings.Contains(string(p.GetPatch()), `"uid":"uid-a"`) {
				t.Errorf("the finalizers of any object of that name are taken away: %s", p.GetPatch())
			}
		}
	})
}

// Two folders with the same project name share a journal: neither removes what the other made.
func TestCleanupLeavesWhatAnotherFolderMade(t *testing.T) {
	dir, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	web, db := Release{Name: "web", Namespace: "demo"}, Release{Name: "db", Namespace: "demo"}
	from := func(folder string, installed bool) (*live, *journal.Journal) {
		remembered, err := journal.Open(dir, "uid", "demo")
		if err != nil {
			t.Fatal(err)
		}
		crd := of("CustomResourceDefinition", "crd", func(u *unstructured.Unstructured) {
			u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: kube.FieldManager}})
		})
		l := cluster(t, remembered, crd)
		l.Deployer = New(l.cluster, "demo", remembered, Options{Folder: folder})
		if err := l.client.Tracker().Add(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "demo",
			Name: "data", UID: "data"}}); err != nil {
			t.Fatal(err)
		}
		if installed {
			helms := record(1, release.StatusDeployed, map[string]string{labelProject: "demo", labelRevision: "1"})
			if err := l.cluster.Metadata.(*metadatafake.FakeMetadataClient).Tracker().Create(secrets, helms,
				"demo"); err != nil {
				t.Fatal(err)
			}
		}
		return l, remembered
	}
	end := func(j *journal.Journal) {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}

	l, remembered := from(first, true)
	err := errors.Join(l.recordRelease(web), remembered.Record(journal.Volume, "demo/data"),
		l.recordFolder(journal.Volume, "demo/data"),
		remembered.Record(journal.CRD, "crd"), l.recordFolder(journal.CRD, "crd"))
	if err != nil {
		t.Fatal(err)
	}
	end(remembered)

	everything := Removal{CRDs: true, Volumes: true}
	l, remembered = from(second, true)
	cleanup := func(releases ...Release) error {
		ending, err := l.Cleanup(t.Context(), l.sink(), releases, everything)
		if len(ending) > 0 {
			t.Errorf("still ending: %q", ending)
		}
		return err
	}
	if err := errors.Join(l.recordRelease(db), cleanup(db)); err != nil {
		t.Fatal(err)
	}
	if got := slices.Concat(deletions(l.client.Actions()), deletions(l.dynamic.Actions())); len(got) > 0 ||
		!remembered.Has(journal.Release, "demo/web") || remembered.Has(journal.Release, "demo/db") {
		t.Errorf("deleted %q, the journal has the releases %q", got, remembered.Names(journal.Release))
	}
	folder, err := filepath.EvalSymlinks(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"releases left alone", "volume claim left alone", "CRD left alone"} {
		if log := l.log(); strings.Count(log, left) != 1 || strings.Count(log, folder) != 3 {
			t.Errorf("it does not say %q, with the folder %s:\n%s", left, folder, log)
		}
	}
	end(remembered)

	l, remembered = from(first, false) // uninstalled by hand, and no longer in this folder's devloop.yaml
	if err := cleanup(); err != nil {
		t.Fatal(err)
	}
	got, want := slices.Concat(deletions(l.client.Actions()), deletions(l.dynamic.Actions())),
		[]string{"demo/data UID data", "crd UID uid-crd"}
	left := slices.Concat(remembered.Names(journal.Release), remembered.Names(journal.Folder),
		remembered.Names(journal.UID))
	if !slices.Equal(got, want) || len(left) > 0 {
		t.Errorf("deleted %q, the journal has %q", got, left)
	}
	end(remembered)
}

func TestOrdered(t *testing.T) {
	var got []string
	for _, r := range ordered([]Release{{Name: "web", DependsOn: []string{"db", "queue"}}, {Name: "db"},
		{Name: "queue", DependsOn: []string{"db"}}}) {
		got = append(got, r.Name)
	}
	if strings.Join(got, " ") != "db queue web" {
		t.Errorf("%v", got)
	}
}

// permits is a journal in memory.
type permits map[journal.Kind][]string

func (p permits) Record(kind journal.Kind, name string) error {
	p[kind] = append(p[kind], name)
	return nil
}

func (p permits) Forget(journal.Kind, string) error { return nil }

func (p permits) Names(kind journal.Kind) []string { return p[kind] }

func (p permits) Has(kind journal.Kind, name string) bool { return slices.Contains(p[kind], name) }

func TestOnlyWhatIsRecordedIsRemoved(t *testing.T) {
	here, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(here, link); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.EvalSymlinks(here) // where temporary files are may be a link, too
	if err != nil {
		t.Fatal(err)
	}
	d := New(nil, "demo", permits{
		journal.Release: {"old/gone", "demo/b", "old/here", "old/elsewhere", "demo/c"},
		journal.Folder: {"release old/here@" + here, "release old/elsewhere@/other", "release demo/c@/other",
			"crd old/gone@/other"},
	}, Options{Folder: link})
	recorded, elsewhere := d.recorded([]Release{{Name: "a", Namespace: "demo"}, {Name: "b", Namespace: "demo"},
		{Name: "c", Namespace: "demo"}})
	var got []string
	for _, r := range recorded {
		got = append(got, r.ID())
	}
	if strings.Join(got, " ") != "old/gone old/here demo/b demo/c" || !slices.Equal(elsewhere, []string{"old/elsewhere"}) {
		t.Errorf("%v, of another folder %v", got, elsewhere)
	}
}

// Of a part, namespaces go in which no other release has anything.
func TestNamespacesThatAPartFrees(t *testing.T) {
	d := records(t, permits{journal.Release: {"demo/web", "demo/api"}}, record(1, release.StatusDeployed, nil),
		record(2, release.StatusDeployed, map[string]string{"name": "api"}))
	in := func(namespaces ...string) (of contents) {
		for _, namespace := range namespaces {
			of.objects = append(of.objects, object{namespace: namespace})
		}
		return of
	}
	web, api := Release{Name: "web", Namespace: "demo"}, Release{Name: "api", Namespace: "demo"}
	made := object{kind: namespaceKind.WithVersion("v1"), namespace: "demo", name: "made"}
	d.revisionContents[revisionID(web, 1)] = contents{objects: append(in("shared", "own").objects, made)}
	d.revisionContents[revisionID(api, 2)] = in("shared", "others")
	for want, going := range map[string][]Release{"made own": {web}, "others": {api}, "": nil,
		"demo made others own shared": {web, api}} {
		if freed, err := d.freedBy(t.Context(), going); err != nil || strings.Join(freed, " ") != want {
			t.Errorf("freed %v, %v, not %s", freed, err, want)
		}
	}
}
