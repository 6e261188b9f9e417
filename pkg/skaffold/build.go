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
	"github.com/devloop/devloop/pkg/files"
)

// artifact is an image that skaffold builds.
type artifact struct {
	by    *translator // of its configuration
	n, at *tree.Node  // as a whole, and its name
	name  string      // in skaffold.yaml
	image string      // in devloop.yaml
}

// build reads the section build, and names its artifacts: those of all configurations may require
// each other.
func (s *translator) build(n *tree.Node) {
	elsewhere := func(n *tree.Node) { s.note(n, "images are built by the node or by Docker on this machine") }
	s.section(n, keys{
		"artifacts": func(n *tree.Node) {
			for _, item := range s.items(n) {
				s.nameArtifact(item)
			}
		},
		"platforms": into(&s.platforms),
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
}

// registryPort is a registry that no image of devloop.yaml may have in its name.
var registryPort = regexp.MustCompile(`^[^/]+:[0-9]+/`)

// nameArtifact finds out what one of build.artifacts is called.
func (s *translator) nameArtifact(n *tree.Node) {
	if !s.isMapping(n) {
		return
	}
	name := n.Get("image")
	if name == nil {
		s.Wrong(n, `"image" is missing`)
		return
	}
	a := artifact{by: s, n: n, at: name, name: s.text(name)}
	if a.name == "" {
		return
	}
	a.image = registryPort.ReplaceAllString(a.name, "")
	isTaken := func(other artifact) bool { return other.image == a.image && other.name != a.name }
	if slices.ContainsFunc(s.artifacts, isTaken) {
		a.image = strings.Replace(a.name, ":", "-", 1)
	}
	for _, other := range s.artifacts {
		if other.image == a.image || other.name == a.name {
			s.Taken(name, a.name, other.at)
			return
		}
	}
	for _, builder := range otherBuilders {
		if given := n.Get(builder); given != nil && !given.IsNull() {
			a.image = ""
			s.Wrong(given, "devloop builds Dockerfiles alone: the image %s, which is deployed, would not be built; "+
				"write a Dockerfile for it, and docker: {} in place of this, if need be in a profile", a.name)
		}
	}
	s.artifacts = append(s.artifacts, a)
}

// otherBuilders are keys of an artifact that has no Dockerfile.
var otherBuilders = []string{
	"bazel", "jib", "jibMaven", "jibGradle", "ko", "buildpacks", "buildpack", "custom",
}

// artifact reads what an image is built from.
func (s *translator) artifact(a artifact) {
	if a.image == "" {
		return
	}
	n, name, platforms := a.n, a.at, s.platforms
	image := n.As(yaml.MappingNode, n.Path)
	if a.image != a.name {
		s.inform(name, "the image is called %s: devloop brings it to the nodes without that registry", a.image)
		add(image, "aliases", scalar(name, a.name))
	}
	var context, dockerfile, requires *tree.Node
	s.section(n, keys{
		"image":   ignore,
		"context": into(&context),
		"docker":  func(n *tree.Node) { dockerfile = s.docker(n, image, a, s.dockerOnly(image)) },
		"kaniko": func(n *tree.Node) {
			s.inform(n, "the image is built by BuildKit, as a docker artifact")
			dockerfile = s.docker(n, image, a, s.kanikoOnly())
		},
		"platforms":   into(&platforms),
		"requires":    into(&requires),
		"runtimeType": s.harmless("is for skaffold debug: ignored"),
		"sync":        func(n *tree.Node) { s.sync(n, image) },
		"hooks":       s.lost("these commands are not run when the image is built"),
	})
	folder := "."
	if context != nil {
		folder = cmp.Or(s.text(context), ".")
	}
	if context != nil || s.path(folder) != folder {
		put(image, "context", scalar(cmp.Or(context, n), s.path(folder)))
	}
	if platforms != nil {
		s.platform(platforms, image)
	}
	path := "Dockerfile"
	if dockerfile != nil {
		path = s.dockerfilePath(folder, dockerfile.Value)
		put(image, "dockerfile", scalar(dockerfile, s.path(path)))
	} else {
		path = filepath.Join(folder, path)
	}
	s.implicitArgs(n, image, requires, path)
	child(s.made, "images", n).Put(scalar(name, a.image), image)
}

// argument is an instruction of a Dockerfile.
var argument = regexp.MustCompile(`(?mi)^[ \t]*ARG[ \t]+([a-z0-9_]+)`)

// implicitArgs adds the build arguments that skaffold adds where the Dockerfile has them: how it
// was started, and the references of other images.
func (s *translator) implicitArgs(n, image, requires *tree.Node, dockerfile string) {
	full := tree.Abs(s.dir, dockerfile)
	text, err := files.Read(full, maxConfig)
	if err == nil { // else its image reports it
		s.files = append(s.files, full)
	}
	isUsed := map[string]bool{}
	for _, match := range argument.FindAllStringSubmatch(string(text), -1) {
		isUsed[match[1]] = true
	}
	give := func(name string, value *tree.Node) {
		if isUsed[name] && image.Get("args").Get(name) == nil {
			put(child(image, "args", n), name, value)
		}
	}
	give("SKAFFOLD_RUN_MODE", scalar(n, "dev"))
	if requires == nil {
		return
	}
	for _, item := range s.items(requires) {
		var base, alias *tree.Node
		s.section(item, keys{"image": into(&base), "alias": into(&alias)})
		if base == nil {
			s.Wrong(item, `"image" is missing`)
			continue
		}
		of := s.artifactOf(base)
		if of == nil {
			continue
		}
		if alias = cmp.Or(alias, base); !isUsed[alias.Value] {
			s.inform(alias, "the Dockerfile has no ARG %s: it is not built from the image %s", alias.Value, of.name)
		}
		give(alias.Value, scalar(base, s.templated(s.placeholder("image", of.image))))
	}
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
func (s *translator) dockerOnly(image *tree.Node) keys {
	return keys{
		"network":    s.lost("builds have the builder's own network"),
		"addHost":    s.lost("builds do not know these names"),
		"cacheFrom":  s.lost("the builder's own cache is used"),
		"cliFlags":   func(n *tree.Node) { s.dockerFlags(n, image) },
		"pullParent": s.lost("a base image that Docker holds is taken as it is; the key r asks registries for the others"),
		"noCache":    s.lost("the builder's cache is used: what has not changed is not built again"),
		"squash":     s.lost("the image keeps its layers"),
	}
}

// kanikoOnly are keys for kaniko. Most of them change nothing about the image.
func (s *translator) kanikoOnly() keys {
	only := keys{
		"label":        s.lost("the image does not get these labels"),
		"env":          s.lost("builds do not get these variables"),
		"destination":  s.lost("the image is not pushed"),
		"flags":        s.lost("kaniko is not called: without these flags"),
		"volumeMounts": s.lost("builds do not get these volumes"),
	}
	for _, key := range strings.Fields(`
		buildContext buildContextCompressionLevel cache cleanup copyMaxRetries copyTimeout digestFile force ignorePaths
		image imagePullSecret
		imageFSExtractRetry imageNameWithDigestFile initImage insecure insecurePull insecureRegistry logFormat
		logTimestamp ociLayoutPath pushRetry registryCertificate registryMirror reproducible singleSnapshot
		skipTLS skipTLSVerifyPull skipTLSVerifyRegistry skipUnusedStages snapshotMode tarPath useNewRun
		verbosity whitelistVarRun`) {
		only[key] = s.harmless("is for kaniko: ignored")
	}
	return only
}

// docker reads how an image is built from a Dockerfile, and returns the path of that: it depends on
// the context, which may stand further down.
func (s *translator) docker(n, image *tree.Node, a artifact, builderOnly keys) (dockerfile *tree.Node) {
	known := keys{
		"dockerfile": func(n *tree.Node) {
			if s.text(n) != "" {
				dockerfile = n
			}
		},
		"target":    func(n *tree.Node) { put(image, "target", scalar(n, s.text(n))) },
		"buildArgs": func(n *tree.Node) { s.buildArgs(n, image, a.name) },
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

// buildArgs reads the build arguments of an artifact.
func (s *translator) buildArgs(n, image *tree.Node, artifact string) {
	if !s.isMapping(n) {
		return
	}
	slash := max(strings.LastIndex(artifact, "/"), 0)
	name := strings.TrimPrefix(artifact[slash:], "/")
	if slash == 0 {
		name = "" // as for skaffold
	}
	s.own = map[string]string{"IMAGE_REPO": artifact[:slash], "IMAGE_NAME": name, "IMAGE_TAG": "latest"}
	defer func() { s.own = nil }()
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
			value = scalar(value, escapeBraces(set))
		case value.IsScalar():
			text, ok := s.plain(value, value.Value)
			if !ok {
				continue
			}
			if strings.Contains(value.Value, "IMAGE_TAG") {
				s.note(value, "IMAGE_TAG is latest for the build: the tag is a hash of what the image is built from, this "+
					"included")
			}
			value = scalar(value, escapeBraces(text))
		}
		if image.Get("args").Get(e.Key.Value) == nil { // else a flag of docker says it, which counts
			child(image, "args", n).Put(e.Key, value)
		}
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
	secrets := child(image, "secrets", n)
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
