// Releases: what devloop.yaml asks for, what Helm's records say of it, and the one action that follows.
package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// Release is one Helm release as devloop.yaml asks for it; paths are absolute.
type Release struct {
	Name            string
	Chart           string // folder, archive, URL (https, http, oci), or the chart's name in Repo
	Repo            string // URL of a chart repository, "" if Chart says all
	Version         string // in Repo or the registry: exact, a range, or "" for the newest
	SHA256          string // of the chart's archive, "" if any will do
	Namespace       string
	CreateNamespace bool
	DependsOn       []string       // names of releases that have to be up before
	ValuesFiles     []string       // later ones win
	InlineValues    map[string]any // over the files
	Set             map[string]any // Helm's --set paths and scalar values, over the inline values
	SetString       map[string]string
	SecretValues    []string // paths in the merged values, as in Set, of what is not to be shown
	Before, After   []Command
	Rollback        bool // to the last good revision, when its pods do not come up
}

// Command is what the user wants to have run on this machine, before or after a release is applied.
type Command struct {
	Args    []string
	Timeout time.Duration
}

// ID names the release in the whole cluster.
func (r Release) ID() string { return r.Namespace + "/" + r.Name }

func (r Release) source() source { return source{r.Chart, r.Repo, r.Version, r.SHA256} }

// Files are the paths that the release is made from.
func (r Release) Files() []string {
	files := slices.Clone(r.ValuesFiles)
	if r.source().isLocal() {
		files = append(append(files, r.Chart), localDependencies(r.Chart)...)
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

// The journal's kinds.
const (
	kindNamespace = "namespace"
	kindRelease   = "release"
	kindRevision  = "revision" // of a release, "namespace/name@7", while it is written
	kindCRD       = "crd"
	kindPod       = "pod"    // of a trial, "namespace/name"
	kindVolume    = "volume" // claim of a stateful set, "namespace/name", which stays when its release goes
	kindFolder    = "folder" // whose devloop.yaml a release, volume claim or CRD is from, "release demo/web@/home/me/web"
	kindUID       = "uid"    // which namespace, volume claim or CRD of a name it is, "namespace demo@UID"
)

// Options are what a Deployer needs to know besides the releases.
type Options struct {
	CacheDir string // for downloaded charts
	Folder   string // of devloop.yaml, absolute: commands run in it, and what is no longer in devloop.yaml is known by it
	Adopt    bool   // releases that somebody else made, or a devloop elsewhere, are taken over

	// Runtime names a folder for what lives no longer than this process: the kubeconfigs of
	// commands. Its error says that the folder is there and not this user's alone. What killed
	// processes have left in it is removed. Only where no command is run it may be nil.
	Runtime func() (string, error)

	// OperatorLabels returns the labels in a namespace that mark what an operator makes at runtime for
	// a release, and the ID of that release. Nil if there are none.
	OperatorLabels func(ctx context.Context, namespace string) (map[kube.Label]string, error)

	Secret func(values ...string) // is told of values that nobody may be shown, before anything else is; nil if that does not matter
}

// Deployer applies releases to one cluster, for one project.
type Deployer struct {
	cluster *kube.Cluster
	project string
	journal journal
	options Options
	folder  string // options.Folder without symbolic links
	charts  charts

	mu       sync.Mutex
	named    map[string][]object  // objects of revisions that were read or written, by ID@version
	started  map[string]time.Time // when a container was first seen running, by its ID
	commands map[int]string       // that run now: the kubeconfig of each, by its process group
	trials   map[string]bool      // pods of trials that are under way
	verified map[string]bool      // trials that succeeded
}

// New returns a Deployer. The caller keeps ownership of the journal, which may be nil where nothing is applied or removed.
func New(cluster *kube.Cluster, project string, journal journal, options Options) *Deployer {
	if options.Runtime != nil {
		if folder, err := options.Runtime(); err == nil { // else the first command says so
			kube.RemoveLeftKubeconfigs(folder)
		}
	}
	folder := options.Folder
	if resolved, err := filepath.EvalSymlinks(folder); err == nil { // else it is as good as any other name
		folder = resolved
	}
	folder = strings.ToValidUTF8(folder, "?") // the journal is JSON
	return &Deployer{cluster: cluster, project: project, journal: journal, options: options, folder: folder, charts: charts{dir: options.CacheDir},
		named: map[string][]object{}, started: map[string]time.Time{}, commands: map[int]string{}, trials: map[string]bool{}, verified: map[string]bool{}}
}

// desired is a release with everything that it is made from read.
type desired struct {
	Release
	load   func(context.Context) (*chart.Chart, error)
	inputs string // hash, fit for a label
	name   string // of the chart, once it is loaded
}

// read finds the chart and merges the values. Nothing is asked of the cluster.
func (d *Deployer) read(ctx context.Context, say event.Stage, r Release) (desired, error) {
	chart, err := d.charts.open(ctx, say, r.source())
	if err != nil {
		return desired{}, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	merged, err := merge(r)
	if err != nil {
		return desired{}, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	values, err := json.Marshal(merged)
	if err != nil {
		return desired{}, fmt.Errorf("release %s: values: %w", r.ID(), err)
	}
	commands, err := json.Marshal([][]Command{r.Before, r.After})
	if err != nil {
		return desired{}, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "devloop/2 %s %s %s %s", chart.digest, d.cluster.KubeVersion(), values, commands))
	return desired{Release: r, load: chart.load, inputs: hex.EncodeToString(sum[:16])}, nil
}

// Apply makes the cluster hold the releases, and touches nothing where it does already. They are applied side by side, each after
// those that it depends on are up, for which timeout is how long their pods may take. A Helm write is never interrupted: ctx is only
// looked at before it begins.
func (d *Deployer) Apply(ctx context.Context, sink event.Sink, releases []Release, timeout time.Duration) error {
	say := sink.For("deploy")
	if err := d.cluster.Answers(ctx); err != nil {
		return passing(err)
	}
	if err := d.ensureNamespaces(ctx, releases); err != nil {
		return passing(err)
	}
	done := map[string]chan struct{}{}
	awaited := map[string]bool{}
	for _, r := range releases {
		done[r.Name] = make(chan struct{})
		for _, name := range r.DependsOn {
			awaited[name] = true
		}
	}
	var group sync.WaitGroup
	errs := make([]error, len(releases))
	failed := sync.Map{}
	for i, r := range releases {
		group.Go(func() {
			defer close(done[r.Name])
			for _, name := range r.DependsOn {
				<-done[name]
				if _, bad := failed.Load(name); bad {
					failed.Store(r.Name, true)
					say.Note("release left out, what it depends on is not up", "release", event.Name(r.Name),
						"depends on", name)
					return
				}
			}
			errs[i] = passing(say.Guard("release", func() error { return d.apply(ctx, sink, r, awaited[r.Name], timeout) }))
			if errs[i] != nil {
				failed.Store(r.Name, true)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// apply is Apply for one release; awaited tells that others wait until it is up.
func (d *Deployer) apply(ctx context.Context, sink event.Sink, r Release, awaited bool, timeout time.Duration) error {
	say := sink.For("deploy")
	want, err := d.read(ctx, say, r)
	if err != nil {
		return err
	}
	last, err := d.last(ctx, r)
	if err != nil {
		return err
	}
	if err := d.mayWrite(r, last); err != nil {
		if !d.holds(last, want) {
			return err
		}
		return d.leave(ctx, sink, r, last, err, awaited, timeout)
	}
	if last, err = d.settled(ctx, say, r, last); err != nil {
		return err
	}
	if last.exists() && !d.owns(r, last) {
		say.Warn("release taken over, it will be removed with the others", nil, "release", event.Name(r.Name),
			"namespace", event.Name(r.Namespace))
	}
	missing := ""
	held := d.holds(last, want)
	if held {
		if missing, err = d.missing(ctx, r, last); err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
	}
	switch {
	case !held || missing != "":
		if missing != "" {
			say.Note("object missing, release will be applied again", "release", event.Name(r.Name), "object", missing)
		}
		if last, err = d.write(ctx, say, want, last); err != nil {
			return err
		}
	default:
		if !d.owns(r, last) { // taken over
			if err := d.recordRelease(r); err != nil {
				return err
			}
		}
		say.Detail(event.ReleaseUnchanged, "namespace", event.Name(r.Namespace), "release", event.Name(r.Name),
			"revision", last.version)
		sink = nil // it is waited for all the same, below, but there is nothing to tell
	}
	if due := last.labels[labelAfter] == labelDue; awaited || due {
		if err := d.Wait(ctx, sink, []Release{r}, nil, timeout); err != nil {
			return err
		}
		if due {
			return d.after(ctx, say, r, last)
		}
	}
	return nil
}

// leave is apply for a release that is not ours and holds what is wanted: it stays as it is. If an object is missing, it is refused.
func (d *Deployer) leave(
	ctx context.Context, sink event.Sink, r Release, last revision, refused error, awaited bool, timeout time.Duration,
) error {
	missing, err := d.missing(ctx, r, last)
	if err != nil {
		return fmt.Errorf("release %s: %w", r.ID(), err)
	}
	if missing != "" {
		return refused
	}
	sink.For("deploy").Detail(event.ReleaseUnchanged,
		"namespace", event.Name(r.Namespace), "release", event.Name(r.Name), "revision", last.version)
	if !awaited {
		return nil
	}
	return d.Wait(ctx, nil, []Release{r}, nil, timeout)
}

// mayWrite says why the release is not ours to change, if it is not.
func (d *Deployer) mayWrite(r Release, last revision) error {
	switch {
	case !last.exists(), d.owns(r, last), d.options.Adopt:
		return nil
	case d.labelled(last):
		return event.WithHint(fmt.Errorf("release %s was made by a devloop of another user or machine: "+
			"devloop's state folder here does not know it", r.ID()),
			"take it over with --adopt, or give yours another name or namespace")
	}
	return event.WithHint(fmt.Errorf("release %s is there already and was not made by devloop for the project %q", r.ID(), d.project),
		fmt.Sprintf("take it over with --adopt, remove it (helm uninstall %s -n %s), or give yours another name", r.Name, r.Namespace))
}

// write applies a release that differs, with the commands before it.
func (d *Deployer) write(ctx context.Context, say event.Stage, want desired, last revision) (revision, error) {
	r := want.Release
	for _, command := range r.Before {
		if err := d.run(ctx, say, r, "before", command); err != nil {
			return last, err
		}
	}
	made, err := d.render(ctx, &want, last) // once more: what it depends on may have brought kinds that its templates ask for
	if err != nil {
		return last, err
	}
	if !last.exists() {
		if err := d.awaitEnding(ctx, say, r, made); err != nil {
			return last, err
		}
		if err := d.tryOut(ctx, say, &want, made); err != nil { // its namespace may not have been there before
			return last, err
		}
	}
	if ctx.Err() != nil {
		return last, context.Cause(ctx)
	}
	if err := d.claim(ctx, r); err != nil {
		return last, err
	}
	var written *release.Release
	err = say.Step(ctx, event.ReleaseApplied, func(ctx context.Context) ([]any, error) {
		stop := context.AfterFunc(ctx,
			func() { say.Note("waiting for Helm's write to end", "release", event.Name(r.Name)) })
		defer stop()
		if err := d.applyCRDs(ctx, say, r, made.crds); err != nil {
			return nil, err
		}
		var err error
		if written, err = d.helmWrite(say, want); err != nil { //nolint:contextcheck // a Helm write is never interrupted
			if event.Hint(err) == "" {
				err = event.WithHint(err, hintChart)
			}
			return nil, fmt.Errorf("release %s: %w", r.ID(), err)
		}
		return []any{"revision", written.Version}, nil
	}, "namespace", event.Name(r.Namespace), "release", event.Name(r.Name))
	if err != nil {
		if r.Rollback && !event.IsTransient(passing(err)) {
			err = d.rollback(say, r, err) //nolint:contextcheck // as above
		}
		return last, err
	}
	return revision{version: written.Version, status: written.Info.Status, labels: written.Labels}, nil
}

// claim permits the deletion of a release that is about to be written, unless somebody has made it since it was looked at.
func (d *Deployer) claim(ctx context.Context, r Release) error {
	now, err := d.last(ctx, r)
	if err != nil {
		return err
	}
	if err := d.mayWrite(r, now); err != nil {
		return err
	}
	return d.recordRelease(r)
}

// recordRelease permits the deletion of a release, from this folder.
func (d *Deployer) recordRelease(r Release) error {
	if err := d.recordFolder(kindRelease, r.ID()); err != nil { // first: a crash must not leave a release of any folder
		return err
	}
	return d.journal.Record(kindRelease, r.ID())
}

// after runs the commands that follow a release which is up, and takes the note from it that they are due.
func (d *Deployer) after(ctx context.Context, say event.Stage, r Release, last revision) error {
	for _, command := range r.After {
		if err := d.run(ctx, say, r, "after", command); err != nil {
			return err
		}
	}
	return d.label(ctx, r, last.version, labelAfter, nil)
}

// rollback takes the release back to the last revision whose pods came up, unless that is the one which is there: then what troubles
// it is no change of ours. It returns cause with what came of that, as final: another try would only do the same.
func (d *Deployer) rollback(say event.Stage, r Release, cause error) error {
	ctx := context.Background()
	result := ""
	good, last, err := d.lastGood(ctx, r)
	switch {
	case err != nil:
		result = "whether there is a revision to go back to is not known: " + err.Error()
	case good == 0:
		result = "it stays as it is, since no revision of it was ever up"
	case good == last.version:
		result = fmt.Sprintf("it stays as it is: revision %d was up before", good)
	case !d.owns(r, last):
		result = "it stays as it is: a devloop of another user or machine made it"
	default:
		result = fmt.Sprintf("rolled back to revision %d", good)
		err = say.Step(ctx, event.ReleaseRolledBack, func(ctx context.Context) ([]any, error) {
			return nil, d.helmRollback(ctx, say, r, good, last.version+1)
		}, "namespace", event.Name(r.Namespace), "release", event.Name(r.Name), "revision", good)
		if err != nil {
			result = fmt.Sprintf("roll back to revision %d: %v", good, err)
		}
	}
	return event.WithHint(finalError{fmt.Errorf("%v\n%s", cause, result)}, event.Hint(cause)) //nolint:errorlint // no longer transient
}
