// Package config reads devloop.yaml: checked and defaulted into one plain Config, or everything that is wrong with it in
// one error, each problem with its line and column. Nothing is started from a file that is not whole.
//
// Where to look: config.go what a Config is, schema.go the file's keys, rules.go what their values must look like,
// yaml.go and decode.go how text becomes nodes and nodes become values, template.go the {{ image "worker" }} of set
// values, errors.go what is said when something is wrong.
package config

import (
	"os"
	"path/filepath"
	"time"
)

// FileName is what the file is called unless the user says otherwise.
const FileName = "devloop.yaml"

// Version is the apiVersion that this devloop reads.
const Version = "devloop/v1"

// Defaults of what the file may leave out.
const (
	DefaultHold    = 30 * time.Second // how long a forwarded connection waits for a ready pod: as long as most HTTP clients wait
	DefaultRollout = 5 * time.Minute  // how long a release's pods may take to become ready
)

// Config is one valid devloop.yaml. Paths in it are as the user wrote them: relative to Dir (see Abs) or absolute.
// Every file and folder that it names existed when it was read.
type Config struct {
	Path string // of the file, absolute
	Dir  string // the folder of the file, absolute

	Name          string   // of the project, a DNS-1123 label
	KubeContext   string   // the context of the kubeconfig to use; "" is the current one
	AllowContexts []string // contexts that may be deployed to though nothing proves them local

	Images   []Image   // in the order of the file, like the lists below
	Releases []Release // the order of deployment
	Health   []Health
	Cleanup  Cleanup
	Forwards []Forward
	Timeouts Timeouts
}

// Image is one image to build.
type Image struct {
	Name       string // also its repository: "worker" is built as worker:<hash of its inputs>
	Context    string // folder; default ".", which is Dir
	Dockerfile string // relative to Dir, not to Context; default: the Dockerfile in Context
	Target     string // stage of the Dockerfile; "" is the last one
	Args       map[string]string
	Platform   string // os/arch[/variant]; "" is that of the node
}

// Release is one Helm release.
type Release struct {
	Name            string
	Chart           string // URL (https://, oci://), or path of a folder or archive: see ChartIsLocal
	SHA256          string // of the chart's archive, lower-case hex; "" if it is not pinned
	Namespace       string
	CreateNamespace bool
	Values          []string // files; later ones win

	// Set holds values by their path as helm --set writes it ("traefik.service.type", a dot in a key as `\.`), applied
	// over Values. A value has the type that it had in YAML: string, int, int64, uint64, float64, bool, or nil, which
	// removes the key. Strings may hold templates: use Resolve.
	Set map[string]any
}

// Health names deployments that must be available, whoever deployed them.
type Health struct {
	Deployment string // label selector
	Namespace  string
}

// Cleanup says what goes before the releases do.
type Cleanup struct {
	Before []string // resources of which all objects are deleted: daskclusters.gateway.dask.org
}

// Forward is one local port.
type Forward struct {
	Service   string
	Namespace string
	Port      int           // of the service
	Local     int           // on this machine
	Ready     string        // HTTP path that answers when the service is ready; "" to ask only for a ready pod
	Hold      time.Duration // how long a connection waits for a ready pod; 0 refuses at once
}

// Timeouts bound what is waited for.
type Timeouts struct {
	Rollout time.Duration
}

// Source is what a configuration is read from.
type Source struct {
	Files    []string // the first one is the base, each of the others is laid over those before it
	Profiles []string // sections of "profiles" that are laid over the files, in this order
	Set      []string // "path=value", laid over everything else
}

// Load reads the source. The error is an *Error, its messages name files as the source does.
func Load(source Source) (*Config, error) {
	path := source.Files[0]
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, unreadable(path, path, err)
	}
	text, err := os.ReadFile(abs)
	if err != nil {
		return nil, unreadable(path, abs, err)
	}
	c := &Config{Path: abs, Dir: filepath.Dir(abs)}
	d := &decoder{dir: c.Dir}
	if root, ok := d.parse(text); ok {
		d.config(root, c)
	}
	if len(d.problems) > 0 {
		return nil, d.failed(path, abs)
	}
	return c, nil
}

// Abs returns the absolute form of a path of the file.
func (c *Config) Abs(path string) string { return abs(c.Dir, path) }

// Files returns the absolute paths of what the configuration itself is made of: devloop.yaml and the values files.
func (c *Config) Files() []string {
	files := []string{c.Path}
	for _, r := range c.Releases {
		for _, v := range r.Values {
			files = append(files, c.Abs(v))
		}
	}
	return files
}

// ChartIsLocal tells a chart on this machine from one that is downloaded.
func (r Release) ChartIsLocal() bool { return !isURL(r.Chart) }

func abs(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
