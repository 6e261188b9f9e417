// Package config reads devloop.yaml: checked and defaulted into one plain Config, or everything that is wrong with it in
// one error, each problem with its file, line and column. Nothing is started from a file that is not whole.
//
// Where to look: config.go what the keys are and what Load does, rules.go what a value has to look like, yaml.go how
// text becomes a tree of values, layers.go and set.go how several files, profiles and assignments become one tree,
// skaffold.go how the tree of a skaffold.yaml becomes that of a devloop.yaml (skaffold_release.go, skaffold_literal.go, skaffold_template.go,
// skaffold_env.go and skaffold_profile.go its releases, images that they name as plain text, templates, skaffold.env and profiles), text.go how a Config becomes a devloop.yaml, decode.go how the
// tree becomes a Config, whole.go what only the whole can tell (files that exist, names that others
// use), template.go the {{ image "worker" }} of values and hooks, errors.go what is said when something is wrong,
// schema.go the JSON schema for editors.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
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

// file is what one devloop.yaml may say. The tags and comments of the fields of this type, and of those below, are the
// only description of the keys: what is read, checked and defaulted comes from them, and so do schema.json and keys.md,
// which have the first paragraph of each comment. The tags are
//
//	key:"name"           the key; "*" is the key that the whole mapping stands under
//	key:"name,required"  it has to be there, once all is laid over each other
//	key:"name,identity"  it has to be there in each file, and tells which item of a list another file's item changes
//	key:"name,choice"    exactly one of the keys that say so has to be there in each file; it is part of the identity, too
//	default:"30s"        the value if there is none
//	check:"label"        the rule (see rules.go) for the value, for each item of a list, for each key of a map
type file struct {
	document

	// Changes under a name: parts of a devloop.yaml, without apiVersion and name, that --profile lays over the file.
	Profiles map[string]Config `key:"profiles" check:"profile"`
}

// document is what the files say together.
type document struct {
	// Version of the format.
	APIVersion string `key:"apiVersion,required" check:"version"`

	// Name of the project: in a cluster, one devloop at a time works for a name. Fixed when devloop starts.
	Name string `key:"name,required" check:"label"`

	Config
}

// Config is one valid configuration. Paths in it are as the user wrote them: relative to Dir (see Abs) or absolute.
// Every file and folder that it names existed when it was read.
type Config struct {
	Path string // of the first file, absolute
	Dir  string // the folder of that file, absolute
	Name string // of the project, a DNS-1123 label

	// Context of the kubeconfig to deploy to, by default the current one. Fixed when devloop starts.
	KubeContext string `key:"kubeContext"`

	// Contexts that the project is meant for besides clusters on the user's own machine. It allows
	// nothing by itself: the user does, by --allow-context, in ~/.config/devloop/config.yaml, or
	// when asked.
	AllowContexts []string `key:"allowContexts"`

	// Images to build, by name.
	Images []Image `key:"images"`

	// Where they are built: by the node's own Docker or BuildKit (node), so that nothing has to be moved, or by this machine's Docker (host),
	// whose cache outlives the cluster; auto is the node where that is possible. Fixed when devloop starts.
	BuildIn string `key:"buildIn" default:"auto" check:"buildIn"`

	// How many images of a name stay, those that run besides, so that undoing a change builds nothing.
	KeepImages int `key:"keepImages" default:"3" check:"keepImages"`

	// Registry, and folder in it, that the images are pushed to, for a cluster whose nodes devloop cannot reach: registry.example/team.
	// Plain http beyond this machine has to be asked for: http://registry.example/team. Fixed when devloop starts.
	//
	// Repository gives the images their names in it.
	Push string `key:"push" check:"push"`

	// Helm releases, applied side by side, each after those of its dependsOn.
	Releases []Release `key:"releases"`

	// Commands that new images have to pass on a node before any release is applied, each in a short pod of its own.
	Verify []Verify `key:"verify"`

	// Deployments that have to be up as well, whoever deployed them.
	Health []Health `key:"health"`

	// What is removed before the releases are, when devloop ends.
	Cleanup Cleanup `key:"cleanup"`

	// Local ports that stay open for as long as devloop runs.
	Forwards []Forward `key:"forwards"`

	// How long to wait for what.
	Timeouts Timeouts `key:"timeouts"`

	// When changes of files count as a save.
	Watch Watch `key:"watch"`

	// Which pods' logs are shown besides those of the releases' own pods.
	Logs []PodLogs `key:"logs"`

	// The Python environment on this machine that has to hold the same libraries as the images.
	Local Local `key:"local"`

	// The page that shows how it all stands. Fixed when devloop starts.
	Page Page `key:"page"`

	// Format is the apiVersion of the skaffold.yaml that was read, "" if all was devloop.yaml. Notes are what of it devloop does
	// in another way or not at all, in the order of its lines.
	Format string
	Notes  []tree.Note

	files     []string   // that were read, absolute
	root      *tree.Node // what was decoded, for the positions
	variables []string   // of the environment that a skaffold.yaml was filled in with
}

// PushPlain tells whether plain http is allowed.
func (c *Config) PushPlain() bool { return strings.HasPrefix(c.Push, "http://") }

// Repository is the image's repository: its name, in the registry that it is pushed to.
func (c *Config) Repository(image string) string {
	if c.Push == "" {
		return image
	}
	return strings.TrimSuffix(httpURL.ReplaceAllString(c.Push, ""), "/") + "/" + image
}

// Image is one image to build.
type Image struct {
	// Name of the image and of its repository: worker is built as worker:<hash of its inputs>.
	Name string `key:"*" check:"repository"`

	// Folder that the Dockerfile may copy from.
	Context string `key:"context" default:"."`

	// Path of the Dockerfile, relative to devloop.yaml and not to the context; by default the Dockerfile in the context.
	Dockerfile string `key:"dockerfile"`

	// Stage of the Dockerfile to build, by default the last one.
	Target string `key:"target"`

	// Build arguments.
	Args map[string]string `key:"args"`

	// Platform as os/arch[/variant], by default that of this machine.
	Platform string `key:"platform" check:"platform"`

	// What RUN --mount=type=secret,id=... gets, by that id: private indexes, passwords, CA bundles. They do not count as inputs, and no image
	// and no log holds them. One that is not on this machine is not given.
	Secrets []Secret `key:"secrets"`

	// What RUN --mount=type=ssh gets: default for the agent at SSH_AUTH_SOCK, or id=path[,path] for an agent's socket or for keys. They do not
	// count as inputs.
	SSH []string `key:"ssh" check:"ssh"`
}

// Secret is given to builds.
type Secret struct {
	// ID that the Dockerfile calls it by.
	ID string `key:"*" check:"secret"`

	// Path of a file that holds it; ~ is the user's home.
	File string `key:"file,choice"`

	// Name of an environment variable that holds it.
	Env string `key:"env,choice"`
}

// Release is one Helm release.
type Release struct {
	// Name of the release.
	Name string `key:"name,identity" check:"release"`

	// Path of a folder or an archive, URL (https://, http://) of an archive, oci://host/path/name[:tag] of a chart in an
	// OCI registry, or the name of a chart in the repo. What is not on this machine is downloaded once.
	//
	// ChartIsLocal tells what is.
	Chart string `key:"chart,required" check:"chart"`

	// URL (https://, http://) of the Helm chart repository that has the chart.
	Repo string `key:"repo" check:"repo"`

	// Version of the chart in the repo or OCI registry: exact, or a range like ^1.2; by default the newest.
	Version string `key:"version" check:"semver"`

	// SHA-256 of the chart's archive, if it is to be pinned.
	SHA256 string `key:"sha256" check:"sha256"`

	// Namespace to deploy to.
	Namespace string `key:"namespace,required" check:"label"`

	// Whether to make the namespace if it is not there.
	CreateNamespace bool `key:"createNamespace" default:"false"`

	// Names of the releases that have to be up before this one is applied.
	DependsOn []string `key:"dependsOn" check:"release"`

	// Values files; later ones win.
	Values []string `key:"values"`

	// Values as a values file has them, applied over the values files. Text may hold the templates of set; null removes
	// what the chart sets.
	//
	// A value is a string, int, int64, uint64, float64, bool, nil, []any or map[string]any. Templates are filled in by
	// Resolve.
	InlineValues map[string]any `key:"inlineValues"`

	// Values by their path as helm --set writes it (a.b.c, a dot within a key as \.), applied over inlineValues. Text may
	// hold {{ image "worker" }}, {{ repository "worker" }} and {{ tag "worker" }}; null removes what the chart sets.
	//
	// A value has the type that it had in YAML: string, int, int64, uint64, float64, bool or nil. Templates are filled in
	// by Resolve.
	Set SetValues `key:"set" check:"setPath"`

	// Values like those of set that are text for the chart, whatever they look like: true and 8 need no quotes.
	SetString map[string]string `key:"setString" check:"setPath"`

	// Paths, in the merged values, of what no log and no page may show: auth.password, or auth for all below it.
	SecretValues []string `key:"secretValues" check:"setPath"`

	// Commands to run on this machine when the release is applied.
	Hooks Hooks `key:"hooks"`

	// What happens when the release's pods do not come up: keep leaves the new revision in place, whose old pods go on
	// serving; rollback takes the release back to its last good revision.
	OnFailure string `key:"onFailure" default:"keep" check:"onFailure"`
}

// SetValues are single values by their path, a.b.c. (The type tells them from values that hold others.)
type SetValues map[string]any

// Hooks are commands that belong to a release. They do not run when it is as it should be already.
type Hooks struct {
	// Commands to run before the release is applied, one after the other.
	Before []Hook `key:"before"`

	// Commands to run once the release is up, one after the other.
	After []Hook `key:"after"`
}

// Hook is one command.
type Hook struct {
	// The program and its arguments, run in the folder of devloop.yaml without a shell. They may hold the templates of
	// set.
	Command []string `key:"command,required"`

	// How long the command may take.
	Timeout time.Duration `key:"timeout" default:"1m" check:"hook"`
}

// Verify is a command that an image has to pass.
type Verify struct {
	// Name of the image.
	Image string `key:"image,required" check:"repository"`

	// The program and its arguments, in place of the image's entrypoint. It has to end with 0.
	Command []string `key:"command"`

	// Arguments for the command, or without one for the image's entrypoint, as a pod has them.
	Args []string `key:"args"`

	// Namespace of the pod, by default that of the first release whose values name the image; while that is not there yet, it is the
	// namespace default.
	Namespace string `key:"namespace" check:"label"`

	// How long the pod may take in all.
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
	// Resources of which all objects are deleted: what users made through the platform.
	Before []string `key:"before" check:"resource"`
}

// Forward is one local port.
type Forward struct {
	// Name of the service that is forwarded to.
	Service string `key:"service,choice" check:"label"`

	// Name of the deployment that is forwarded to.
	Deployment string `key:"deployment,choice" check:"subdomain"`

	// Name of the stateful set that is forwarded to.
	StatefulSet string `key:"statefulset,choice" check:"subdomain"`

	// Name of the pod that is forwarded to.
	Pod string `key:"pod,choice" check:"subdomain"`

	// Label selector of the pods that are forwarded to.
	Selector string `key:"selector,choice" check:"selector"`

	// Namespace of what is forwarded to.
	Namespace string `key:"namespace,identity" check:"label"`

	// Port of the service, or else of a container: its number or its name.
	Port string `key:"port,identity" check:"port"`

	// Port on this machine; 0 picks a free one, and the log tells which.
	Local int `key:"local,required" check:"localPort"`

	// Where the local port is open: localhost (127.0.0.1 and, where this machine has it, ::1), or an IP address; 0.0.0.0
	// stands for all of IPv4, :: for all of both. One that begins with a colon needs quotes.
	//
	// Addresses reads it.
	Bind string `key:"bind" default:"localhost" check:"bind"`

	// HTTP path that answers 200 when the platform is ready; without it a ready pod is enough.
	Ready string `key:"ready" check:"httpPath"`

	// How long a connection waits for a ready pod (most HTTP clients wait as long as the default); 0 closes it at once.
	Hold time.Duration `key:"hold" default:"30s" check:"duration"`
}

// Timeouts bound what is waited for.
type Timeouts struct {
	// How long the pods of a release may take to become ready.
	Rollout time.Duration `key:"rollout" default:"5m" check:"rollout"`
}

// Watch says when a burst of changes is over.
type Watch struct {
	// How long nothing may change until what changed before is taken for complete.
	Quiet time.Duration `key:"quiet" default:"100ms" check:"settle"`

	// How long changes that go on and on may hold that up.
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
	// Folder of the virtual environment, by default that of VIRTUAL_ENV, else .venv if there is one. It is read, not run.
	Venv string `key:"venv"`

	// Whether the requirements are installed into it while the images are built, so that one save updates all of them.
	Sync bool `key:"sync" default:"false"`

	// Requirements file that is installed.
	Requirements string `key:"requirements" default:"requirements.txt"`

	// Names of the images that have to hold the same libraries as it, by default all that hold Python, where venv or sync is set, or a Dask
	// Gateway runs and Dask is in one of them.
	Images []string `key:"images" check:"repository"`
}

// Page is where the page is.
type Page struct {
	// Port on 127.0.0.1; by default, or with 0, it is 10360, or a free one where that is taken. The log tells which.
	Port int `key:"port" check:"localPort"`
}

// Source is what a configuration is read from.
type Source struct {
	Files    []string     // the first is the base (devloop.yaml if there is none), each further one is laid over those before
	Profiles []string     // names of profiles that are laid over the files, in this order
	Set      []Assignment // laid over everything else, in this order

	// Translate returns the tree of a devloop.yaml for a file of another format, nil for any other. dir is what paths are
	// relative to, absolute. It is nil where only devloop.yaml is read.
	Translate func(r *tree.Report, root *tree.Node, dir string, profiles []string) *tree.Translation
}

// Assignment sets one value, on the command line or in the environment.
type Assignment struct {
	From string // where the user wrote it, for messages: "--set"
	Text string // "forwards[0].local=8002"
}

// Load reads the source. The error is an *Error; its messages name files as the source does.
//
// What is laid over something else changes it so: mappings are merged key by key; releases are merged by name, forwards
// by what they forward to, namespace and port, and new ones are added at the end; other lists and single values are
// replaced; null removes what is there, and means what it means in a single file where nothing is. Only the first file
// needs apiVersion and name. Paths are relative to the first file's folder, whichever file they stand in.
func Load(source Source) (*Config, error) {
	if len(source.Files) == 0 {
		source.Files = []string{FileName}
	}
	l := &loader{Report: &tree.Report{}, source: source}
	var layers []*tree.Node
	for i := range source.Files {
		if layer := l.read(i); layer != nil {
			layers = append(layers, layer)
		}
	}
	var c *Config
	if len(layers) == len(source.Files) {
		c = l.assemble(layers)
	}
	if len(l.Problems) > 0 {
		return nil, l.AsError(l.files)
	}
	return c, nil
}

// loader reads one source.
type loader struct {
	*tree.Report
	source    Source
	dir       string   // that paths are relative to, absolute
	files     []string // that were read, absolute
	format    string
	notes     []tree.Note
	variables []string
}

// read returns the tree of one file, nil if it cannot be layered.
func (l *loader) read(i int) *tree.Node {
	name := l.source.Files[i]
	from := &tree.Origin{Name: name, Order: i}
	path, err := filepath.Abs(name)
	if err != nil {
		l.Unreadable(from, name, err)
		return nil
	}
	if i == 0 {
		l.dir = filepath.Dir(path)
	}
	l.files = append(l.files, path)
	root := l.ParseFile(from, path)
	if i == 0 {
		switch {
		case errors.Is(l.Cause, fs.ErrNotExist):
			l.Hint = FileName + " says which images to build, which Helm releases to deploy and which ports to forward " +
				"(a skaffold.yaml is read, too); go to the folder that has one, or let devloop init write it"
		case errors.Is(l.Cause, tree.ErrEmpty):
			l.Hint = "it has to start with \"apiVersion: " + Version + "\""
		}
	}
	if root == nil {
		return nil
	}
	return l.layer(root)
}

// layer returns root as one layer of a devloop.yaml after a check by itself, nil if it cannot be one.
func (l *loader) layer(root *tree.Node) *tree.Node {
	if root = l.translated(root); root == nil || !l.isOurs(root) {
		return nil
	}
	d := &decoder{Report: l.Report, partial: true}
	d.read(root, &file{}, "")
	return root
}

// translated returns the tree of a devloop.yaml: root, or what the source's translator makes of it, nil if that is nothing.
func (l *loader) translated(root *tree.Node) *tree.Node {
	if l.source.Translate == nil {
		return root
	}
	t := l.source.Translate(l.Report, root, l.dir, l.source.Profiles)
	if t == nil {
		return root
	}
	l.format, l.notes = t.Format, append(l.notes, t.Notes...)
	l.files, l.variables = append(l.files, t.Files...), append(l.variables, t.Variables...)
	return t.Root
}

// assemble makes the configuration that the files are together.
func (l *loader) assemble(layers []*tree.Node) *Config {
	var all document
	root := layered(l.Report, layers, l.source)
	d := &decoder{Report: l.Report, again: true}
	d.read(root, &all, "")
	c := &all.Config
	c.Path, c.Dir, c.Name = l.files[0], l.dir, all.Name
	c.files, c.root = l.files, root
	c.Format, c.Notes, c.variables = l.format, tree.SortedNotes(l.notes), l.variables
	validate(l.Report, c)
	return c
}

// isOurs tells whether this devloop reads files of this version. The other keys of one that it does not read would all
// be wrong in their own way: that is no help.
func (l *loader) isOurs(f *tree.Node) bool {
	v := f.Get("apiVersion")
	if v == nil || !v.IsScalar() || v.IsNull() || v.Value == Version {
		return true
	}
	l.Wrong(v, "this devloop reads %q, not %q", Version, v.Value)
	return false
}

// Abs returns the absolute form of a path of the file.
func (c *Config) Abs(path string) string { return tree.Abs(c.Dir, path) }

// Files returns the absolute paths of what the configuration itself is made of: the files that were read, the values
// files, and the requirements of the local environment if they are installed into it.
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

// ID names the release in the whole cluster.
func (r Release) ID() string { return r.Namespace + "/" + r.Name }

// ChartIsLocal tells a chart on this machine from one that is downloaded.
func (r Release) ChartIsLocal() bool { return r.Repo == "" && !isURL(r.Chart) }

// Target returns what is forwarded to: the key that it stands under ("service"), and its name; of "selector", the selector.
func (f Forward) Target() (kind, name string) {
	for _, key := range fields(reflect.TypeFor[Forward]()) {
		if value := reflect.ValueOf(f).FieldByIndex(key.Index); key.choice && !value.IsZero() {
			return key.key, value.String()
		}
	}
	return "", ""
}

// Addresses returns those that Bind names. Not every machine has the second one of localhost, ::1.
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

// Wrong returns an error about a value of a valid configuration that turned out to be wrong later: a local port that
// another process has. It has the position of the value at path ("forwards[0].local"), or of what is nearest to it where
// the value was left out. The hint may be "".
func (c *Config) Wrong(path, message, hint string) *tree.Error {
	r := &tree.Report{Hint: hint}
	if c.root == nil { // not made by Load
		r.Add(&tree.Origin{Name: FileName}, tree.Problem{Message: path + ": " + message})
		return r.AsError(c.files)
	}
	at, rest := c.root, path
	for rest != "" {
		child, below := child(at, rest)
		if child == nil {
			break
		}
		at, rest = child, below
	}
	value := *at
	if value.Path != "" { // where it stands in its own file may have another name
		value.Path += rest
	} else {
		value.Path = path
	}
	r.Wrong(&value, "%s", message)
	return r.AsError(c.files)
}

// WrongValue is Wrong for a value of the release of that name: key is the one it has in set or setString, or the way to it
// in inlineValues, "a.b.c".
func (c *Config) WrongValue(release, in, key, message, hint string) *tree.Error {
	i := slices.IndexFunc(c.Releases, func(r Release) bool { return r.Name == release })
	return c.Wrong(strings.TrimSuffix(fmt.Sprintf("releases[%d].%s.%s", i, in, key), "."), message, hint)
}

// child returns the child that a path begins with, and the rest of the path; nil if there is none.
func child(n *tree.Node, path string) (child *tree.Node, rest string) {
	for i, item := range n.Items {
		if rest, ok := strings.CutPrefix(path, fmt.Sprintf("[%d]", i)); ok {
			return item, rest
		}
	}
	path = strings.TrimPrefix(path, ".")
	for _, e := range n.Entries { // keys may have dots: the longest one is meant
		below, ok := strings.CutPrefix(path, e.Key.Value)
		if ok && (below == "" || below[0] == '.' || below[0] == '[') && (child == nil || len(below) < len(rest)) {
			child, rest = e.Value, below
		}
	}
	return child, rest
}
