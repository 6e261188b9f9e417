package watch

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/devloop/devloop/pkg/files"
)

func TestExclude(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("ctx/src/f", "ctx/node_modules/a/b/f", "ctx/.git/index", "ctx/docs/keep/f", "ctx/docs/f", "ctx/x.pyc")
		p.watchPaths(p.exclude("ctx", "ctx", ".git", "**/node_modules", "*.pyc", "docs", "!docs/keep"))
		p.expect("excluded", func() {
			p.write("ctx/node_modules/a/b/f", "ctx/node_modules/new/f", "ctx/.git/index", "ctx/docs/f", "ctx/x.pyc", "ctx/y.pyc")
		})
		p.expect("not excluded", func() { p.write("ctx/src/f", "ctx/docs/keep/f", "ctx/src/x.pyc") },
			"ctx/src/f", "ctx/docs/keep/f", "ctx/src/x.pyc")
		if got := p.below("ctx"); !slices.Equal(got, []string{"ctx", "ctx/docs", "ctx/docs/keep", "ctx/src"}) {
			p.t.Errorf("watched folders: %q", got)
		}

		p.expect("an excluded folder comes and goes", func() {
			p.write("ctx/src/node_modules/f")
			p.remove("ctx/src/node_modules")
			p.rename("ctx/node_modules", "gone")
			p.rename("gone", "ctx/node_modules")
		})
		p.changed("some of a folder comes back", func() { p.remove("ctx/docs"); p.write("ctx/docs/f", "ctx/docs/keep/f") })
		p.expect("in it", func() { p.write("ctx/docs/f", "ctx/docs/keep/f") }, "ctx/docs/keep/f")
		p.write("new/keep/f", "new/f")
		p.changed("and at once", func() { p.rename("ctx/docs", "old"); p.rename("new", "ctx/docs") })
		p.expect("in that one", func() { p.write("ctx/docs/f", "ctx/docs/keep/f") }, "ctx/docs/keep/f")
	})
}

// Opening a file changes none. What an editor leaves behind may be part of an image: whoever has a
// folder watched decides.
func TestOpenFiles(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("ctx/app.py", "ctx/values.yaml~")
		p.watch("ctx", "ctx/values.yaml~")
		p.expect("open and close", func() {
			p.write("ctx/.app.py.swp", "ctx/.app.py.swx", "ctx/.app.py.swp")
			p.link("me@host.42:17", "ctx/.#app.py")
			p.write("ctx/#app.py#")
			p.remove("ctx/.app.py.swx")
			p.remove("ctx/.app.py.swp")
			p.remove("ctx/.#app.py")
			p.remove("ctx/#app.py#")
		})
		p.expect("a backup", func() { p.write("ctx/app.py~") }, "ctx/app.py~")
		p.watchPaths(p.exclude("ctx", "ctx", files.ToolFiles()...), Path{Name: p.path("ctx/values.yaml~")})
		p.expect("of no interest", func() {
			p.write("ctx/app.py~", "ctx/4913", "ctx/.git/index", "ctx/..app.py.swp", "ctx/.idea/x/y")
		})
		p.expect("one that is asked for", func() { p.write("ctx/values.yaml~") }, "ctx/values.yaml~")
		p.expect("safe write", func() {
			p.write("ctx/app.py___jb_tmp___")
			p.rename("ctx/app.py", "ctx/app.py___jb_old___")
			p.rename("ctx/app.py___jb_tmp___", "ctx/app.py")
			p.remove("ctx/app.py___jb_old___")
		}, "ctx/app.py")
	})
}

// exclude is a folder to watch; name and base are relative to the project.
func (p *project) exclude(name, base string, patterns ...string) Path {
	return Path{Name: p.path(name), Base: p.path(base), Exclude: patterns}
}

// below returns the folders of the project from one on that are watched, or polled.
func (p *project) below(top string) []string {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	folders := slices.Collect(maps.Keys(p.w.folders))
	for _, t := range p.w.targets {
		for name, s := range t.seen {
			if s.mode.IsDir() {
				folders = append(folders, name)
			}
		}
	}
	folders = slices.DeleteFunc(folders, func(folder string) bool { return !holds(p.path(top), folder) })
	for i := range folders {
		folders[i] = folders[i][len(p.dir)+1:]
	}
	slices.Sort(folders)
	return folders
}

func TestExcludeOfSeveralPaths(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("ctx/a/f", "ctx/b/f", "ctx/c/f", "ctx/c/sub/f", "ctx/c/other/f")
		p.watchPaths(
			p.exclude("ctx", "ctx", "a", "c"),
			p.exclude("ctx", "ctx", "b", "c"),
			p.exclude("ctx/c/f", "ctx", "**"),
			p.exclude("ctx/c/sub", "ctx/c", "sub/x"),
		)
		p.expect("what one of them excludes", func() { p.write("ctx/a/f", "ctx/b/f") }, "ctx/a/f", "ctx/b/f")
		p.expect("named ones", func() { p.write("ctx/c/f", "ctx/c/sub/f", "ctx/c/sub/y") },
			"ctx/c/f", "ctx/c/sub/f", "ctx/c/sub/y")
		p.expect("what all exclude", func() { p.write("ctx/c/g", "ctx/c/other/f", "ctx/c/sub/x/f") })

		p.expect("the folder goes", func() { p.rename("ctx/c", "gone") }, "ctx/c/f", "ctx/c/sub")
		p.expect("and is back", func() { p.rename("gone", "ctx/c") }, "ctx/c/f", "ctx/c/sub")
		p.expect("in it", func() { p.write("ctx/c/f", "ctx/c/sub/f", "ctx/c/g") }, "ctx/c/f", "ctx/c/sub/f")
	})
}

func TestExcludeChanges(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("ctx/a/f", "ctx/b/f")
		touch := func() { p.write("ctx/a/f", "ctx/b/f") }
		p.watchPaths(p.exclude("ctx", "ctx", "a"))
		p.expect("a excluded", touch, "ctx/b/f")
		p.watchPaths(p.exclude("ctx", "ctx", "b"))
		p.expect("b excluded", touch, "ctx/a/f")
		p.watchPaths(p.exclude("ctx", ".", "ctx/*"))
		p.expect("by another base", touch)
		p.watchPaths(p.exclude("ctx", "ctx", "a", "[")) // cannot be parsed
		p.expect("a broken list", touch, "ctx/a/f", "ctx/b/f")
		p.watch("ctx")
		p.expect("no list", touch, "ctx/a/f", "ctx/b/f")
	})
}

func TestExcludeBehindALink(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("real/a/f", "real/b/f")
		p.must(os.Symlink("real", p.path("ctx")))
		p.watchPaths(p.exclude("ctx", "ctx", "b"))
		p.expect("by the watched name", func() { p.write("real/a/f", "real/b/f") }, "ctx/a/f")
	})
}

func TestBringsBack(t *testing.T) {
	for _, c := range []struct {
		folder string
		lines  []string
		want   bool
	}{
		{"node_modules", []string{"node_modules"}, false},
		{"node_modules", []string{"node_modules", "!src/**"}, false},
		{"node_modules", []string{"*", "!src"}, false},
		{"a", []string{"*", "!a/b/c"}, true},
		{"a/b", []string{"*", "!a/b/c"}, true},
		{"a/b/c/d", []string{"a/b/c/d", "!a/b/c"}, false},
		{"a/x", []string{"*", "!a/b/c"}, false},
		{"a/b", []string{"*", "!*/*/f"}, true},
		{"a/b/c", []string{"*", "!*/*/f"}, false},
		{"a/b/c", []string{"*", "!**/f"}, true},
		{"a/b/c", []string{"*", "!a/**/f"}, true},
		{"x/b/c", []string{"*", "!a/**/f"}, false},
	} {
		if got := newFilter("/base", c.lines).includesBelow("/base/" + c.folder); got != c.want {
			t.Errorf("%q of %q: %v", c.folder, c.lines, got)
		}
	}
}
