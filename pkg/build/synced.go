package build

// Files of the build context that need no build: they can be written into containers that run the
// image, to where the Dockerfile copies them.

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"

	"github.com/devloop/devloop/pkg/event"
)

// SyncRule says which files of the context are synced: those of them that the Dockerfile copies
// into the image. The others stay inputs of the build, such as sources that a RUN of a build stage
// compiles. A RUN may use files that are synced, too, or change them: what it makes of them comes
// with the next image. So does a file of the base image that a synced one hides, once that is
// deleted.
type SyncRule struct {
	From string // a pattern relative to the context; of a folder, all that is below it
	// To is where the pattern's folder lies in the image: absolute, or relative to its WORKDIR. ""
	// means wherever the Dockerfile copies the files. If it copies them to several places, To has to
	// be one of them, and the files are synced to all.
	To string
}

// Synced are the synced files of an image's inputs.
type Synced struct {
	// Rest is the hash of all other inputs: images of the same Rest differ by these files alone.
	Rest  string
	Files []SyncedFile // by Path, folders before what is in them; not to be changed

	LeftOut []*SyncError // the rules that do not fit, if Image.LenientSync
}

// SyncedFile is a file, folder or symbolic link as a build puts it into the image. Folders are
// those that are there for synced files alone; the base image may have files of its own in them.
type SyncedFile struct {
	Path   string      // in the image, absolute
	Source string      // on this machine, absolute
	Mode   fs.FileMode // type and permissions
	Owner  string      // of COPY --chown: a user[:group], by name or number; "" for root
	Size   int64       // bytes
	Digest string      // sha256 of a regular file, hex
	Link   string      // target of a symbolic link
	Rule   int         // index in Image.Sync
}

// SyncError is about a rule.
type SyncError struct {
	Rule int // index in Image.Sync
	Err  error
}

func (e *SyncError) Error() string { return fmt.Sprintf("sync: %v", e.Err) }

func (e *SyncError) Unwrap() error { return e.Err }

// knownSynced is what was last found for an image.
type knownSynced struct {
	key    string
	synced *Synced
}

// findSynced applies the rules to the files that the build reads. rest has all inputs but those.
func (b *Builder) findSynced(image *Input, build *assembly, workdir string, rest hash.Hash) (*Synced, error) {
	of := fmt.Sprintf("%q %q %q", image.Name, image.Dockerfile, image.Target)
	key := fmt.Sprintf("%s %t %q", image.Hash, image.LenientSync, image.Context)
	if known, ok := b.synced.Load(of); ok && known.(knownSynced).key == key {
		return known.(knownSynced).synced, nil
	}
	root, err := build.run()
	if err != nil {
		return nil, err
	}
	found := &Synced{}
	s, err := newSelection(image, build, root, workdir, nil)
	for wrong := (*SyncError)(nil); image.LenientSync && errors.As(err, &wrong); {
		found.LeftOut = append(found.LeftOut, wrong)
		s, err = newSelection(image, build, root, workdir, found.LeftOut)
	}
	if err != nil {
		return nil, err
	}
	s.findFolders()
	s.pick("/", s.image.root)
	for _, name := range s.sorted {
		if s.matching[name] == nil && !s.folders[name] {
			s.files[name].write(rest)
		}
	}
	found.Files = s.list(rest)
	found.Rest = hex.EncodeToString(rest.Sum(nil))
	b.synced.Store(of, knownSynced{key, found})
	return found, nil
}

// selection is the files of an image that are synced.
type selection struct {
	build *assembly
	image *rootfs
	rules []*syncRule

	// By path in the context, of files that the build reads:
	files    map[string]*contextFile
	sorted   []string
	places   map[string][]place // where the image has them
	matching map[string][]int   // the rules of files that the image has
	folders  map[string]bool    // those that files of rules can be in, and that hold no others

	synced map[*inode]int // the rule of each file and folder of the image
}

// newSelection applies all rules but those that are left out.
func newSelection(image *Input, build *assembly, root *rootfs, workdir string,
	leftOut []*SyncError) (*selection, error) {
	s := &selection{build: build, image: root, files: map[string]*contextFile{}, matching: map[string][]int{},
		places: map[string][]place{}, folders: map[string]bool{}, synced: map[*inode]int{}}
	for _, found := range build.contexts {
		for _, file := range found.files {
			s.files[file.path] = file
		}
	}
	s.sorted = slices.Sorted(maps.Keys(s.files))
	for i, rule := range image.Sync {
		parsed := &syncRule{leftOut: slices.ContainsFunc(leftOut, func(e *SyncError) bool { return e.Rule == i })}
		if !parsed.leftOut {
			var err error
			if parsed, err = s.parse(rule, workdir); err != nil {
				return nil, &SyncError{i, err}
			}
		}
		s.rules = append(s.rules, parsed)
	}
	return s, s.match()
}

type place struct {
	path string
	*inode
}

// syncRule is a rule that was read.
type syncRule struct {
	SyncRule
	pattern *patternmatcher.PatternMatcher
	parts   []string // of the pattern
	fixed   string   // the folder before the first wildcard, "." for the context
	all     bool     // it matches all that is in that folder
	to      string   // absolute, "" for wherever
	leftOut bool     // nothing matches
}

var escaped = regexp.MustCompile(`\\(.)`) // in a pattern

func (s *selection) parse(rule SyncRule, workdir string) (*syncRule, error) {
	from := path.Clean(strings.TrimLeft(strings.TrimSpace(rule.From), "/"))
	if from == ".." || strings.HasPrefix(from, "../") || strings.HasPrefix(from, "!") {
		return nil, event.WithHint(fmt.Errorf("%q is no pattern of files of the build context", rule.From),
			"write it relative to the context's folder")
	}
	r := &syncRule{SyncRule: rule, parts: strings.Split(from, "/")}
	wild := slices.IndexFunc(r.parts, hasWildcards)
	if wild < 0 {
		wild = len(r.parts)
	}
	r.fixed = path.Join(".", escaped.ReplaceAllString(path.Join(r.parts[:wild]...), "$1"))
	switch file := s.files[r.fixed]; {
	case wild < len(r.parts):
		r.all = slices.Equal(r.parts[wild:], []string{"**"})
	case file != nil && !file.mode.IsDir():
		r.fixed = path.Dir(r.fixed)
	default:
		r.all = true
	}
	for folder := r.fixed; folder != "."; folder = path.Dir(folder) {
		if link := s.files[folder]; link != nil && link.mode&fs.ModeSymlink != 0 {
			return nil, event.WithHint(fmt.Errorf("%q leads through a symbolic link: %s", rule.From, folder),
				"name the files by the folder that they are in: the link leads to "+link.content[0])
		}
	}
	var err error
	if r.pattern, err = patternmatcher.New([]string{from}); err != nil {
		return nil, event.WithHint(fmt.Errorf("%q is no pattern: %w", rule.From, err), "* stands for any text within a "+
			"name, ? for one character, ** for any number of folders, and \\ before one of these for itself")
	}
	switch {
	case path.IsAbs(rule.To):
		r.to = path.Clean(rule.To)
	case rule.To != "":
		r.to = path.Join("/", workdir, rule.To)
	}
	return r, nil
}

// within tells whether a path is a folder, or in it.
func within(folder, name string) bool {
	return folder == "." || name == folder || strings.HasPrefix(name, folder+"/")
}

func (r *syncRule) matches(file string) bool {
	if r.leftOut || !within(r.fixed, file) {
		return false
	}
	matches, err := r.pattern.MatchesOrParentMatches(file)
	return r.all || matches && err == nil
}

// mayHold tells whether files of the rule can be in a folder below the fixed one.
func (r *syncRule) mayHold(folder string) bool {
	if r.leftOut || folder == r.fixed || !within(r.fixed, folder) {
		return false
	}
	for i, part := range strings.Split(folder, "/") {
		if r.all || r.parts[i] == "**" {
			return true
		}
		if i == len(r.parts)-1 {
			return r.matches(folder)
		}
		if matches, err := path.Match(r.parts[i], part); !matches || err != nil {
			return false
		}
	}
	return true
}

// expected is where a file lies by the rule.
func (r *syncRule) expected(file string) string {
	if r.fixed != "." {
		file = strings.TrimPrefix(file, r.fixed)
	}
	return path.Join(r.to, file)
}

// canSync tells whether a file can be made elsewhere as it is here.
func (f *contextFile) canSync() bool {
	return len(f.xattrs) == 0 && !f.isSocket && f.mode&(fs.ModeType&^fs.ModeSymlink&^fs.ModeDir) == 0
}

// match finds the files of the rules, and checks that the image has them where the rules say.
func (s *selection) match() error {
	s.image.root.all("/", func(at string, n *inode) {
		if n.file != nil && !n.isDir() {
			s.places[n.file.path] = append(s.places[n.file.path], place{at, n})
		}
	})
	needed, err := s.build.needed()
	if err != nil {
		return err
	}
	used, unused := make([]bool, len(s.rules)), make([]*contextFile, len(s.rules))
	for _, name := range s.sorted {
		file := s.files[name]
		if file.mode.IsDir() || !file.canSync() {
			continue
		}
		for i, rule := range s.rules {
			switch {
			case !rule.matches(name):
			case len(s.places[name]) == 0, needed[name] != nil:
				unused[i] = file
			default:
				used[i] = true
				s.matching[name] = append(s.matching[name], i)
				if err := s.check(rule, name); err != nil {
					return &SyncError{i, err}
				}
			}
		}
	}
	for i, rule := range s.rules {
		switch {
		case used[i], rule.leftOut:
		case unused[i] != nil && needed[unused[i].path] != nil:
			return &SyncError{i, needed[unused[i].path]}
		case unused[i] != nil:
			return &SyncError{i, s.build.explainUnused(unused[i])}
		case !s.build.reads(rule.fixed):
			return &SyncError{i, event.WithHint(fmt.Errorf("no COPY of %s reads %s", s.build.dockerfile, rule.From),
				"correct the pattern, which is relative to the context's folder")}
		}
	}
	return nil
}

// check returns why a file that the image has cannot be synced by a rule.
func (s *selection) check(rule *syncRule, file string) error {
	places, expected := s.places[file], rule.expected(file)
	for _, at := range places {
		if at.doubt != nil {
			return event.WithHint(fmt.Errorf("%s copies %s, and %s", s.build.line(at.step), file, at.doubt.says),
				at.doubt.hint)
		}
	}
	if rule.to == "" || slices.ContainsFunc(places, func(p place) bool { return p.path == expected }) {
		return nil
	}
	hint := "leave out to: to have files synced to where they are copied"
	if folder, ok := strings.CutSuffix(places[0].path, strings.TrimPrefix(expected, rule.to)); ok {
		hint = fmt.Sprintf("set to: %s, or leave it out", path.Join("/", folder))
	}
	copies := fmt.Sprintf("%s copies %s to %s", s.build.line(places[0].step), file, places[0].path)
	for _, also := range places[1:] {
		copies += fmt.Sprintf(", %s to %s", s.build.line(also.step), also.path)
	}
	return event.WithHint(fmt.Errorf("%s, not to %s", copies, expected), hint)
}

// findFolders finds the folders of the context that hold synced files alone.
func (s *selection) findFolders() {
	holdsOthers := map[string]bool{}
	for _, name := range s.sorted {
		if file := s.files[name]; file.canSync() && (file.mode.IsDir() || s.matching[name] != nil) {
			continue
		}
		for folder := name; !holdsOthers[folder]; folder = path.Dir(folder) {
			holdsOthers[folder] = true
		}
	}
	for _, name := range s.sorted {
		s.folders[name] = s.files[name].mode.IsDir() && !holdsOthers[name] &&
			slices.ContainsFunc(s.rules, func(r *syncRule) bool { return r.mayHold(name) })
	}
}

// pick finds the rules of what is in a folder of the image. It returns false if some of that is not
// synced.
func (s *selection) pick(at string, folder *inode) (all bool) {
	all = true
	for name, n := range folder.children {
		inImage := strings.TrimSuffix(at, "/") + "/" + name
		rule, synced := s.ruleOf(inImage, n)
		synced = s.pick(inImage, n) && synced
		if synced {
			s.synced[n] = rule
		}
		all = all && synced
	}
	return all
}

// ruleOf returns the rule by which a file of the image is synced. A folder is if all in it is.
func (s *selection) ruleOf(at string, n *inode) (rule int, ok bool) {
	if n.file == nil {
		return 0, false
	}
	name := n.file.path
	if n.isDir() {
		if n.made || slices.ContainsFunc(n.folders, func(f *contextFile) bool { return !s.folders[f.path] }) {
			return 0, false
		}
		rule = slices.IndexFunc(s.rules, func(r *syncRule) bool { return r.mayHold(name) })
		return rule, rule >= 0
	}
	matching := s.matching[name]
	for _, i := range matching {
		if s.rules[i].to == "" || s.rules[i].expected(name) == at {
			return i, true
		}
	}
	return slices.Concat(matching, []int{0})[0], len(matching) > 0
}

// list returns the synced files of the image, and writes to rest where the others are.
func (s *selection) list(rest io.Writer) (found []SyncedFile) {
	s.image.root.all("/", func(at string, n *inode) {
		rule, synced := s.synced[n]
		if !synced {
			source := ""
			if n.file != nil && !n.isDir() {
				source = n.file.path
			}
			writeFields(rest, "at", at, n.mode.String(), n.owner, source)
			return
		}
		file := SyncedFile{Path: at, Source: n.file.source, Mode: n.mode, Owner: n.owner, Rule: rule}
		switch {
		case n.mode.IsRegular():
			file.Size, file.Digest = n.file.stat.size, n.file.content[0]
		case n.mode&fs.ModeSymlink != 0:
			file.Link = n.file.content[0]
		}
		found = append(found, file)
	})
	slices.SortFunc(found, func(a, b SyncedFile) int { return strings.Compare(a.Path, b.Path) })
	return found
}
