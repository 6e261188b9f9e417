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

	"go.uber.org/goleak"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/proof"
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
	noEnvironment(t)
	dir, folder := pipVenv(t), t.TempDir()
	publish(t, "alpha", "1.0")
	publish(t, "alpha", "2.0")
	file := filepath.Join(folder, "requirements.txt")
	c := &config.Config{Dir: folder, Local: config.Local{Sync: true, Requirements: "requirements.txt"}}
	var h eventLog
	y := newSyncer(h.sink)
	holds := map[string]string{"alpha": "1.0"}
	images := []proof.Libraries{{Place: "worker", Python: "3.11.2", Versions: holds}}
	var unreadable error
	y.images = func(context.Context, *target) ([]proof.Libraries, error) { return images, unreadable }
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

		notInstalled = "local: what the images hold is not installed on this machine"
		warned       = "warned " + notInstalled
		known        = "detailed " + notInstalled
		equal        = "detailed local: this machine has what the images hold"
	)
	e := expect("no environment", "alpha\n", warned)
	if !strings.Contains(e.Err.Error(), "none is active (VIRTUAL_ENV, CONDA_PREFIX)") ||
		!strings.Contains(event.Hint(e.Err), "python3 -m venv .venv") {
		t.Errorf("%v → %s", e.Err, event.Hint(e.Err))
	}
	expect("reported once", "alpha\n", known)
	c.Local.Venv = dir
	e = expect("the version of the images, and not the newest", "alpha\n", begins, done)
	if e.Field("venv") != dir || e.Field("file") != event.Name("requirements.txt") ||
		e.Field("installed") != "alpha-1.0" || e.Took == 0 {
		t.Errorf("%+v", e)
	}
	expect("nothing differs", "alpha\n", equal)
	holds["alpha"] = "2.0"
	expect("other images", "alpha\n", begins, done)
	has := func(want string) {
		t.Helper()
		if e, err := venv.Read(dir); err != nil || e.Versions["alpha"] != want {
			t.Errorf("%+v, %v", e, err)
		}
	}
	has("2.0")
	e = expect("requirements that are not the images'", "alpha==1.0\n", begins, fails, warned)
	if !strings.HasPrefix(e.Err.Error(), "requirements.txt excludes what the images hold, alpha==2.0: install ") ||
		!strings.Contains(event.Hint(e.Err), "devloop skew --fix") {
		t.Errorf("%v → %s", e.Err, event.Hint(e.Err))
	}
	expect("the same mistake is tried again and reported once", "alpha==1.0\n", begins, fails, known)
	publish(t, "beta", "1.0")
	expect("fixed, and what only this machine wants", "alpha\nbeta\n", begins, done)
	expect("all is there", "alpha\nbeta\n", equal)

	// What images have besides the requirements is installed by itself.
	publish(t, "gamma", "1.0")
	publish(t, "gamma", "2.0")
	holds["gamma"], holds["ours"], holds["apt-pkg"] = "1.0", "0.1", "2.6"
	images[0].Origins = map[string]proof.Origin{"ours": proof.FromAddress, "apt-pkg": proof.FromOther}
	if e = expect("more", "alpha\n", begins, done); e.Field("installed") != "gamma-1.0" {
		t.Errorf("%+v", e)
	}
	// What the user has of it from a folder stays.
	source := filepath.Join(folder, "gamma-2.0-py3-none-any.whl")
	if err := os.Link(filepath.Join(os.Getenv("PIP_FIND_LINKS"), filepath.Base(source)), source); err != nil {
		t.Fatal(err)
	}
	runPython(t, dir, []string{"-m", "pip", "install", "--quiet", source})
	expect("one of the user's own", "alpha\n", begins, detail)
	if e, err := venv.Read(dir); err != nil || e.Versions["gamma"] != "2.0" {
		t.Errorf("%+v, %v", e, err)
	}
	expect("what cannot be installed is not tried each time", "alpha\n", equal)
	holds["alpha"] = "9.0"
	e = expect("a version that this machine cannot have", "alpha\n", begins, fails, warned)
	if !strings.HasPrefix(e.Err.Error(), "there is no alpha==9.0 for Python 3.11") ||
		!strings.Contains(e.Err.Error(), "\nnot as in the images: alpha") {
		t.Error(e.Err)
	}
	images[0].Python, holds["alpha"] = "3.12.1", "9.1"
	e = expect("another Python", "alpha\n", begins, fails, warned)
	if !strings.Contains(event.Hint(e.Err), "the images have Python 3.12, and "+dir+" has 3.11") {
		t.Error(event.Hint(e.Err))
	}
	holds["alpha"] = "1.0"
	images = append(images, proof.Libraries{Place: "client", Versions: map[string]string{"alpha": "2.0"}})
	expect("images that differ", "alpha\n", "noted local: images differ among themselves; "+
		"this machine gets what the first of them holds", begins, done)
	has("1.0")
	unreadable = event.Transient(errors.New("the API server is away"))
	expect("images that cannot be read", "alpha\n", known)
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
	noEnvironment(t)
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	uv := "#!/bin/sh\ntrap 'echo interrupted >> log; exit 2' INT\necho begins >> log\necho begun\n" +
		"until [ -e go ]; do sleep 0.02; done; rm go\necho ends >> log\n"
	if err := errors.Join(os.WriteFile(filepath.Join(tools, "uv"), []byte(uv), 0o755),
		os.MkdirAll(filepath.Join(folder, ".venv", "bin"), 0o755),
		os.WriteFile(filepath.Join(folder, ".venv", "bin", "python"), nil, 0o755),
		os.WriteFile(filepath.Join(folder, "requirements.txt"), nil, 0o644)); err != nil {
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
	y.images = func(_ context.Context, now *target) ([]proof.Libraries, error) {
		_, tag, _ := strings.Cut(now.Images[0].Ref, ":")
		return []proof.Libraries{{Place: "worker", Versions: map[string]string{"alpha": tag},
			Origins: map[string]proof.Origin{"alpha": proof.FromOther}}}, nil
	}
	release := func() {
		if err := os.WriteFile(filepath.Join(folder, "go"), nil, 0o644); err != nil {
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

// Conda's base is compared, and not changed unless it is named: conda runs in it.
func TestSyncLeavesCondaBase(t *testing.T) {
	noEnvironment(t)
	dir := t.TempDir()
	writeVenv(t, dir)
	t.Setenv("CONDA_PREFIX", dir)
	t.Setenv("CONDA_DEFAULT_ENV", "base")
	c := &config.Config{Dir: t.TempDir(), Local: config.Local{Requirements: "requirements.txt"}}
	if _, err := FindLocal(c); err != nil {
		t.Error(err)
	}
	if _, err := planSync(c, nil); err == nil || !strings.Contains(event.Hint(err), "local.venv") {
		t.Errorf("%v → %s", err, event.Hint(err))
	}
	c.Local.Venv = dir
	if _, err := planSync(c, nil); err != nil {
		t.Error(err)
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
