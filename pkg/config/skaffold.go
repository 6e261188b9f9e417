package config

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
func Translate(r *report, root *node, dir string, profiles []string) *Translation {
	v := root.get("apiVersion")
	if v == nil || !v.isScalar() || !strings.HasPrefix(v.Value, "skaffold/") {
		return nil
	}
	if !skaffoldVersion.MatchString(v.Value) {
		r.wrong(v, "this devloop reads %q, and %s, not %q; skaffold fix --overwrite writes a newer one", devloopVersion, skaffoldVersions, v.Value)
		return &Translation{}
	}
	s := &translator{report: r, dir: dir, first: root.origin.order == 0, keys: map[*node]*node{},
		namedIn: map[*node]map[string]bool{}, noted: map[Note]bool{}, names: map[string]bool{}}
	root = s.fromSkaffold(root, profiles)
	return &Translation{Root: root, Format: v.Value, Notes: s.notes, Files: s.files, Variables: s.environment}
}

// translator is one skaffold.yaml on its way.
type translator struct {
	*report
	dir   string // that paths are relative to
	first bool   // of several files: the others need no name

	artifacts []artifact
	releases  []*node                   // as devloop.yaml has them
	gateways  []gateway                 // those that are a Dask Gateway
	namedIn   map[*node]map[string]bool // for each release, the artifacts that its values name
	names     map[string]bool           // those of the release that is read

	keys map[*node]*node // under which the values stand that were read

	createNamespace bool    // by a flag of helm
	before, after   []*node // commands around the releases, as devloop.yaml has them
	waiting         []*node // for each release, what says that the next ones wait for it, nil if nothing does
	notes           []Note
	noted           map[Note]bool
	variables       map[string]string // of skaffold.env
	environment     []string          // variables that were filled in
	files           []string          // that were read besides, absolute
}

// artifact is an image that the file names.
type artifact struct {
	at      *node
	name    string // in skaffold.yaml
	image   string // in devloop.yaml, "" if devloop cannot build it
	builder string // what would build it
}

// fromSkaffold returns the tree of the devloop.yaml that means what root does with these profiles.
func (s *translator) fromSkaffold(root *node, profiles []string) *node {
	s.readVariables(root)
	made := root.as(yaml.MappingNode, "")
	put(made, "apiVersion", scalar(root.get("apiVersion"), devloopVersion))
	s.profileNames(made, root.get("profiles"), profiles)
	root = s.profiled(root, profiles)

	name := root.get("metadata").get("name")
	if name == nil || name.isNull() {
		name = root.as(yaml.ScalarNode, "metadata.name")
	}
	if s.first || !name.isScalar() || name.Value != "" {
		put(made, "name", s.projectName(name))
	}
	// What others name comes first: images before the releases whose values name them, and these before the forwards.
	root = root.clone()
	slices.SortStableFunc(root.entries, func(a, b entry) int { return cmp.Compare(rank(a.key.Value), rank(b.key.Value)) })
	var forwards *node
	s.section(root, map[string]func(*node){
		"apiVersion": func(*node) {},
		"kind": func(n *node) {
			if n.Value != "Config" {
				s.wrong(n, "must be Config, but is %s", n.describe())
			}
		},
		"metadata": func(n *node) {
			s.section(n, map[string]func(*node){"name": func(*node) {}, "labels": s.ignored, "annotations": s.ignored}, nil)
		},
		"build":       func(n *node) { s.build(n, made) },
		"deploy":      func(n *node) { s.deploy(n, made) },
		"manifests":   s.manifests,
		"portForward": func(n *node) { forwards = n },
		"profiles":    func(*node) {},
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
func (s *translator) section(n *node, read map[string]func(*node), told map[string]string) {
	if n.isNull() || !s.isMapping(n) {
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
	for _, e := range n.entries {
		name := e.key.Value
		s.keys[e.value] = e.key
		consequence, isTold := told[name]
		switch {
		case n.path == "" && strings.HasPrefix(name, "."): // where skaffold lets people keep what they give an anchor
		case read[name] == nil && !isTold:
			s.note(e.value, "skaffold has no such key, or devloop does not know it: ignored%s", didYouMean(name, keys))
		case e.value.isNull(), e.value.isScalar() && e.value.Value == "":
		case isTold:
			s.note(e.value, "%s", consequence)
		default:
			read[name](e.value)
		}
	}
}

// ignored is for keys that are nothing to devloop.
func (s *translator) ignored(n *node) { s.inform(n, "has no meaning for devloop: ignored") }

// harmless is for keys of which no more has to be said than this, since nothing is lost.
func (s *translator) harmless(text string) func(*node) {
	return func(n *node) { s.inform(n, "%s", text) }
}

// note says what of the file is lost, or is not as it was with skaffold.
func (s *translator) note(n *node, format string, args ...any) {
	s.tell(n, Note{}, fmt.Sprintf(format, args...))
}

// inform says what devloop adds or assumes where nothing is lost.
func (s *translator) inform(n *node, format string, args ...any) {
	s.tell(n, Note{Harmless: true}, fmt.Sprintf(format, args...))
}

// tell places a note. That of a value is where its key is: that of a mapping begins a line further down.
func (s *translator) tell(n *node, note Note, message string) {
	if key := s.keys[n]; key != nil {
		n = &node{Node: key.Node, origin: n.origin, path: n.path}
	}
	note.Problem = problemAt(n, message)
	if !s.noted[note] {
		s.noted[note] = true
		s.notes = append(s.notes, note)
	}
}

func (s *translator) isMapping(n *node) bool {
	if !n.isMapping() {
		s.wrong(n, "must be a mapping, but is %s", n.describe())
	}
	return n.isMapping()
}

// items are those of a list, without null.
func (s *translator) items(n *node) []*node {
	if !n.isList() && !n.isNull() {
		s.wrong(n, "must be a list, but is %s", n.describe())
	}
	return slices.DeleteFunc(slices.Clone(n.items), (*node).isNull)
}

// text is a single value, as skaffold takes it: numbers need no quotes. It is "" if it was reported.
func (s *translator) text(n *node) string {
	switch {
	case !n.isScalar():
		s.wrong(n, "must be a single value, but is %s", n.describe())
	case n.Value == "" || n.isNull():
		s.wrong(n, "must not be empty")
	case strings.ContainsRune(n.Value, 0):
		s.wrong(n, "has a sign that no text has")
	default:
		return n.Value
	}
	return ""
}

// truth reads true and false, and what they were in older YAML: yes, off.
func (s *translator) truth(n *node) bool {
	value := false
	if !n.isScalar() || n.Decode(&value) != nil {
		s.wrong(n, "must be true or false, but is %s", n.describe())
	}
	return value
}

// scalar returns text in the place of n.
func scalar(n *node, text string) *node { return typed(n, "!!str", text) }

func typed(n *node, tag, text string) *node {
	made := n.as(yaml.ScalarNode, n.path)
	made.Tag, made.Value = tag, text
	return made
}

// put puts value under a key of a mapping of devloop.yaml. The key stands where the value does.
func put(n *node, name string, value *node) {
	k := scalar(value, name)
	k.path = n.path
	n.put(k, value)
}

// add adds an item to the list under a key.
func add(n *node, name string, item *node) {
	list := n.get(name)
	if list == nil {
		list = item.as(yaml.SequenceNode, item.path)
		put(n, name, list)
	}
	list.items = append(list.items, item)
}

func (s *translator) projectName(n *node) *node {
	if n.isScalar() && n.Value == "" {
		return scalar(n, Label(filepath.Base(s.dir), "app"))
	}
	name := s.text(n)
	if name != "" && len(validation.IsDNS1123Label(name)) > 0 {
		name = Label(name, "app")
		s.inform(n, "%q is no name for Kubernetes: the project is called %s", n.Value, name)
	}
	return scalar(n, name)
}

func (s *translator) build(n *node, made *node) {
	var platforms *node
	s.section(n, map[string]func(*node){
		"artifacts": func(*node) {}, // when the platforms are known
		"platforms": func(n *node) { platforms = n },
		"local": func(n *node) {
			s.section(n, map[string]func(*node){
				"push": func(n *node) {
					if s.truth(n) {
						s.note(n, "images are not pushed: the nodes get them from devloop; push: in a devloop.yaml, or --set push=REGISTRY, pushes them")
					}
				},
				"useBuildkit": func(n *node) {
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
	list := n.get("artifacts")
	if list == nil {
		return
	}
	images := list.as(yaml.MappingNode, list.path)
	for _, item := range s.items(list) {
		s.artifact(item, platforms, images)
	}
	if len(images.entries) > 0 {
		put(made, "images", images)
	}
}

// registryPort is a registry that no image of devloop.yaml may have in its name.
var registryPort = regexp.MustCompile(`^[^/]+:[0-9]+/`)

// artifact reads one of build.artifacts. The ones that devloop cannot build are remembered for those who name them.
func (s *translator) artifact(n, platforms, images *node) {
	if !s.isMapping(n) {
		return
	}
	name := n.get("image")
	if name == nil {
		s.wrong(n, `"image" is missing`)
		return
	}
	a := artifact{at: name, name: s.text(name), builder: "docker"}
	if a.name == "" {
		return
	}
	a.image = registryPort.ReplaceAllString(a.name, "")
	for _, other := range s.artifacts {
		if other.image == a.image && a.image != "" || other.name == a.name {
			s.taken(name, a.name, other.at)
			return
		}
	}
	image := n.as(yaml.MappingNode, n.path)
	var dockerfile *node
	docker := func(builder string, told map[string]string, ignored ...string) func(*node) {
		return func(n *node) {
			a.builder = builder
			dockerfile = s.docker(n, image, told, ignored)
		}
	}
	other := func(builder string) func(*node) {
		return func(n *node) {
			a.builder, a.image = builder, ""
			s.note(n, "the image %s is not built: devloop builds Dockerfiles", a.name)
		}
	}
	context := "."
	s.section(n, map[string]func(*node){
		"image":   func(*node) {},
		"context": func(n *node) { context = cmp.Or(s.text(n), "."); put(image, "context", n) },
		"docker":  docker("docker", dockerTold),
		"kaniko": func(n *node) {
			s.inform(n, "the image is built by BuildKit, as a docker artifact")
			docker("kaniko", kanikoTold, kanikoIgnored...)(n)
		},
		"bazel": other("bazel"), "jib": other("jib"), "jibMaven": other("jib"), "jibGradle": other("jib"), "ko": other("ko"),
		"buildpacks": other("buildpacks"), "buildpack": other("buildpacks"), "custom": other("a custom command"),
		"platforms": func(n *node) { platforms = n },
		"requires": func(n *node) {
			if len(s.items(n)) > 0 {
				s.wrong(n, "devloop does not build an image from another one that it builds: make both stages of one Dockerfile, and choose by target")
			}
		},
		"runtimeType": s.harmless("is for skaffold debug: ignored"),
	}, map[string]string{
		"sync":  "files are not copied into running containers, the image is built again instead",
		"hooks": "these commands are not run when the image is built",
	})
	if text := image.get("context"); text != nil {
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
		case !isThere(abs(s.dir, path)) && isThere(abs(s.dir, dockerfile.Value)): // shared by several contexts
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
	images.put(key, image)
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
func (s *translator) docker(n, image *node, told map[string]string, ignored []string) (dockerfile *node) {
	read := map[string]func(*node){
		"dockerfile": func(n *node) {
			if s.text(n) != "" {
				dockerfile = n
			}
		},
		"target":    func(n *node) { put(image, "target", scalar(n, s.text(n))) },
		"buildArgs": func(n *node) { s.buildArgs(n, image) },
		"secret":    func(n *node) { s.secret(n, image) },
		"secrets": func(n *node) {
			for _, item := range s.items(n) {
				s.secret(item, image)
			}
		},
		"ssh": func(n *node) { add(image, "ssh", scalar(n, s.text(n))) },
		"contextSubPath": func(n *node) {
			s.wrong(n, "devloop has no part of a context: name the folder as the artifact's context")
		},
	}
	for _, key := range ignored {
		read[key] = s.harmless("is for kaniko: ignored")
	}
	s.section(n, read, told)
	return dockerfile
}

func (s *translator) buildArgs(n, image *node) {
	if !s.isMapping(n) {
		return
	}
	args := n.as(yaml.MappingNode, n.path)
	for _, e := range n.entries {
		value := e.value
		switch {
		case value.isNull(): // of the environment, as for docker build --build-arg NAME
			set, found := s.lookupVariable(e.key.Value)
			switch {
			case !utf8.ValidString(set):
				s.wrong(value, "the variable %s of the environment is no text", e.key.Value)
				continue
			case !found:
				s.inform(value, "the environment has no variable %s: the build does not get it", e.key.Value)
				continue
			}
			s.environment = append(s.environment, e.key.Value)
			value = scalar(value, set)
		case value.isScalar():
			text, ok := s.plain(value, value.Value)
			if !ok {
				continue
			}
			value = scalar(value, text)
		}
		args.put(e.key, value)
	}
	if len(args.entries) > 0 {
		put(image, "args", args)
	}
}

// secret reads what a build gets as one. Without a source it is the variable of its name or else the file, as for docker build.
func (s *translator) secret(n, image *node) {
	given := n.as(yaml.MappingNode, n.path)
	var id *node
	s.section(n, map[string]func(*node){
		"id":  func(n *node) { id = n },
		"src": func(n *node) { put(given, "file", scalar(n, s.text(n))) },
		"env": func(n *node) { put(given, "env", scalar(n, s.text(n))) },
		"dst": s.harmless("the Dockerfile says where a secret is"),
	}, nil)
	if id == nil {
		if n.isMapping() {
			s.wrong(n, `"id" is missing`)
		}
		return
	}
	if name := s.text(id); len(given.entries) == 0 && name != "" {
		source := "file"
		if _, found := s.lookupVariable(name); found {
			source = "env"
		}
		put(given, source, scalar(id, name))
	}
	if env := given.get("env"); env != nil {
		_, isSet := os.LookupEnv(env.Value)
		if _, found := s.variables[env.Value]; found && !isSet {
			s.note(env, "the variable %s is in skaffold.env alone, where builds do not get secrets from: export it", env.Value)
		}
	}
	secrets := image.get("secrets")
	if secrets == nil {
		secrets = n.as(yaml.MappingNode, n.path)
		put(image, "secrets", secrets)
	}
	if secrets.get(id.Value) != nil {
		s.wrong(id, "%q is here twice", id.Value)
		return
	}
	put(secrets, id.Value, given)
}

var platform = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)

// platform reads the platforms to build for, of which devloop knows one.
func (s *translator) platform(n, image *node) {
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
func (s *translator) deploy(n, made *node) {
	notDeployed := "is not deployed: devloop deploys Helm releases; put these manifests into a chart"
	notRun := "these commands are not run"
	notCalled := "kubectl is not called: without these flags"
	s.section(n, map[string]func(*node){
		"helm":        func(n *node) { s.helm(n) },
		"kubeContext": func(n *node) { put(made, "kubeContext", scalar(n, s.text(n))) },
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
		"statusCheck": func(n *node) {
			if !s.truth(n) {
				s.note(n, "devloop waits for the pods of every release all the same")
			}
		},
		"statusCheckDeadlineSeconds": func(n *node) {
			seconds, err := strconv.Atoi(n.Value)
			if err != nil || seconds < 0 {
				s.wrong(n, "must be a number of seconds, but is %s", n.describe())
			} else if seconds > 0 {
				timeouts := n.as(yaml.MappingNode, n.path)
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
func (s *translator) unused(otherwise string, told map[string]string) func(*node) {
	return func(n *node) {
		if !n.isMapping() {
			s.note(n, "%s", otherwise)
			return
		}
		for _, e := range n.entries {
			if s.keys[e.value] = e.key; holds(e.value) {
				s.note(e.value, "%s", cmp.Or(told[e.key.Value], otherwise))
			}
		}
		if !holds(n) { // kubectl: {}
			s.inform(n, "%s", otherwise)
		}
	}
}

// holds tells whether there is anything in a value.
func holds(n *node) bool {
	return n.isScalar() && !n.isNull() && n.Value != "" || slices.ContainsFunc(n.items, holds) ||
		slices.ContainsFunc(n.entries, func(e entry) bool { return holds(e.value) })
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
func (s *translator) manifests(n *node) {
	notDeployed := "these manifests are not deployed: devloop deploys Helm releases; put them into a chart"
	s.section(n, map[string]func(*node){
		"helm":      func(n *node) { s.helm(n) },
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
func (s *translator) forwards(n, made *node) {
	for _, item := range s.items(n) {
		s.forward(item, made)
	}
}

// targets are the kinds of what devloop forwards to, in lower case as skaffold reads them.
var targets = []string{"service", "deployment", "statefulset", "pod"}

func (s *translator) forward(n, made *node) {
	if !s.isMapping(n) {
		return
	}
	forward := n.as(yaml.MappingNode, n.path)
	var kind, name, port *node
	s.section(n, map[string]func(*node){
		"resourceType": func(n *node) { kind = n },
		"resourceName": func(n *node) { name = n },
		"namespace": func(n *node) {
			if text, ok := s.plain(n, s.text(n)); ok && text != "" {
				put(forward, "namespace", scalar(n, text))
			}
		},
		"port":    func(n *node) { port = n },
		"address": func(n *node) { put(forward, "bind", scalar(n, s.text(n))) },
		"localPort": func(n *node) {
			if n.Value != "0" {
				put(forward, "local", n)
			}
		},
	}, nil)
	switch {
	case kind == nil:
		s.wrong(n, `"resourceType" is missing`)
		return
	case name == nil:
		s.wrong(n, `"resourceName" is missing`)
		return
	case port == nil:
		s.wrong(n, `"port" is missing`)
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
	if forward.get("namespace") == nil {
		namespace := s.onlyNamespace()
		s.inform(n, "has no namespace: %s is taken", namespace)
		put(forward, "namespace", scalar(n, namespace))
	}
	if forward.get("local") == nil {
		local := typed(port, "!!int", port.Value)
		if number, err := strconv.Atoi(port.Value); err != nil || number == 0 {
			local.Value = "0"
			s.inform(n, "has no localPort: a free port is taken, which the log tells")
		}
		put(forward, "local", local)
	}
	for _, g := range s.gateways {
		switch {
		case target != "service" || text != "traefik-"+g.release || forward.get("namespace").Value != g.namespace:
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
		namespace := r.get("namespace").Value
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
		isNamed := slices.ContainsFunc(s.releases, func(r *node) bool { return s.namedIn[r][a.name] })
		if a.image != "" && !isNamed && len(s.releases) > 0 {
			s.note(a.at, "no value of a release names this image: what charts say of it is deployed as it stands there, without the tag; write %s under setValueTemplates", s.inTemplate(a))
		}
	}
}

// inTemplate is how a value of skaffold.yaml names an artifact.
func (s *translator) inTemplate(a artifact) string {
	return fmt.Sprintf("image: %q", "{{.IMAGE_FULLY_QUALIFIED_"+variable(a.name)+"}}")
}
