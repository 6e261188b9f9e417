// Advice on Dockerfiles: what makes a rebuild slow, and what to write instead. Nothing is rewritten. Where it cannot be told for sure, as
// with what a base image brings along, nothing is said: wrong advice is worse than none.
package build

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"

	"github.com/devloop/devloop/pkg/files"
)

// Advice is a line of a Dockerfile that makes rebuilds slow.
type Advice struct {
	File string // absolute
	Line int
	Slow string // why
	Hint string // what to write instead
}

// Advise looks at the stages that the images are built from. An image whose Dockerfile cannot be understood is an error, just as it
// would be in a build; the advice on the others is returned with it.
func Advise(ctx context.Context, images []Image) ([]Advice, error) {
	var (
		all    []Advice
		before []install // of the images that were read
		errs   []error
		told   = map[string]bool{}
	)
	for _, image := range images {
		r, err := readDockerfile(image)
		if err != nil {
			if key := image.Dockerfile + err.Error(); !told[key] { // of two images, once
				told[key] = true
				errs = append(errs, fmt.Errorf("image %s: %w", image.Name, err))
			}
			continue
		}
		r.stage(ctx, r.target)
		for _, i := range r.installs {
			r.tellShared(before, i)
		}
		before = append(before, r.installs...)
		slices.SortStableFunc(r.advice, func(a, b Advice) int { return cmp.Compare(a.Line, b.Line) })
		for _, advice := range r.advice {
			if !slices.Contains(all, advice) { // another image has the same Dockerfile
				all = append(all, advice)
			}
		}
	}
	return all, errors.Join(errs...)
}

// review is of one image's Dockerfile.
type review struct {
	image    Image
	platform ocispecs.Platform
	stages   []instructions.Stage
	target   int // of stages
	lex      *shell.Lex
	globals  variables // what FROM may use
	excludes []string  // .dockerignore

	known    map[int]*stageState // by stage: those that the target is built from
	installs []install
	advice   []Advice
}

// variables are what BuildKit's expansion of $NAME looks them up in.
type variables map[string]string

// Get and Keys make it a shell.EnvGetter.
func (v variables) Get(name string) (string, bool) { value, ok := v[name]; return value, ok }
func (v variables) Keys() []string                 { return slices.Collect(maps.Keys(v)) }

// stageState is what a stage has made up to one of its instructions.
type stageState struct {
	env       variables // ENV, and ARG
	dir, user string
	layers    []layer
	copies    []copied
	installed map[string]bool // the files of the context that were installed from
	modules   bool            // Go's modules are in a layer
}

// layer is an instruction that BuildKit's cache knows by its key, which stands for all before it, too: where two are the same, so are
// their layers.
type layer struct {
	line int
	key  string
}

// copied is what a COPY, an ADD or a bind mount takes from the context.
type copied struct {
	line    int
	text    string
	sources []string // relative to the context
	dest    string   // absolute
	folder  bool     // dest is one
	exclude []string
}

// install is an installation from files of the context.
type install struct {
	image    Image
	platform string
	files    []string // absolute
	layers   []layer  // up to and with the RUN
}

func readDockerfile(image Image) (*review, error) {
	content, err := files.Read(image.Dockerfile, maxFrontendFile)
	if err != nil {
		return nil, err
	}
	r := &review{image: image, known: map[int]*stageState{}}
	if r.platform, err = image.platform(); err != nil {
		return nil, err
	}
	if r.excludes, err = image.excludes(); err != nil {
		return nil, err
	}
	file := filepath.Base(image.Dockerfile)
	parsed, err := parser.Parse(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	r.stages, r.target = stages, len(stages)-1
	if image.Target != "" {
		r.target, _ = instructions.HasStage(stages, image.Target)
	}
	if r.target < 0 {
		return nil, fmt.Errorf("%s: there is no stage %q", file, image.Target)
	}
	r.lex = shell.NewLex(parsed.EscapeToken)
	r.lex.SkipUnsetEnv = true // a base image may have set it
	r.globals = variables{
		"TARGETPLATFORM": platforms.Format(r.platform), "TARGETOS": r.platform.OS, "TARGETARCH": r.platform.Architecture, "TARGETVARIANT": r.platform.Variant,
	}
	for _, arg := range args {
		r.declare(&arg, r.globals)
	}
	if syntax, _, at, ok := parser.DetectSyntax(content); ok && !strings.Contains(syntax, "@") {
		r.tell(firstLine(at), fmt.Sprintf("BuildKit asks a registry for %s at each build", syntax),
			"leave the line out, unless the Dockerfile needs more than BuildKit's own syntax, which has cache mounts and heredocs")
	}
	return r, nil
}

func firstLine(at []parser.Range) int {
	if len(at) == 0 {
		return 1
	}
	return at[0].Start.Line
}

func (r *review) tell(line int, slow, hint string) {
	advice := Advice{r.image.Dockerfile, line, slow, hint}
	if !slices.Contains(r.advice, advice) {
		r.advice = append(r.advice, advice)
	}
}

func (r *review) expand(word string, in variables) string {
	expanded, _, err := r.lex.ProcessWord(word, in)
	if err != nil {
		return word // the build will complain
	}
	return expanded
}

// declare sets what an ARG says, and returns it as NAME=value.
func (r *review) declare(c *instructions.ArgCommand, in variables) (set []string) {
	for _, arg := range c.Args {
		value, ok := r.image.Args[arg.Key]
		if !ok && arg.Value != nil {
			value, ok = r.expand(*arg.Value, in), true
		}
		if !ok {
			value, ok = r.globals[arg.Key]
		}
		if ok {
			in[arg.Key] = value
			set = append(set, arg.Key+"="+value)
		}
	}
	return set
}

// stage reads a stage after those that it is built from. What the target does not need is never read.
func (r *review) stage(ctx context.Context, number int) *stageState {
	if known, ok := r.known[number]; ok {
		return known
	}
	stage := r.stages[number]
	l := &stageState{env: variables{}, dir: "/", installed: map[string]bool{}}
	base := r.expand(stage.BaseName, r.globals)
	if parent, ok := instructions.HasStage(r.stages[:number], base); ok {
		below := r.stage(ctx, parent)
		*l = *below
		l.env, l.installed = maps.Clone(below.env), maps.Clone(below.installed)
		l.layers, l.copies = slices.Clip(below.layers), slices.Clip(below.copies)
	} else {
		l.add(firstLine(stage.Location), "FROM", base, r.expand(stage.Platform, r.globals))
	}
	for _, command := range stage.Commands {
		r.instruction(ctx, number, l, command)
	}
	r.known[number] = l
	return l
}

func (l *stageState) add(line int, values ...string) {
	sum := sha256.New()
	if len(l.layers) > 0 {
		field(sum, l.layers[len(l.layers)-1].key)
	}
	field(sum, values...)
	l.layers = append(l.layers, layer{line, hex.EncodeToString(sum.Sum(nil))})
}

// path is that of a file in the image.
func (l *stageState) path(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(l.dir, name)
}

// instruction has l follow one instruction. Those that no layer depends on, as LABEL and CMD, are passed over.
func (r *review) instruction(ctx context.Context, number int, l *stageState, command instructions.Command) {
	line := firstLine(command.Location())
	if arg, ok := command.(*instructions.ArgCommand); ok {
		for _, set := range r.declare(arg, l.env) {
			l.add(line, "ENV", set)
		}
		return
	}
	if expandable, ok := command.(instructions.SupportsSingleWordExpansion); ok {
		_ = expandable.Expand(func(word string) (string, error) { return r.expand(word, l.env), nil }) // the build will complain
	}
	switch c := command.(type) {
	case *instructions.EnvCommand:
		for _, pair := range c.Env {
			l.env[pair.Key] = pair.Value
			l.add(line, "ENV", pair.String())
		}
	case *instructions.WorkdirCommand:
		l.dir = l.path(c.Path)
		l.add(line, "WORKDIR", l.dir)
	case *instructions.UserCommand:
		l.user, _, _ = strings.Cut(c.User, ":")
		l.add(line, "USER", c.User)
	case *instructions.ShellCommand:
		l.add(line, append([]string{"SHELL"}, c.Shell...)...)
	case *instructions.AddCommand:
		r.copy(l, line, "ADD", &c.SourcesAndDest, c.ExcludePatterns)
		l.add(line, "ADD", encoded(c))
	case *instructions.CopyCommand:
		if c.From != "" {
			l.add(line, "COPY", encoded(c), r.from(ctx, number, c.From))
			return
		}
		r.copy(l, line, "COPY", &c.SourcesAndDest, c.ExcludePatterns)
		l.add(line, "COPY", encoded(c))
	case *instructions.RunCommand:
		mounts := instructions.GetMounts(c)
		values := []string{"RUN", encoded(c), encoded(mounts)}
		visible := slices.Clip(l.copies)
		for _, mount := range mounts {
			switch {
			case mount.From != "":
				values = append(values, r.from(ctx, number, mount.From))
			case mount.Type == instructions.MountTypeBind:
				values = append(values, filepath.Join(r.image.Context, mount.Source))
				visible = append(visible, copied{sources: []string{inContext(mount.Source)}, dest: l.path(mount.Target)})
			}
		}
		l.add(line, values...)
		r.run(ctx, l, line, c, visible)
	}
}

// encoded is what an instruction says, without how it is written: comments, white space, line breaks.
func encoded(value any) string {
	text, _ := json.Marshal(value) // strings and numbers: it cannot fail
	return string(text)
}

// from is what a COPY or a mount takes files from: the key of a stage, or the name of an image.
func (r *review) from(ctx context.Context, number int, name string) string {
	index, err := strconv.Atoi(name)
	if err != nil {
		index, _ = instructions.HasStage(r.stages[:number], name)
	}
	if index < 0 || index >= number {
		return name
	}
	layers := r.stage(ctx, index).layers
	return layers[len(layers)-1].key
}

// inContext makes a source relative to the context, as BuildKit does.
func inContext(source string) string {
	if source == "*" { // all there is, one by one
		return "."
	}
	return cmp.Or(strings.TrimPrefix(path.Join("/", source), "/"), ".")
}

// copy notes what is taken from the context, and says what no image should be made from. In what is copied, sources become absolute, since
// two images may have different contexts.
func (r *review) copy(l *stageState, line int, name string, what *instructions.SourcesAndDest, exclude []string) {
	c := copied{line: line, text: strings.Join(slices.Concat([]string{name}, what.SourcePaths, []string{what.DestPath}), " "), dest: l.path(what.DestPath), exclude: exclude}
	c.folder = strings.HasSuffix(what.DestPath, "/") || c.dest == l.dir
	for i, source := range what.SourcePaths {
		if strings.Contains(source, "://") || strings.HasPrefix(source, "git@") {
			continue
		}
		c.sources = append(c.sources, inContext(source))
		what.SourcePaths[i] = filepath.Join(r.image.Context, inContext(source))
	}
	l.copies = append(l.copies, c)
	if !slices.Contains(c.sources, ".") || len(r.excludes)+len(exclude) > 0 {
		return
	}
	var needless []string
	for _, folder := range []string{".git", ".venv", "venv", "node_modules"} {
		if info, err := os.Stat(filepath.Join(r.image.Context, folder)); err == nil && info.IsDir() { // in a work tree, .git is a file
			needless = append(needless, folder)
		}
	}
	if len(needless) > 0 {
		r.tell(line, fmt.Sprintf("%s takes %s along: each change in there makes a new image", c.text, strings.Join(needless, " and ")),
			"write a .dockerignore in the context, with a line for each: "+strings.Join(needless, ", "))
	}
}

// run judges the installations of a RUN. visible is what it sees of the context.
func (r *review) run(ctx context.Context, l *stageState, line int, c *instructions.RunCommand, visible []copied) {
	all := installations(c)
	r.tellCaches(l, line, c, all)
	for _, i := range all {
		var files, copies []string
		for _, file := range i.files {
			at := l.path(r.expand(file, l.env))
			source, ok := r.source(visible, at)
			if ok && !l.installed[source] { // else there is little left to install, as for a second uv sync
				files, copies = append(files, source), append(copies, fmt.Sprintf("COPY %s %s", source, at))
				l.installed[source] = true
			}
		}
		if len(files) == 0 {
			continue
		}
		found := install{image: r.image, platform: platforms.Format(r.platform), layers: slices.Clip(l.layers)}
		for _, file := range files {
			found.files = append(found.files, filepath.Join(r.image.Context, file))
		}
		r.installs = append(r.installs, found)
		for _, early := range l.copies {
			if !early.takes(files[0]) || !r.takesMore(ctx, early, i.files) {
				continue
			}
			first := fmt.Sprintf("the %s of line %d", i.command, line) // not all of the RUN, which may need the code
			if i.command == "uv sync" {
				first = "RUN uv sync --no-install-project" // the project is not there yet
			}
			r.tell(early.line, fmt.Sprintf("%s comes before %s: each change of a file that it copies installs everything anew", early.text, i.command),
				fmt.Sprintf("put %s and %s before it", strings.Join(copies, ", "), first))
			break
		}
	}
}

// tellCaches tells of installations that download and compile again what they had before.
func (r *review) tellCaches(l *stageState, line int, c *instructions.RunCommand, all []installation) {
	const anew = "when this runs again, all is downloaded and compiled anew"
	var commands, mounts []string // that have no cache, and what they lack
	for _, i := range all {
		missing := r.missing(l, c, i)
		for _, off := range i.by.off {
			if i.off == "" && l.env[off] != "" {
				i.off = off
			}
		}
		switch {
		case i.off != "":
			instead := fmt.Sprintf("leave %s out", i.off)
			if len(missing) > 0 {
				instead = fmt.Sprintf("write RUN %s instead", strings.Join(missing, " "))
			}
			r.tell(line, fmt.Sprintf("%s has %s: %s", i.command, i.off, anew), instead+"; what is in a cache mount does not count for the image's size")
		case len(missing) > 0:
			commands, mounts = append(commands, i.command), append(mounts, missing...)
		}
	}
	if len(commands) > 0 {
		r.tell(line, fmt.Sprintf("no cache for %s: %s", strings.Join(distinct(commands), " and "), anew), "write RUN "+strings.Join(distinct(mounts), " "))
	}
}

func distinct(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}

// missing are the cache mounts that an installation lacks.
func (r *review) missing(l *stageState, c *instructions.RunCommand, i installation) (mounts []string) {
	for _, cache := range i.by.caches {
		if l.kept(c, cache) {
			continue
		}
		if i.command == "go mod download" {
			l.modules = true
		} else if cache.word == "mod" && len(mounts) == 0 && (l.modules || r.vendored(c)) {
			continue // they are there already; beside a mount for what is compiled, one for them does no harm
		}
		mounts = append(mounts, "--mount=type=cache,target="+l.home(cache.path))
	}
	return mounts
}

// kept tells whether a RUN has a mount for a cache: at its own path, or where a variable or an option may have put it.
func (l *stageState) kept(c *instructions.RunCommand, cache cache) bool {
	for _, mount := range instructions.GetMounts(c) {
		if mount.Type != instructions.MountTypeCache {
			continue
		}
		target := l.path(mount.Target)
		if strings.HasPrefix(cache.path+"/", strings.TrimSuffix(target, "/")+"/") || strings.Contains(target, cache.word) {
			return true
		}
		named := func(text string) bool { return strings.Contains(text, target) }
		if slices.ContainsFunc(c.CmdLine, named) || slices.ContainsFunc(slices.Collect(maps.Values(l.env)), named) ||
			slices.ContainsFunc(c.Files, func(file instructions.ShellInlineFile) bool { return named(file.Data) }) {
			return true
		}
	}
	return false
}

// home is a cache's path for the user that a RUN is run by. A mount belongs to root unless it is open to all.
func (l *stageState) home(cache string) string {
	if l.user == "" || l.user == "root" || l.user == "0" {
		return cache
	}
	home := l.env["HOME"]
	if _, err := strconv.Atoi(l.user); home == "" && err == nil {
		home = "<home>"
	}
	if rest, ok := strings.CutPrefix(cache, "/root/"); ok {
		cache = path.Join(cmp.Or(home, "/home/"+l.user), rest)
	}
	return cache + ",mode=0777"
}

// vendored tells whether Go takes its modules from the folder vendor.
func (r *review) vendored(c *instructions.RunCommand) bool {
	_, err := os.Stat(filepath.Join(r.image.Context, "vendor", "modules.txt"))
	return err == nil || strings.Contains(strings.Join(c.CmdLine, " "), "-mod=vendor")
}

// source finds the file of the context that stands at a path in the image.
func (r *review) source(visible []copied, at string) (string, bool) {
	for _, c := range slices.Backward(visible) {
		for _, pattern := range c.sources {
			matches, _ := filepath.Glob(filepath.Join(r.image.Context, pattern)) // a wrong pattern matches nothing
			for _, match := range matches {
				source, err := filepath.Rel(r.image.Context, match)
				info, statErr := os.Stat(match)
				switch {
				case err != nil || statErr != nil:
				case info.IsDir():
					below, inside := strings.CutPrefix(at, strings.TrimSuffix(c.dest, "/")+"/")
					if info, err := os.Stat(filepath.Join(match, below)); inside && err == nil && !info.IsDir() {
						return path.Join(source, below), true
					}
				case at == path.Join(c.dest, path.Base(source)) || at == c.dest && !c.folder:
					return source, true
				}
			}
		}
	}
	return "", false
}

// takes tells whether a file of the context is in what is copied.
func (c copied) takes(file string) bool {
	return slices.ContainsFunc(c.sources, func(source string) bool {
		matches, _ := path.Match(source, file) // a wrong pattern matches nothing
		return source == "." || matches || strings.HasPrefix(file, source+"/")
	})
}

// takesMore tells whether there is more in the folders that are copied than files that name dependencies.
func (r *review) takesMore(ctx context.Context, c copied, files []string) bool {
	var folders []string
	for _, source := range c.sources {
		if info, err := os.Stat(filepath.Join(r.image.Context, source)); err == nil && info.IsDir() {
			folders = append(folders, source)
		}
	}
	if len(folders) == 0 {
		return false
	}
	if slices.Contains(folders, ".") {
		folders = nil // all
	}
	all, err := fsutil.NewFS(r.image.Context)
	if err != nil {
		return false
	}
	filtered, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{FollowPaths: folders, ExcludePatterns: slices.Concat(r.excludes, c.exclude)})
	if err != nil {
		return false
	}
	more := errors.New("there is more")
	err = filtered.Walk(ctx, "", func(name string, entry fs.DirEntry, err error) error {
		base := path.Base(name)
		switch {
		case err != nil:
			return err
		case entry.IsDir(), slices.Contains([]string{".txt", ".in", ".lock"}, path.Ext(base)), strings.HasPrefix(base, "Dockerfile"), base == ".dockerignore":
			return nil
		case slices.ContainsFunc(files, func(file string) bool { return path.Base(file) == base }):
			return nil
		}
		return more
	})
	return errors.Is(err, more)
}

// tellShared tells of an installation that another image makes, too, where one layer could do for both.
func (r *review) tellShared(before []install, i install) {
	var other *install
	same := func(file string) bool { return slices.Contains(i.files, file) }
	for n, b := range before {
		if b.platform != i.platform || !slices.ContainsFunc(b.files, same) {
			continue
		}
		if b.layers[len(b.layers)-1].key == i.layers[len(i.layers)-1].key {
			return
		}
		if other == nil {
			other = &before[n]
		}
	}
	if other == nil {
		return
	}
	at := 0
	for at < min(len(other.layers), len(i.layers))-1 && other.layers[at].key == i.layers[at].key {
		at++
	}
	file := other.files[slices.IndexFunc(other.files, same)]
	r.tell(i.layers[at].line, fmt.Sprintf("images %s and %s each install %s: this is the first line that differs, from line %d of %s", other.image.Name, i.image.Name,
		filepath.Base(file), other.layers[at].line, other.image.Name),
		"make both the same down to the installation, in the same order, and put what differs after it: then it is made once, in a layer for both")
}
