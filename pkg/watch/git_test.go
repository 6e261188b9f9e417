package watch

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Of what git does, no file is forgotten, and its files come many at a time; settle_test.go holds
// when a batch ends.
func TestGit(t *testing.T) {
	const files = 2000
	p := open(t, Options{}, nil)
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", p.path("repo"),
			"-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "gc.auto=0"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	var names []string
	writeAll := func(content string) {
		t.Helper()
		for _, name := range names {
			p.must(os.WriteFile(p.path(name), []byte(content+name), 0o644))
		}
	}
	for i := range files {
		names = append(names, fmt.Sprintf("repo/%02d/%d.py", i%40, i))
	}
	p.write(names...)
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-qm", "one")
	git("checkout", "-qb", "other")
	writeAll("other ")
	git("commit", "-qam", "two")
	p.set([]Path{p.exclude("repo", "repo", ".git")})

	// each does something and expects one change of every file.
	each := func(what string, do func()) {
		t.Helper()
		did := make(chan struct{})
		go func() { defer close(did); do() }()
		missing := map[string]bool{}
		for _, name := range names {
			missing[p.path(name)] = true
		}
		batches := 0
		deadline := time.After(time.Minute)
		for len(missing) > 0 {
			select {
			case settled := <-p.w.Batches():
				batch := settled.Paths
				batches++
				for _, path := range batch {
					delete(missing, path)
					if strings.Contains(path, "/.git") {
						t.Errorf("%s: reported %s", what, path)
					}
				}
			case <-deadline:
				t.Fatalf("%s: %d of %d files were not reported", what, len(missing), files)
			}
		}
		<-did
		if batches >= files {
			t.Errorf("%s: a batch for each file", what)
		}
		t.Logf("%s: %d batches", what, batches)
		select { // what the last batch may have left over
		case <-p.w.Batches():
		case <-time.After(3 * DefaultQuiet):
		}
	}
	each("checkout", func() { git("checkout", "-q", "main") })
	each("and back", func() { git("checkout", "-q", "other") })
	each("an editor's replace in all files", func() { writeAll("edited ") })
	each("stash", func() { git("stash", "-q") })
	each("stash pop", func() { git("stash", "pop", "-q") })
}
