package build

// The hash of random projects, and of broken ones. Each random case is a number: `go test` runs the
// same ones every time, and `go test -fuzz` finds more and keeps those that fail. (Use
// -fuzzminimizetime 5x, or long inputs take a minute each.)

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/client"
	"github.com/moby/patternmatcher"
)

const seeds = 20 // of each property

// node is a file, a folder or a symbolic link of a build context.
type node struct {
	mode fs.FileMode
	text string // a file's content, a link's target
}

func (n node) isLink() bool { return n.mode&fs.ModeSymlink != 0 }

// nodes are a build context, by path, including parent folders.
type nodes map[string]node

func (n nodes) add(name string, mode fs.FileMode, text string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		n[dir] = node{fs.ModeDir | 0o755, ""}
	}
	n[name] = node{mode, text}
}

// sample is a random project whose image inputs are known by construction, without the code under
// test.
type sample struct {
	*rand.Rand
	nodes  nodes
	stages []stage
	reads  []reading // of the stages that are used
	ignore []rule    // the last one that matches decides
	tops   []string  // names in the context's folder that instructions have
	count  int
}

type stage struct {
	name, from string
	lines      []string
	used       bool
}

// reading reports whether an instruction reads a path.
type reading func(n nodes, path string) bool

// rule is a line of .dockerignore and the path that it matches with everything below; "" is all.
type rule struct{ line, top string }

func below(top, path string) bool {
	return top == "" || path == top || strings.HasPrefix(path, top+"/")
}

func allBelow(top string) reading { return func(_ nodes, path string) bool { return below(top, path) } }

func oneOf[T any](p *sample, values ...T) T { return values[p.IntN(len(values))] }

// text returns random text of a constant size.
func (p *sample) text() string { return fmt.Sprintf("%016x", p.Uint64()) }

// top returns a new name without wildcards, quotes or variables.
func (p *sample) top(odd ...string) string {
	p.tops = append(p.tops, fmt.Sprint(oneOf(p, append(odd, "d", "D.x", "-d", ".d")...), len(p.tops)))
	return p.tops[len(p.tops)-1]
}

// fill makes files, folders and links. No line names them, so their names may be anything.
func (p *sample) fill(dir string, depth int) {
	p.nodes.add(dir, fs.ModeDir|0o755, "")
	for range 1 + p.IntN(4) {
		p.count++
		odd := oneOf(p, "f", "F.py", "-", "--from=a", " b ", "é", "e\u0301", "[1]", "*", "!", "it's", `"`, `\`, "$X",
			"\t", "#", "...")
		name := path.Join(dir, fmt.Sprint(odd, p.count))
		switch p.IntN(8) {
		case 0:
			p.nodes.add(name, fs.ModeDir|oneOf[fs.FileMode](p, 0o755, 0o700), "")
		case 1:
			p.nodes.add(name, fs.ModeSymlink|0o777,
				oneOf(p, "missing", ".", "..", path.Base(name), "/etc", "../../..", "f1"))
		case 2:
			p.nodes.add(name+".tmp", 0o644, p.text())
		case 3, 4:
			p.nodes.add(name, fs.ModeDir|0o755, "")
			if depth > 0 {
				p.fill(name, depth-1)
			}
		default:
			p.nodes.add(name, oneOf[fs.FileMode](p, 0o644, 0o755, 0o600), p.text())
		}
	}
}

// instruction adds some files to the context, and returns a line that reads some of them.
func (p *sample) instruction() (line string, reads reading) {
	copies := func(source string) string {
		words, _ := json.Marshal([]string{source, fmt.Sprintf("/to%d/", p.IntN(1000))}) // strings always can be
		return oneOf(p, "COPY ", "ADD ", "COPY --chmod=700 ", "COPY --link ", "ADD --chown=1:2 ") + string(words)
	}
	switch p.IntN(5) {
	case 0: // a file
		name := path.Join(p.top("b c", "--from=e", "日本"), oneOf(p, "", "a", "a/-b"))
		p.nodes.add(name, 0o644, p.text())
		return copies(oneOf(p, "", "/", "./") + name), allBelow(name)
	case 1: // a folder with ignored files, and exceptions from that
		top := p.top("b c", "--from=e", "日本")
		p.fill(top, 2)
		if p.IntN(2) == 0 {
			p.fill(top+"/skip", 1)
			p.ignore = append(p.ignore, rule{top + oneOf(p, "/skip", "/s?ip/", "/./skip"), top + "/skip"})
		}
		if p.IntN(2) == 0 {
			p.fill(top+"/skip/keep", 1)
			p.ignore = append(p.ignore,
				rule{"!" + top + oneOf(p, "/skip/keep", "/*/keep", "/**/keep"), top + "/skip/keep"})
		}
		return copies(oneOf(p, "", "/", "./") + top + oneOf(p, "", "/", "/.")), allBelow(top)
	case 2: // a folder that is mounted; BuildKit understands only ASCII in a flag
		top := p.top()
		p.fill(top, 1)
		return "RUN --mount=type=bind,target=/m,source=" + top + " true", allBelow(top)
	case 3: // what a wildcard matches, with all that is in it
		top := p.top("b c", "ü")
		for _, name := range []string{"a.py", "b c.py", "dir.py/f", "none.txt", "d/c.py", "e/f.py"} {
			p.nodes.add(path.Join(top, name), 0o644, p.text())
		}
		at := p.IntN(2) // how deep
		return copies(top + "/" + strings.Repeat("?/", at) + "*.py"), func(_ nodes, path string) bool {
			parts := strings.Split(strings.TrimPrefix(path, top+"/"), "/")
			return below(top, path) && len(parts) > at && strings.HasSuffix(parts[at], ".py") &&
				(at == 0 || len(parts[0]) == 1)
		}
	default: // a link to a link to a file or a folder, or to nothing but these links
		link, other := p.top("ü")+"/link", p.top("b c")
		second, target, rest := link+"2", other+oneOf(p, "", "/dir", "/file"), ""
		if target == other {
			rest = oneOf(p, "", "/dir", "/file")
		}
		p.fill(other+"/dir", 1)
		p.nodes.add(other+"/file", 0o644, p.text())
		p.nodes.add(link, fs.ModeSymlink|0o777, "./link2")
		// To BuildKit, a link that is absolute, or leads above the context, begins at the
		// context.
		up, named := oneOf(p, "../", "../../../", "/"), path.Dir(link)+oneOf(p, "/link", "/l?nk")
		p.ignore = append(p.ignore, rule{link + "/*", "nothing"}) // behind a link, it hides nothing
		p.nodes.add(second, fs.ModeSymlink|0o777, oneOf(p, up+target, up+target, "./link/x"))
		return copies(named + rest), func(n nodes, path string) bool {
			follows := n[link] == p.nodes[link]
			if path == link || path == second && follows {
				return n[path].isLink() || rest == ""
			}
			return below(target+rest, path) && follows && n[second].text == up+target
		}
	}
}

func newSample(t *testing.T, seed uint64) *sample {
	p := &sample{Rand: rand.New(rand.NewPCG(seed, 0)), nodes: nodes{}}
	p.fill("unused", 1)
	last := "" // of the stages that are used
	for i := range 1 + p.IntN(4) {
		s := stage{fmt.Sprint("stage", i), "scratch", []string{"ARG UNUSED=1", "ENV WAS=$UNUSED"}, p.IntN(3) > 0}
		p.extend(&s, last, p.IntN(3))
		if s.used {
			s.lines[0] = "WORKDIR /" + s.name
			last = s.name
		}
		p.stages = append(p.stages, s)
	}
	s := stage{"last", "scratch", []string{"ARG USED=1", "ENV WAS=$USED"}, true}
	p.extend(&s, last, 2)
	if p.IntN(4) == 0 {
		s.lines = slices.Insert(s.lines, 0, "COPY . /all/")
		p.reads = append(p.reads, allBelow(""))
	}
	p.stages = append(p.stages, s)
	if p.IntN(3) == 0 { // a list of what is not ignored
		list := []rule{{oneOf(p, "*", "**"), ""}}
		for _, top := range p.tops {
			list = append(list, rule{"!" + top, top})
		}
		p.ignore = append(list, p.ignore...)
	}
	t.Logf("seed %d\n%s\n.dockerignore:\n%s", seed, p.dockerfile("\n"), p.dockerignore())
	return p
}

// extend adds instructions to a stage, and lets it use another stage if there is one.
func (p *sample) extend(s *stage, used string, count int) {
	switch kind := p.IntN(3); {
	case used == "":
	case kind == 0:
		s.from = used
	case kind == 1:
		s.lines = append(s.lines, "COPY --from="+used+" / /from/")
	default:
		s.lines = append(s.lines, "RUN --mount=type=bind,target=/m,from="+used+" true")
	}
	for range count {
		line, reads := p.instruction()
		s.lines = append(s.lines, line)
		if s.used {
			p.reads = append(p.reads, reads)
		}
	}
}

func (p *sample) dockerfile(separator string) string {
	lines := []string{""}
	for _, s := range p.stages {
		lines = append(append(lines, "FROM "+s.from+" AS "+s.name), s.lines...)
	}
	return strings.Join(append(lines, ""), separator)
}

func (p *sample) dockerignore() string {
	lines := []string{"# a comment", ""}
	for _, r := range p.ignore {
		lines = append(lines, r.line)
	}
	return strings.Join(append(lines, "**/*.tmp"), "\n")
}

// counts reports whether a path is an input of the image.
func (p *sample) counts(n nodes, path string) bool {
	ignored := false
	for _, r := range p.ignore {
		if below(r.top, path) {
			ignored = !strings.HasPrefix(r.line, "!")
		}
	}
	return !ignored && !strings.HasSuffix(path, ".tmp") &&
		slices.ContainsFunc(p.reads, func(reads reading) bool { return reads(n, path) })
}

// inputs describes all inputs in a context and their parent folders, which BuildKit gets, too.
func (p *sample) inputs(n nodes) string {
	found := nodes{}
	for name := range n {
		if p.counts(n, name) {
			for ; name != "."; name = path.Dir(name) {
				found[name] = n[name]
			}
		}
	}
	return fmt.Sprint(found) // in order
}

// change returns the context with one random change, and the paths that it affects.
func (p *sample) change() (what string, changed nodes, at []string) {
	changed = maps.Clone(p.nodes)
	parents := map[string]bool{}
	for name := range p.nodes {
		parents[path.Dir(name)] = true
	}
	name := oneOf(p, slices.DeleteFunc(slices.Sorted(maps.Keys(p.nodes)),
		func(name string) bool { return parents[name] })...)
	// with the same ending, which a pattern may know it by
	was, beside := p.nodes[name], path.Join(path.Dir(name), "n"+path.Base(name))
	what = oneOf(p, "text", "longer text", "mode", "rename", "delete", "type", "add")
	switch {
	case what == "delete":
		delete(changed, name)
	case what == "rename":
		delete(changed, name)
		changed[beside] = was
	case what == "add":
		changed[beside] = node{0o644, p.text()}
	case what == "type" && !was.isLink():
		changed[name] = node{fs.ModeSymlink | 0o777, "nowhere"}
	case what == "type" || was.mode.IsDir() && what != "mode":
		changed[name] = node{0o644, was.text}
	case what == "mode" && !was.isLink():
		changed[name] = node{was.mode ^ 0o011, was.text}
	default:
		changed[name] = node{was.mode, p.text() + strings.Repeat("x", len(what)-len("text"))}
	}
	return fmt.Sprintf("%s of %q", what, name), changed, []string{name, beside}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, file, content string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(content), 0o600))
}

func mustHash(t *testing.T, b *Builder, image Image) Input {
	t.Helper()
	input, err := b.Hash(t.Context(), image)
	must(t, err)
	return input
}

// write turns a folder from one context into another one, in random order.
func (p *sample) write(t *testing.T, root string, from, to nodes) {
	t.Helper()
	for name, was := range from {
		if is := to[name]; is.mode.Type() != was.mode.Type() || is.mode == 0 || is.isLink() && is != was {
			must(t, os.Remove(filepath.Join(root, name)))
		}
	}
	names := slices.Sorted(maps.Keys(to))
	p.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		full, is, was := filepath.Join(root, name), to[name], from[name]
		if is == was {
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		switch {
		case is.isLink():
			must(t, os.Symlink(is.text, full))
			continue
		case is.mode.IsDir():
			must(t, os.MkdirAll(full, 0o755))
		case len(is.text)%2 == 1: // as many editors save
			overwrite(t, full+".new", is.text)
			must(t, os.Rename(full+".new", full))
		case is.text != was.text || !was.mode.IsRegular():
			overwrite(t, full, is.text)
		}
		must(t, os.Chmod(full, is.mode.Perm()))
	}
}

// place writes the project to a new folder.
func (p *sample) place(t *testing.T) Image {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: filepath.Join(dir, "context")}
	p.write(t, image.Context, nil, p.nodes)
	overwrite(t, image.Dockerfile, p.dockerfile("\n"))
	overwrite(t, image.Dockerfile+".dockerignore", p.dockerignore())
	return image
}

// noticed reports whether a watcher of these files would see a change at a path. It follows links
// in the files' own paths, but none inside folders.
func noticed(t *testing.T, files []Path, changed string) bool {
	t.Helper()
	for _, file := range files {
		end := file.Name
		for link, links := end, 0; link != "/" && links < 40; link = filepath.Dir(link) {
			if below(changed, end) {
				return true
			}
			if target, err := os.Readlink(link); err == nil {
				if !filepath.IsAbs(target) {
					target = filepath.Join(filepath.Dir(link), target)
				}
				end = target + end[len(link):]
				link = end + "/."
				links++
			}
		}
		if !below(end, changed) {
			continue
		}
		exclude, err := patternmatcher.New(file.Exclude)
		must(t, err)
		name, err := filepath.Rel(file.Base, file.Name+changed[len(end):])
		must(t, err)
		if out, err := exclude.MatchesOrParentMatches(name); !out || err != nil {
			return true
		}
	}
	return false
}

func FuzzHashProperty(f *testing.F) {
	f.Add(uint64(223)) // a link in a copied path becomes a file
	eachSeed(f, func(t *testing.T, docker *client.Client, seed uint64) {
		checkChanges(t, docker, seed, 3, func() {})
		aCenturyAhead(t, func(t *testing.T) { checkChanges(t, docker, seed, 8, func() { tick(t) }) })
	})
}

func FuzzDockerfileProperty(f *testing.F) {
	eachSeed(f, func(t *testing.T, docker *client.Client, seed uint64) {
		aCenturyAhead(t, func(t *testing.T) { checkDockerfiles(t, docker, seed) })
	})
}

func eachSeed(f *testing.F, check func(*testing.T, *client.Client, uint64)) {
	for seed := range uint64(seeds) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { check(t, emptyDocker(t), seed) })
}

// aCenturyAhead makes every file old, so that everything is remembered and only stats show changes.
func aCenturyAhead(t *testing.T, do func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		<-time.After(100 * 365 * 24 * time.Hour)
		do(t)
	})
}

// tick waits for the file system's clock, so that the next write changes a stat.
func tick(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "clock")
	times := map[time.Time]bool{}
	for len(times) < 2 {
		must(t, os.WriteFile(file, []byte("x"), 0o600))
		info, err := os.Stat(file)
		must(t, err)
		times[info.ModTime()] = true
	}
}

// checkChanges makes and reverts one change after the other with the same Builder: the hash changes
// if and only if the inputs do. It calls wait before it writes.
func checkChanges(t *testing.T, docker *client.Client, seed uint64, count int, wait func()) {
	t.Helper()
	p := newSample(t, seed)
	image, linked := p.place(t), p.place(t)
	context := linked.Context
	linked.Context += "-link"
	must(t, os.Symlink(context, linked.Context))
	b := New(docker, t.TempDir())
	first := mustHash(t, b, image)
	same := func(what string, b *Builder, image Image) {
		t.Helper()
		if mustHash(t, b, image).Hash != first.Hash {
			t.Fatalf("another hash: %s", what)
		}
	}
	same("nothing changed", b, image)
	same("in another folder", b, linked)
	wait()
	for name, n := range p.nodes {
		if !n.isLink() {
			must(t, os.Chtimes(filepath.Join(image.Context, name), time.Time{},
				time.Unix(p.Int64N(4e9), p.Int64N(1e9))))
		}
	}
	same("at other times", b, image)
	same("of another Builder", New(docker, t.TempDir()), image)

	original := p.inputs(p.nodes)
	// each by the other
	inputs, hashes := map[string]string{first.Hash: original}, map[string]string{original: first.Hash}
	for range count {
		what, changed, at := p.change()
		for _, name := range at {
			counts := p.nodes[name] != changed[name] && (p.counts(p.nodes, name) || p.counts(changed, name))
			if counts && !noticed(t, first.Files, filepath.Join(image.Context, name)) {
				t.Fatalf("%s would go unnoticed by a watcher of %q", what, first.Files)
			}
		}
		wait()
		p.write(t, image.Context, p.nodes, changed)
		hash, input := mustHash(t, b, image).Hash, p.inputs(changed)
		if known, ok := inputs[hash]; ok != (hashes[input] != "") || ok && known != input {
			t.Fatalf("%s: another hash is %v\n%s\nof\n%s\nwas\n%s", what, hash != first.Hash, input, original, known)
		}
		inputs[hash], hashes[input] = input, hash
		same("in another folder, after "+what, b, linked)
		wait()
		p.write(t, image.Context, changed, p.nodes)
		same("back again from "+what, b, image)
	}
}

// checkDockerfiles changes the Dockerfile and the image's options with the same Builder.
func checkDockerfiles(t *testing.T, docker *client.Client, seed uint64) {
	t.Helper()
	p := newSample(t, seed)
	image := p.place(t)
	b := New(docker, t.TempDir())
	first := mustHash(t, b, image)
	for _, file := range []string{image.Dockerfile, image.Dockerfile + ".dockerignore",
		filepath.Join(image.Context, ".dockerignore")} {
		if !noticed(t, first.Files, file) {
			t.Errorf("%s is not watched", file)
		}
	}
	meanings := map[string]string{} // by hash
	check := func(same bool, dockerfile, target, platform, arg string) {
		t.Helper()
		image := image
		image.Target, image.Platform, image.Args = target, platform, map[string]string{arg: "2"}
		overwrite(t, image.Dockerfile, dockerfile)
		hash, meaning := mustHash(t, b, image).Hash, fmt.Sprint(dockerfile, target, platform, arg)
		if mustHash(t, New(docker, t.TempDir()), image).Hash != hash {
			t.Fatalf("another hash of another Builder\n%s", meaning)
		}
		if (hash == first.Hash) != same || !same && meanings[hash] != "" && meanings[hash] != meaning {
			t.Errorf("changed is %v\n%s\nas\n%s", hash != first.Hash, meaning, meanings[hash])
		}
		meanings[hash] = meaning
	}
	dockerfile := p.dockerfile("\n")
	check(true, dockerfile, "", "", "UNUSED")
	check(true, dockerfile, "", "", "NOWHERE")
	check(false, dockerfile, "", "", "USED")
	check(false, dockerfile, p.stages[p.IntN(len(p.stages)-1)].name, "", "")
	check(false, dockerfile, "", "linux/s390x", "")
	check(true, p.dockerfile(oneOf(p, "\n\n", "\n# a comment\n", "\n  \n\t# FROM scratch\n")), "", "", "")
	for range 3 {
		at := p.IntN(len(p.stages))
		s := &p.stages[at]
		lines, last := s.lines, len(s.lines)-1
		switch what := p.IntN(3); {
		// of a stage that is only copied from, its settings do not count
		case what == 0 || s.used && at < len(p.stages)-1:
			s.lines = append(slices.Clip(lines), "RUN "+p.text())
		case what == 1:
			s.lines = lines[:last]
		default:
			s.lines = append(slices.Clone(lines[:last-1]), lines[last], lines[last-1])
		}
		check(!s.used, p.dockerfile("\n"), "", "", "")
		s.lines = lines
	}
	inputs := p.inputs(p.nodes)
	p.ignore = append(p.ignore, rule{"**", ""})
	overwrite(t, image.Dockerfile+".dockerignore", p.dockerignore())
	check(p.inputs(p.nodes) == inputs, dockerfile, "", "", "")
}

// FuzzDockerfile hashes arbitrary bytes as Dockerfile and .dockerignore: it must not panic, and
// must return the same result each time.
func FuzzDockerfile(f *testing.F) {
	for _, dockerfile := range []string{
		"# syntax=docker/dockerfile:1\nARG V=3.12\nFROM python:${V}-slim AS base\nENV A=b C=\"d e\" \\\n# comment\n" +
			"  F=$A\n" +
			"RUN --mount=type=cache,target=/c --mount=type=bind,source=a.txt,target=/a pip install -r /a\n" +
			"COPY --chown=1:1 *.txt src /app/\n" +
			"HEALTHCHECK --interval=5s CMD [\"true\"]\nUSER 1\nCMD [\"python\", \"-m\", \"app\"]",
		"FROM --platform=$BUILDPLATFORM golang:1 AS build\nARG TARGETOS TARGETARCH\nWORKDIR /src\nCOPY . .\n" +
			"RUN --mount=type=secret,id=x " +
			"--network=none GOOS=$TARGETOS go build -o /out ./...\nFROM scratch\nCOPY --from=build /out /\n" +
			"ENTRYPOINT [\"/out\"]",
		"# escape=`\n# check=skip=all;error=true\nFROM scratch as a\nONBUILD COPY src /x/\n" +
			"ADD https://example.org/a.tgz https://github.com/a/b.git#v1 /\n" +
			"FROM a\nSHELL [\"sh\", \"-c\"]\nRUN true `\n  && false\nVOLUME [\"/v\"]\nEXPOSE 80 443/udp\n" +
			"STOPSIGNAL 9\nMAINTAINER me\nLABEL \"a b\"=c\n",
		"FROM b AS a\nFROM a AS b", "FROM scratch\nCOPY --from=a / /\nFROM scratch AS a", "ARG A=${A}\nFROM $A",
		"\xef\xbb\xbfFROM scratch\r\nCOPY src/[ /\r\n", "FROM", "",
	} {
		f.Add([]byte(dockerfile), []byte("*.txt\n!a.txt\n**/b\n"))
	}
	for _, line := range []string{
		"COPY <<EOF <<-'B' /etc/\nhello $A\nEOF\n\tb\n\tB\nRUN <<EOF\n#!/bin/sh\ntrue\nEOF\n", "RUN <<EOF\n", "COPY",
		"COPY ../.. /", "COPY [\"a", "ENV A='b",
		"COPY \x00 /", "COPY --parents --exclude=*.x --link ./src/./a /", "LABEL a=" + strings.Repeat("x", 100_000),
		"RUN --mount=type=bind,from=1,target=/ x",
		"ENV A=${A:-${B:+${C#*x}}}", "ARG A=1 B\nCOPY ${A:?b} /",
	} {
		f.Add([]byte("FROM scratch\n"+line), []byte(nil))
	}
	for _, instruction := range instructionSet {
		f.Add([]byte("FROM scratch AS parent\n"+instruction.lines), []byte(nil))
	}
	for _, ignore := range []string{
		"!", "[", `\`, "a\x00b", "**", "../*", "/", "# a\n!#a", "***/**", "!!a", "\xff", strings.Repeat("*/", 1000),
		strings.Repeat("a", 100_000),
	} {
		f.Add([]byte("FROM scratch\nCOPY . /\n"), []byte(ignore))
	}
	// A daemon that has every image, no registry, and no credentials.
	f.Setenv("DOCKER_CONFIG", f.TempDir())
	transport := remote.DefaultTransport
	remote.DefaultTransport = http.NewFileTransport(http.Dir(f.TempDir()))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		_, _ = fmt.Fprintf(w, `{"Id": "sha256:1", "Os": "linux", "Architecture": %q, "Config": {"Env": ["A=b"]}}`,
			runtime.GOARCH)
	}))
	docker, err := client.New(client.WithHost("tcp://" + server.Listener.Addr().String()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = docker.Close(); server.Close(); remote.DefaultTransport = transport })
	f.Fuzz(func(t *testing.T, dockerfile, ignore []byte) {
		dir := tree{"Dockerfile": string(dockerfile), ".dockerignore": string(ignore), "a.txt": "a", "src/a/b": "b",
			"src/to@": "../a.txt", "on@": "src"}.write(t)
		image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
		b := New(docker, t.TempDir())
		first, firstErr := b.Hash(t.Context(), image)
		for _, b := range []*Builder{b, New(docker, t.TempDir())} {
			again, err := b.Hash(t.Context(), image)
			if (err == nil) != (firstErr == nil) || again.Hash != first.Hash ||
				!reflect.DeepEqual(again.Files, first.Files) {
				t.Errorf("%s %v %v, then %s %v %v", first.Hash, first.Files, firstErr, again.Hash, again.Files, err)
			}
		}
	})
}
