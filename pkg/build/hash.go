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
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

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
	"github.com/tonistiigi/fsutil/types"
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
		if now, err := stat(file, unix.Stat); err == nil {
			writeFields(stamp, file, fmt.Sprint(now))
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
		for _, file := range watchable(input.Context, withLinkTargets(input.Context, patterns)) {
			input.Files = append(input.Files, Path{Name: file, Base: input.Context, Exclude: excludes})
		}
		found, err := b.hashContext(ctx, input.Context, patterns, excludes)
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

// withLinkTargets adds the targets of symbolic links in the patterns' paths, which a build is sent,
// too; none means all.
func withLinkTargets(context string, patterns []string) []string {
	files, err := fsutil.NewFS(context)
	if err != nil || len(patterns) == 0 {
		return patterns // hashContext returns the error
	}
	targets, err := fsutil.FollowLinks(files, patterns)
	if err == nil && len(targets) == 0 { // a link leads to the context itself
		return nil
	}
	return append(targets, patterns...)
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

// hashContext hashes path, mode, link target and content of every file that the patterns reach.
func (b *Builder) hashContext(ctx context.Context, root string, follow, excludes []string) (*hashedContext, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%q %q %q", root, follow, excludes)
	if known, ok := b.contexts.Load(key); ok && known.(*hashedContext).unchanged(ctx) {
		return known.(*hashedContext), nil
	}
	found := &hashedContext{begun: time.Now()}
	if err := b.walkContext(ctx, found, root, follow, excludes); err != nil {
		return nil, err
	}
	if found.trusted() {
		b.contexts.Store(key, found)
	}
	return found, nil
}

func (b *Builder) walkContext(ctx context.Context, found *hashedContext, root string, follow, excludes []string) error {
	base, err := fsutil.NewFS(root)
	if err != nil {
		return err
	}
	filter := &fsutil.FilterOpt{FollowPaths: follow, ExcludePatterns: excludes}
	filtered, err := fsutil.NewFilterFS(recorder{base, root, found}, filter)
	if err != nil {
		return err
	}
	sum, stamp := sha256.New(), sha256.New()
	err = filtered.Walk(ctx, "", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err) // the build or the next hash reports it
		}
		if !entry.IsDir() && files.IsEphemeral(filepath.Base(path)) {
			return nil // an editor opened a file, which changes nothing
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*types.Stat)
		if !ok {
			return fmt.Errorf("%s: no file information", path)
		}
		full := filepath.Join(root, path)
		item := contextFile{path: filepath.ToSlash(path), source: full, mode: fs.FileMode(stat.Mode), size: stat.Size}
		for _, key := range slices.Sorted(maps.Keys(stat.Xattrs)) {
			// Others belong to the machine, such as SELinux's labels.
			if key == "security.capability" || strings.HasPrefix(key, "user.") {
				item.xattrs = append(item.xattrs, xattr{key, string(stat.Xattrs[key])})
			}
		}
		switch {
		case item.mode.IsDir():
		case item.mode.IsRegular():
			digest, stat, err := b.files.digest(ctx, full)
			if err != nil {
				return err
			}
			item.content = []string{digest}
			item.isSocket = stat.mode&unix.S_IFMT != unix.S_IFREG
			found.seen = append(found.seen, seenPath{full, stat})
		default:
			if item.mode&fs.ModeSymlink != 0 {
				item.content = []string{stat.Linkname}
			} else if item.mode&fs.ModeDevice != 0 { // recreated and never opened, as is a named pipe
				item.content = []string{fmt.Sprint(stat.Devmajor, stat.Devminor)}
			}
			if err := found.add(full); err != nil {
				return err
			}
		}
		item.write(sum)
		found.files = append(found.files, item)
		return nil
	})
	for _, seen := range found.seen {
		writeFields(stamp, seen.path, fmt.Sprint(seen.stat))
	}
	found.sum, found.stamp = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(stamp.Sum(nil))
	return err
}

// writeFields writes strings so that no two different lists of fields give the same bytes.
func writeFields(w io.Writer, values ...string) {
	for _, v := range values {
		_, _ = fmt.Fprintf(w, "%d:%s,", len(v), v) // a hash never fails to write
	}
}
