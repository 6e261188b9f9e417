package manifests

// kustomize runs in a child process: it ends its process on some mistakes (log.Fatal), writes to
// standard error, keeps what it knows of types for the whole process, and starts git, which only
// the end of a process group stops. The child has a deadline and a memory limit.

import (
	"cmp"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/subprocess"
)

// KustomizeArgument is the only argument of a process that has to call ServeKustomize at once.
const KustomizeArgument = "build-kustomization"

const (
	// kustomizeTimeout is for one kustomization, remoteTimeout for one that loads from the network.
	kustomizeTimeout = 30 * time.Second
	remoteTimeout    = 2 * time.Minute
	// kustomizeMemory limits the memory of the process, in bytes.
	kustomizeMemory = 1 << 30
	// maxOutput limits what it makes, in bytes.
	maxOutput = 64 << 20
)

// kustomizeResult is the output of the process.
type kustomizeResult struct {
	Objects []kustomized
	Read    []string // files
	Error   string
}

// kustomized is one object that kustomize made.
type kustomized struct {
	Text       string
	File       string // where it is from, absolute; "" where that is not known
	Kind, Name string
}

// kustomize reads the documents of the kustomization.
func (s Source) kustomize(ctx context.Context) (documents []Document, read []string, err error) {
	found := s.scan(ctx.Done())
	if ctx.Err() != nil {
		return nil, found.paths(), context.Cause(ctx)
	}
	if err := found.asError(); err != nil {
		return nil, found.paths(), err
	}
	folder := s.abs(s.Kustomization)
	result, err := runKustomize(ctx, folder, found.isRemote)
	read = append(found.paths(), result.Read...)
	slices.Sort(read)
	read = slices.Compact(read)
	if err != nil {
		return nil, read, found.explain(err)
	}
	r := reader{Source: s, ctx: ctx, first: map[id]object{}}
	for _, made := range result.Objects {
		origin := found.origin(made, folder)
		d := document{problems: &r.problems, Document: Document{File: origin.File, Line: 1, Text: made.Text}}
		for _, o := range d.objects() {
			o.File, o.Line = origin.File, origin.Line
			r.add(o)
		}
	}
	if err := r.problems.asError(); err != nil {
		return nil, read, fmt.Errorf("what the kustomization %s makes: %w", s.name(folder), err)
	}
	if len(r.objects) == 0 {
		return nil, read, fmt.Errorf("the kustomization %s makes no objects", s.name(folder))
	}
	for _, o := range r.objects {
		documents = append(documents, o.Document)
	}
	return documents, read, nil
}

// paths returns the files that the scan led to, sorted.
func (c *scan) paths() []string {
	paths := slices.Sorted(slices.Values(c.watched))
	return slices.Compact(paths)
}

// origin returns where an object is from, as far as that is known. Kustomize may have made its name
// longer.
func (c *scan) origin(made kustomized, folder string) Document {
	if made.File == "" {
		return Document{File: c.name(folder)}
	}
	best := object{Document: Document{File: c.name(made.File)}}
	for _, o := range c.objects {
		if o.File == best.File && o.id.kind == made.Kind && strings.Contains(made.Name, o.id.name) &&
			len(o.id.name) > len(best.id.name) {
			best = o
		}
	}
	return best.Document
}

// runKustomize runs the process, and kills it with all that it started after the timeout or when
// ctx ends: the error is ctx's cause then.
func runKustomize(ctx context.Context, folder string, remote bool) (result kustomizeResult, err error) {
	timeout := kustomizeTimeout
	if remote {
		timeout = remoteTimeout
	}
	late := fmt.Errorf("kustomize has not finished after %s", timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	temporary, err := os.MkdirTemp("", "devloop-kustomize-") // for clones of repositories
	if err != nil {
		return result, err
	}
	defer func() { _ = os.RemoveAll(temporary) }() // the system cleans up what stays
	real, err := filepath.EvalSymlinks(temporary)  // as kustomize does: on macOS, it is behind a link
	if err != nil {
		return result, err
	}
	cmd, err := subprocess.Command(ctx, KustomizeArgument)
	if err != nil {
		return result, err
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+real, "GIT_TERMINAL_PROMPT=0")
	cmd.Stdin = strings.NewReader(folder)
	output, err := subprocess.Run(cmd, 2*maxOutput)
	switch cause := context.Cause(ctx); {
	case cause != nil && errors.Is(cause, late) && remote:
		return result, event.Transient(late)
	case cause != nil:
		return result, cause
	case errors.Is(err, subprocess.ErrMemory):
		return result, fmt.Errorf("kustomize needs more than %d MiB of memory", kustomizeMemory>>20)
	case err != nil:
		return result, err
	}
	if err := gob.NewDecoder(output).Decode(&result); err != nil {
		return result, fmt.Errorf("read what kustomize made: %w", err)
	}
	if result.Error != "" {
		err := errors.New(result.Error)
		if remote && isNetwork.MatchString(result.Error) {
			err = event.Transient(err)
		}
		return result, err
	}
	return result, nil
}

// isNetwork matches the errors of git and of requests that may pass.
var isNetwork = regexp.MustCompile(`(?i)could not resolve|no such host|connection (refused|reset|timed out)|` +
	`network is unreachable|i/o timeout|hit \S+ timeout|status code 5\d\d|unable to access`)

// ServeKustomize builds a kustomization in a child process: it reads the folder from in, writes the
// result to out, and returns the exit code.
func ServeKustomize(in io.Reader, out io.Writer) int {
	subprocess.Limits{Memory: kustomizeMemory, Time: 2 * remoteTimeout}.Set()
	folder, err := io.ReadAll(in)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	disk := &disk{FileSystem: filesys.MakeFsOnDisk(), root: string(folder), bytesLeft: maxTotal}
	result := kustomizeResult{}
	if result.Objects, err = build(disk); err != nil {
		result = kustomizeResult{Error: err.Error()}
	}
	result.Read = disk.read
	if err := gob.NewEncoder(out).Encode(result); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// build runs kustomize. A panic in it is an error.
func build(disk *disk) (made []kustomized, err error) {
	panicked := event.Guard(func() error {
		made, err = buildObjects(disk)
		return nil
	})
	return made, cmp.Or(err, panicked)
}

func buildObjects(disk *disk) (made []kustomized, err error) {
	options := krusty.MakeDefaultOptions()
	options.PluginConfig = types.DisabledPluginConfig()
	all, err := krusty.MakeKustomizer(options).Run(disk, disk.root)
	if err != nil {
		return nil, err
	}
	room := maxOutput
	for _, r := range all.Resources() {
		object := kustomized{File: disk.origin(r), Kind: r.GetKind(), Name: r.GetName()}
		if disk.traced {
			_ = r.SetOrigin(nil) // only marshalling one can fail
		}
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		if room -= len(text); room < 0 {
			return nil, fmt.Errorf("it makes more than %d MiB", maxOutput>>20)
		}
		object.Text = string(text)
		made = append(made, object)
	}
	return made, nil
}

// disk is the file system as kustomize may see it: regular files within a bound. It notes what is
// read, and has kustomize note where objects are from.
type disk struct {
	filesys.FileSystem
	root      string // folder of the kustomization
	bytesLeft int64  // that may still be read
	read      []string
	traced    bool // the origin of objects is noted, though the kustomization does not ask for that
}

var buildMetadata = regexp.MustCompile(`(?im)^["']?buildMetadata["']?\s*:|^\s*\{`)

func (d *disk) ReadFile(path string) ([]byte, error) {
	content, err := d.readRegular(path)
	if err == nil && filepath.Dir(path) == d.root && slices.Contains(KustomizationNames, filepath.Base(path)) &&
		!buildMetadata.Match(content) {
		d.traced = true
		return slices.Concat([]byte(clean(content)), []byte("\nbuildMetadata: [originAnnotations]\n")), nil
	}
	return content, err
}

func (d *disk) readRegular(path string) ([]byte, error) {
	if !strings.HasPrefix(path, os.TempDir()) { // else in a clone
		d.read = append(d.read, path)
	}
	content, err := files.Read(path, maxFile)
	if err != nil {
		return nil, err
	}
	if d.bytesLeft -= int64(len(content)); d.bytesLeft < 0 {
		return nil, fmt.Errorf("%s: the kustomization reads more than %d MiB", path, maxTotal>>20)
	}
	return content, nil
}

// RemoveAll removes clones only.
func (d *disk) RemoveAll(path string) error {
	if !strings.HasPrefix(path, os.TempDir()+"/") {
		return nil
	}
	return d.FileSystem.RemoveAll(path)
}

// origin returns the file that an object is from, "" if that is not known or on another machine.
func (d *disk) origin(r *resource.Resource) string {
	origin, err := r.GetOrigin()
	if err != nil || origin == nil || origin.Repo != "" {
		return ""
	}
	path := cmp.Or(origin.Path, origin.ConfiguredIn)
	if path == "" || filepath.IsAbs(path) || isURL.MatchString(path) {
		return ""
	}
	return filepath.Join(d.root, path)
}
