package deploy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// commands returns a deployer that runs commands in a new folder, for one of two clusters in the
// kubeconfig; lines returns the logged output.
func commands(t *testing.T) (d *Deployer, stage event.Stage, lines func() string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"kubeconfig": `
apiVersion: v1
kind: Config
clusters: [{name: ours, cluster: {server: "https://192.0.2.1"}}, {name: prod, cluster: {server: "https://192.0.2.2"}}]
users: [{name: ours, user: {token: ours}}, {name: prod, user: {token: prod}}]
contexts: [{name: ours, context: {cluster: ours, user: ours}}, {name: prod, context: {cluster: prod, user: prod}}]
current-context: prod
`})
	t.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
	cluster, err := kube.OpenCluster("ours")
	if err != nil {
		t.Fatal(err)
	}
	runtime := filepath.Join(dir, ".run")
	var mu sync.Mutex
	var printed []string
	sink := event.Sink(func(e event.Event) {
		if e.Message == "output" {
			mu.Lock()
			defer mu.Unlock()
			printed = append(printed, fmt.Sprint(e.Fields[len(e.Fields)-1]))
		}
	})
	return New(cluster, "demo", nil, Options{Folder: dir, Runtime: func() (string, error) { return runtime, nil }}),
		sink.Stage("deploy"), func() string {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(printed, "\n")
		}
}

var demoRelease = Release{Name: "web", Namespace: "demo"}

func TestCommand(t *testing.T) {
	d, stage, lines := commands(t)
	script := `echo "$DEVLOOP_RELEASE $DEVLOOP_NAMESPACE $DEVLOOP_KUBE_CONTEXT"; ls; grep -c prod "$KUBECONFIG"
grep current "$KUBECONFIG"; stat -c %a "$KUBECONFIG"
yes x | head -c 20000 | tr -d '\n'; printf '\nno end' >&2`
	if err := d.run(t.Context(), stage, demoRelease, "before", Command{Args: []string{"sh", "-c", script},
		Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	got := lines()
	if !strings.HasPrefix(got, "web demo ours\nkubeconfig\n0\ncurrent-context: ours\n600\nxxx") ||
		!strings.HasSuffix(got, "xxx\nno end") || len(got) > 2*maxLine {
		t.Errorf("%.200s…%s", got, got[max(0, len(got)-20):])
	}
	folder, _ := d.options.Runtime()
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCommandThatFails(t *testing.T) {
	d, stage, _ := commands(t)
	err := d.run(t.Context(), stage, demoRelease, "before", Command{Args: []string{"sh", "-c", "seq 100; exit 7"},
		Timeout: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "exit status 7\n86\n") || !strings.HasSuffix(err.Error(), "\n100") ||
		event.Hint(err) != "fix it and save; the release is applied once the command ends with 0" {
		t.Errorf("%v, %s", err, event.Hint(err))
	}
	err = d.run(t.Context(), stage, demoRelease, "after", Command{Args: []string{"./nowhere.sh"}, Timeout: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "./nowhere.sh") ||
		event.Hint(err) != "fix it and save; each run tries it again until the command ends with 0" {
		t.Errorf("%v, %s", err, event.Hint(err))
	}
}

// When a command times out, its children are killed too; when it ends by itself, they may go on.
func TestCommandEnds(t *testing.T) {
	d, stage, _ := commands(t)
	pid := func() int {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(d.options.Folder, "pid"))
		if err != nil {
			t.Fatal(err)
		}
		number, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return number
	}
	begin := time.Now()
	err := d.run(t.Context(), stage, demoRelease, "before",
		Command{Args: []string{"sh", "-c", "trap '' TERM; sleep 100 & echo $! > pid; wait; sleep 100"},
			Timeout: 500 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "not done after 500ms") {
		t.Errorf("%v", err)
	}
	if took := time.Since(begin); took > time.Minute { // they sleep for longer
		t.Errorf("it took %s to end", took)
	}
	deadline := time.Now().Add(time.Minute)
	for gone := false; !gone; {
		err := syscall.Kill(pid(), 0)
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid()))
		gone = errors.Is(err, syscall.ESRCH) || strings.Contains(string(state), ") Z ") // a zombie whose parent does not look
		if time.Now().After(deadline) {
			t.Fatalf("what the command started goes on: %v %s", err, state)
		}
	}
	background := Command{Args: []string{"sh", "-c", "sleep 100 & echo $! > pid"}, Timeout: time.Minute}
	if err := d.run(t.Context(), stage, demoRelease, "after", background); err != nil {
		t.Errorf("a child in the background: %v", err)
	}
	if err := syscall.Kill(pid(), syscall.SIGKILL); err != nil {
		t.Errorf("the child in the background: %v", err)
	}
}

// A devloop that is killed while a command runs leaves a kubeconfig, which the next one removes.
func TestKubeconfigOfAKilledDevloop(t *testing.T) {
	d, stage, lines := commands(t)
	folder, _ := d.options.Runtime()
	file, remove, err := d.cluster.WriteKubeconfig(t.Context(), d.options.Runtime) // of one that is at work
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	killed := filepath.Join(folder, kube.KubeconfigPrefix+"of-a-killed-one") // whose lock went with its process
	half := filepath.Join(folder, kube.NewKubeconfigPrefix+"of-a-killed-one")
	young := filepath.Join(folder, kube.NewKubeconfigPrefix+"of-one-that-begins")
	other := filepath.Join(folder, "devloop.sock")
	for _, name := range []string{killed, half, young, other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes(half, before, before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(folder, kube.KubeconfigPrefix+"pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	New(nil, "demo", nil, d.options) // the next devloop
	for name, want := range map[string]bool{file: true, killed: false, half: false, young: true, other: true} {
		if _, err := os.Stat(name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.run(t.Context(), stage, demoRelease, "before", Command{Args: []string{"sh", "-c", `dirname "$KUBECONFIG"`},
		Timeout: time.Minute}); err != nil || lines() != folder {
		t.Errorf("%v, the kubeconfig lies in %s", err, lines())
	}
}
