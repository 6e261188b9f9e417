//go:build e2e

// Every way to save counts once, the newest state wins, and what passes by itself needs nobody.
package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// healed is how long a fault may take to be over once what caused it is: retries are half a minute apart at most.
	healed = 3 * time.Minute
	// rest is how long nothing has to happen where nothing should: longer than changes settle.
	rest = 3 * time.Second

	tryingAgain = `trying again until it works`
	building    = `building image `
)

func TestWatch(t *testing.T) {
	cluster := kubernetesClient(t)
	node := onlyNode(t)
	p := newProject(t, "small")
	nonce := strconv.FormatInt(time.Now().UnixNano(), 36)
	p.write(t, "index.html", "at first "+nonce+"\n")
	page := 0
	next := func() string { page++; return fmt.Sprintf("page %d %s\n", page, nonce) }
	file := filepath.Join(p.dir, "index.html")
	git := func(t *testing.T, args ...string) {
		t.Helper()
		args = append([]string{"-C", p.dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)
		if _, err := command(t.Context(), os.Environ(), "git", args...); err != nil {
			t.Fatal(err)
		}
	}
	git(t, "init", "--quiet")

	d := p.start(t, "--verbose")
	d.await(t, 0, ready)
	p.awaitPage(t, "at first "+nonce)

	ways := []struct {
		name string
		save func(t *testing.T, content string)
	}{
		{"in place", func(t *testing.T, content string) { must(t, os.WriteFile(file, []byte(content), 0o644)) }},
		{"a new file renamed over it", func(t *testing.T, content string) {
			must(t, os.WriteFile(file+".tmp", []byte(content), 0o644))
			must(t, os.Rename(file+".tmp", file))
		}},
		{"backup and new file, as vim does", func(t *testing.T, content string) {
			must(t, os.WriteFile(filepath.Join(p.dir, ".index.html.swp"), nil, 0o600))
			must(t, os.Rename(file, file+"~"))
			must(t, os.WriteFile(file, []byte(content), 0o644))
			must(t, os.Remove(file+"~"))
			must(t, os.Remove(filepath.Join(p.dir, ".index.html.swp")))
		}},
		{"deleted and made again", func(t *testing.T, content string) {
			must(t, os.Remove(file))
			must(t, os.WriteFile(file, []byte(content), 0o644))
		}},
		{"cp -p of an older file", func(t *testing.T, content string) {
			older := filepath.Join(t.TempDir(), "older")
			must(t, os.WriteFile(older, []byte(content), 0o644))
			past := time.Now().Add(-time.Hour)
			must(t, os.Chtimes(older, past, past))
			_, err := command(t.Context(), os.Environ(), "cp", "-p", older, file)
			must(t, err)
		}},
		{"sed -i", func(t *testing.T, content string) {
			_, err := command(t.Context(), os.Environ(), "sed", "-i", "s/.*/"+strings.TrimSpace(content)+"/", file)
			must(t, err)
		}},
	}
	arrives := func(t *testing.T, save func(t *testing.T, content string)) {
		t.Helper()
		content, mark := next(), d.mark()
		save(t, content)
		d.await(t, mark, ready)
		p.awaitPage(t, strings.TrimSpace(content))
		if n := d.count(mark, building); n != 1 {
			t.Errorf("%d builds begun", n)
		}
		if n := d.count(mark, ready); n != 1 {
			t.Errorf("%d runs", n)
		}
	}
	for _, way := range ways {
		t.Run("saved: "+way.name, func(t *testing.T) { arrives(t, way.save) })
	}
	inPlace := ways[0].save
	quietly := func(t *testing.T, what string, do func()) {
		t.Helper()
		mark := d.mark()
		do()
		pass(t, rest)
		if n := d.count(mark, `ready in`); n != 0 { // nor a run that starts
			t.Errorf("%s: %d lines of runs", what, n)
		}
	}

	t.Run("git takes the file back and forth", func(t *testing.T) {
		git(t, "add", "--all")
		git(t, "commit", "--quiet", "-m", "one")
		arrives(t, inPlace)
		changed := fmt.Sprintf("page %d %s", page, nonce)
		stashed := d.mark()
		git(t, "stash", "--quiet")
		d.await(t, stashed, ready)
		popped := d.mark()
		git(t, "stash", "pop", "--quiet")
		d.await(t, popped, ready)
		p.awaitPage(t, changed)
		if n := d.count(stashed, building); n != 0 {
			t.Errorf("%d builds of what had been built before", n)
		}
	})

	t.Run("what holds what it held starts nothing", func(t *testing.T) {
		content, err := os.ReadFile(file)
		must(t, err)
		quietly(t, "written again", func() { must(t, os.WriteFile(file, content, 0o644)) })
		quietly(t, "touched", func() { must(t, os.Chtimes(file, time.Now(), time.Now())) })
		quietly(t, "git status, and a file that .dockerignore leaves out", func() {
			git(t, "status")
			p.write(t, "notes.txt", "not in the image")
		})
	})

	t.Run("ten saves in five seconds begin two builds at most", func(t *testing.T) {
		mark := d.mark()
		var content string
		for range 10 {
			content = next()
			p.write(t, "index.html", content)
			pass(t, 500*time.Millisecond)
		}
		p.awaitPage(t, strings.TrimSpace(content))
		d.await(t, mark, ready)
		if n := d.count(mark, building); n > 2 {
			t.Errorf("%d builds begun", n)
		}
	})

	t.Run("a save during a build cancels it", func(t *testing.T) {
		const napping = "RUN sleep 314"
		mark := d.mark()
		p.edit(t, "Dockerfile", "CMD", napping+"\nCMD")
		d.await(t, mark, building)
		eventually(t, "the build is under way", func() bool { return runs("sleep 314") })
		begin := time.Now()
		p.edit(t, "Dockerfile", napping+"\n", "")
		d.await(t, mark, superseded)
		took := time.Since(begin)
		t.Logf("cancelled %s after the save", took.Round(time.Millisecond))
		if took > time.Second { // 200 ms, if nothing else runs
			t.Errorf("cancelling took %s", took)
		}
		d.await(t, mark, ready)
		eventually(t, "the build's process is gone", func() bool { return !runs("sleep 314") })
	})

	t.Run("devloop.yaml is applied at once, or reported", func(t *testing.T) {
		mark := d.mark()
		p.edit(t, "devloop.yaml", "forwards:", "forward:")
		d.says(t, mark, `devloop.yaml is not valid, its last valid state stays in force.*unknown key .*forward`)
		d.await(t, mark, ready)
		arrives(t, inPlace)
		open := dial(t, 8002) // of a forward that does not change
		mark = d.mark()
		p.edit(t, "devloop.yaml", "forward:", "forwards:\n  - { deployment: small, namespace: small, port: 8080, local: 8003 }")
		d.says(t, mark, `listening .*127\.0\.0\.1:8003`)
		d.says(t, mark, `valid again`)
		d.await(t, mark, ready)
		if answer, err := get(http.DefaultClient, "http://127.0.0.1:8003/"); err != nil || !strings.Contains(answer, nonce) {
			t.Errorf("the new forward answers %q (%v)", answer, err)
		}
		taken, err := net.Listen("tcp", "127.0.0.1:8004")
		must(t, err)
		mark = d.mark()
		p.edit(t, "devloop.yaml", "local: 8003", "local: 8004")
		d.says(t, mark, `local port 8004 is taken by`)
		must(t, taken.Close())
		mark = d.mark()
		p.edit(t, "devloop.yaml", "\n  - { deployment: small, namespace: small, port: 8080, local: 8004 }", "")
		d.says(t, mark, `no longer listening .*127\.0\.0\.1:8003`)
		d.await(t, mark, ready)
		if listens(8003) {
			t.Error("port 8003 is still open")
		}
		_, _ = io.WriteString(open, "GET / HTTP/1.0\r\n\r\n")
		if answer, err := io.ReadAll(open); !strings.Contains(string(answer), "200 OK") {
			t.Errorf("a connection that was open all the while: %q, %v", answer, err)
		}
	})

	t.Run("SIGHUP starts a run", func(t *testing.T) {
		for range 2 { // the second one is no impatience
			mark := d.mark()
			must(t, d.cmd.Process.Signal(syscall.SIGHUP))
			d.await(t, mark, ready)
		}
	})

	// heals breaks something, saves, and mends it: the save arrives without another one, and the trouble was told once.
	heals := func(t *testing.T, breaks, mends func(t *testing.T)) {
		t.Helper()
		content, mark := next(), d.mark()
		breaks(t)
		p.write(t, "index.html", content)
		d.wait(mark, tryingAgain, 2*time.Minute)
		pass(t, 10*time.Second) // some tries
		if n := d.count(mark, `^\S+ ERRO .*run failed`); n != 1 {
			t.Errorf("the failure was told %d times", n)
		}
		mends(t)
		begin := time.Now()
		d.await(t, mark, ready)
		p.awaitPage(t, strings.TrimSpace(content))
		t.Logf("healed %s after the fault was over", time.Since(begin).Round(time.Millisecond))
	}
	t.Run("Docker away", func(t *testing.T) {
		heals(t, func(t *testing.T) { script(t, "docker-down") }, func(t *testing.T) { script(t, "docker") })
	})
	t.Run("Docker restarted during a build", func(t *testing.T) {
		mark := d.mark()
		p.edit(t, "Dockerfile", "CMD", "RUN sleep 7\nCMD")
		eventually(t, "the build is under way", func() bool { return runs("sleep 7") })
		script(t, "docker-down")
		script(t, "docker")
		d.await(t, mark, ready)
		mark = d.mark()
		p.edit(t, "Dockerfile", "RUN sleep 7\n", "")
		d.await(t, mark, ready)
	})
	t.Run("an API server away for 30 s", func(t *testing.T) {
		heals(t, func(t *testing.T) { script(t, "kill", node, "kube-apiserver") }, func(t *testing.T) {
			pass(t, 20*time.Second)
			script(t, "restart", node, "kube-apiserver")
		})
	})
	t.Run("a node without network", func(t *testing.T) {
		heals(t, func(t *testing.T) { script(t, "network", node, "off") }, func(t *testing.T) { script(t, "network", node, "on") })
	})
	t.Run("a node without room", func(t *testing.T) {
		heals(t, func(t *testing.T) { script(t, "disk", node, "full") }, func(t *testing.T) { script(t, "disk", node, "free") })
	})
	t.Run("a machine asleep", func(t *testing.T) {
		must(t, d.cmd.Process.Signal(syscall.SIGSTOP))
		content, mark := next(), d.mark()
		p.write(t, "index.html", content)
		pass(t, 5*time.Second)
		must(t, d.cmd.Process.Signal(syscall.SIGCONT))
		d.await(t, mark, ready)
		p.awaitPage(t, strings.TrimSpace(content))
	})

	t.Run("a hundred saves, as they come", func(t *testing.T) {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		before := d.footprint()
		for i := range 100 {
			content := next()
			ways[random.IntN(len(ways))].save(t, content)
			pass(t, time.Duration(random.ExpFloat64()*float64(500*time.Millisecond)))
			if i%20 == 19 {
				p.awaitPage(t, strings.TrimSpace(content))
			}
		}
		after := d.footprint()
		t.Logf("seed %d; devloop before: %s; after: %s", seed, before, after)
		if after.megabytes > before.megabytes+60 || after.descriptors > before.descriptors+8 || after.threads > before.threads+8 {
			t.Error("devloop takes more than before")
		}
	})

	t.Run("twenty thousand files cost nothing at rest", func(t *testing.T) {
		many := filepath.Join(p.dir, "many")
		for i := range 20_000 {
			name := filepath.Join(many, strconv.Itoa(i/200), strconv.Itoa(i))
			if i%200 == 0 {
				must(t, os.MkdirAll(filepath.Dir(name), 0o755))
			}
			must(t, os.WriteFile(name, []byte(name), 0o644))
		}
		p.write(t, ".dockerignore", "*\n!index.html\n!many\n")
		mark := d.mark()
		p.edit(t, "Dockerfile", "COPY index.html .", "COPY . .")
		d.await(t, mark, ready)
		arrives(t, inPlace)
		pass(t, 20*time.Second) // what the run took goes back
		begin, ticks := time.Now(), cpuTicks(t, d)
		pass(t, 20*time.Second)
		share := float64(cpuTicks(t, d)-ticks) / 100 / time.Since(begin).Seconds() // a tick is 10 ms
		t.Logf("idle: %.3f %% of a core, %s", 100*share, d.footprint())
		if share > 0.005 { // 0.1 % is one tick in ten seconds; other processes' noise is in it
			t.Errorf("idle, it takes %.2f %% of a core", 100*share)
		}
		if now := d.footprint(); now.megabytes > 80 {
			t.Errorf("idle, it takes %s", now)
		}
	})

	d.stop(t)

	t.Run("the keys of a terminal", func(t *testing.T) {
		w := startInTerminal(t, p, "--verbose")
		w.await(t, 0, ready)
		w.press("?")
		w.says(t, 0, `r: run now`)
		w.press("p")
		w.says(t, 0, `paused`)
		content, mark := next(), w.mark()
		p.write(t, "index.html", content)
		pass(t, rest)
		if n := w.count(mark, building); n != 0 {
			t.Error("built while it was paused")
		}
		w.press("p")
		w.await(t, mark, ready)
		p.awaitPage(t, strings.TrimSpace(content))
		mark = w.mark()
		w.press("r")
		w.await(t, mark, ready)
		mark = w.mark()
		w.press("l")
		w.says(t, mark, `small-\S+: .*GET / HTTP`)
		w.press("l")
		w.says(t, mark, `logs of the pods are off`)
		w.press("q")
		select {
		case <-w.done:
		case <-time.After(time.Minute):
			t.Fatal("q does not end it")
		}
		if code := w.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	if pods := p.pods(t, cluster); len(pods) != 0 {
		t.Errorf("pods left: %v", pods)
	}

	t.Run("a terminal that is closed", func(t *testing.T) {
		w := startInTerminal(t, p)
		w.await(t, 0, ready)
		must(t, w.cmd.Process.Kill()) // script(1) alone: its terminal goes, and the kernel tells devloop by SIGHUP
		eventually(t, "devloop cleaned up and ended", func() bool { return len(p.pods(t, cluster)) == 0 && !listens(8002) })
	})
}

// terminal is a devloop with somebody at its keyboard.
type terminal struct {
	*devloop
	keyboard io.Writer
}

// startInTerminal starts devloop in a terminal of its own, which script(1) makes.
func startInTerminal(t *testing.T, p *project, args ...string) *terminal {
	t.Helper()
	d := &devloop{t: t, done: make(chan struct{}), grown: make(chan struct{})}
	line := "exec " + setting(t, "DEVLOOP_BIN") + " " + strings.Join(args, " ")
	d.cmd = exec.Command("script", "--quiet", "--return", "--command", line, "/dev/null")
	d.cmd.Dir, d.cmd.Env = p.dir, append(p.env, "TERM=dumb", "SHELL=/bin/sh")
	keyboard, err := d.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.run(args)
	return &terminal{d, keyboard}
}

func (w *terminal) press(keys string) {
	w.t.Helper()
	if _, err := io.WriteString(w.keyboard, keys); err != nil {
		w.t.Fatal(err)
	}
}

// runs tells whether a process with this command line is there.
func runs(words string) bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		text, _ := os.ReadFile(name) // it may have gone
		if strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " ")) == words {
			return true
		}
	}
	return false
}

// cpuTicks is the time that devloop's process has worked, in hundredths of a second (proc(5)).
func cpuTicks(t *testing.T, d *devloop) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := bufio.NewScanner(strings.NewReader(rest))
	fields.Split(bufio.ScanWords)
	sum := 0
	for i := 3; fields.Scan(); i++ { // the third field is the first behind the name
		if i == 14 || i == 15 { // in user mode, in the kernel
			n, err := strconv.Atoi(fields.Text())
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	return sum
}
