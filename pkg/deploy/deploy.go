// Package deploy applies Helm releases to one cluster, waits for their rollouts, explains why one
// fails, and removes everything again.
//
// A run reads the releases (release.go, chart.go, dependencies.go, values.go; plain.go for those
// without a chart), hashes their inputs (inputs.go) and compares the hash with Helm's own records
// (records.go). What differs is rendered (render.go, renderprocess.go), given the images that were
// built (images.go), tried out on the API server (dryrun.go, validated.go, threeway.go, refusal.go,
// takeover.go) and written by one action of Helm (apply.go, around.go, namespaceobjects.go, crd.go,
// bringforward.go, recreate.go, helm.go, cachedrecords.go, install.go, upgrade.go, writelog.go).
// Where nothing differs, changes by hand are reverted (drift.go, restored.go, fieldowners.go,
// revert.go, driftreport.go). Then its workloads are watched (rollout.go, changes.go, steady.go,
// diagnose.go), and a release that does not come up may be rolled back (rollback.go). Cleaning up
// (cleanup.go, uninstall.go) deletes only what the journal permits and the live objects confirm
// (ownership.go).
package deploy

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/kube"
)

// Options are what a Deployer needs to know besides the releases.
type Options struct {
	CacheDir string // for downloaded charts
	// Folder is that of devloop.yaml, absolute. Commands run in it, and the journal names it as the
	// origin of what is made.
	Folder string
	// Adopt lets a release take over objects that no release made, and devloop releases that another
	// tool, or a devloop elsewhere, made.
	Adopt bool

	// Runtime returns a private folder for the kubeconfigs of commands; files that killed processes
	// left in it are removed. May be nil where no commands are run.
	Runtime func() (string, error)

	// OperatorLabels maps the labels of what operators make at runtime in a namespace to the ID of
	// the release that it belongs to. May be nil.
	OperatorLabels func(ctx context.Context, namespace string) (map[kube.Label]string, error)

	// Secret gets the values that must not be shown, before anything that may hold them is
	// reported. May be nil.
	Secret func(values ...string)
}

// Deployer applies releases to one cluster, for one project.
type Deployer struct {
	cluster *kube.Cluster
	project string
	journal permissions
	options Options
	folder  string // options.Folder without symbolic links
	charts  charts

	namespaces sync.Mutex // held while one is made

	mu               sync.Mutex
	revisionContents map[string]contents     // by revision, ID@version
	repositories     map[string]string       // see normalized
	images           map[string][]namedImage // of releases, by ID, as last rendered or deployed
	clean            map[string]string       // resource versions of objects without drift, by revision and object
	settled          map[string]settledCRD   // CRDs, by their names
	moves            map[string]string       // the release that takes an object of another one, by the object
	restores         map[string]int          // how often a field was reverted, by object and field
	validated        map[string]validated    // releases, by ID, for the next Apply
	running          map[string]time.Time    // since when a container without a probe runs, by its ID
	commands         map[int]string          // the kubeconfigs of running commands, by process group
	checkPods        map[string]bool         // that are running
	loaded           map[string]bool         // images that the nodes were given, by their full names
}

// New returns a Deployer. The caller closes the journal, which may be nil where nothing is applied
// or removed.
func New(cluster *kube.Cluster, project string, journal permissions, options Options) *Deployer {
	if options.Runtime != nil {
		if folder, err := options.Runtime(); err == nil { // else the first command fails with the error
			kube.RemoveStaleKubeconfigs(folder)
		}
	}
	folder := options.Folder
	if resolved, err := filepath.EvalSymlinks(folder); err == nil {
		folder = resolved
	}
	return &Deployer{
		cluster: cluster, project: project, journal: journal, options: options,
		folder:           strings.ToValidUTF8(folder, "?"), // the journal is JSON
		charts:           charts{dir: options.CacheDir},
		revisionContents: map[string]contents{}, images: map[string][]namedImage{}, repositories: map[string]string{},
		clean: map[string]string{}, settled: map[string]settledCRD{}, validated: map[string]validated{},
		restores: map[string]int{}, running: map[string]time.Time{}, commands: map[int]string{},
		checkPods: map[string]bool{},
	}
}
