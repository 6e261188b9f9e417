// Package config reads devloop.yaml: checked and defaulted into one plain Config, or everything
// that is wrong with it in one error, each problem with its file, line and column.
package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/config/tree"
)

// FileName is what the file is called unless the user says otherwise.
const FileName = "devloop.yaml"

// Version is the apiVersion that this devloop reads.
const Version = "devloop/v1"

// file is one devloop.yaml. The tags and comments of the fields of this type, and of those below,
// are the only description of the keys: the decoder follows them, and so do schema.json and
// keys.md, which have the first paragraph of each comment. The tags are
//
//	key:"name"           the key; "*" is the key of the mapping itself
//	key:"name,required"  it must be there once all layers are merged
//	key:"name,identity"  it must be there in each layer, and identifies an item of a list
//	key:"name,choice"    like identity, but exactly one of the keys marked so must be there
//	key:"name,either"    exactly one of the keys marked so must be there once all layers are merged
//	default:"30s"        the value if there is none
//	check:"label"        the rule (see rules.go) of the value, of a list's items, of a map's keys
type file struct {
	document

	// Changes under a name: parts of a devloop.yaml, without apiVersion and name, that --profile
	// merges over the file.
	Profiles map[string]Config `key:"profiles" check:"profile"`
}

// document is all files merged.
type document struct {
	// Version of the format.
	APIVersion string `key:"apiVersion,required" check:"version"`

	// Name of the project: in a cluster, one devloop at a time works for a name. Fixed when devloop
	// starts.
	Name string `key:"name,required" check:"label"`

	Config
}

// Config is a valid configuration. Its paths are as the user wrote them, absolute or relative to
// Dir (see Abs). The files and folders that it names existed when it was read.
type Config struct {
	Path string // of the first file, absolute
	Dir  string // the folder of that file, absolute
	Name string // of the project, a DNS-1123 label

	// Context of the kubeconfig to deploy to, by default the current one. Fixed when devloop
	// starts.
	KubeContext string `key:"kubeContext"`

	// Contexts that the project is meant for, besides clusters on the user's own machine. This
	// allows nothing by itself: the user does, by --allow-context, in
	// ~/.config/devloop/config.yaml, or when asked.
	AllowContexts []string `key:"allowContexts"`

	// Images to build, by name.
	//
	// They are in the order of the file, but each comes after those that it is built from.
	Images []Image `key:"images"`

	// Where images are built: by the node's own Docker or BuildKit (node), so that they need not be
	// moved, or by this machine's Docker (host), whose cache outlives the cluster; auto is the node
	// where possible. Fixed when devloop starts.
	BuildIn string `key:"buildIn" default:"auto" check:"buildIn"`

	// How many images of a name are kept besides those that run, so that undoing a change builds
	// nothing.
	KeepImages int `key:"keepImages" default:"3" check:"keepImages"`

	// Registry, and folder in it, that the images are pushed to, for a cluster whose nodes devloop
	// cannot reach: registry.example/team. Plain http beyond this machine must be asked for:
	// http://registry.example/team. Fixed when devloop starts.
	Push string `key:"push" check:"push"`

	// Helm releases, applied side by side, each after those of its dependsOn.
	Releases []Release `key:"releases"`

	// Commands around all releases. They run when any of them differs.
	Hooks Hooks `key:"hooks"`

	// Commands that new images must pass on a node before any release is applied: at the end of the
	// image's build there, or each in a short-lived pod of its own.
	Verify []Verify `key:"verify"`

	// Deployments that must be available as well, whoever deployed them.
	Health []Health `key:"health"`

	// What is removed before the releases are, when devloop ends.
	Cleanup Cleanup `key:"cleanup"`

	// Local ports that stay open for as long as devloop runs.
	Forwards []Forward `key:"forwards"`

	// Name of the release in whose pod devloop shell and the key s open a shell; with one release,
	// that one.
	Shell string `key:"shell" check:"release"`

	// How long to wait for what.
	Timeouts Timeouts `key:"timeouts"`

	// When changes of files count as a save.
	Watch Watch `key:"watch"`

	// Which pods' logs are shown besides those of the releases' own pods.
	Logs []PodLogs `key:"logs"`

	// The Python environment on this machine that must have the same libraries as the images.
	Local Local `key:"local"`

	// The page that shows the state of everything. Fixed when devloop starts.
	Page Page `key:"page"`

	// Part are the names of the releases that were asked for, nil for the whole configuration. Others
	// and OtherImages are what does not belong to the part.
	Part        []string
	Others      []Release
	OtherImages []Image
	narrowed    bool // see NeedsNarrowing

	// Format is the apiVersion of a translated file, "" if all were devloop.yaml. Notes are what
	// devloop does differently from what that file says, in the order of its lines.
	Format string
	Notes  []tree.Note

	files     []string   // that were read, absolute
	root      *tree.Node // what was decoded, for the positions
	variables []string   // of the environment that a translated file was filled in with
}

// Image is one image to build.
type Image struct {
	// Name of the image and of its repository: worker is built as worker:<hash of its inputs>.
	Name string `key:"*" check:"repository"`

	// Folder that the Dockerfile may copy from.
	Context string `key:"context" default:"."`

	// Path of the Dockerfile, relative to devloop.yaml and not to the context; by default the
	// Dockerfile in the context.
	Dockerfile string `key:"dockerfile"`

	// Stage of the Dockerfile to build, by default the last one.
	Target string `key:"target"`

	// Build arguments. One that is the template of another image, {{ image "base" }}, has this image
	// built from that one: ARG BASE and FROM $BASE in the Dockerfile.
	Args map[string]string `key:"args"`

	// Platform as os/arch[/variant], by default that of this machine.
	Platform string `key:"platform" check:"platform"`

	// What RUN --mount=type=secret,id=... gets, by that id: private indexes, passwords, CA bundles.
	// Secrets are no inputs of the image, and appear in no image and no log. One that is missing on
	// this machine is left out.
	Secrets []Secret `key:"secrets"`

	// What RUN --mount=type=ssh gets: default for the agent at SSH_AUTH_SOCK, or id=path[,path] for
	// an agent's socket or for keys. They are no inputs of the image.
	SSH []string `key:"ssh" check:"ssh"`

	// Other names, without a tag, that charts and manifests call the image by:
	// registry.example/team/worker. A container image with one of these names, or with that of the
	// image, is set to what was built, whatever its tag.
	Aliases []string `key:"aliases" check:"alias"`

	// Files that need no build: a save writes them into the containers that run the image.
	Sync []Sync `key:"sync"`

	// When pods are replaced after a save of synced files: later, at the next run for another reason
	// (or with key r), or now, as soon as the image is built.
	Rollout string `key:"rollout" default:"later" check:"imageRollout"`
}

// Sync is files that are synced into containers.
type Sync struct {
	// Pattern of files, relative to the context, in which ** stands for any number of folders; of a
	// folder, all that is below it.
	From string `key:"from,required" check:"syncFrom"`

	// Where the pattern's folder lies in the image: absolute, or relative to its WORKDIR; by default
	// wherever the Dockerfile copies the files.
	To string `key:"to" check:"syncTo"`

	// What makes a container use the files: nothing (default), restart for the container's process, or
	// a command in the container, as a list.
	Then Then `key:"then"`
}

// Then is nil for nothing, the one word restart, or a command. As a single value, the two words
// need no list.
type Then []string

// Restart tells whether the container's process is restarted.
func (t Then) Restart() bool { return len(t) == 1 && t[0] == thenRestart }

const (
	thenNothing = "nothing"
	thenRestart = "restart"
)

// Secret is given to builds.
type Secret struct {
	// ID that the Dockerfile calls it by.
	ID string `key:"*" check:"secret"`

	// Path of a file that holds it; ~ is the user's home.
	File string `key:"file,choice"`

	// Name of an environment variable that holds it.
	Env string `key:"env,choice"`
}

// Release is one Helm release, made of a chart, of plain manifests or of a kustomization.
type Release struct {
	// Name of the release.
	Name string `key:"name,identity" check:"release"`

	// Path of a folder or an archive, URL (https://, http://) of an archive,
	// oci://host/path/name[:tag] of a chart in an OCI registry, or the name of a chart in the repo.
	// Charts that are not on this machine are downloaded once.
	Chart string `key:"chart,either" check:"chart"`

	// Plain manifests in place of a chart: files, folders (all of .yaml, .yml and .json in them, at
	// any depth) and patterns, in which ** stands for any number of folders.
	Manifests []string `key:"manifests,either"`

	// Folder of a kustomization in place of a chart.
	Kustomize string `key:"kustomize,either"`

	// Whether the kustomization may bring bases and files from other machines.
	RemoteBases bool `key:"remoteBases" default:"false"`

	// URL (https://, http://) of the Helm chart repository that has the chart.
	Repo string `key:"repo" check:"repo"`

	// Version of the chart in the repo or OCI registry: exact, or a range like ^1.2; by default the
	// newest.
	Version string `key:"version" check:"semver"`

	// SHA-256 of the chart's archive, to pin it.
	SHA256 string `key:"sha256" check:"sha256"`

	// Namespace to deploy to.
	Namespace string `key:"namespace,required" check:"label"`

	// Whether to create the namespace if it does not exist.
	CreateNamespace bool `key:"createNamespace" default:"false"`

	// Names of the releases that must be up before this one is applied.
	DependsOn []string `key:"dependsOn" check:"release"`

	// Values files; later ones win.
	Values []string `key:"values"`

	// Values as a values file has them, applied over the values files and read as Helm reads those:
	// no is false, 0755 is 493. Text may hold the templates of set; null removes what the chart
	// sets.
	//
	// A value is a string, float64, bool, nil, []any or map[string]any. Resolve fills in templates.
	InlineValues map[string]any `key:"inlineValues"`

	// Values by their path as helm --set writes it (a.b.c, a dot within a key as \.), applied over
	// inlineValues. A value is what helm --set makes of it as it is written: true, false, null and
	// whole numbers are no text, 1.10, no and 0755 are, and so is all that stands in quotes. Text
	// may hold {{ image "worker" }}, {{ repository "worker" }} and {{ tag "worker" }}; null removes
	// what the chart sets.
	//
	// A value is a string, int64, bool or nil. Resolve fills in templates.
	Set SetValues `key:"set" check:"setPath"`

	// Values like those of set that are text for the chart, whatever they look like: true and 8
	// need no quotes.
	SetString map[string]string `key:"setString" check:"setPath"`

	// Paths, in the merged values, of what no log and no page may show: auth.password, or auth for
	// everything below it.
	SecretValues []string `key:"secretValues" check:"setPath"`

	// Commands to run on this machine when the release is applied.
	Hooks Hooks `key:"hooks"`

	// What happens when the release cannot be written completely, or its pods do not come up: keep
	// leaves the new revision in place (a rolling update keeps the old pods until new ones are ready);
	// rollback takes the release back to its last good revision.
	OnFailure string `key:"onFailure" default:"keep" check:"onFailure"`
}

// SetValues are single values by their path, a.b.c. They have a type of their own so that the
// decoder refuses lists and mappings in them.
type SetValues map[string]any

// Hooks are commands around a release, or around all of them. They do not run when nothing differs.
type Hooks struct {
	// Commands to run before anything is applied, one after the other.
	Before []Hook `key:"before"`

	// Commands to run once all is up, one after the other.
	After []Hook `key:"after"`
}

// Hook is one command.
type Hook struct {
	// The program and its arguments, run in the folder of devloop.yaml without a shell. They may
	// hold the templates of set.
	Command []string `key:"command,required"`

	// How long the command may take.
	Timeout time.Duration `key:"timeout" default:"1m" check:"hook"`
}

// Verify is a command that an image must pass.
type Verify struct {
	// Name of the image.
	Image string `key:"image,required" check:"repository"`

	// The program and its arguments, in place of the image's entrypoint. It must exit with 0.
	Command []string `key:"command"`

	// Arguments for the command, or without one for the image's entrypoint, as in a pod.
	Args []string `key:"args"`

	// Namespace of the pod in which the command has to run. By default, the image's build in the node
	// is enough; else a pod runs in the namespace of the first release whose values name the image,
	// or in default while that one does not exist.
	Namespace string `key:"namespace" check:"label"`

	// How long a pod may take in all.
	Timeout time.Duration `key:"timeout" default:"1m" check:"rollout"`
}

// Health names deployments that must be available.
type Health struct {
	// Label selector of the deployments.
	Deployment string `key:"deployment,required" check:"selector"`

	// Namespace of the deployments.
	Namespace string `key:"namespace,required" check:"label"`
}

// Cleanup says what is removed before the releases are.
type Cleanup struct {
	// Resources whose objects are all deleted: what users made through the platform.
	Before []string `key:"before" check:"resource"`
}

// Forward is one local port.
type Forward struct {
	// Name of the service to forward to.
	Service string `key:"service,choice" check:"label"`

	// Name of the deployment to forward to.
	Deployment string `key:"deployment,choice" check:"subdomain"`

	// Name of the stateful set to forward to.
	StatefulSet string `key:"statefulset,choice" check:"subdomain"`

	// Name of the pod to forward to.
	Pod string `key:"pod,choice" check:"subdomain"`

	// Label selector of the pods to forward to.
	Selector string `key:"selector,choice" check:"selector"`

	// Namespace of the service, workload or pods.
	Namespace string `key:"namespace,identity" check:"label"`

	// Port of the service, or else of a container: its number or its name.
	Port string `key:"port,identity" check:"port"`

	// Port on this machine; 0 picks a free one, which the log names.
	Local int `key:"local,required" check:"localPort"`

	// Where the local port is open: localhost (127.0.0.1 and, where this machine has it, ::1), or
	// an IP address; 0.0.0.0 stands for all of IPv4, :: for all of both. One that begins with a
	// colon needs quotes.
	Bind string `key:"bind" default:"localhost" check:"bind"`

	// HTTP path that answers 200 when the platform is ready; without it a ready pod is enough.
	Ready string `key:"ready" check:"httpPath"`

	// How long a connection waits for a ready pod (most HTTP clients wait as long as the default);
	// 0 closes it at once.
	Hold time.Duration `key:"hold" default:"30s" check:"duration"`
}

// Timeouts bound what is waited for.
type Timeouts struct {
	// How long the pods of a release may take to become ready.
	Rollout time.Duration `key:"rollout" default:"5m" check:"rollout"`
}

// Watch says when a burst of changes is over.
type Watch struct {
	// How long nothing may change before the changes count as complete.
	Quiet time.Duration `key:"quiet" default:"100ms" check:"settle"`

	// How long continuous changes may put that off.
	Limit time.Duration `key:"limit" default:"1s" check:"settle"`
}

// PodLogs selects pods that no release made, but that users of the platform start.
type PodLogs struct {
	// Namespace of the pods.
	Namespace string `key:"namespace,required" check:"label"`

	// Label selector of the pods.
	Selector string `key:"selector,required" check:"selector"`
}

// Local is a Python environment on this machine.
type Local struct {
	// Folder of the environment (of venv, virtualenv, uv, conda, or Python itself), by default the
	// active one, else the project's.
	Venv string `key:"venv"`

	// Whether what the images hold is installed into it, in the same versions, so that one save
	// updates all of them.
	Sync bool `key:"sync" default:"false"`

	// Requirements file to install with sync: it says what of that this machine needs.
	Requirements string `key:"requirements" default:"requirements.txt"`

	// Names of the images that must have the same libraries as it, by default all that have Python,
	// if venv or sync is set, or a Dask Gateway runs and one of the images has Dask.
	Images []string `key:"images" check:"repository"`
}

// Page is where the page is.
type Page struct {
	// Port on 127.0.0.1; by default, or with 0, it is 10360, or a free one if that is taken. The
	// log names it.
	Port int `key:"port" check:"localPort"`
}

// Abs returns path as an absolute path.
func (c *Config) Abs(path string) string { return tree.Abs(c.Dir, path) }

// Files returns the absolute paths of what the configuration itself is made of: the files that were
// read, the values files, and the requirements if they are installed into the local environment.
func (c *Config) Files() []string {
	files := append([]string(nil), c.files...)
	for _, r := range c.Releases {
		for _, v := range r.Values {
			files = append(files, c.Abs(v))
		}
	}
	if c.Local.Sync {
		files = append(files, c.Abs(c.Local.Requirements))
	}
	return files
}

// ShellRelease returns the name of the release that a shell is opened in, "" if none is known. In a
// part without the release of shell, that is the only one.
func (c *Config) ShellRelease() string {
	names := c.ReleaseNames()
	switch {
	case slices.Contains(names, c.Shell):
		return c.Shell
	case len(names) == 1:
		return names[0]
	}
	return ""
}

// PushPlain tells whether images may be pushed over plain http.
func (c *Config) PushPlain() bool { return strings.HasPrefix(c.Push, "http://") }

// Repository returns the image's repository: its name, in the registry that it is pushed to.
func (c *Config) Repository(image string) string {
	if c.Push == "" {
		return image
	}
	return strings.TrimSuffix(httpURL.ReplaceAllString(c.Push, ""), "/") + "/" + image
}

// ID names the release in the whole cluster.
func (r Release) ID() string { return r.Namespace + "/" + r.Name }

// ChartIsLocal tells a chart on this machine from one that is downloaded.
func (r Release) ChartIsLocal() bool { return r.Chart != "" && r.Repo == "" && !isURL(r.Chart) }

// Target returns what to forward to: its key ("service") and its value, a name or a selector.
func (f Forward) Target() (kind, name string) {
	for _, key := range fields(reflect.TypeFor[Forward]()) {
		if value := reflect.ValueOf(f).FieldByIndex(key.Index); key.choice && !value.IsZero() {
			return key.key, value.String()
		}
	}
	return "", ""
}

// Addresses returns the addresses that Bind names. Not every machine has ::1, the second one of
// localhost.
func (f Forward) Addresses() []netip.Addr {
	if f.Bind == "localhost" {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	address, err := netip.ParseAddr(f.Bind)
	if err != nil {
		return nil
	}
	return []netip.Addr{address.Unmap()} // ::ffff:127.0.0.1 is 127.0.0.1
}
