package skaffold

// From the tree of a skaffold.yaml to that of a devloop.yaml. Its values keep their place in skaffold.yaml, so whatever is
// wrong with them later is told with their line there. What devloop does in another way, or not at all, becomes a note.

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/devloop/devloop/pkg/config/tree"
)

// FileNames are what a skaffold.yaml is called.
var FileNames = []string{"skaffold.yaml", "skaffold.yml"}

// devloopVersion is the apiVersion of what is made.
const devloopVersion = "devloop/v1"

var (
	skaffoldVersion  = regexp.MustCompile(`^skaffold/v[234]((alpha|beta)[0-9]+)?$`)
	skaffoldVersions = "skaffold/v2alpha1 to skaffold/v4beta13"
)

// Translate returns the tree of the devloop.yaml that means what root, that of a skaffold.yaml, does with these profiles; nil if
// it is none.
func Translate(r *tree.Report, root *tree.Node, dir string, profiles []string) *tree.Translation {
	v := root.Get("apiVersion")
	if v == nil || !v.IsScalar() || !strings.HasPrefix(v.Value, "skaffold/") {
		return nil
	}
	if !skaffoldVersion.MatchString(v.Value) {
		r.Wrong(v, "this devloop reads %q, and %s, not %q; skaffold fix --overwrite writes a newer one", devloopVersion, skaffoldVersions, v.Value)
		return &tree.Translation{}
	}
	s := &translator{Report: r, dir: dir, first: root.Origin.Order == 0, keys: map[*tree.Node]*tree.Node{},
		namedIn: map[*tree.Node]map[string]bool{}, noted: map[tree.Note]bool{}, names: map[string]bool{}}
	root = s.fromSkaffold(root, profiles)
	return &tree.Translation{Root: root, Format: v.Value, Notes: s.notes, Files: s.files, Variables: s.environment}
}

// translator is one skaffold.yaml on its way.
type translator struct {
	*tree.Report
	dir   string // that paths are relative to
	first bool   // of several files: the others need no name

	artifacts []artifact
	releases  []*tree.Node                   // as devloop.yaml has them
	gateways  []gateway                      // those that are a Dask Gateway
	namedIn   map[*tree.Node]map[string]bool // for each release, the artifacts that its values name
	names     map[string]bool                // those of the release that is read

	keys map[*tree.Node]*tree.Node // under which the values stand that were read

	createNamespace bool         // by a flag of helm
	before, after   []*tree.Node // commands around the releases, as devloop.yaml has them
	waiting         []*tree.Node // for each release, what says that the next ones wait for it, nil if nothing does
	notes           []tree.Note
	noted           map[tree.Note]bool
	variables       map[string]string // of skaffold.env
	environment     []string          // variables that were filled in
	files           []string          // that were read besides, absolute
}

// artifact is an image that the file names.
type artifact struct {
	at      *tree.Node
	name    string // in skaffold.yaml
	image   string // in devloop.yaml, "" if devloop cannot build it
	builder string // what would build it
}

// fromSkaffold returns the tree of the devloop.yaml that means what root does with these profiles.
func (s *translator) fromSkaffold(root *tree.Node, profiles []string) *tree.Node {
	s.readVariables(root)
	made := root.As(yaml.MappingNode, "")
	put(made, "apiVersion", scalar(root.Get("apiVersion"), devloopVersion))
	s.profileNames(made, root.Get("profiles"), profiles)
	root = s.profiled(root, profiles)

	name := root.Get("metadata").Get("name")
	if name == nil || name.IsNull() {
		name = root.As(yaml.ScalarNode, "metadata.name")
	}
	if s.first || !name.IsScalar() || name.Value != "" {
		put(made, "name", s.projectName(name))
	}
	// What others name comes first: images before the releases whose values name them, and these before the forwards.
	root = root.Clone()
	slices.SortStableFunc(root.Entries, func(a, b tree.Entry) int { return cmp.Compare(rank(a.Key.Value), rank(b.Key.Value)) })
	var forwards *tree.Node
	s.section(root, map[string]func(*tree.Node){
		"apiVersion": func(*tree.Node) {},
		"kind": func(n *tree.Node) {
			if n.Value != "Config" {
				s.Wrong(n, "must be Config, but is %s", n.Describe())
			}
		},
		"metadata": func(n *tree.Node) {
			s.section(n, map[string]func(*tree.Node){"name": func(*tree.Node) {}, "labels": s.ignored, "annotations": s.ignored}, nil)
		},
		"build":       func(n *tree.Node) { s.build(n, made) },
		"deploy":      func(n *tree.Node) { s.deploy(n, made) },
		"manifests":   s.manifests,
		"portForward": func(n *tree.Node) { forwards = n },
		"profiles":    func(*tree.Node) {},
	}, map[string]string{
		"requires":         "the configurations that it names are not read: what they build and deploy is missing; give each a devloop of its own",
		"test":             "these tests of images are not run",
		"verify":           "these tests are not run after a deployment",
		"customActions":    "there is no skaffold exec: these actions are not run",
		"resourceSelector": "manifests are not rewritten, so nothing is selected",
	})
	s.finish(made)
	if forwards != nil {
		s.forwards(forwards, made)
	}
	s.unnamed()
	return made
}

func rank(key string) int { return slices.Index([]string{"build", "manifests", "deploy"}, key) }

// section reads a mapping: each value by its key, null and empty text as if they were left out. What stands under the keys of told is not
// used, and their text says what happens instead. Other keys are not known.
func (s *translator) section(n *tree.Node, read map[string]func(*tree.Node), told map[string]string) {
	if n.IsNull() || !s.isMapping(n) {
		return
	}
	var keys []string
	for key := range read {
		keys = append(keys, key)
	}
	for key := range told {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, e := range n.Entries {
		name := e.Key.Value
		s.keys[e.Value] = e.Key
		consequence, isTold := told[name]
		switch {
		case n.Path == "" && strings.HasPrefix(name, "."): // where skaffold lets people keep what they give an anchor
		case read[name] == nil && !isTold:
			s.note(e.Value, "skaffold has no such key, or devloop does not know it: ignored%s", tree.DidYouMean(name, keys))
		case e.Value.IsNull(), e.Value.IsScalar() && e.Value.Value == "":
		case isTold:
			s.note(e.Value, "%s", consequence)
		default:
			read[name](e.Value)
		}
	}
}

// ignored is for keys that are nothing to devloop.
func (s *translator) ignored(n *tree.Node) { s.inform(n, "has no meaning for devloop: ignored") }

// harmless is for keys of which no more has to be said than this, since nothing is lost.
func (s *translator) harmless(text string) func(*tree.Node) {
	return func(n *tree.Node) { s.inform(n, "%s", text) }
}

// note says what of the file is lost, or is not as it was with skaffold.
func (s *translator) note(n *tree.Node, format string, args ...any) {
	s.tell(n, tree.Note{}, fmt.Sprintf(format, args...))
}

// inform says what devloop adds or assumes where nothing is lost.
func (s *translator) inform(n *tree.Node, format string, args ...any) {
	s.tell(n, tree.Note{Harmless: true}, fmt.Sprintf(format, args...))
}

// tell places a note. That of a value is where its key is: that of a mapping begins a line further down.
func (s *translator) tell(n *tree.Node, note tree.Note, message string) {
	if key := s.keys[n]; key != nil {
		n = &tree.Node{Node: key.Node, Origin: n.Origin, Path: n.Path}
	}
	note.Problem = tree.ProblemAt(n, message)
	if !s.noted[note] {
		s.noted[note] = true
		s.notes = append(s.notes, note)
	}
}

func (s *translator) isMapping(n *tree.Node) bool {
	if !n.IsMapping() {
		s.Wrong(n, "must be a mapping, but is %s", n.Describe())
	}
	return n.IsMapping()
}

// items are those of a list, without null.
func (s *translator) items(n *tree.Node) []*tree.Node {
	if !n.IsList() && !n.IsNull() {
		s.Wrong(n, "must be a list, but is %s", n.Describe())
	}
	return slices.DeleteFunc(slices.Clone(n.Items), (*tree.Node).IsNull)
}

// text is a single value, as skaffold takes it: numbers need no quotes. It is "" if it was reported.
func (s *translator) text(n *tree.Node) string {
	switch {
	case !n.IsScalar():
		s.Wrong(n, "must be a single value, but is %s", n.Describe())
	case n.Value == "" || n.IsNull():
		s.Wrong(n, "must not be empty")
	case strings.ContainsRune(n.Value, 0):
		s.Wrong(n, "has a sign that no text has")
	default:
		return n.Value
	}
	return ""
}

// truth reads true and false, and what they were in older YAML: yes, off.
func (s *translator) truth(n *tree.Node) bool {
	value := false
	if !n.IsScalar() || n.Decode(&value) != nil {
		s.Wrong(n, "must be true or false, but is %s", n.Describe())
	}
	return value
}

// scalar returns text in the place of n.
func scalar(n *tree.Node, text string) *tree.Node { return typed(n, "!!str", text) }

func typed(n *tree.Node, tag, text string) *tree.Node {
	made := n.As(yaml.ScalarNode, n.Path)
	made.Tag, made.Value = tag, text
	return made
}

// put puts value under a key of a mapping of devloop.yaml. The key stands where the value does.
func put(n *tree.Node, name string, value *tree.Node) {
	k := scalar(value, name)
	k.Path = n.Path
	n.Put(k, value)
}

// add adds an item to the list under a key.
func add(n *tree.Node, name string, item *tree.Node) {
	list := n.Get(name)
	if list == nil {
		list = item.As(yaml.SequenceNode, item.Path)
		put(n, name, list)
	}
	list.Items = append(list.Items, item)
}

func (s *translator) projectName(n *tree.Node) *tree.Node {
	if n.IsScalar() && n.Value == "" {
		return scalar(n, tree.Label(filepath.Base(s.dir), "app"))
	}
	name := s.text(n)
	if name != "" && len(validation.IsDNS1123Label(name)) > 0 {
		name = tree.Label(name, "app")
		s.inform(n, "%q is no name for Kubernetes: the project is called %s", n.Value, name)
	}
	return scalar(n, name)
}

func (s *translator) build(n *tree.Node, made *tree.Node) {
	var platforms *tree.Node
	s.section(n, map[string]func(*tree.Node){
		"artifacts": func(*tree.Node) {}, // when the platforms are known
		"platforms": func(n *tree.Node) { platforms = n },
		"local": func(n *tree.Node) {
			s.section(n, map[string]func(*tree.Node){
				"push": func(n *tree.Node) {
					if s.truth(n) {
						s.note(n, "images are not pushed: the nodes get them from devloop; push: in a devloop.yaml, or --set push=REGISTRY, pushes them")
					}
				},
				"useBuildkit": func(n *tree.Node) {
					if !s.truth(n) {
						s.note(n, "images are built by BuildKit all the same")
					}
				},
				"tryImportMissing": s.harmless("images are taken from the node or from Docker, or built"),
				"useDockerCLI":     s.harmless("the docker command is not used"),
				"concurrency":      s.harmless("images are built side by side"),
			}, nil)
		},
		"tagPolicy": s.harmless("a tag is the hash of all that the image is made from"),
	}, map[string]string{
		"hooks":              "these commands are not run when images are built",
		"insecureRegistries": "no registry is needed; of base images, the builder's own settings say which registries are plain http",
		"googleCloudBuild":   "images are built by the node or by Docker on this machine",
		"cluster":            "images are built by the node or by Docker on this machine",
	})
	list := n.Get("artifacts")
	if list == nil {
		return
	}
	images := list.As(yaml.MappingNode, list.Path)
	for _, item := range s.items(list) {
		s.artifact(item, platforms, images)
	}
	if len(images.Entries) > 0 {
		put(made, "images", images)
	}
}

// registryPort is a registry that no image of devloop.yaml may have in its name.
var registryPort = regexp.MustCompile(`^[^/]+:[0-9]+/`)

// artifact reads one of build.artifacts. The ones that devloop cannot build are remembered for those who name them.
func (s *translator) artifact(n, platforms, images *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	name := n.Get("image")
	if name == nil {
		s.Wrong(n, `"image" is missing`)
		return
	}
	a := artifact{at: name, name: s.text(name), builder: "docker"}
	if a.name == "" {
		return
	}
	a.image = registryPort.ReplaceAllString(a.name, "")
	for _, other := range s.artifacts {
		if other.image == a.image && a.image != "" || other.name == a.name {
			s.Taken(name, a.name, other.at)
			return
		}
	}
	image := n.As(yaml.MappingNode, n.Path)
	var dockerfile *tree.Node
	docker := func(builder string, told map[string]string, ignored ...string) func(*tree.Node) {
		return func(n *tree.Node) {
			a.builder = builder
			dockerfile = s.docker(n, image, told, ignored)
		}
	}
	other := func(builder string) func(*tree.Node) {
		return func(n *tree.Node) {
			a.builder, a.image = builder, ""
			s.note(n, "the image %s is not built: devloop builds Dockerfiles", a.name)
		}
	}
	context := "."
	s.section(n, map[string]func(*tree.Node){
		"image":   func(*tree.Node) {},
		"context": func(n *tree.Node) { context = cmp.Or(s.text(n), "."); put(image, "context", n) },
		"docker":  docker("docker", dockerTold),
		"kaniko": func(n *tree.Node) {
			s.inform(n, "the image is built by BuildKit, as a docker artifact")
			docker("kaniko", kanikoTold, kanikoIgnored...)(n)
		},
		"bazel": other("bazel"), "jib": other("jib"), "jibMaven": other("jib"), "jibGradle": other("jib"), "ko": other("ko"),
		"buildpacks": other("buildpacks"), "buildpack": other("buildpacks"), "custom": other("a custom command"),
		"platforms": func(n *tree.Node) { platforms = n },
		"requires": func(n *tree.Node) {
			if len(s.items(n)) > 0 {
				s.Wrong(n, "devloop does not build an image from another one that it builds: make both stages of one Dockerfile, and choose by target")
			}
		},
		"runtimeType": s.harmless("is for skaffold debug: ignored"),
	}, map[string]string{
		"sync":  "files are not copied into running containers, the image is built again instead",
		"hooks": "these commands are not run when the image is built",
	})
	if text := image.Get("context"); text != nil {
		put(image, "context", scalar(text, context))
	}
	if platforms != nil && a.image != "" {
		s.platform(platforms, image)
	}
	if dockerfile != nil {
		path := filepath.Join(context, dockerfile.Value)
		switch {
		case filepath.IsAbs(dockerfile.Value):
			path = dockerfile.Value
		case !isThere(tree.Abs(s.dir, path)) && isThere(tree.Abs(s.dir, dockerfile.Value)): // shared by several contexts
			path = filepath.Clean(dockerfile.Value)
		}
		put(image, "dockerfile", scalar(dockerfile, path))
	}
	s.artifacts = append(s.artifacts, a)
	if a.image == "" {
		return
	}
	if a.image != a.name {
		s.inform(name, "the image is called %s, without a registry: devloop brings it to the nodes itself", a.image)
	}
	key := scalar(name, a.image)
	images.Put(key, image)
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// dockerTold is what is told of keys for the docker command.
var dockerTold = map[string]string{
	"network":    "builds have the builder's own network",
	"addHost":    "builds do not know these names",
	"cacheFrom":  "the builder's own cache is used",
	"cliFlags":   "the docker command is not used: without these flags",
	"pullParent": "a base image that Docker holds is taken as it is; the key r asks registries for the others",
	"noCache":    "the builder's cache is used: what has not changed is not built again",
	"squash":     "the image keeps its layers",
}

// kanikoTold is what is told of keys for kaniko, kanikoIgnored are those that change nothing about the image.
var (
	kanikoTold = map[string]string{
		"label":       "the image does not get these labels",
		"env":         "builds do not get these variables",
		"destination": "the image is not pushed",
	}
	kanikoIgnored = []string{
		"buildContext", "cache", "cleanup", "copyMaxRetries", "copyTimeout", "digestFile", "flags", "force", "ignorePaths", "image", "imageFSExtractRetry",
		"imageNameWithDigestFile", "initImage", "insecure", "insecurePull", "insecureRegistry", "logFormat", "logTimestamp", "ociLayoutPath", "pushRetry",
		"registryCertificate", "registryMirror", "reproducible", "singleSnapshot", "skipTLS", "skipTLSVerifyPull", "skipTLSVerifyRegistry",
		"skipUnusedStages", "snapshotMode", "tarPath", "useNewRun", "verbosity", "volumeMounts", "whitelistVarRun",
	}
)

// docker reads how an image is built from a Dockerfile, whose path it returns: only the context says where that is.
func (s *translator) docker(n, image *tree.Node, told map[string]string, ignored []string) (dockerfile *tree.Node) {
	read := map[string]func(*tree.Node){
		"dockerfile": func(n *tree.Node) {
			if s.text(n) != "" {
				dockerfile = n
			}
		},
		"target":    func(n *tree.Node) { put(image, "target", scalar(n, s.text(n))) },
		"buildArgs": func(n *tree.Node) { s.buildArgs(n, image) },
		"secret":    func(n *tree.Node) { s.secret(n, image) },
		"secrets": func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.secret(item, image)
			}
		},
		"ssh": func(n *tree.Node) { add(image, "ssh", scalar(n, s.text(n))) },
		"contextSubPath": func(n *tree.Node) {
			s.Wrong(n, "devloop has no part of a context: name the folder as the artifact's context")
		},
	}
	for _, key := range ignored {
		read[key] = s.harmless("is for kaniko: ignored")
	}
	s.section(n, read, told)
	return dockerfile
}

func (s *translator) buildArgs(n, image *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	args := n.As(yaml.MappingNode, n.Path)
	for _, e := range n.Entries {
		value := e.Value
		switch {
		case value.IsNull(): // of the environment, as for docker build --build-arg NAME
			set, found := s.lookupVariable(e.Key.Value)
			switch {
			case !utf8.ValidString(set):
				s.Wrong(value, "the variable %s of the environment is no text", e.Key.Value)
				continue
			case !found:
				s.inform(value, "the environment has no variable %s: the build does not get it", e.Key.Value)
				continue
			}
			s.environment = append(s.environment, e.Key.Value)
			value = scalar(value, set)
		case value.IsScalar():
			text, ok := s.plain(value, value.Value)
			if !ok {
				continue
			}
			value = scalar(value, text)
		}
		args.Put(e.Key, value)
	}
	if len(args.Entries) > 0 {
		put(image, "args", args)
	}
}

// secret reads what a build gets as one. Without a source it is the variable of its name or else the file, as for docker build.
func (s *translator) secret(n, image *tree.Node) {
	given := n.As(yaml.MappingNode, n.Path)
	var id *tree.Node
	s.section(n, map[string]func(*tree.Node){
		"id":  func(n *tree.Node) { id = n },
		"src": func(n *tree.Node) { put(given, "file", scalar(n, s.text(n))) },
		"env": func(n *tree.Node) { put(given, "env", scalar(n, s.text(n))) },
		"dst": s.harmless("the Dockerfile says where a secret is"),
	}, nil)
	if id == nil {
		if n.IsMapping() {
			s.Wrong(n, `"id" is missing`)
		}
		return
	}
	if name := s.text(id); len(given.Entries) == 0 && name != "" {
		source := "file"
		if _, found := s.lookupVariable(name); found {
			source = "env"
		}
		put(given, source, scalar(id, name))
	}
	if env := given.Get("env"); env != nil {
		_, isSet := os.LookupEnv(env.Value)
		if _, found := s.variables[env.Value]; found && !isSet {
			s.note(env, "the variable %s is in skaffold.env alone, where builds do not get secrets from: export it", env.Value)
		}
	}
	secrets := image.Get("secrets")
	if secrets == nil {
		secrets = n.As(yaml.MappingNode, n.Path)
		put(image, "secrets", secrets)
	}
	if secrets.Get(id.Value) != nil {
		s.Wrong(id, "%q is here twice", id.Value)
		return
	}
	put(secrets, id.Value, given)
}

var platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)

// platform reads the platforms to build for, of which devloop knows one.
func (s *translator) platform(n, image *tree.Node) {
	items := s.items(n)
	switch {
	case len(items) == 0:
	case len(items) > 1:
		s.note(n, "images are built for this machine's platform alone")
	case !platform.MatchString(items[0].Value):
		s.note(items[0], "%q is no os/arch[/variant]: images are built for this machine's platform", items[0].Value)
	default:
		put(image, "platform", scalar(items[0], items[0].Value))
	}
}

// deploy reads all but the releases' common end.
func (s *translator) deploy(n, made *tree.Node) {
	notDeployed := "is not deployed: devloop deploys Helm releases; put these manifests into a chart"
	notRun := "these commands are not run"
	notCalled := "kubectl is not called: without these flags"
	s.section(n, map[string]func(*tree.Node){
		"helm":        func(n *tree.Node) { s.helm(n) },
		"kubeContext": func(n *tree.Node) { put(made, "kubeContext", scalar(n, s.text(n))) },
		"kubectl": s.unused("kubectl is not used: devloop deploys Helm releases alone", map[string]string{
			"manifests": notDeployed, "remoteManifests": notDeployed, "flags": notCalled, "hooks": notRun,
			"defaultNamespace": "is for what kubectl deploys: a release says its own namespace",
		}),
		"kustomize": s.unused(notDeployed, map[string]string{
			"flags": notCalled, "buildArgs": "kustomize is not called: without these flags", "hooks": notRun,
			"defaultNamespace": "is for what kustomize makes: a release says its own namespace",
		}),
		"kpt": s.unused(notDeployed, map[string]string{
			"flags": "kpt is not called: without these flags", "applyFlags": "kpt is not called: without these flags", "hooks": notRun,
		}),
		"docker":   s.unused("these containers are not started: devloop deploys Helm releases", nil),
		"cloudrun": s.unused("is not deployed: devloop deploys Helm releases to a cluster on this machine", map[string]string{"hooks": notRun}),
		"tofu":     s.unused("is not deployed: devloop deploys Helm releases", nil),
		"logs":     s.harmless("logs of pods are shown in devloop's own way: --logs, or the key l"),
		"statusCheck": func(n *tree.Node) {
			if !s.truth(n) {
				s.note(n, "devloop waits for the pods of every release all the same")
			}
		},
		"statusCheckDeadlineSeconds": func(n *tree.Node) {
			seconds, err := strconv.Atoi(n.Value)
			if err != nil || seconds < 0 {
				s.Wrong(n, "must be a number of seconds, but is %s", n.Describe())
			} else if seconds > 0 {
				timeouts := n.As(yaml.MappingNode, n.Path)
				put(timeouts, "rollout", scalar(n, brief(seconds)))
				put(made, "timeouts", timeouts)
			}
		},
	}, map[string]string{
		"tolerateFailuresUntilDeadline": "the wait ends as soon as nothing can mend a failure",
	})
}

// unused is for what skaffold deploys in a way that devloop does not: each key that says something is told of, in its own words or in
// those for all.
func (s *translator) unused(otherwise string, told map[string]string) func(*tree.Node) {
	return func(n *tree.Node) {
		if !n.IsMapping() {
			s.note(n, "%s", otherwise)
			return
		}
		for _, e := range n.Entries {
			if s.keys[e.Value] = e.Key; holds(e.Value) {
				s.note(e.Value, "%s", cmp.Or(told[e.Key.Value], otherwise))
			}
		}
		if !holds(n) { // kubectl: {}
			s.inform(n, "%s", otherwise)
		}
	}
}

// holds tells whether there is anything in a value.
func holds(n *tree.Node) bool {
	return n.IsScalar() && !n.IsNull() && n.Value != "" || slices.ContainsFunc(n.Items, holds) ||
		slices.ContainsFunc(n.Entries, func(e tree.Entry) bool { return holds(e.Value) })
}

// brief is a number of seconds as people write it: 600 is 10m.
func brief(seconds int) string {
	switch {
	case seconds%3600 == 0:
		return fmt.Sprintf("%dh", seconds/3600)
	case seconds%60 == 0:
		return fmt.Sprintf("%dm", seconds/60)
	}
	return fmt.Sprintf("%ds", seconds)
}

// manifests reads what skaffold renders since its v3: Helm releases are deployed, the rest is not.
func (s *translator) manifests(n *tree.Node) {
	notDeployed := "these manifests are not deployed: devloop deploys Helm releases; put them into a chart"
	s.section(n, map[string]func(*tree.Node){
		"helm":      func(n *tree.Node) { s.helm(n) },
		"kustomize": s.unused(notDeployed, map[string]string{"buildArgs": "kustomize is not called: without these flags"}),
		"kpt":       s.unused(notDeployed, nil),
	}, map[string]string{
		"rawYaml":         notDeployed,
		"remoteManifests": notDeployed,
		"generate":        notDeployed,
		"hooks":           "these commands are not run when manifests are rendered",
		"transform":       "manifests are deployed as the charts make them",
		"validate":        "manifests are checked by the API server alone",
		"output":          "manifests are not written to a folder; devloop render prints them",
	})
}

// forwards reads portForward. Its namespaces may be left out.
func (s *translator) forwards(n, made *tree.Node) {
	for _, item := range s.items(n) {
		s.forward(item, made)
	}
}

// targets are the kinds of what devloop forwards to, in lower case as skaffold reads them.
var targets = []string{"service", "deployment", "statefulset", "pod"}

func (s *translator) forward(n, made *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	forward := n.As(yaml.MappingNode, n.Path)
	var kind, name, port *tree.Node
	s.section(n, map[string]func(*tree.Node){
		"resourceType": func(n *tree.Node) { kind = n },
		"resourceName": func(n *tree.Node) { name = n },
		"namespace": func(n *tree.Node) {
			if text, ok := s.plain(n, s.text(n)); ok && text != "" {
				put(forward, "namespace", scalar(n, text))
			}
		},
		"port":    func(n *tree.Node) { port = n },
		"address": func(n *tree.Node) { put(forward, "bind", scalar(n, s.text(n))) },
		"localPort": func(n *tree.Node) {
			if n.Value != "0" {
				put(forward, "local", n)
			}
		},
	}, nil)
	switch {
	case kind == nil:
		s.Wrong(n, `"resourceType" is missing`)
		return
	case name == nil:
		s.Wrong(n, `"resourceName" is missing`)
		return
	case port == nil:
		s.Wrong(n, `"port" is missing`)
		return
	}
	target := strings.ToLower(s.text(kind))
	if !slices.Contains(targets, target) {
		s.note(n, "the port is not forwarded: devloop forwards to a service, a deployment, a stateful set or a pod, not to %q", kind.Value)
		return
	}
	text, ok := s.plain(name, s.text(name))
	if !ok || text == "" {
		return
	}
	put(forward, target, scalar(name, text))
	put(forward, "port", port)
	if forward.Get("namespace") == nil {
		namespace := s.onlyNamespace()
		s.inform(n, "has no namespace: %s is taken", namespace)
		put(forward, "namespace", scalar(n, namespace))
	}
	if forward.Get("local") == nil {
		local := typed(port, "!!int", port.Value)
		if number, err := strconv.Atoi(port.Value); err != nil || number == 0 {
			local.Value = "0"
			s.inform(n, "has no localPort: a free port is taken, which the log tells")
		}
		put(forward, "local", local)
	}
	for _, g := range s.gateways {
		switch {
		case target != "service" || text != "traefik-"+g.release || forward.Get("namespace").Value != g.namespace:
		case g.isUnknown:
			s.note(n, "leads to Dask Gateway, whose gateway.prefix is not known yet: a ready pod counts, and not whether its health answers")
		default:
			health := g.prefix + "/api/health"
			put(forward, "ready", scalar(n, health))
			s.inform(n, "leads to Dask Gateway: the platform counts as up when %s answers here", health)
		}
	}
	add(made, "forwards", forward)
}

// onlyNamespace is the namespace of the releases, or default where they have several.
func (s *translator) onlyNamespace() string {
	only := ""
	for _, r := range s.releases {
		namespace := r.Get("namespace").Value
		if only != "" && namespace != only {
			return "default"
		}
		only = namespace
	}
	return cmp.Or(only, "default")
}

// unnamed tells of images that no release would get.
func (s *translator) unnamed() {
	for _, a := range s.artifacts {
		isNamed := slices.ContainsFunc(s.releases, func(r *tree.Node) bool { return s.namedIn[r][a.name] })
		if a.image != "" && !isNamed && len(s.releases) > 0 {
			s.note(a.at, "no value of a release names this image: what charts say of it is deployed as it stands there, without the tag; write %s under setValueTemplates", s.inTemplate(a))
		}
	}
}

// inTemplate is how a value of skaffold.yaml names an artifact.
func (s *translator) inTemplate(a artifact) string {
	return fmt.Sprintf("image: %q", "{{.IMAGE_FULLY_QUALIFIED_"+variable(a.name)+"}}")
}
