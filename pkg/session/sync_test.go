package session

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/venv"
)

// pipVenv returns an environment with a real pip, which knows no index but $PIP_FIND_LINKS.
func pipVenv(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "env")
	if out, err := exec.Command("/usr/bin/python3", "-m", "venv", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, value := range map[string]string{"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": t.TempDir(),
		"PIP_CONFIG_FILE": os.DevNull, "PIP_NO_CACHE_DIR": "1"} {
		t.Setenv(name, value)
	}
	return dir
}

func runPython(t *testing.T, dir string, args []string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(dir, "bin", "python"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// publish makes a library that pip finds.
func publish(t *testing.T, name, version string) {
	t.Helper()
	info := fmt.Sprintf("%s-%s.dist-info/", name, version)
	file, err := os.Create(filepath.Join(os.Getenv("PIP_FIND_LINKS"),
		fmt.Sprintf("%s-%s-py3-none-any.whl", name, version)))
	if err != nil {
		t.Fatal(err)
	}
	archive := zip.NewWriter(file)
	for path, content := range map[string]string{
		info + "METADATA": "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n",
		info + "WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		info + "RECORD":   info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n",
	} {
		w, err := archive.Create(path)
		if err == nil {
			_, err = w.Write([]byte(content))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestSync(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Setenv("VIRTUAL_ENV", "")
	dir, folder := pipVenv(t), t.TempDir()
	publish(t, "alpha", "1.0")
	publish(t, "alpha", "2.0")
	file := filepath.Join(folder, "requirements.txt")
	c := &config.Config{Dir: folder, Local: config.Local{Sync: true, Requirements: "requirements.txt"}}
	var h eventLog
	y := newSyncer(h.sink)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { y.run(ctx) })
	made := targetOf(t, "worker:1")
	expect := func(what, requirements string, want ...string) event.Event {
		t.Helper()
		if err := os.WriteFile(file, []byte(requirements), 0o644); err != nil {
			t.Fatal(err)
		}
		y.request(target{made, c})
		if err := y.wait(ctx); err != nil {
			t.Fatal(err)
		}
		said, last := h.take()
		said = slices.DeleteFunc(said, func(line string) bool { return line == "detailed local: output" })
		if !slices.Equal(said, want) {
			t.Errorf("%s: %q", what, said)
		}
		return last
	}
	const (
		begins = "started local: " + event.VenvSynced
		done   = "succeeded local: " + event.VenvSynced
		detail = "detailed local: " + event.VenvSynced
		fails  = "failed local: " + event.VenvSynced

		notInstalled = "local: requirements are not installed on this machine; images are built anyway"
		warned       = "warned " + notInstalled
		known        = "detailed " + notInstalled
	)
	e := expect("no environment", "alpha==1.0\n", warned)
	if !strings.Contains(e.Err.Error(), "VIRTUAL_ENV is not set") ||
		!strings.Contains(event.Hint(e.Err), "python3 -m venv .venv") {
		t.Errorf("%v → %s", e.Err, event.Hint(e.Err))
	}
	expect("reported once", "alpha==1.0\n", known)
	c.Local.Venv = dir
	e = expect("the first one", "alpha==1.0\n", begins, done)
	if e.Field("venv") != dir || e.Field("file") != event.Name("requirements.txt") ||
		e.Field("installed") != "alpha-1.0" || e.Took == 0 {
		t.Errorf("%+v", e)
	}
	expect("nothing differs", "alpha==1.0\n")
	made = targetOf(t, "worker:2")
	expect("other images", "alpha==1.0\n", begins, detail)
	expect("other requirements", "alpha==2.0\n", begins, done)
	if _, versions, err := venv.Read(dir); err != nil || versions["alpha"] != "2.0" {
		t.Errorf("%v, %v", versions, err)
	}
	e = expect("a mistake", "alpha==3.0\n", begins, fails, warned)
	if !strings.Contains(e.Err.Error(), "ERROR: No matching distribution found for alpha==3.0") ||
		!strings.Contains(event.Hint(e.Err), "fix requirements.txt and save") {
		t.Errorf("%v → %s", e.Err, event.Hint(e.Err))
	}
	expect("the same mistake is tried again and reported once", "alpha==3.0\n", begins, fails, known)
	expect("fixed", "alpha==1.0\n", begins, done)
	if err := os.Chtimes(filepath.Join(dir, "pyvenv.cfg"), time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	expect("an environment made anew", "alpha==1.0\n", begins, detail)
	c.Local.Sync = false
	expect("not asked for", "alpha==2.0\n")
	cancel()
	running.Wait()
}

// One pip runs at a time, then the newest request is served; the end of devloop ends pip.
func TestSyncOneAtATime(t *testing.T) {
	defer goleak.VerifyNone(t)
	folder, tools := t.TempDir(), t.TempDir()
	writeVenv(t, filepath.Join(folder, ".venv")) // without pip
	t.Setenv("VIRTUAL_ENV", "")
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	uv := "#!/bin/sh\ntrap 'echo interrupted >> log; exit 2' INT\necho begins >> log\necho begun\nread line < go\n" +
		"echo ends >> log\n"
	if err := errors.Join(os.WriteFile(filepath.Join(tools, "uv"), []byte(uv), 0o755),
		os.MkdirAll(filepath.Join(folder, ".venv", "bin"), 0o755),
		os.WriteFile(filepath.Join(folder, ".venv", "bin", "python"), nil, 0o755),
		os.WriteFile(filepath.Join(folder, "requirements.txt"), nil, 0o644),
		exec.Command("mkfifo", filepath.Join(folder, "go")).Run()); err != nil {
		t.Fatal(err)
	}
	c := &config.Config{Dir: folder, Local: config.Local{Sync: true, Requirements: "requirements.txt"}}
	begun := make(chan struct{}, 10)
	var h eventLog
	y := newSyncer(func(e event.Event) {
		if h.sink(e); e.Field("line") == "begun" {
			begun <- struct{}{}
		}
	})
	release := func() {
		if err := os.WriteFile(filepath.Join(folder, "go"), []byte("go\n"), 0o644); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { y.run(ctx) })
	for i := range 3 {
		y.request(target{targetOf(t, fmt.Sprintf("worker:%d", i)), c})
		if i == 0 {
			<-begun
		}
	}
	release()
	<-begun // for the last one
	release()
	if err := y.wait(ctx); err != nil {
		t.Fatal(err)
	}
	y.request(target{targetOf(t, "worker:2"), c})
	if err := y.wait(ctx); err != nil { // it has that
		t.Fatal(err)
	}
	y.request(target{targetOf(t, "worker:3"), c})
	<-begun
	cancel()
	if err := y.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	running.Wait()
	log, err := os.ReadFile(filepath.Join(folder, "log"))
	if want := "begins\nends\nbegins\nends\nbegins\ninterrupted\n"; err != nil || string(log) != want {
		t.Errorf("%q, %v", log, err)
	}
	if said, _ := h.take(); said[len(said)-1] != "interrupted local: "+event.VenvSynced {
		t.Errorf("%q", said)
	}
	if err := y.wait(t.Context()); err != nil {
		t.Errorf("when it has ended: %v", err)
	}
}

func TestFew(t *testing.T) {
	for text, want := range map[string]string{"": "", "a b": "a b", "a b c d e f g": "a b c d e f g",
		"a b c d e f g h": "a b c d e f and 2 more"} {
		if got := few(strings.Fields(text)); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
