package journal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// holdIn makes the test binary keep a journal in that folder open until it is killed.
const holdIn = "JOURNAL_TEST_HOLD_IN"

func TestMain(m *testing.M) {
	dir := os.Getenv(holdIn)
	if dir == "" {
		os.Exit(m.Run())
	}
	j, err := Open(dir, "uid", "p")
	if err == nil {
		err = j.Record(Release, "ns/r")
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stdout, err)
		os.Exit(1)
	}
	_, _ = fmt.Fprintln(os.Stdout, "held")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // for ever
}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, "uid", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(j *Journal, kind Kind) string {
	return strings.Join(j.Names(kind), " ")
}

func TestEntriesOutliveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "devloop")
	j := open(t, dir)
	for _, image := range []string{"a:1", "b:1", "a:2", "a:1", "c:1"} { // a:1 is used again
		must(t, j.Record(Image, image))
	}
	must(t, j.Record(Namespace, "a:1"))
	must(t, j.Forget(Image, "b:1"))
	must(t, j.Forget(Image, "never"))
	check := func(j *Journal) {
		t.Helper()
		if got := names(j, Image); got != "a:2 a:1 c:1" {
			t.Errorf("images %q", got)
		}
		if !j.Has(Namespace, "a:1") || j.Has(Image, "b:1") || j.Has(Release, "a:1") {
			t.Error("Has and Names differ")
		}
	}
	check(j)
	recorded := j.records
	must(t, j.Close())
	must(t, j.Close())
	if err := j.Record(Image, "d:1"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Record after Close = %v", err)
	}

	for range 2 { // the second time reads what the first one compacted
		j = open(t, dir)
		check(j)
		for i, l := range j.records {
			if !l.Time.Equal(recorded[i].Time) {
				t.Errorf("%s is of %v now, was of %v", l.Name, l.Time, recorded[i].Time)
			}
		}
		text, err := os.ReadFile(j.path)
		must(t, err)
		if lines := strings.Count(string(text), "\n"); lines != 4 || int64(len(text)) != j.size {
			t.Errorf("%d lines, %d bytes instead of %d:\n%s", lines, len(text), j.size, text)
		}
		must(t, j.Close())
	}
}

func TestOneFileForEachClusterAndProject(t *testing.T) {
	dir := t.TempDir()
	must(t, open(t, dir).Record(Image, "a:1"))
	for _, other := range [][2]string{{"uid2", "p"}, {"uid", "p2"}, {"../uid", "p/q"}} {
		j, err := Open(dir, other[0], other[1])
		must(t, err)
		if got := names(j, Image); got != "" {
			t.Errorf("%v has images %q", other, got)
		}
		must(t, j.Close())
	}
	if beside, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*.jsonl")); len(beside) > 0 {
		t.Errorf("written outside of its folder: %q", beside)
	}
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), holdIn+"="+dir)
		_, err := child.StdinPipe() // stays open
		must(t, err)
		stdout, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		said, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil || said != "held\n" {
			t.Fatalf("the child says %q, %v", said, err)
		}

		_, err = Open(dir, "uid", "p")
		var locked *LockedError
		if !errors.As(err, &locked) || locked.PID != child.Process.Pid || locked.Project != "p" {
			t.Fatalf("Open while pid %d holds it = %v", child.Process.Pid, err)
		}
		if !strings.Contains(err.Error(), fmt.Sprint(child.Process.Pid)) || !strings.Contains(locked.Hint(), "Ctrl+C") {
			t.Errorf("message %q, hint %q", err, locked.Hint())
		}

		must(t, child.Process.Kill())
		_ = child.Wait() // it was killed: an error
		j := open(t, dir)
		if got := names(j, Release); got != "ns/r" {
			t.Errorf("releases %q", got)
		}
		must(t, j.Close())
	}
}

func TestLockedWithinTheProcess(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	must(t, j.Record(Image, "a:1"))
	var locked *LockedError
	if _, err := Open(dir, "uid", "p"); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("second Open = %v", err)
	}
	must(t, j.Record(Image, "a:2")) // the attempt did no harm
	must(t, j.Close())
	if got := names(open(t, dir), Image); got != "a:1 a:2" {
		t.Errorf("images %q", got)
	}
}

func TestWhatACrashLeaves(t *testing.T) {
	const whole = `{"op":"record","kind":"image","name":"a:1","time":"2024-01-02T03:04:05Z"}` + "\n"
	for _, c := range []struct{ name, text, images, problem string }{
		{"nothing", "", "", ""},
		{"half a line", whole + whole[:40], "a:1", ""},
		{"all but the line's end", whole + strings.TrimSpace(strings.ReplaceAll(whole, "a:1", "a:2")), "a:1", ""},
		{"zeros", whole + "\x00\x00\x00", "a:1", ""},
		{"half a line, then more", whole[:40] + "\n" + whole, "", ":1: this line of the journal cannot be read: "},
		{"an empty line", whole + "\n", "", ":2: this line"},
		{"another op", whole + strings.ReplaceAll(whole, "record", "rename"), "",
			`:2: this line of the journal cannot be read: op "rename" is not known`},
		{"no name", whole + strings.ReplaceAll(whole, "a:1", ""), "",
			":2: this line of the journal cannot be read: kind or name is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "uid_p.jsonl")
			must(t, os.WriteFile(path, []byte(c.text), 0o600))
			must(t, os.WriteFile(path+".new", []byte("of a crash while compacting"), 0o600))
			if c.problem != "" {
				_, err := Open(dir, "uid", "p")
				if err == nil || !strings.Contains(err.Error(), path+c.problem) {
					t.Errorf("Open = %v", err)
				}
				if text, _ := os.ReadFile(path); string(text) != c.text {
					t.Errorf("the file was changed to %q", text)
				}
				must(t, os.WriteFile(path, nil, 0o600)) // repaired: it must not be locked any more
				open(t, dir)
				return
			}
			j := open(t, dir)
			if got := names(j, Image); got != c.images {
				t.Errorf("images %q", got)
			}
			must(t, j.Record(Image, "b:1"))
			must(t, j.Close())
			if got, want := names(open(t, dir), Image), strings.TrimSpace(c.images+" b:1"); got != want {
				t.Errorf("images %q after another record", got)
			}
		})
	}
}

func TestFailedWriteLeavesNoTrace(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	must(t, j.Record(Image, "a:1"))
	file := j.file
	readOnly, err := os.Open(j.path)
	must(t, err)
	defer readOnly.Close()
	j.file = readOnly
	if err := j.Record(Image, "a:2"); err == nil || j.Has(Image, "a:2") {
		t.Errorf("Record = %v", err)
	}
	j.file = file
	if err := j.Forget(Image, "a:1"); err == nil || !strings.Contains(err.Error(), "restart devloop") ||
		!j.Has(Image, "a:1") {
		t.Errorf("Forget when half a line may be in the file = %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 5 {
				name := fmt.Sprintf("i%d:%d", i, n)
				if err := j.Record(Image, name); err != nil || !j.Has(Image, name) {
					t.Errorf("Record = %v", err)
				}
				if n%2 == 1 {
					if err := j.Forget(Image, name); err != nil {
						t.Error(err)
					}
				}
				j.Names(Image)
			}
		})
	}
	all.Wait()
	before := names(j, Image)
	must(t, j.Close())
	if after := names(open(t, dir), Image); after != before || len(strings.Fields(after)) != 24 {
		t.Errorf("before %q, after %q", before, after)
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("HOME", "/h")
	got := map[string]string{}
	for _, state := range []string{"", "relative", "/state"} {
		t.Setenv("XDG_STATE_HOME", state)
		dir, err := DefaultDir()
		must(t, err)
		got[state] = dir
	}
	want := map[string]string{"": "/h/.local/state/devloop", "relative": "/h/.local/state/devloop",
		"/state": "/state/devloop"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}
