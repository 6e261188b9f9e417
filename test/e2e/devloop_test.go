//go:build e2e

// The real binary as a child process, its log read line by line.
package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// setting returns a variable that test/e2e/run exports. A part that cannot run fails.
func setting(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run this test with make e2e", name)
	}
	return value
}

// must ends the test with an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// project is a copy of this repository's platform, to be edited by a test.
type project struct {
	t     *testing.T
	dir   string
	cache string // devloop's, if the test looks into it
	env   []string
}

func newProject(t *testing.T) *project {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join("..", "..")
	for _, name := range []string{"requirements.txt", "Dockerfile.worker", "Dockerfile.client", "devloop.yaml", "deploy"} {
		source := filepath.Join(root, name)
		info, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			err = os.CopyFS(filepath.Join(dir, name), os.DirFS(source))
		} else {
			var content []byte
			if content, err = os.ReadFile(source); err == nil {
				err = os.WriteFile(filepath.Join(dir, name), content, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p := &project{t: t, dir: dir}
	p.append("devloop.yaml", "buildIn: host # the node reaches no index of packages\n")
	p.env = append(os.Environ(), "XDG_STATE_HOME="+t.TempDir(), "XDG_CACHE_HOME="+setting(t, "DEVLOOP_TEST_CACHE_HOME"))
	return p
}

// edit replaces old by new in a file of the project, as an editor saves: a new file, renamed over the old one.
func (p *project) edit(name, old, new string) {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	content, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	changed := strings.Replace(string(content), old, new, 1)
	if changed == string(content) {
		p.t.Fatalf("%s does not contain %q", name, old)
	}
	if err := os.WriteFile(file+"~", []byte(changed), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(file+"~", file); err != nil {
		p.t.Fatal(err)
	}
}

// devloop is one running process.
type devloop struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and all of its output was read

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed and replaced when lines grow
}

func (p *project) start(args ...string) *devloop {
	p.t.Helper()
	d := &devloop{t: p.t, cmd: exec.Command(setting(p.t, "DEVLOOP_BIN"), args...), done: make(chan struct{}), grown: make(chan struct{})}
	d.cmd.Dir, d.cmd.Env = p.dir, p.env
	d.run(args)
	return d
}

// run starts d's command and reads what it says. What still runs when the test ends is killed.
func (d *devloop) run(args []string) {
	d.t.Helper()
	reader, writer := io.Pipe()
	d.cmd.Stdout, d.cmd.Stderr = writer, writer
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait() // the test reads ProcessState
		_ = writer.Close()
	}()
	go func() {
		defer close(d.done)
		scanner := bufio.NewScanner(reader)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			d.mu.Lock()
			d.lines = append(d.lines, scanner.Text())
			close(d.grown)
			d.grown = make(chan struct{})
			d.mu.Unlock()
		}
	}()
	d.t.Cleanup(func() {
		select {
		case <-d.done:
		default:
			_ = d.cmd.Process.Kill()
			<-d.done
		}
		if d.t.Failed() {
			d.t.Logf("devloop %s said:\n%s", strings.Join(args, " "), strings.Join(d.log(0), "\n"))
		}
	})
}

// log returns the lines from number from on.
func (d *devloop) log(from int) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.lines[min(from, len(d.lines)):]...)
}

// mark is the number of lines so far, to look only at what comes after.
func (d *devloop) mark() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lines)
}

// wait returns the submatches of the first line from number from on that matches pattern.
func (d *devloop) wait(from int, pattern string, timeout time.Duration) []string {
	d.t.Helper()
	expression := regexp.MustCompile(pattern)
	deadline := time.After(timeout)
	for next := from; ; {
		d.mu.Lock()
		grown := d.grown
		lines := d.lines[min(next, len(d.lines)):]
		d.mu.Unlock()
		for _, line := range lines {
			next++
			if match := expression.FindStringSubmatch(line); match != nil {
				return match
			}
		}
		select {
		case <-grown:
		case <-d.done:
			if len(d.log(next)) == 0 {
				d.t.Fatalf("devloop ended (%s) before it said %q", d.cmd.ProcessState, pattern)
			}
		case <-deadline:
			d.t.Fatalf("devloop did not say %q within %s", pattern, timeout)
		}
	}
}

// count returns how many lines from number from on match pattern.
func (d *devloop) count(from int, pattern string) int {
	expression := regexp.MustCompile(pattern)
	n := 0
	for _, line := range d.log(from) {
		if expression.MatchString(line) {
			n++
		}
	}
	return n
}

// interrupt is Ctrl+C; it returns the exit code.
func (d *devloop) interrupt(timeout time.Duration) int {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-time.After(timeout):
		d.t.Fatalf("devloop had not ended %s after Ctrl+C", timeout)
	}
	return d.cmd.ProcessState.ExitCode()
}

// command runs a program to its end.
func command(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
