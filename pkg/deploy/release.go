// One Helm release: its inputs, what the cluster says of it, and the one action that follows.
package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
	"helm.sh/helm/v3/pkg/strvals"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/devloop/devloop/pkg/event"
)

const (
	// Labels on Helm's own records: the hash of the inputs that a revision was made from, and the project that owns it.
	labelInputs  = "devloop.inputs"
	labelProject = "devloop.project"

	kindNamespace = "namespace"
	kindRelease   = "release"

	// hookTimeout is Helm's own, for each hook of a chart.
	hookTimeout = 5 * time.Minute
	maxHistory  = 10
)

// Release is one Helm release as devloop.yaml asks for it; paths are absolute.
type Release struct {
	Name            string
	Chart           string // folder, archive or URL
	SHA256          string // of a downloaded chart's archive, "" if any will do
	Namespace       string
	CreateNamespace bool
	ValuesFiles     []string
	Set             map[string]any // Helm's --set paths and scalar values, over the values files
}

// ID names the release in the whole cluster.
func (r Release) ID() string { return r.Namespace + "/" + r.Name }

// Files are the paths that the release is made from.
func (r Release) Files() []string {
	files := slices.Clone(r.ValuesFiles)
	if !strings.Contains(r.Chart, "://") {
		files = append(files, r.Chart)
	}
	return files
}

// journal is the part of pkg/journal that permits deletion.
type journal interface {
	Record(kind, name string) error
	Forget(kind, name string) error
	Has(kind, name string) bool
	Names(kind string) []string // oldest first
}

// Deployer applies releases to one cluster, for one project.
type Deployer struct {
	cluster *Cluster
	project string
	journal journal
	charts  charts
}

// New returns a Deployer; cacheDir keeps downloaded charts. The caller keeps ownership of the journal.
func New(cluster *Cluster, project string, journal journal, cacheDir string) *Deployer {
	return &Deployer{cluster: cluster, project: project, journal: journal, charts: charts{cacheDir}}
}

// desired is a release with everything that it is made from read.
type desired struct {
	Release
	chart  *chart.Chart
	values map[string]any
	inputs string // hash, fit for a label
}

// Apply makes the cluster hold the release, and touches nothing where it does already: equal inputs, last revision deployed,
// no object missing. The write itself is never interrupted: ctx is only looked at before it begins.
func (d *Deployer) Apply(ctx context.Context, sink event.Sink, r Release) error {
	return passing(d.apply(ctx, sink, r))
}

func (d *Deployer) apply(ctx context.Context, sink event.Sink, r Release) error {
	say := sink.For("deploy")
	want, err := d.read(ctx, say, r)
	if err != nil {
		return err
	}
	helm, err := d.helm(r.Namespace)
	if err != nil {
		return err
	}
	last, err := helm.Releases.Last(r.Name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return fmt.Errorf("release %s: read Helm's record: %w", r.ID(), err)
	}
	if last != nil && !d.owns(last) {
		return event.WithHint(fmt.Errorf("release %s is there already and was not made by devloop for the project %q", r.ID(), d.project),
			fmt.Sprintf("remove it (helm uninstall %s -n %s) or give yours another name", r.Name, r.Namespace))
	}
	if last != nil && last.Info.Status == release.StatusDeployed && last.Labels[labelInputs] == want.inputs {
		missing, err := d.missing(ctx, helm, last)
		if err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
		if missing == "" {
			say.Detail("release unchanged", "release", r.Name, "revision", last.Version)
			return nil
		}
		say.Note("object missing, release will be applied again", "release", r.Name, "object", missing)
	}
	if r.CreateNamespace {
		if err := d.ensureNamespace(ctx, r.Namespace); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := d.journal.Record(kindRelease, r.ID()); err != nil {
		return err
	}
	return say.Step(ctx, "release applied", func(context.Context) ([]any, error) {
		revision, err := write(helm, want, last, d.project) //nolint:contextcheck // a Helm write is never interrupted
		if err != nil {
			return nil, event.WithHint(fmt.Errorf("release %s: %w", r.ID(), err), "mend the chart or its values and save; what ran keeps running")
		}
		return []any{"revision", revision}, nil
	}, "release", r.Name)
}

// read loads the chart and merges the values. Nothing is asked of the cluster.
func (d *Deployer) read(ctx context.Context, say event.Stage, r Release) (desired, error) {
	want := desired{Release: r, values: map[string]any{}}
	loaded, digest, err := d.charts.load(ctx, say, r.Chart, r.SHA256)
	if err != nil {
		return want, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	want.chart = loaded
	for _, file := range r.ValuesFiles {
		values, err := chartutil.ReadValuesFile(file)
		if err != nil {
			return want, event.WithHint(fmt.Errorf("release %s: values file %s: %w", r.ID(), file, err), "mend it and save; what ran keeps running")
		}
		want.values = chartutil.MergeTables(values, want.values) // later files win
	}
	for _, path := range slices.Sorted(maps.Keys(r.Set)) {
		if err := set(want.values, path, r.Set[path]); err != nil {
			return want, fmt.Errorf("release %s: set %s: %w", r.ID(), path, err)
		}
	}
	values, err := json.Marshal(want.values)
	if err != nil {
		return want, fmt.Errorf("release %s: values: %w", r.ID(), err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "devloop/1 %s %s %s", digest, d.cluster.version, values))
	want.inputs = hex.EncodeToString(sum[:16])
	return want, nil
}

// set puts one value at a path as helm --set writes it. Whole numbers stay whole: JSON would make floats of them, which
// templates print as 1.00068e+09.
func set(values map[string]any, path string, value any) error {
	switch value.(type) {
	case int, int64, uint64, bool:
		return strvals.ParseInto(fmt.Sprintf("%s=%v", path, value), values)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return strvals.ParseJSON(path+"="+string(text), values)
}

// owns tells whether a release is ours, by the label that Helm's record has from the moment of its creation. The journal would not
// do: its entry may be of an install that never came to be, and the release one that somebody made since.
func (d *Deployer) owns(r *release.Release) bool { return r.Labels[labelProject] == d.project }

// write runs the one Helm action that leads from last to want. Helm's contexts are not used: a done context marks the release
// failed while Helm's worker goes on (install.go, upgrade.go).
func write(helm *action.Configuration, want desired, last *release.Release, project string) (revision int, err error) {
	labels := map[string]string{labelInputs: want.inputs, labelProject: project}
	settled, err := everDeployed(helm, want.Name)
	if err != nil {
		return 0, err
	}
	// An interrupted clean-up is finished first; and a first install that never came to its end is begun anew, since an upgrade
	// would leave out its install hooks.
	if last != nil && (last.Info.Status == release.StatusUninstalling || !settled) {
		uninstall := action.NewUninstall(helm)
		uninstall.Timeout = hookTimeout
		if _, err := uninstall.Run(want.Name); err != nil {
			return 0, err
		}
		last = nil
	}
	if last == nil || last.Info.Status == release.StatusUninstalled {
		install := action.NewInstall(helm)
		install.ReleaseName, install.Namespace, install.Labels = want.Name, want.Namespace, labels
		install.Timeout, install.Replace = hookTimeout, last != nil
		done, err := install.RunWithContext(context.Background(), want.chart, want.values)
		if err != nil {
			return 0, err
		}
		return done.Version, nil
	}
	if last.Info.Status.IsPending() { // of an upgrade
		// Only a write of ours that was killed half-way leaves this: the journal's lock keeps a second devloop out.
		last.SetStatus(release.StatusFailed, "devloop was ended during this write")
		if err := helm.Releases.Update(last); err != nil {
			return 0, fmt.Errorf("repair the interrupted revision %d: %w", last.Version, err)
		}
	}
	upgrade := action.NewUpgrade(helm)
	upgrade.Namespace, upgrade.Labels = want.Namespace, labels
	upgrade.Timeout, upgrade.MaxHistory = hookTimeout, maxHistory
	upgrade.ResetValues = true // the values are those of devloop.yaml, none from earlier revisions
	done, err := upgrade.RunWithContext(context.Background(), want.Name, want.chart, want.values)
	if err != nil {
		return 0, err
	}
	return done.Version, nil
}

// everDeployed tells whether any revision of the release that Helm still knows came to its end.
func everDeployed(helm *action.Configuration, name string) (bool, error) {
	history, err := helm.Releases.History(name)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return false, fmt.Errorf("read Helm's records: %w", err)
	}
	return slices.ContainsFunc(history, func(r *release.Release) bool {
		return r.Info.Status == release.StatusDeployed || r.Info.Status == release.StatusSuperseded || r.Info.Status == release.StatusUninstalled
	}), nil
}

// helm returns Helm's machinery for one namespace.
func (d *Deployer) helm(namespace string) (*action.Configuration, error) {
	config := new(action.Configuration)
	getter := namespaced{d.cluster, namespace}
	if err := config.Init(getter, namespace, "secret", func(string, ...any) {}); err != nil {
		return nil, fmt.Errorf("helm: %w", err)
	}
	if client, ok := config.KubeClient.(*kube.Client); ok {
		client.Namespace = namespace
	}
	return config, nil
}

// missing names an object of the release's manifest that the cluster does not hold, or "".
func (d *Deployer) missing(ctx context.Context, helm *action.Configuration, r *release.Release) (string, error) {
	objects, err := helm.KubeClient.Build(bytes.NewBufferString(r.Manifest), false)
	if err != nil {
		if meta.IsNoMatchError(err) {
			return err.Error(), nil // the kind itself is gone
		}
		return "", fmt.Errorf("read the manifest of revision %d: %w", r.Version, err)
	}
	for _, object := range objects {
		if err := ctx.Err(); err != nil {
			return "", context.Cause(ctx)
		}
		_, err := resource.NewHelper(object.Client, object.Mapping).Get(object.Namespace, object.Name)
		if apierrors.IsNotFound(err) {
			return object.Mapping.Resource.Resource + "/" + object.Name, nil
		}
		if err != nil {
			return "", fmt.Errorf("look for %s/%s: %w", object.Mapping.Resource.Resource, object.Name, err)
		}
	}
	return "", nil
}
