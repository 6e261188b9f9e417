// Releases: what devloop.yaml asks for, what Helm's records say of it, and the one action that follows.
package deploy

import (
	"slices"
	"time"
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
