//go:build e2e

// Every way to save counts, the newest state wins, and what passes by itself needs nobody. How many
// builds and runs a save is worth, and how soon it cancels a build, is held by the tests of
// pkg/loop and pkg/watch, which have a clock of their own.
package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const tryingAgain = "trying again until it works, or a file changes"

func TestWatch(t *testing.T) {
	node := onlyNode(t)
	p := newProject(t, "small")
	file := filepath.Join(p.dir, "index.html")
	page := "" // as saved last
	next := func() string { page = unique(); return page }
	git := func(t *testing.T, args ...string) {
		t.Helper()
		const settings = "-c user.name=t -c user.email=t@example.org -c commit.gpgsign=false"
		args = append(append([]string{"-C", p.dir}, strings.Fields(settings)...), args...)
		_, err := command(t.Context(), os.Environ(), "git", args...)
		must(t, err)
	}
	git(t, "init", "--quiet")
	p.write(t, "index.html", next())

	d := p.start(t)
	d.await(t, 0, ready)
	p.awaitPage(t, page)
	if !d.hasKernelEvents(t) {
		t.Error("files are not watched by events of the kernel")
	}

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
			_, err := command(t.Context(), os.Environ(), "sed", "-i", "s/.*/"+content+"/", file)
			must(t, err)
		}},
	}
	for _, way := range ways {
		step(t, "saved: "+way.name, func(t *testing.T) {
			c := d.next()
			way.save(t, next())
			c.arrives(t)
			p.awaitPage(t, page)
		})
	}
	saves := func(t *testing.T) { // in place
		t.Helper()
		d.save(t, "index.html", next()).arrives(t)
		p.awaitPage(t, page)
	}

	step(t, "git takes the file back and forth", func(t *testing.T) {
		git(t, "add", "--all")
		git(t, "commit", "--quiet", "-m", "one")
		committed := page
		saves(t)
		stashed := d.next()
		git(t, "stash", "--quiet")
		stashed.arrives(t)
		p.awaitPage(t, committed)
		popped := d.next()
		git(t, "stash", "pop", "--quiet")
		popped.arrives(t)
		p.awaitPage(t, page)
		if n := stashed.counts(building); n != 0 {
			t.Errorf("%d builds of what had been built before", n)
		}
	})

	step(t, "what holds what it held starts nothing", func(t *testing.T) {
		quiet := d.next()
		p.write(t, "index.html", page)
		quiet.happens(t, on("files hold what they held before").with("files", "index.html"))
		must(t, os.Chtimes(file, time.Now(), time.Now()))
		git(t, "status")
		p.write(t, "notes.txt", "not in the image") // .dockerignore leaves it out
		d.save(t, filepath.Join("chart", "values.yaml"), "a: 1\n").arrives(t)
		run := quiet.happens(t, on(event.RunStarts)) // the first one since
		if files := run.field("files"); files != "values.yaml" || quiet.counts(on(event.RunStarts)) != 1 {
			t.Errorf("of %d runs since, the first one is for %q", quiet.counts(on(event.RunStarts)), files)
		}
	})

	// A build that takes as long as a test likes, and its process.
	nap := fmt.Sprintf("sleep %d", time.Now().UnixNano())
	naps := func(t *testing.T, not int) (pid int) {
		t.Helper()
		eventually(t, "the build is under way", func() bool {
			pids := slices.DeleteFunc(processes(nap), func(pid int) bool { return pid == not })
			if len(pids) > 0 {
				pid = pids[0]
			}
			return pid != 0
		})
		return pid
	}

	step(t, "a save during a build cancels it", func(t *testing.T) {
		d.replace(t, "Dockerfile", "CMD", "RUN "+nap+"\nCMD")
		naps(t, 0)
		c := d.replace(t, "Dockerfile", "RUN "+nap+"\n", "")
		c.happens(t, superseded)
		c.arrives(t)
		eventually(t, "the build's process is gone", func() bool { return !runs(nap) })
	})

	step(t, "devloop.yaml is applied at once, or reported", func(t *testing.T) {
		invalid := on("the configuration is not valid, its last valid state stays in force")
		c := d.replace(t, "devloop.yaml", "forwards:", "forward:")
		c.happens(t, invalid.because("unknown key .*forward"))
		c.arrives(t)
		saves(t)
		open := dial(t, p.port) // of a forward that does not change

		port, taken := freePort(t), freePort(t)
		address := "^" + regexp.QuoteMeta(local(port)) + "$"
		another := fmt.Sprintf("\n  - { deployment: small, namespace: %s, port: 8080, local: %d }", p.name, port)
		c = d.replace(t, "devloop.yaml", "forward:", "forwards:"+another)
		c.happens(t, on(event.ForwardListens).with("local", address))
		c.happens(t, on("the configuration is valid again"))
		c.arrives(t)
		if answer, err := get("http://" + local(port) + "/"); answer != page {
			t.Errorf("the new forward answers %q (%v)", answer, err)
		}

		listener, err := net.Listen("tcp", local(taken))
		must(t, err)
		c = d.replace(t, "devloop.yaml", fmt.Sprint("local: ", port), fmt.Sprint("local: ", taken))
		c.happens(t, invalid.because(fmt.Sprintf("local port %d is taken by", taken)))
		c.arrives(t)
		must(t, listener.Close())
		c = d.replace(t, "devloop.yaml", strings.Replace(another, strconv.Itoa(port), strconv.Itoa(taken), 1), "")
		c.happens(t, on(event.ForwardCloses).with("local", address))
		c.arrives(t)
		if listens(port) {
			t.Errorf("port %d is still open", port)
		}
		_, _ = io.WriteString(open, "GET / HTTP/1.0\r\n\r\n")
		if answer, err := io.ReadAll(open); !strings.Contains(string(answer), "200 OK") {
			t.Errorf("a connection that was open all the while: %q, %v", answer, err)
		}
	})

	step(t, "SIGHUP starts a run", func(t *testing.T) {
		for range 2 { // the second one is no impatience
			d.again(t).arrives(t)
		}
	})

	digits := regexp.MustCompile(`\d+`)
	// heals breaks something, saves, and mends it once a second try has failed: the save arrives
	// without another one, and the trouble was told once.
	heals := func(name string, breaks func(t *testing.T) (mends func()), save func(t *testing.T) change) {
		step(t, name, func(t *testing.T) {
			mends := breaks(t)
			c := save(t)
			c.happens(t, on(tryingAgain))
			again := failed
			again.run = c.happens(t, on(event.RunStarts).with("why", "retry")).Run
			c.happens(t, again)
			// Another try may fail in another way: without a network, by a time-out first, without
			// a route later.
			reasons := map[string]bool{}
			for _, l := range c.log(c.since) {
				if failed.met(l) && !l.Repeated {
					reason := digits.ReplaceAllString(l.Err.Error(), "")
					if reasons[reason] {
						t.Errorf("told twice: %s", l)
					}
					reasons[reason] = true
				}
			}
			if n := c.counts(ready); n != 0 {
				t.Errorf("%d runs ended well before the fault was mended", n)
			}
			mended := d.mark()
			mends()
			begin := time.Now()
			d.await(t, mended, ready)
			t.Logf("healed %s after the fault was over", time.Since(begin).Round(time.Millisecond))
			p.awaitPage(t, page)
		})
	}
	savesPage := func(t *testing.T) change { return d.save(t, "index.html", next()) }
	heals("Docker away", dockerFault, savesPage)
	heals("an API server away", func(t *testing.T) func() { return fault(t, node, "kill kube-apiserver") }, savesPage)
	heals("a node without network", func(t *testing.T) func() { return fault(t, node, "network off") }, savesPage)
	savesBallast := func(t *testing.T) change { // for a page alone the runtime finds room, by and by
		return d.replace(t, "Dockerfile", "WORKDIR", "RUN head -c 32M /dev/urandom > /srv/ballast\nWORKDIR")
	}
	heals("a node without room", func(t *testing.T) func() { return fault(t, node, "disk full") }, savesBallast)

	step(t, "a machine asleep", func(t *testing.T) {
		d.signal(t, syscall.SIGSTOP)
		c := d.save(t, "index.html", next())
		pass(t, 2*time.Second)
		d.signal(t, syscall.SIGCONT)
		c.arrives(t)
		p.awaitPage(t, page)
	})

	step(t, "many saves, as they come", func(t *testing.T) {
		many := 20
		if soaking() {
			many = 100
		}
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		before := d.footprint(t)
		for i := range many {
			ways[random.IntN(len(ways))].save(t, next())
			pass(t, time.Duration(random.ExpFloat64()*float64(500*time.Millisecond)))
			if i%20 == 19 {
				p.awaitPage(t, page)
			}
		}
		after := d.footprint(t)
		t.Logf("devloop before: %s; after: %s", before, after)
		more := after.megabytes > before.megabytes+60 ||
			after.descriptors > before.descriptors+8 || after.threads > before.threads+8
		if soaking() && more {
			t.Error("devloop takes more than before")
		}
	})

	if soaking() {
		step(t, "twenty thousand files cost nothing at rest", func(t *testing.T) {
			many := filepath.Join(p.dir, "many")
			for i := range 20_000 {
				name := filepath.Join(many, strconv.Itoa(i/200), strconv.Itoa(i))
				if i%200 == 0 {
					must(t, os.MkdirAll(filepath.Dir(name), 0o755))
				}
				must(t, os.WriteFile(name, []byte(name), 0o644))
			}
			p.write(t, ".dockerignore", "*\n!index.html\n!many\n")
			d.replace(t, "Dockerfile", "COPY index.html .", "COPY . .").arrives(t)
			saves(t)
			pass(t, 20*time.Second) // what the run took goes back
			begin, ticks := time.Now(), cpuTicks(t, d)
			pass(t, 20*time.Second)
			share := float64(cpuTicks(t, d)-ticks) / 100 / time.Since(begin).Seconds() // a tick is 10 ms
			now := d.footprint(t)
			t.Logf("idle: %.3f %% of a core, %s", 100*share, now)
			if share > 0.005 || now.megabytes > 80 { // 0.1 % is one tick in ten seconds; other processes' noise is in it
				t.Error("it takes too much")
			}
		})
	}

	d.stop(t)

	step(t, "Docker restarted during a build", func(t *testing.T) {
		awake := "RUN " + nap + " || true\n" // that its process ends is no failure
		p.edit(t, "Dockerfile", "CMD", awake+"CMD")
		d := p.start(t, "--set=buildIn=host") // else the node builds, without Docker
		first := naps(t, 0)
		dockerFault(t)()
		second := naps(t, first)
		if n := d.count(0, failed); n == 0 {
			t.Error("the build went on without Docker")
		}
		must(t, syscall.Kill(second, syscall.SIGKILL))
		d.await(t, 0, ready)
		p.awaitPage(t, page)
		d.stop(t)
	})
}

// hasKernelEvents tells whether devloop has asked the kernel for events of files.
func (d *devloop) hasKernelEvents(t *testing.T) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.cmd.Process.Pid))
	must(t, err)
	return slices.ContainsFunc(files, func(name string) bool {
		target, _ := os.Readlink(name) // it may have been closed
		return target == "anon_inode:inotify"
	})
}

// cpuTicks is the time that devloop's process has worked, in hundredths of a second (proc(5)).
func cpuTicks(t *testing.T, d *devloop) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := bufio.NewScanner(strings.NewReader(rest))
	fields.Split(bufio.ScanWords)
	sum := 0
	for i := 3; fields.Scan(); i++ { // the third field is the first behind the name
		if i == 14 || i == 15 { // in user mode, in the kernel
			n, err := strconv.Atoi(fields.Text())
			must(t, err)
			sum += n
		}
	}
	return sum
}
