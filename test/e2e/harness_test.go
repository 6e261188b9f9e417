//go:build e2e

// What every story is told with: a project in a folder of its own, the real binary as a child
// process, its events as they come, steps, and one bound for every wait.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// longEnough bounds every wait: it is for pip over a slow mirror on a machine that does other
// things. How fast something is, is measured by test/bench.
const longEnough = 8 * time.Minute

// look is the pause between two looks at something that cannot be waited for.
const look = 50 * time.Millisecond

// setting returns a variable that test/e2e/run exports. Without it the test fails: it is never
// skipped.
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

// step is one part of a story. What comes after it stands on it, so the story ends with the first
// step that fails.
func step(t *testing.T, name string, do func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, do) {
		t.FailNow()
	}
}

// eventually looks until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	deadline := time.After(longEnough)
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", longEnough, what)
		}
	}
}

// pass lets time go by: for what has to go on for so long, not for something to happen.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(context.Cause(t.Context()))
	}
}

// soaking tells whether a test may take as long as it likes: make soak, outside of CI.
func soaking() bool { return os.Getenv("DEVLOOP_TEST_SOAK") != "" }

// unique returns a text that no other test, and no earlier one, has.
func unique() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }

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

// ---- projects
// ------------------------------------------------------------------------------------

// project is a folder with a devloop.yaml, to be edited by a test.
type project struct {
	name  string // of the project, and where its template says $NAME: of its namespace and its image
	port  int    // on this machine, where its template says $PORT
	dir   string
	cache string // devloop's own folder
	env   []string
}

// platform is the template that is what "devloop init --dask" writes: this repository's own
// platform.
const platform = "platform"

// newProject copies a folder of testdata, or makes the platform. "$NAME" and "$PORT" in its YAML
// files become a name and a port that no other project has, so that tests can run side by
// side.
func newProject(t *testing.T, template string) *project {
	t.Helper()
	p := &project{name: filepath.Base(template) + "-" + unique(), port: freePort(t), dir: t.TempDir(), cache: t.TempDir()}
	// t.TempDir has the test's name in it, and a socket's path may have 107 letters.
	sockets, err := os.MkdirTemp("", "run") //nolint:usetesting // see above
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	p.env = append(os.Environ(), "XDG_STATE_HOME="+t.TempDir(), "XDG_CACHE_HOME="+p.cache, "XDG_RUNTIME_DIR="+sockets)
	if template == platform {
		p.call(t, 0, "init", "--dask")
		p.append(t, "devloop.yaml", "buildIn: host # the node reaches no index of packages\n")
		// The chart, as on a laptop that has downloaded it before.
		p.env = append(p.env, "XDG_CACHE_HOME="+setting(t, "DEVLOOP_TEST_CACHE_HOME"), "DEVLOOP_PROFILE=small")
		return p
	}
	must(t, os.CopyFS(p.dir, os.DirFS(filepath.Join("testdata", template))))
	if filepath.Dir(template) == "deploy" { // they share a chart
		must(t, os.CopyFS(filepath.Join(p.dir, "workload"), os.DirFS(filepath.Join("testdata", "deploy", "workload"))))
	}
	must(t, filepath.WalkDir(p.dir, func(file string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".yaml" {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := strings.NewReplacer("$NAME", p.name, "$PORT", strconv.Itoa(p.port)).Replace(string(content))
		return os.WriteFile(file, []byte(text), 0o644)
	}))
	t.Cleanup(func() { // what devloop built for this test is of use to no other one
		images, err := command(context.Background(), os.Environ(), "docker", "image", "ls", "--format",
			"{{.Repository}}:{{.Tag}}", p.name)
		for _, image := range strings.Fields(images) {
			if err == nil { // else these are its words
				docker(t, "image", "rm", image)
			}
		}
	})
	return p
}

var ports atomic.Int32 // that were given out

// freePort returns a port that nothing listens on, among those that test/e2e/run gives to this
// process. They are below those that the kernel gives to connections.
func freePort(t *testing.T) int {
	t.Helper()
	first, err := strconv.Atoi(setting(t, "DEVLOOP_TEST_PORTS"))
	must(t, err)
	for range 4000 {
		port := first + int(ports.Add(1))
		if listener, err := net.Listen("tcp", local(port)); err == nil {
			must(t, listener.Close())
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// local is a port's address on this machine.
func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// url is where the project's forward answers.
func (p *project) url() string { return "http://" + local(p.port) + "/" }

func (p *project) read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, name))
	must(t, err)
	return string(content)
}

// write saves a file of the project as an editor does: a new file, renamed over the old one, so
// that nobody sees half of it. It is made outside of the project, where it is no change of its own.
func (p *project) write(t *testing.T, name, content string) {
	t.Helper()
	saved := p.dir + ".saved" // beside the project: projects of one test save at the same time
	must(t, os.WriteFile(saved, []byte(content), 0o644))
	must(t, os.Rename(saved, filepath.Join(p.dir, name)))
}

// append adds to a file of the project, in place.
func (p *project) append(t *testing.T, name, content string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(p.dir, name), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteString(content)
	must(t, errors.Join(err, file.Close()))
}

// edit replaces old by new in a file of the project.
func (p *project) edit(t *testing.T, name, old, new string) {
	t.Helper()
	before := p.read(t, name)
	after := strings.Replace(before, old, new, 1)
	if after == before {
		t.Fatalf("%s does not contain %q", name, old)
	}
	p.write(t, name, after)
}

// awaitPage waits until the project's forward serves the page.
func (p *project) awaitPage(t *testing.T, want string) {
	t.Helper()
	got := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s serves %q, not %q", p.url(), got, want)
		}
	}()
	eventually(t, "the page is served", func() (served bool) {
		answer, err := get(p.url())
		if got = strings.TrimSpace(answer); err != nil {
			got = err.Error()
		}
		return got == want
	})
}

// get asks on a connection of its own.
func get(url string) (string, error) {
	client := &http.Client{Timeout: longEnough, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func listens(port int) bool {
	c, err := net.Dial("tcp", local(port))
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// processes returns those with this command line, on all of the machine: in containers, too.
func processes(words string) (pids []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		text, _ := os.ReadFile(name) // it may have gone
		if strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " ")) == words {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// runs tells whether a process with this command line is there.
func runs(words string) bool { return len(processes(words)) > 0 }

// call runs devloop to its end, and checks the exit code.
func (p *project) call(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	defer cancel()
	cmd := exec.CommandContext(ctx, setting(t, "DEVLOOP_BIN"), args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("devloop %s: exit code %d, not %d:\n%s%s", strings.Join(args, " "), got, code, &out, &log)
	}
	return out.String(), log.String()
}

// remove ends what a test has deployed, and checks that devloop thinks so, too.
func (p *project) remove(t *testing.T) {
	t.Helper()
	if _, log := p.call(t, 0, "delete", "--crds", "--volumes"); !strings.Contains(log, "nothing left behind") {
		t.Errorf("devloop delete says:\n%s", log)
	}
	p.gone(t)
}

// ---- a devloop that runs
// -------------------------------------------------------------------------

// devloop is one running process, and what it has said.
type devloop struct {
	*project
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and all of its output was read

	mu    sync.Mutex
	said  []line
	grown chan struct{} // closed and replaced when said grows
}

// line is one of the log: an event, or text where it is none.
type line struct {
	event.Event
	text string
}

// field is a field of the event as text, "" if there is none.
func (l line) field(key string) string {
	if value := l.Field(key); value != nil {
		return fmt.Sprint(value)
	}
	return ""
}

func (l line) String() string {
	if l.Message == "" {
		return l.text
	}
	said := fmt.Sprintf("%s run=%d %s: %s: %s %v",
		l.Time.Format("15:04:05.000"), l.Run, l.Stage, l.Phase, l.Message, l.Details())
	if l.Err != nil {
		said += fmt.Sprintf(" err=%q hint=%q", l.Err, event.Hint(l.Err))
	}
	return said
}

// start runs devloop, which tells its events in JSON, all of them unless it is to be quiet. What
// still runs when the test ends is killed.
func (p *project) start(t *testing.T, args ...string) *devloop {
	t.Helper()
	args = append(args, "--log-format", "json")
	if !slices.Contains(args, "-q") {
		args = append(args, "--verbose")
	}
	d := &devloop{project: p, cmd: exec.Command(setting(t, "DEVLOOP_BIN"), args...)}
	d.cmd.Dir, d.cmd.Env = p.dir, p.env
	d.run(t)
	return d
}

// run starts d's command and reads what it says.
func (d *devloop) run(t *testing.T) {
	t.Helper()
	d.done, d.grown = make(chan struct{}), make(chan struct{})
	reader, writer := io.Pipe()
	d.cmd.Stdout, d.cmd.Stderr = writer, writer
	must(t, d.cmd.Start())
	go func() {
		_ = d.cmd.Wait() // the test reads ProcessState
		_ = writer.Close()
	}()
	go func() {
		defer close(d.done)
		scanner := bufio.NewScanner(reader)
		scanner.Buffer(nil, 16<<20)
		for scanner.Scan() {
			one := line{text: scanner.Text()}
			_ = json.Unmarshal(scanner.Bytes(), &one.Event) // else it is text
			d.mu.Lock()
			d.said = append(d.said, one)
			close(d.grown)
			d.grown = make(chan struct{})
			d.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		select {
		case <-d.done:
		default:
			d.kill(t)
		}
		if t.Failed() {
			t.Logf("%s in %s said:", strings.Join(d.cmd.Args, " "), d.name)
			for _, one := range d.log(0) {
				t.Log(one)
			}
		}
	})
}

// mark is how much was said so far, to look only at what comes after.
func (d *devloop) mark() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.said)
}

// log returns what was said since a mark.
func (d *devloop) log(from int) []line {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.said[min(from, len(d.said)):])
}

// text returns all that was said, as it was written.
func (d *devloop) text() string {
	var all strings.Builder
	for _, one := range d.log(0) {
		all.WriteString(one.text + "\n")
	}
	return all.String()
}

// expectation describes an event.
type expectation struct {
	message string
	phases  []event.Phase // "": any that is no beginning and no failure
	fields  map[string]*regexp.Regexp
	err     *regexp.Regexp
	run     int // or a later one
}

// The ends of a run, and the beginning of a build.
var (
	building   = on(event.BuildingImage)
	ready      = on(event.RunComplete, event.Succeeded)
	failed     = on(event.RunComplete, event.Failed)
	superseded = on(event.RunComplete, event.Superseded)
)

// on is an event with this message: in these phases, or by default that which it tells of happened.
func on(message string, phases ...event.Phase) expectation {
	if len(phases) == 0 {
		phases = []event.Phase{event.Succeeded, event.Noted, event.Detailed, event.Warned}
	}
	return expectation{message: message, phases: phases}
}

// with demands that a field matches a pattern.
func (e expectation) with(field, pattern string) expectation {
	fields := map[string]*regexp.Regexp{field: regexp.MustCompile(pattern)}
	for key, value := range e.fields {
		fields[key] = value
	}
	e.fields = fields
	return e
}

// because demands that the error, or its hint below it, matches a pattern.
func (e expectation) because(pattern string) expectation {
	e.err = regexp.MustCompile(pattern)
	return e
}

func (e expectation) String() string {
	text := fmt.Sprintf("%q %v", e.message, e.phases)
	for key, value := range e.fields {
		text += fmt.Sprintf(" %s=~%q", key, value)
	}
	if e.err != nil {
		text += fmt.Sprintf(" because %q", e.err)
	}
	return text
}

func (e expectation) met(l line) bool {
	if l.Message != e.message || l.Run < e.run || !slices.Contains(e.phases, l.Phase) {
		return false
	}
	for key, pattern := range e.fields {
		if !pattern.MatchString(l.field(key)) {
			return false
		}
	}
	return e.err == nil || l.Err != nil && e.err.MatchString(l.Err.Error()+"\n"+event.Hint(l.Err))
}

// await returns the first event since a mark that is as expected.
func (d *devloop) await(t *testing.T, from int, e expectation) line {
	t.Helper()
	return d.find(t, from, e.String(), e.met)
}

// find returns the first line since a mark for which met is true; what names it if it never comes.
func (d *devloop) find(t *testing.T, from int, what string, met func(line) bool) line {
	t.Helper()
	deadline := time.After(longEnough)
	for next := from; ; {
		d.mu.Lock()
		grown, lines := d.grown, d.said[min(next, len(d.said)):]
		d.mu.Unlock()
		for _, one := range lines {
			next++
			if met(one) {
				return one
			}
		}
		select {
		case <-grown:
		case <-d.done:
			if d.mark() <= next {
				t.Fatalf("devloop ended (%s) before it said %s", d.cmd.ProcessState, what)
			}
		case <-deadline:
			t.Fatalf("devloop did not say within %s: %s", longEnough, what)
		}
	}
}

// count returns how many events since a mark are as expected.
func (d *devloop) count(from int, e expectation) (n int) {
	for _, one := range d.log(from) {
		if e.met(one) {
			n++
		}
	}
	return n
}

// change is something that a test does for which devloop is to run, and where the log was before
// it.
type change struct {
	*devloop
	since int
}

// next is a change that the test makes by itself, right after this.
func (d *devloop) next() change { return change{d, d.mark()} }

// save is write, for a test that then waits for what devloop makes of it.
func (d *devloop) save(t *testing.T, name, content string) change {
	t.Helper()
	c := d.next()
	d.write(t, name, content)
	return c
}

// replace is edit, for the same.
func (d *devloop) replace(t *testing.T, name, old, new string) change {
	t.Helper()
	c := d.next()
	d.edit(t, name, old, new)
	return c
}

// again asks for a run though nothing has changed.
func (d *devloop) again(t *testing.T) change {
	t.Helper()
	c := d.next()
	d.signal(t, syscall.SIGHUP)
	return c
}

// arrives waits until a run that began after the change has ended well.
func (c change) arrives(t *testing.T) {
	t.Helper()
	c.ends(t, ready)
}

// fails waits until a run that began after the change has failed for that reason.
func (c change) fails(t *testing.T, because string) {
	t.Helper()
	c.ends(t, failed.because(because))
}

func (c change) ends(t *testing.T, e expectation) {
	t.Helper()
	e.run = c.await(t, c.since, on(event.RunStarts)).Run
	c.await(t, c.since, e)
}

// happens waits for an event since the change.
func (c change) happens(t *testing.T, e expectation) line {
	t.Helper()
	return c.await(t, c.since, e)
}

// counts returns how many events since the change are as expected.
func (c change) counts(e expectation) int { return c.count(c.since, e) }

func (d *devloop) signal(t *testing.T, s os.Signal) {
	t.Helper()
	must(t, d.cmd.Process.Signal(s))
}

// interrupt is Ctrl+C; it returns the exit code.
func (d *devloop) interrupt(t *testing.T) int {
	t.Helper()
	d.signal(t, syscall.SIGINT)
	return d.exit(t)
}

// exit waits until the process has ended, and returns its exit code.
func (d *devloop) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(longEnough):
		t.Fatalf("devloop had not ended after %s", longEnough)
	}
	return d.cmd.ProcessState.ExitCode()
}

// stop is Ctrl+C, after which all has to have gone well.
func (d *devloop) stop(t *testing.T) {
	t.Helper()
	if code := d.interrupt(t); code != 0 {
		t.Fatalf("devloop ended with exit code %d", code)
	}
}

// kill is kill -9.
func (d *devloop) kill(t *testing.T) {
	t.Helper()
	_ = d.cmd.Process.Kill() // it may just have ended
	<-d.done
}

// docker runs the docker command, whose errors are none here: an image may be gone.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(context.Background(), os.Environ(), "docker", args...) // also when the test is over
	if err != nil {
		t.Log(err)
	}
	return out
}
