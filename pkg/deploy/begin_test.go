package deploy

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	chartYAML  = "apiVersion: v2\nname: web\nversion: 1.0.0\n"
	configYAML = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {text: {{ .Values.text | quote }}}\n"
	hookYAML   = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hook, " +
		"annotations: {helm.sh/hook: pre-install, helm.sh/hook-weight: \"1\"}}\n"
	crdYAML = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n" +
		"metadata: {name: gadgets.example.com}\n" +
		"spec: {group: example.com, scope: Namespaced, names: {kind: Gadget, plural: gadgets}, " +
		"versions: [{name: v1, served: true, storage: true}]}\n"
	gadgetYAML    = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: web}\n"
	namespaceYAML = "apiVersion: v1\nkind: Namespace\nmetadata: {name: theirs, labels: {a: b}}\n"
)

// applying is a project whose releases are applied to an API server.
type applying struct {
	t        *testing.T
	server   *apiServer
	cluster  *kube.Cluster
	journal  *journal.Journal
	dir      string
	releases []Release
	commands Around
	adopt    bool
}

func newApplying(t *testing.T) *applying {
	t.Helper()
	server, cluster := newAPIServer(t)
	return &applying{t: t, server: server, cluster: cluster, journal: onDisk(t), dir: t.TempDir()}
}

// deployer is a devloop that was just started.
func (a *applying) deployer() *Deployer {
	return New(a.cluster, "demo", a.journal, Options{Adopt: a.adopt, Folder: a.dir, CacheDir: a.dir,
		Runtime: func() (string, error) { return filepath.Join(a.dir, ".run"), nil }})
}

// apply applies the releases, and returns the events' texts.
func (a *applying) apply(begin func(context.Context) error) (log string, err error) {
	var mu sync.Mutex
	sink := event.Sink(func(e event.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Err != nil {
			log += e.Message + ": " + e.Err.Error() + "\n"
		}
	})
	err = a.deployer().Apply(a.t.Context(), sink, a.releases, a.commands, time.Minute, begin)
	return log, err
}

func (a *applying) chart(files map[string]string) string {
	folder, all := filepath.Join(a.dir, "chart"), map[string]string{"Chart.yaml": chartYAML}
	maps.Copy(all, files)
	write(a.t, folder, all)
	return folder
}

func allowed(context.Context) error { return nil }

// Until begin has returned, nothing is written and no command runs; if it fails, nothing ever is.
func TestNothingIsWrittenBeforeItMayBegin(t *testing.T) {
	config := map[string]string{"templates/web.yaml": configYAML}
	text := map[string]any{"text": "one"}
	installed := func(a *applying) {
		a.releases = []Release{{Name: "web", Namespace: "demo", CreateNamespace: true, Chart: a.chart(config),
			InlineValues: text}}
		if _, err := a.apply(allowed); err != nil {
			a.t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		prepare func(*applying)
		want    []string // is written then
	}{
		"a first install": {func(a *applying) {
			a.releases = []Release{{Name: "web", Namespace: "demo", CreateNamespace: true, Chart: a.chart(config),
				InlineValues: text}}
		}, []string{"POST /api/v1/namespaces", "POST /api/v1/namespaces/demo/configmaps"}},
		"an upgrade": {func(a *applying) {
			installed(a)
			a.releases[0].InlineValues = map[string]any{"text": "two"}
		}, []string{"PATCH /api/v1/namespaces/demo/configmaps/web", "POST /api/v1/namespaces/demo/secrets"}},
		"a change by hand": {func(a *applying) {
			installed(a)
			a.server.edit("demo", "web", map[string]string{"text": "by hand"})
		}, []string{"PUT /api/v1/namespaces/demo/configmaps/web"}},
		"a release that is as it should be, awaited for the first time": {func(a *applying) {
			installed(a)
			write(a.t, a.dir, map[string]string{"next.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: next}\n"})
			a.releases = append(a.releases, Release{Name: "next", Namespace: "demo", DependsOn: []string{"web"},
				Manifests: []string{filepath.Join(a.dir, "next.yaml")}})
		}, []string{"PATCH /api/v1/namespaces/demo/secrets/sh.helm.release.v1.web.v1"}},
		"a namespace and hooks": {func(a *applying) {
			a.releases = []Release{{Name: "web", Namespace: "default", InlineValues: text, Chart: a.chart(map[string]string{
				"templates/namespace.yaml": namespaceYAML, "templates/hook.yaml": hookYAML,
				"templates/web.yaml": strings.ReplaceAll(configYAML, "{name: web}", "{name: web, namespace: theirs}")})}}
		}, []string{"PATCH /api/v1/namespaces/theirs", "POST /api/v1/namespaces/theirs/configmaps",
			"POST /api/v1/namespaces/default/configmaps"}},
		"CRDs": {func(a *applying) {
			a.releases = []Release{{Name: "web", Namespace: "default",
				Chart: a.chart(map[string]string{"crds/crd.yaml": crdYAML, "templates/gadget.yaml": gadgetYAML})}}
		}, []string{"PATCH /apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.example.com",
			"POST /apis/example.com/v1/namespaces/default/gadgets"}},
		"a kind that another release brings": {func(a *applying) {
			write(a.t, a.dir, map[string]string{"gadget.yaml": gadgetYAML})
			a.releases = []Release{
				{Name: "user", Namespace: "default", Manifests: []string{filepath.Join(a.dir, "gadget.yaml")}},
				{Name: "web", Namespace: "default", Chart: a.chart(map[string]string{"crds/crd.yaml": crdYAML})}}
		}, []string{"POST /apis/example.com/v1/namespaces/default/gadgets"}},
		"commands": {func(a *applying) {
			installed(a)
			touch := []Command{shell("touch ran")}
			a.releases[0].Before, a.commands.Before = touch, touch
		}, []string{"POST /api/v1/namespaces/demo/secrets"}},
		"an object that no release made": {func(a *applying) {
			a.adopt = true
			a.server.edit("default", "web", map[string]string{"text": "theirs"})
			a.releases = []Release{{Name: "web", Namespace: "default", Chart: a.chart(config), InlineValues: text}}
		}, []string{"PATCH /api/v1/namespaces/default/configmaps/web"}},
		"a release that another devloop made": {func(a *applying) {
			installed(a)
			a.adopt, a.journal = true, onDisk(a.t)
		}, nil},
		"manifests": {func(a *applying) {
			write(a.t, a.dir, map[string]string{"all/web.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n"})
			a.releases = []Release{{Name: "web", Namespace: "default", Manifests: []string{filepath.Join(a.dir, "all")}}}
		}, []string{"POST /api/v1/namespaces/default/configmaps"}},
		"nothing to write": {installed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApplying(t)
			test.prepare(a)
			before, entries := a.server.written(), a.journal.Names(journal.Release)
			untouched := func() {
				t.Helper()
				if now := a.server.written(); !slices.Equal(now, before) {
					t.Errorf("written before it may: %q", now[len(before):])
				}
				if _, err := os.Stat(filepath.Join(a.dir, "ran")); err == nil {
					t.Error("a command ran before it may")
				}
				if now := a.journal.Names(journal.Release); !slices.Equal(now, entries) {
					t.Errorf("the journal permits to delete %q", now)
				}
			}

			failed := errors.New("the image is no good")
			log, err := a.apply(func(context.Context) error { return failed })
			if err != failed || log != "" { //nolint:errorlint // the very error
				t.Errorf("it ends with %v, and reports %q", err, log)
			}
			untouched()

			begun := 0
			log, err = a.apply(func(context.Context) error {
				begun++
				untouched()
				return nil
			})
			if err != nil || log != "" || begun != 1 {
				t.Errorf("it ends with %v after beginning %d times, and reports %q", err, begun, log)
			}
			now := a.server.written()[len(before):]
			for _, want := range test.want {
				if !slices.Contains(now, want) {
					t.Errorf("%q is missing in %q", want, now)
				}
			}
			if test.want == nil && len(now) > 0 {
				t.Errorf("written: %q", now)
			}
		})
	}
}

// While an Apply waits for the permission to begin, someone else writes the release.
func TestReleaseThatChangesBeforeItIsBegun(t *testing.T) {
	for name, byHand := range map[string]string{"of other values": "", "and its object": "by hand"} {
		t.Run(name, func(t *testing.T) {
			a := newApplying(t)
			a.releases = []Release{{Name: "web", Namespace: "default", InlineValues: map[string]any{"text": "one"},
				Chart: a.chart(map[string]string{"templates/web.yaml": configYAML})}}
			if _, err := a.apply(allowed); err != nil {
				t.Fatal(err)
			}
			if byHand != "" {
				a.server.edit("default", "web", map[string]string{"text": byHand})
			} else {
				a.releases[0].InlineValues = map[string]any{"text": "two"}
			}
			want := a.releases[0].InlineValues["text"]
			other := *a
			other.releases = slices.Clone(a.releases)
			other.releases[0].InlineValues = map[string]any{"text": "someone else's"}
			if _, err := a.apply(func(context.Context) error {
				_, err := other.apply(allowed) //nolint:contextcheck // another process
				return err
			}); err != nil {
				t.Fatal(err)
			}
			last, err := a.deployer().last(t.Context(), a.releases[0])
			if got := a.server.text(); got != want || err != nil || last.version != 3 {
				t.Errorf("it has %q, want %q, at revision %d (%v)", got, want, last.version, err)
			}
		})
	}
}

// To unpack Helm's records takes longer than all else that an upgrade does before its objects.
func TestUpgradeReadsTheRecordsOnce(t *testing.T) {
	a := newApplying(t)
	a.releases = []Release{{Name: "web", Namespace: "default", Chart: a.chart(map[string]string{
		"templates/web.yaml": configYAML, "crds/crd.yaml": crdYAML})}}
	for _, text := range []string{"one", "two", "three"} {
		a.server.mu.Lock()
		a.server.requests = nil
		a.server.mu.Unlock()
		a.releases[0].InlineValues = map[string]any{"text": text}
		if _, err := a.apply(allowed); err != nil {
			t.Fatal(err)
		}
	}
	a.server.mu.Lock()
	defer a.server.mu.Unlock()
	read := 0
	for _, request := range a.server.requests {
		isList := strings.HasPrefix(request, "GET /api/v1/namespaces/default/secrets?")
		if isList && !strings.HasSuffix(request, metadataOnly) {
			read++
		}
	}
	if read != 1 {
		t.Errorf("they were read %d times: %q", read, a.server.requests)
	}
}
