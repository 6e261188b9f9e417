package deploy

import (
	"cmp"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// Release is one Helm release as devloop.yaml describes it; paths are absolute. It is made of one
// of Chart, Manifests and Kustomize.
type Release struct {
	Name            string
	Manifests       []string // files, folders and patterns of plain manifests
	Kustomize       string   // folder of a kustomization
	RemoteBases     bool     // the kustomization may bring bases from other machines
	Chart           string   // folder, archive, URL (https, http, oci), or the name in Repo
	Repo            string   // URL of a chart repository, or ""
	Version         string   // in Repo or the registry: exact, a range, or "" for the newest
	SHA256          string   // expected of the chart's archive, or ""
	Namespace       string
	CreateNamespace bool
	DependsOn       []string       // names of releases that have to be up before
	ValuesFiles     []string       // later ones win
	InlineValues    map[string]any // override the files
	Set             map[string]any // Helm's --set paths; text, int64, bool or nil; override the inline values
	SetString       map[string]string
	SecretValues    []string // paths in the merged values, as in Set, of what must not be shown
	Before, After   []Command
	// Images are those that are built, by their repositories. A container image of such a repository
	// is set to the reference.
	Images   Images
	Rollback bool // to the last good revision, when its pods do not come up
}

// Command is a user's command, run on this machine before or after a release is applied.
type Command struct {
	Args    []string
	Timeout time.Duration
	Script  string `json:"-"` // the user's own program, absolute, or ""
}

// script returns the script that a command runs, as a path like that of the command: ./migrate.sh,
// or what a shell or another interpreter is given. It returns "" for a program of the machine.
func script(args []string) string {
	if len(args) > 1 && interpreter.MatchString(args[0]) {
		args = args[1:]
	} else if len(args) > 0 && !strings.Contains(args[0], "/") {
		return "" // found in PATH
	}
	if len(args) == 0 || filepath.IsAbs(args[0]) || strings.HasPrefix(args[0], "-") {
		return ""
	}
	return args[0]
}

// interpreter matches the programs whose first argument is the program that they run.
var interpreter = regexp.MustCompile(`^(/usr/bin/|/bin/)?(sh|bash|dash|zsh|ksh|python[0-9.]*|node|ruby|perl)$`)

// NewCommand returns a command that runs in a folder.
func NewCommand(folder string, args []string, timeout time.Duration) Command {
	made := Command{Args: args, Timeout: timeout}
	if name := script(args); name != "" {
		made.Script = filepath.Join(folder, name)
	}
	return made
}

// payload is the release as events have it, without a revision for 0.
func (r Release) payload(revision int) event.Release {
	return event.Release{Namespace: event.Name(r.Namespace), Name: event.Name(r.Name), Revision: revision}
}

// ID is unique in the cluster: namespace/name.
func (r Release) ID() string { return r.Namespace + "/" + r.Name }

func (r Release) source() source { return source{r.Chart, r.Repo, r.Version, r.SHA256} }

// scripts are the scripts that its commands run.
func (r Release) scripts() (paths []string) {
	for _, command := range slices.Concat(r.Before, r.After) {
		if command.Script != "" {
			paths = append(paths, command.Script)
		}
	}
	return paths
}

// Files are the paths that the release is made from.
func (r Release) Files() []string {
	files := append(slices.Clone(r.ValuesFiles), r.scripts()...)
	if r.isPlain() {
		return append(files, r.manifests("").Watched()...)
	}
	if r.source().isLocal() {
		return append(append(files, r.Chart), inputsOf(r.Chart)...)
	}
	return append(files, helmSettings(cmp.Or(r.Repo, r.Chart))...)
}
