package build

// The content hash of an image: what its Dockerfile means to BuildKit's own frontend, what its base
// images hold, and every file of the context that a reachable stage uses. Equal inputs have the
// same hash in another folder and on another machine. BuildKit ignores mtimes and owners, and so
// does it.

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// hashVersion changes when the meaning of the hash does, so that no older image counts as current.
const hashVersion = "devloop/3"

// TagLength is how many hex digits of the hash an image's tag has, or more where those alone would
// be read as a number. 64 bits tell a developer's images apart, and leave room in a Kubernetes
// label value (63 characters), where charts like to put tags.
const TagLength = 16

// Image is what to build; paths are absolute.
type Image struct {
	Name       string // "worker"
	Repository string // of its tags, "" for the name
	Dockerfile string
	Context    string // folder
	Target     string // stage, "" for the last one
	Args       map[string]string
	Platform   string  // "linux/arm64", "" for this machine's architecture
	From       []Input // the project's images whose references are in Args: it may be built from them
	Sync       []SyncRule

	LenientSync bool // rules that do not fit the Dockerfile do not count, which is no error

	// Watched, and not part of the hash: what an image is made of must not depend on who builds it.
	Secrets []Secret
	SSH     []SSH
}

// Secret is what a RUN --mount=type=secret gets: the content of a file or of an environment
// variable. The build gets no secret whose file or variable does not exist.
type Secret struct {
	ID   string
	File string // absolute
	Env  string // name of the variable
}

// SSH is what a RUN --mount=type=ssh gets: the agent at SSH_AUTH_SOCK, or the agent or keys at
// Paths.
type SSH struct {
	ID    string
	Paths []string
}

// Input is an Image with the hash of everything that it is made of.
type Input struct {
	Image
	Hash   string   // sha256, hex
	Tag    name.Tag // Repository:prefix of Hash
	Files  []Path   // that were read or looked for
	Stale  []string // base images whose registry did not answer: its last answer counts
	Synced *Synced  // nil without rules
	Checks []*Check // that the build tries; the hash does not depend on them

	bases  []resolvedBase
	result *base  // what the build will make, as those who build from it see it
	stamp  string // of the files' stats: it changes with every write, even one of the same content
}

// Path is a file, or a folder with everything in it except what the patterns of a .dockerignore
// exclude, which are relative to Base.
type Path struct {
	Name    string // absolute
	Base    string
	Exclude []string
}

// Hash reads the image's inputs. It builds nothing and changes nothing. A Dockerfile that cannot be
// understood is an error, as in a build; the build itself reports a file to copy that is missing.
// Input.Files is set even with an error, so that the caller can watch for the fix.
func (b *Builder) Hash(ctx context.Context, image Image) (Input, error) {
	input := Input{Image: image}
	if err := b.hash(ctx, &input); err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}
	slices.SortFunc(input.Files, func(a, b Path) int { return strings.Compare(a.Name, b.Name) })
	input.Files = slices.CompactFunc(input.Files, func(a, b Path) bool {
		return a.Name == b.Name && slices.Equal(a.Exclude, b.Exclude)
	})
	return input, nil
}

func (b *Builder) hash(ctx context.Context, input *Input) error {
	sum, stamp, rest := sha256.New(), sha256.New(), sha256.New()
	for _, secret := range input.Secrets { // a build may have failed for want of it
		if secret.File != "" {
			input.Files = append(input.Files, Path{Name: secret.File})
		}
	}
	for _, ssh := range input.SSH {
		for _, path := range ssh.Paths {
			input.Files = append(input.Files, Path{Name: path})
		}
	}
	for _, file := range append([]string{input.Dockerfile}, input.ignoreFiles()...) {
		input.Files = append(input.Files, Path{Name: file})
		if now, err := stat(file, 0); err == nil {
			_ = binary.Write(stamp, binary.LittleEndian, now) // a hash never fails to write
		}
	}
	definition, config, err := b.convert(ctx, input, io.MultiWriter(sum, rest))
	if err != nil {
		return err
	}
	excludes, err := input.excludes()
	if err != nil {
		return err
	}
	contexts := map[digest.Digest]*hashedContext{} // by the operation that reads it
	for _, op := range definition.Def {
		writeFields(io.MultiWriter(sum, rest), "op", string(op))
		patterns, local, err := localPatterns(op)
		if err != nil {
			return err
		}
		if !local {
			continue
		}
		sent, err := followLinks(input.Context, patterns)
		if err == nil && len(sent) == 0 {
			patterns = nil
		}
		for _, file := range watchable(input.Context, append(patterns, sent...)) {
			input.Files = append(input.Files, Path{Name: file, Base: input.Context, Exclude: excludes})
			if now, err := stat(file, unix.AT_SYMLINK_NOFOLLOW); err == nil {
				_ = binary.Write(stamp, binary.LittleEndian, now)
			}
		}
		if err != nil {
			return fmt.Errorf("context %s: %w", input.Context, err)
		}
		found, err := b.hashContext(ctx, input.Context, sent, excludes)
		if err != nil {
			return fmt.Errorf("context %s: %w", input.Context, err)
		}
		contexts[digest.FromBytes(op)] = found
		writeFields(sum, "context", found.sum)
		writeFields(stamp, "context", found.stamp)
	}
	if len(input.Sync) > 0 {
		// By other rules, no files of containers that run this image would be looked at that were synced
		// by these: it is another image then, which replaces them.
		writeFields(io.MultiWriter(sum, rest), "sync", fmt.Sprintf("%q", input.Sync))
	}
	input.Hash, input.stamp = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(stamp.Sum(nil))
	if len(input.Sync) > 0 {
		build := &assembly{definition: definition, contexts: contexts, dockerfile: filepath.Base(input.Dockerfile)}
		if input.Synced, err = b.findSynced(input, build, config.Config.WorkingDir, rest); err != nil {
			return err
		}
	}
	config.RootFS.DiffIDs = []digest.Digest{digest.NewDigestFromEncoded(digest.SHA256, input.Hash)} // not known yet
	if input.result, err = newBase(config); err != nil {
		return err
	}
	input.Tag, err = name.NewTag(cmp.Or(input.Repository, input.Name) + ":" + tagOf(input.Hash))
	return err
}

// tagOf returns the shortest prefix of a hash, of TagLength digits at least, that YAML reads as
// text. Charts put tags into labels without quotes, where 1234567890123456 and 12345678901234e5
// are numbers, and the API server refuses those.
func tagOf(hash string) string {
	length := TagLength
	for ; length < len(hash); length++ {
		var value any
		if yaml.Unmarshal([]byte(hash[:length]), &value) == nil && value == hash[:length] {
			break
		}
	}
	return hash[:length]
}

// convert turns the Dockerfile into BuildKit's definition of the build and the image's
// configuration, and writes to sum what the definition does not say.
func (b *Builder) convert(
	ctx context.Context, input *Input, sum io.Writer,
) (definition *llb.Definition, config dockerspec.DockerOCIImage, err error) {
	dockerfile, err := files.Read(input.Dockerfile, maxFrontendFile)
	if err != nil {
		return nil, config, err
	}
	b.bases.refreshIfChanged(input.Dockerfile, dockerfile)
	resolver := &baseResolver{builder: b, from: input.From}
	args := withoutProxies(input.Args, dockerfile)
	options, err := input.convertOptions(args, resolver)
	if err != nil {
		return nil, config, err
	}
	options.SourceMap = llb.NewSourceMap(nil, filepath.Base(input.Dockerfile), "Dockerfile", dockerfile)
	converted, err := dockerfile2llb.Dockerfile2LLB(ctx, dockerfile, options)
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(input.Dockerfile), err)
		var missing *missingBaseError
		if errors.As(err, &missing) && copiesFrom(dockerfile, missing.ref) {
			err = event.WithHint(err, "no stage has that name, so it was looked up as an image; named build contexts "+
				"(docker build --build-context) are not supported: copy from the context, or from an image")
		}
		return nil, config, err
	}
	input.bases, input.Stale = resolver.found, resolver.stale
	// BuildKit would put a random ID there, and the definition would differ each time.
	definition, err = converted.State.Marshal(ctx, llb.LocalUniqueID("devloop"))
	if err != nil {
		return nil, config, fmt.Errorf("%s: %w", filepath.Base(input.Dockerfile), err)
	}
	config = *converted.Image
	config.Created = nil
	configJSON, err := json.Marshal(config)
	if err != nil {
		return nil, config, err
	}
	writeFields(sum, hashVersion, platforms.Format(*options.TargetPlatform))
	writeFields(sum, "config", string(configJSON))
	if syntax := externalFrontend(dockerfile, args); syntax != "" {
		writeFields(sum, "syntax", syntax)
	}
	return definition, config, nil
}

// platform is the image's target: containers are Linux, whatever the host is.
func (i Image) platform() (ocispecs.Platform, error) {
	if i.Platform == "" {
		return thisMachine(), nil
	}
	return platforms.Parse(i.Platform)
}

// thisMachine is the platform that builds run on, and the default target.
func thisMachine() ocispecs.Platform {
	return platforms.Normalize(ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH})
}

// localPatterns reports whether op reads the build context, and which paths of it; none means all.
func localPatterns(op []byte) (patterns []string, local bool, err error) {
	var decoded pb.Op
	if err := decoded.UnmarshalVT(op); err != nil {
		return nil, false, err
	}
	source := decoded.GetSource()
	if source == nil || !strings.HasPrefix(source.Identifier, "local://") {
		return nil, false, nil
	}
	if list := source.Attrs[pb.AttrFollowPaths]; list != "" {
		err = json.Unmarshal([]byte(list), &patterns)
	}
	return patterns, true, err
}

// followLinks returns the patterns of what a build is sent: symbolic links and their targets in
// place of paths through them. None means all.
func followLinks(context string, patterns []string) ([]string, error) {
	root, err := filepath.EvalSymlinks(context)
	if err != nil || len(patterns) == 0 {
		return nil, err
	}
	folder, err := fsutil.NewFS(root)
	if err != nil {
		return nil, err
	}
	return fsutil.FollowLinks(folder, patterns)
}

// watchable turns context patterns into paths. A pattern with wildcards stands for its fixed
// folder.
func watchable(context string, patterns []string) []string {
	if len(patterns) == 0 {
		return []string{context}
	}
	var paths []string
	for _, pattern := range patterns {
		fixed := pattern
		for strings.ContainsAny(fixed, `*?[\`) {
			fixed = filepath.Dir(fixed)
		}
		paths = append(paths, filepath.Join(context, fixed))
	}
	return paths
}

// ignoreFiles are the candidates for the .dockerignore. The first that exists counts, as in docker
// build.
func (i Image) ignoreFiles() []string {
	return []string{i.Dockerfile + ".dockerignore", filepath.Join(i.Context, ".dockerignore")}
}

// excludes returns the patterns of the .dockerignore.
func (i Image) excludes() ([]string, error) {
	for _, file := range i.ignoreFiles() {
		content, err := files.Read(file, maxFrontendFile)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(content))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		return patterns, nil
	}
	return nil, nil
}

// hashContext hashes path, mode, link target and content of every file that the patterns match,
// with all that is below it; none match all.
func (b *Builder) hashContext(ctx context.Context, root string, patterns, excludes []string) (*hashedContext, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%q %q %q", root, patterns, excludes)
	before := &hashedContext{}
	if known, ok := b.contexts.Load(key); ok {
		before = known.(*hashedContext)
	}
	now, err := before.listAgain(ctx)
	if err != nil {
		now, err = before.list(ctx, root, patterns, excludes)
	}
	if err != nil {
		return nil, err
	}
	err = sideBySide(ctx, now.files, func(file **contextFile) (err error) {
		if *file, err = (*file).look(ctx, b.files); err != nil {
			*file = nil
		}
		return ignoreMissing(err) // the build or the next hash reports it
	})
	if err != nil {
		return nil, err
	}
	if slices.Equal(now.files, before.files) && slices.Equal(now.folders, before.folders) {
		return before, nil
	}
	listed := len(now.files)
	now.files = slices.DeleteFunc(now.files, func(file *contextFile) bool { return file == nil })
	now.sumUp()
	if len(now.files) == listed { // else one that is back would be missing
		b.contexts.Store(key, now)
	}
	return now, nil
}

// writeFields writes strings so that no two different lists of fields give the same bytes.
func writeFields(w io.Writer, values ...string) {
	fields := make([]byte, 0, 128)
	for _, v := range values {
		fields = strconv.AppendInt(fields, int64(len(v)), 10)
		fields = append(append(append(fields, ':'), v...), ',')
	}
	_, _ = w.Write(fields) // a hash never fails to write
}
