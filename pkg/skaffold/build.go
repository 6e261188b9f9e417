package skaffold

import (
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// artifact is an image that skaffold builds.
type artifact struct {
	at      *tree.Node
	name    string // in skaffold.yaml
	image   string // in devloop.yaml, "" if devloop cannot build it
	builder string // what skaffold builds it with
}

// build reads the section build.
func (s *translator) build(n, made *tree.Node) {
	var platforms, artifacts *tree.Node
	elsewhere := s.lost("images are built by the node or by Docker on this machine")
	s.section(n, keys{
		"artifacts": into(&artifacts),
		"platforms": into(&platforms),
		"local": func(n *tree.Node) {
			s.section(n, keys{
				"push": s.noteIf(true, "images are not pushed: the nodes get them from devloop; "+
					"push: in a devloop.yaml, or --set push=REGISTRY, pushes them"),
				"useBuildkit":      s.noteIf(false, "images are built by BuildKit all the same"),
				"tryImportMissing": s.harmless("images are taken from the node or from Docker, or built"),
				"useDockerCLI":     s.harmless("the docker command is not used"),
				"concurrency":      s.harmless("images are built side by side"),
			})
		},
		"tagPolicy": s.harmless("a tag is the hash of all that the image is made from"),
		"hooks":     s.lost("these commands are not run when images are built"),
		"insecureRegistries": s.lost("no registry is needed; of base images, the builder's own settings say " +
			"which registries are plain http"),
		"googleCloudBuild": elsewhere,
		"cluster":          elsewhere,
	})
	if artifacts == nil {
		return
	}
	images := artifacts.As(yaml.MappingNode, artifacts.Path)
	for _, item := range s.items(artifacts) {
		s.artifact(item, platforms, images)
	}
	if len(images.Entries) > 0 {
		put(made, "images", images)
	}
}

// registryPort is a registry that no image of devloop.yaml may have in its name.
var registryPort = regexp.MustCompile(`^[^/]+:[0-9]+/`)

// artifact reads one of build.artifacts. Those that devloop cannot build are remembered, too.
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
	var context, dockerfile *tree.Node
	otherBuilder := func(builder string) func(*tree.Node) {
		return func(n *tree.Node) {
			a.builder, a.image = builder, ""
			s.note(n, "the image %s is not built: devloop builds Dockerfiles", a.name)
		}
	}
	s.section(n, keys{
		"image":   ignore,
		"context": into(&context),
		"docker":  func(n *tree.Node) { dockerfile = s.docker(n, image, s.dockerOnly()) },
		"kaniko": func(n *tree.Node) {
			s.inform(n, "the image is built by BuildKit, as a docker artifact")
			a.builder = "kaniko"
			dockerfile = s.docker(n, image, s.kanikoOnly())
		},
		"bazel": otherBuilder("bazel"), "jib": otherBuilder("jib"), "jibMaven": otherBuilder("jib"),
		"jibGradle": otherBuilder("jib"), "ko": otherBuilder("ko"), "buildpacks": otherBuilder("buildpacks"),
		"buildpack": otherBuilder("buildpacks"), "custom": otherBuilder("a custom command"),
		"platforms": into(&platforms),
		"requires": func(n *tree.Node) {
			if len(s.items(n)) > 0 {
				s.Wrong(n, "devloop does not build an image from another one that it builds: "+
					"make both stages of one Dockerfile, and choose by target")
			}
		},
		"runtimeType": s.harmless("is for skaffold debug: ignored"),
		"sync":        s.lost("files are not copied into running containers, the image is built again instead"),
		"hooks":       s.lost("these commands are not run when the image is built"),
	})
	folder := "."
	if context != nil {
		folder = cmp.Or(s.text(context), ".")
	}
	if context != nil || s.path(folder) != folder {
		put(image, "context", scalar(cmp.Or(context, n), s.path(folder)))
	}
	if platforms != nil && a.image != "" {
		s.platform(platforms, image)
	}
	if dockerfile != nil {
		put(image, "dockerfile", scalar(dockerfile, s.path(s.dockerfilePath(folder, dockerfile.Value))))
	}
	s.artifacts = append(s.artifacts, a)
	if a.image == "" {
		return
	}
	if a.image != a.name {
		s.inform(name, "the image is called %s, without a registry: devloop brings it to the nodes itself", a.image)
	}
	images.Put(scalar(name, a.image), image)
}

// dockerfilePath returns the path of a Dockerfile that skaffold looks for in the context first.
func (s *translator) dockerfilePath(context, path string) string {
	inContext := filepath.Join(context, path)
	switch {
	case filepath.IsAbs(path):
		return path
	case !exists(tree.Abs(s.dir, inContext)) && exists(tree.Abs(s.dir, path)): // shared by several contexts
		return filepath.Clean(path)
	}
	return inContext
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// dockerOnly are keys for the docker command.
func (s *translator) dockerOnly() keys {
	return keys{
		"network":    s.lost("builds have the builder's own network"),
		"addHost":    s.lost("builds do not know these names"),
		"cacheFrom":  s.lost("the builder's own cache is used"),
		"cliFlags":   s.lost("the docker command is not used: without these flags"),
		"pullParent": s.lost("a base image that Docker holds is taken as it is; the key r asks registries for the others"),
		"noCache":    s.lost("the builder's cache is used: what has not changed is not built again"),
		"squash":     s.lost("the image keeps its layers"),
	}
}

// kanikoOnly are keys for kaniko. Most of them change nothing about the image.
func (s *translator) kanikoOnly() keys {
	only := keys{
		"label":       s.lost("the image does not get these labels"),
		"env":         s.lost("builds do not get these variables"),
		"destination": s.lost("the image is not pushed"),
	}
	for _, key := range strings.Fields(`
		buildContext cache cleanup copyMaxRetries copyTimeout digestFile flags force ignorePaths image
		imageFSExtractRetry imageNameWithDigestFile initImage insecure insecurePull insecureRegistry logFormat
		logTimestamp ociLayoutPath pushRetry registryCertificate registryMirror reproducible singleSnapshot
		skipTLS skipTLSVerifyPull skipTLSVerifyRegistry skipUnusedStages snapshotMode tarPath useNewRun
		verbosity volumeMounts whitelistVarRun`) {
		only[key] = s.harmless("is for kaniko: ignored")
	}
	return only
}

// docker reads how an image is built from a Dockerfile, and returns the path of that: it depends on
// the context, which may stand further down.
func (s *translator) docker(n, image *tree.Node, builderOnly keys) (dockerfile *tree.Node) {
	known := keys{
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
	maps.Copy(known, builderOnly)
	s.section(n, known)
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
		case value.IsNull(): // from the environment, as for docker build --build-arg NAME
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

// secret reads a secret of a build. Without a source it is the variable of its name, or else the
// file, as for docker build.
func (s *translator) secret(n, image *tree.Node) {
	given := n.As(yaml.MappingNode, n.Path)
	var id *tree.Node
	s.section(n, keys{
		"id":  into(&id),
		"src": func(n *tree.Node) { put(given, "file", scalar(n, s.path(s.text(n)))) },
		"env": func(n *tree.Node) { put(given, "env", scalar(n, s.text(n))) },
		"dst": s.harmless("the Dockerfile says where a secret is"),
	})
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
		if source == "file" {
			name = s.path(name)
		}
		put(given, source, scalar(id, name))
	}
	if env := given.Get("env"); env != nil {
		_, isSet := os.LookupEnv(env.Value)
		if _, inFile := s.variables[env.Value]; inFile && !isSet {
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

var platformName = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)

// platform reads the platforms to build for. devloop builds for one.
func (s *translator) platform(n, image *tree.Node) {
	items := s.items(n)
	switch {
	case len(items) == 0:
	case len(items) > 1:
		s.note(n, "images are built for this machine's platform alone")
	case !platformName.MatchString(items[0].Value):
		s.note(items[0], "%q is no os/arch[/variant]: images are built for this machine's platform", items[0].Value)
	default:
		put(image, "platform", scalar(items[0], items[0].Value))
	}
}

// unnamedImages notes images that no release would get.
func (s *translator) unnamedImages() {
	for _, a := range s.artifacts {
		isNamed := slices.ContainsFunc(s.releases, func(r *tree.Node) bool { return s.namedIn[r][a.name] })
		if a.image != "" && !isNamed && len(s.releases) > 0 {
			s.note(a.at, "no value of a release names this image: what charts say of it is deployed as it stands there, "+
				"without the tag; write %s under setValueTemplates", fullReference(a))
		}
	}
}
