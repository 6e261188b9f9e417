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
	journal permissions
	options Options
	folder  string // options.Folder without symbolic links
	charts  charts

	mu           sync.Mutex
	objectsOf    map[string][]object  // objects of revisions that were read or written, by ID@version
	firstRunning map[string]time.Time // when a container was first seen running, by its ID
	commands     map[int]string       // that run now: the kubeconfig of each, by its process group
	checkPods    map[string]bool      // pods of trials that are under way
	verified     map[string]bool      // trials that succeeded
}

// New returns a Deployer. The caller keeps ownership of the journal, which may be nil where nothing is applied or removed.
func New(cluster *kube.Cluster, project string, journal permissions, options Options) *Deployer {
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
		objectsOf: map[string][]object{}, firstRunning: map[string]time.Time{}, commands: map[int]string{}, checkPods: map[string]bool{}, verified: map[string]bool{}}
}
