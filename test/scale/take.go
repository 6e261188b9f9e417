// What is measured: the runs of one devloop, from its log, the API server's audit log, and /proc.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// measured is what one size has shown.
type measured struct {
	size
	start     float64   // a devloop that finds everything there already, to its first success, in seconds
	unchanged []float64 // a run in which nothing differs, in seconds
	cpu       []float64 // the processor's time for it, which a busy machine does not lengthen
	hashed    []float64 // the hashing of it
	rehashed  []float64 // the hashing after the save of one file
	saved     []float64 // from that save to the end of its run
	requests  map[string]float64
	memory    float64 // most that was resident, in MB
	threads   float64
	routines  float64
	files     float64 // descriptors
}

// take measures.
func (l *lab) take(ctx context.Context, project string, s size, runs int) (m measured, err error) {
	m.size = s
	first, err := l.startDevloop(ctx, project)
	if err != nil {
		return m, err
	}
	if _, err := first.awaitRun(ctx); err != nil {
		return m, fmt.Errorf("the first start: %w", err)
	}
	if err := first.end(ctx, syscall.SIGTERM); err != nil {
		return m, err
	}
	began := time.Now()
	d, err := l.startDevloop(ctx, project)
	if err != nil {
		return m, err
	}
	r, err := d.awaitRun(ctx)
	if err != nil {
		return m, fmt.Errorf("the second start: %w", err)
	}
	m.start = r.ended.Sub(began).Seconds()
	if m.requests, err = l.countRequests(); err != nil {
		return m, err
	}
	for i := range runs {
		before, err := l.countRequests()
		if err != nil {
			return m, err
		}
		cpu, err := d.cpu()
		if err != nil {
			return m, err
		}
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			return m, err
		}
		if r, err = d.awaitRun(ctx); err != nil {
			return m, fmt.Errorf("unchanged run %d: %w", i, err)
		}
		m.unchanged, m.hashed = append(m.unchanged, r.seconds), append(m.hashed, r.hashed)
		now, err := d.cpu()
		if err != nil {
			return m, err
		}
		m.cpu = append(m.cpu, now-cpu)
		if m.requests, err = l.countRequests(); err != nil {
			return m, err
		}
		for name, count := range before {
			m.requests[name] -= count
		}
	}
	saved := filepath.Join(project, imageName(0), "folder-0000", "file-00.txt")
	for i := range runs {
		began := time.Now()
		if err := os.WriteFile(saved, fmt.Appendf(nil, "saved %d times", i), 0o644); err != nil {
			return m, err
		}
		if r, err = d.awaitRun(ctx); err != nil {
			return m, fmt.Errorf("save %d: %w", i, err)
		}
		m.saved, m.rehashed = append(m.saved, r.ended.Sub(began).Seconds()), append(m.rehashed, r.hashed)
	}
	if err := d.look(&m); err != nil {
		return m, err
	}
	return m, d.end(ctx, syscall.SIGABRT, &m)
}

// countRequests returns how many requests of devloop the API server has answered, by verb and
// resource.
func (l *lab) countRequests() (map[string]float64, error) {
	log, err := os.Open(filepath.Join(l.dir, "audit.log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // only read
	counts := map[string]float64{}
	for decoder := json.NewDecoder(log); decoder.More(); {
		var e struct {
			Verb, RequestURI string
			ObjectRef        struct{ Resource, Subresource string }
		}
		if err := decoder.Decode(&e); err != nil {
			return nil, err
		}
		path, query, _ := strings.Cut(e.RequestURI, "?")
		name := e.Verb + " " + e.ObjectRef.Resource
		switch {
		case e.ObjectRef.Resource == "":
			name = e.Verb + " " + path
		case strings.Contains(query, "dryRun"):
			name += " (dry run)"
		case e.ObjectRef.Subresource != "":
			name += "/" + e.ObjectRef.Subresource
		}
		counts[name]++
	}
	return counts, nil
}

// devloop is the program at work.
type devloop struct {
	cmd    *exec.Cmd
	ended  <-chan struct{}
	output string        // path of what it prints
	log    *bufio.Reader // its JSON lines
	line   []byte        // one that is not complete yet
}

func (l *lab) startDevloop(ctx context.Context, project string) (*devloop, error) {
	home := filepath.Join(l.dir, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	log := filepath.Join(l.dir, "devloop.json")
	if err := os.RemoveAll(log); err != nil {
		return nil, err
	}
	program, err := filepath.Abs(l.devloop)
	if err != nil {
		return nil, err
	}
	p, err := l.start(ctx, project, []string{"KUBECONFIG=" + filepath.Join(l.dir, devloopUser+".conf"), "HOME=" + home,
		"XDG_STATE_HOME=", "XDG_CACHE_HOME=", "XDG_CONFIG_HOME=", "XDG_RUNTIME_DIR=" + home, "MINIKUBE_HOME=",
		"DOCKER_CONFIG=",
		"DOCKER_HOST=unix://" + filepath.Join(l.dir, "no-docker.sock"), "GOTRACEBACK=all"},
		program, "-v", "--cleanup=false", "--log-format", "json", "--log-file", log, "--page-port", "0")
	if err != nil {
		return nil, err
	}
	var opened *os.File
	if err := await(ctx, func() (err error) {
		opened, err = os.Open(log)
		return err
	}); err != nil {
		return nil, err
	}
	l.closers = append(l.closers, opened.Close)
	return &devloop{p.cmd, p.ended, p.output, bufio.NewReader(opened), nil}, nil
}

// entry is a line of devloop's log.
type entry struct {
	Time            time.Time
	Msg, Phase, Err string
	Run             int
	Took            float64
}

// next returns the next line of the log.
func (d *devloop) next(ctx context.Context) (e entry, text string, err error) {
	err = await(ctx, func() error {
		part, err := d.log.ReadBytes('\n')
		d.line = append(d.line, part...)
		return err
	})
	if err != nil {
		return e, "", fmt.Errorf("devloop says no more: %w", err)
	}
	text, d.line = string(d.line), nil
	return e, text, json.Unmarshal([]byte(text), &e)
}

// run is what the log says of one run.
type run struct {
	ended           time.Time
	seconds, hashed float64
}

// awaitRun returns the next run that ends. It has to succeed.
func (d *devloop) awaitRun(ctx context.Context) (r run, err error) {
	var last []string
	for {
		e, text, err := d.next(ctx)
		if err != nil {
			return r, fmt.Errorf("%w; its last lines:\n%s", err, strings.Join(last, ""))
		}
		last = append(last[max(0, len(last)-10):], text)
		switch {
		case e.Phase == "failed":
			return r, errors.New(text)
		case e.Msg == "inputs hashed" && e.Phase == "detailed", e.Msg == "inputs hashed" && e.Phase == "succeeded":
			r.hashed += e.Took
		case e.Msg == "run complete" && e.Phase == "succeeded":
			r.ended, r.seconds = e.Time, e.Took
			return r, nil
		}
	}
}

var (
	peak      = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	threads   = regexp.MustCompile(`Threads:\s+(\d+)`)
	goroutine = regexp.MustCompile(`(?m)^goroutine \d+ `)
)

// cpu is the processor's time that the process has taken, in seconds.
func (d *devloop) cpu() (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// proc_pid_stat(5): utime and stime are the 12th and 13th field after the name.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, userErr := strconv.ParseFloat(fields[11], 64)
	system, systemErr := strconv.ParseFloat(fields[12], 64)
	const ticks = 100 // a second, on all of Linux's usual machines
	return (user + system) / ticks, errors.Join(userErr, systemErr)
}

// look reads what the kernel knows of the process.
func (d *devloop) look(m *measured) error {
	proc := fmt.Sprintf("/proc/%d/", d.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return err
	}
	open, err := os.ReadDir(proc + "fd")
	if err != nil {
		return err
	}
	number := func(of *regexp.Regexp) float64 {
		n, _ := strconv.ParseFloat(string(of.FindSubmatch(status)[1]), 64) // it matched digits
		return n
	}
	m.memory, m.threads, m.files = number(peak)/1024, number(threads), float64(len(open))
	return nil
}

// end ends devloop by a signal. After SIGABRT, Go lists the goroutines, which are counted for m.
func (d *devloop) end(ctx context.Context, signal os.Signal, m ...*measured) error {
	if err := d.cmd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case <-d.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, m := range m {
		output, err := os.ReadFile(d.output)
		if err != nil {
			return err
		}
		_, list, _ := bytes.Cut(output, []byte("SIGABRT"))
		m.routines = float64(len(goroutine.FindAll(list, -1)))
	}
	return nil
}
