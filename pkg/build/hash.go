// The content hash of an image: what its Dockerfile means (as BuildKit's own frontend understands it), what
// its base images hold, and every file of the context that a reachable stage uses. Equal inputs give an equal hash in
// another folder and on another machine; mtimes and owners do not count, since BuildKit ignores them too.
package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
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
	"github.com/moby/patternmatcher/ignorefile"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// hashVersion changes when the meaning of the hash does, so that older images are not taken for current ones.
const hashVersion = "devloop/3"

// TagLength is that of an image's tag, in hex digits: 64 bits tell a developer's images apart, and leave room in a Kubernetes label value (63
// characters), where charts like to put tags.
const TagLength = 16

// Image is what to build; paths are absolute.
type Image struct {
	Name       string // "worker"
	Repository string // of its tags, "" for the name
	Dockerfile string
	Context    string // folder
	Target     string // stage, "" for the last one
	Args       map[string]string
	Platform   string // "linux/arm64", "" for this machine's architecture

	// These reach the build and do not count for the hash: what an image is made of must not depend on who builds it.
	Secrets []Secret
	SSH     []SSH
}

// Secret is what a RUN --mount=type=secret gets: the content of a file, or of an environment variable. One that is not there is not given.
type Secret struct {
	ID   string
	File string // absolute
	Env  string // name of the variable
}

// SSH is what a RUN --mount=type=ssh gets: the agent at SSH_AUTH_SOCK, or the agent or the keys at Paths.
type SSH struct {
	ID    string
	Paths []string
}

// Input is an Image with the hash of everything that it is made of.
type Input struct {
	Image
	Hash  string   // sha256, hex
	Tag   name.Tag // Repository:prefix of Hash
	Files []Path   // that were read or looked for
	Stale []string // base images whose registry could not be asked again: what it said last holds

	bases []foundBase
	stamp string // of the same files by what stat says: it changes with every write, also with one that changes nothing
}

// Path is a file, or a folder with all that is in it but for what Except leaves out: the patterns of a .dockerignore, relative to Base.
type Path struct {
	Name   string // absolute
	Base   string
	Except []string
}

// Hash reads the image's inputs. It builds nothing and changes nothing. A Dockerfile that cannot be understood is an
// error, just as it would be in a build; a file that it copies and that is not there is left to the build to complain of.
// The Input's Files are set even with an error, so that the caller can watch for the mending change.
func (b *Builder) Hash(ctx context.Context, image Image) (Input, error) {
	input := Input{Image: image}
	sum, stamp := sha256.New(), sha256.New()
	for _, file := range append([]string{image.Dockerfile}, image.ignoreFiles()...) {
		input.Files = append(input.Files, Path{Name: file})
		if info, err := os.Stat(file); err == nil {
			field(stamp, file, fmt.Sprint(statOf(info)))
		}
	}
	dockerfile, err := files.Read(image.Dockerfile, maxFrontendFile)
	if err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}
	platform, err := image.platform()
	if err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}
	b.bases.read(image.Dockerfile, dockerfile)
	resolver := &baseResolver{builder: b, platform: platform}
	args := withoutProxies(image.Args, dockerfile)
	options, err := image.convertOptions(args, resolver)
	if err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}
	converted, err := dockerfile2llb.Dockerfile2LLB(ctx, dockerfile, options)
	if err != nil {
		return input, event.WithHint(fmt.Errorf("image %s: %s: %w", image.Name, filepath.Base(image.Dockerfile), err), event.Hint(err))
	}
	input.bases, input.Stale = resolver.found, resolver.stale
	// A constant where BuildKit puts a random ID, so that the definition is the same every time.
	definition, err := converted.State.Marshal(ctx, llb.LocalUniqueID("devloop"))
	if err != nil {
		return input, fmt.Errorf("image %s: %s: %w", image.Name, filepath.Base(image.Dockerfile), err)
	}
	excludes, err := image.excludes()
	if err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}

	field(sum, hashVersion, platforms.Format(platform))
	config := *converted.Image
	config.Created = nil
	configJSON, err := json.Marshal(config)
	if err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}
	field(sum, "config", string(configJSON))
	if syntax := externalFrontend(dockerfile, args); syntax != "" {
		field(sum, "syntax", syntax)
	}
	for _, op := range definition.Def {
		field(sum, "op", string(op))
		patterns, local, err := localPatterns(op)
		if err != nil {
			return input, fmt.Errorf("image %s: %w", image.Name, err)
		}
		if !local {
			continue
		}
		for _, file := range watchable(image.Context, linked(image.Context, patterns)) {
			input.Files = append(input.Files, Path{Name: file, Base: image.Context, Except: excludes})
		}
		contextSum, contextStamp, err := b.hashContext(ctx, image.Context, patterns, excludes)
		if err != nil {
			return input, fmt.Errorf("image %s: context %s: %w", image.Name, image.Context, err)
		}
		field(sum, "context", contextSum)
		field(stamp, "context", contextStamp)
	}
	input.Hash, input.stamp = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(stamp.Sum(nil))
	input.Tag, err = name.NewTag(cmp.Or(image.Repository, image.Name) + ":" + input.Hash[:TagLength])
	if err != nil {
		return input, fmt.Errorf("image %s: %w", image.Name, err)
	}
	slices.SortFunc(input.Files, func(a, b Path) int { return strings.Compare(a.Name, b.Name) })
	input.Files = slices.CompactFunc(input.Files, func(a, b Path) bool { return a.Name == b.Name && slices.Equal(a.Except, b.Except) })
	return input, nil
}

// platform is the image's target: containers are Linux, whatever the host is.
func (i Image) platform() (ocispecs.Platform, error) {
	if i.Platform == "" {
		return thisMachine(), nil
	}
	return platforms.Parse(i.Platform)
}

// thisMachine is the platform that builds are made on, and for unless another one is asked for.
func thisMachine() ocispecs.Platform {
	return platforms.Normalize(ocispecs.Platform{OS: "linux", Architecture: runtime.GOARCH})
}

// localPatterns tells whether op reads the build context, and which paths of it (none means all).
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

// linked adds to patterns what links on their way lead to, which is sent to a build, too; none means all.
func linked(context string, patterns []string) []string {
	files, err := fsutil.NewFS(context)
	if err != nil || len(patterns) == 0 {
		return patterns // hashContext says what is wrong
	}
	targets, err := fsutil.FollowLinks(files, patterns)
	if err == nil && len(targets) == 0 { // one of them leads to the context itself
		return nil
	}
	return append(targets, patterns...)
}

// watchable turns context patterns into paths that can be watched: a pattern with wildcards stands for its fixed folder.
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

// ignoreFiles are where the patterns of what is no part of the context may stand. The first one that exists counts, as in docker build.
func (i Image) ignoreFiles() []string {
	return []string{i.Dockerfile + ".dockerignore", filepath.Join(i.Context, ".dockerignore")}
}

// excludes returns these patterns.
func (i Image) excludes() ([]string, error) {
	for _, file := range i.ignoreFiles() {
		content, err := files.Read(file, maxFrontendFile)
		if gone(err) {
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

// hashContext returns a sum of path, mode, link target and content of every file that the patterns reach, and a stamp of what stat says of them.
func (b *Builder) hashContext(ctx context.Context, root string, follow, excludes []string) (sum, stamp string, err error) {
	root, err = filepath.EvalSymlinks(root)
	if err != nil {
		return "", "", err
	}
	key := fmt.Sprintf("%q %q %q", root, follow, excludes)
	if known := b.contexts.get(key); known != nil && known.unchanged(ctx) {
		return known.sum, known.stamp, nil
	}
	found := &hashedContext{begun: time.Now()}
	if err := b.walkContext(ctx, found, root, follow, excludes); err != nil {
		return "", "", err
	}
	if found.settled() {
		b.contexts.put(key, found)
	}
	return found.sum, found.stamp, nil
}

func (b *Builder) walkContext(ctx context.Context, found *hashedContext, root string, follow, excludes []string) error {
	base, err := fsutil.NewFS(root)
	if err != nil {
		return err
	}
	filtered, err := fsutil.NewFilterFS(folders{base, root, found}, &fsutil.FilterOpt{FollowPaths: follow, ExcludePatterns: excludes})
	if err != nil {
		return err
	}
	sum, stamp := sha256.New(), sha256.New()
	err = filtered.Walk(ctx, "", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(err) // the build or the next hash will see it
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*types.Stat)
		if !ok {
			return fmt.Errorf("%s: no file information", path)
		}
		mode, full := fs.FileMode(stat.Mode), filepath.Join(root, path)
		field(sum, "file", filepath.ToSlash(path), mode.String())
		for _, key := range slices.Sorted(maps.Keys(stat.Xattrs)) {
			if key == "security.capability" || strings.HasPrefix(key, "user.") { // others are the machine's, as SELinux's labels
				field(sum, "xattr", key, string(stat.Xattrs[key]))
			}
		}
		switch {
		case mode.IsDir():
			return nil
		case mode.IsRegular():
			digest, stat, err := b.files.digest(ctx, full)
			if err != nil {
				return err
			}
			field(sum, digest)
			found.seen = append(found.seen, seenPath{full, stat})
			return nil
		case mode&fs.ModeSymlink != 0:
			field(sum, stat.Linkname)
		case mode&fs.ModeDevice != 0: // like a named pipe, it is made anew, and never opened
			field(sum, fmt.Sprint(stat.Devmajor, stat.Devminor))
		}
		return found.see(full)
	})
	for _, seen := range found.seen {
		field(stamp, seen.path, fmt.Sprint(seen.stat))
	}
	found.sum, found.stamp = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(stamp.Sum(nil))
	return err
}

// field writes strings so that no two different lists of fields give the same bytes.
func field(w io.Writer, values ...string) {
	for _, v := range values {
		_, _ = fmt.Fprintf(w, "%d:%s,", len(v), v) // a hash never fails to write
	}
}
