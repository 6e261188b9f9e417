//go:build linux

// Mounts and namespaces are what containers are made of.

package filesync

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// A container of these tests is this program in namespaces of its own, with a root of its own: an
// overlay, as runtimes make it.

// asContainer is the variable that says so. It holds the folder of the container.
const asContainer = "DEVLOOP_TEST_CONTAINER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(asContainer); folder != "" {
		beContainer(folder, os.Args[1:])
	}
	if os.Geteuid() != 0 { // files of other users are written, as on a node
		args := append([]string{"sudo", "-n", "--preserve-env"}, os.Args...)
		sudo, err := exec.LookPath(args[0])
		if err == nil {
			err = syscall.Exec(sudo, args, os.Environ())
		}
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// beContainer mounts the root, and what args say: "bind SOURCE PATH", "tmpfs PATH OPTIONS" or
// "readonly". Then it says so. "flip PATH TARGET" then makes a folder, which is not of the image, a
// link and a folder again, without end.
func beContainer(folder string, args []string) {
	runtime.LockOSThread()
	root := filepath.Join(folder, "root")
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""))
	must(syscall.Mount("overlay", root, "overlay", 0,
		fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", folder)))
	must(os.MkdirAll(filepath.Join(root, "proc"), 0o755))
	must(syscall.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""))
	var flip []string
	for len(args) > 0 {
		switch args[0] {
		case "bind":
			must(syscall.Mount(args[1], filepath.Join(root, args[2]), "", syscall.MS_BIND, ""))
			args = args[3:]
		case "tmpfs":
			must(syscall.Mount("tmpfs", filepath.Join(root, args[1]), "tmpfs", 0, args[2]))
			args = args[3:]
		case "readonly":
			must(syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
			args = args[1:]
		case "flip":
			flip = args[1:3]
			args = args[3:]
		}
	}
	must(syscall.Chroot(root))
	must(os.Chdir("/"))
	if flip != nil { // a folder of an image cannot be renamed
		must(os.MkdirAll(filepath.Join(flip[0], "sub"), 0o755))
		must(os.MkdirAll(filepath.Join(flip[0], "gone/deep"), 0o755))
		must(os.WriteFile(filepath.Join(flip[0], "gone/deep/z"), nil, 0o644))
	}
	_, _ = os.Stdout.WriteString("ready\n")
	if flip != nil {
		path, aside := flip[0], flip[0]+".aside"
		for {
			must(os.Rename(path, aside))
			must(os.Symlink(flip[1], path))
			must(os.Rename(path, path+".link"))
			_ = os.Remove(path + ".link")
			if os.Rename(aside, path) != nil { // there is one again: both are the container's own
				must(os.RemoveAll(aside))
			}
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// container is one of these tests.
type container struct {
	Container
	t    testing.TB
	root string // its files, as this process sees them
	stop func()
}

// startContainer starts one. Its image has the files, by path.
func startContainer(t testing.TB, files map[string]string, args ...string) *container {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range files {
		path = filepath.Join(folder, "lower", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else if content == "/" {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asContainer+"="+folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &container{Container: Container{ID: newID(), PID: cmd.Process.Pid}, t: t}
	c.root = fmt.Sprintf("/proc/%d/root", c.PID)
	leave, stopped := func() {}, false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		leave()
	}
	t.Cleanup(c.stop)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		c.stop()
		t.Fatalf("%q, %v: %s", line, err, &stderr)
	}
	leave = enterCgroup(t, c.Container)
	return c
}

// enterCgroup puts the container's process into a cgroup of its ID, as runtimes do. The returned
// function removes that once the process has ended.
func enterCgroup(t testing.TB, c Container) (leave func()) {
	t.Helper()
	cgroup := filepath.Join("/sys/fs/cgroup/pids", c.ID)
	if _, err := os.Stat(filepath.Dir(cgroup)); err != nil { // cgroup v2
		cgroup = filepath.Join("/sys/fs/cgroup", c.ID)
	}
	err := os.Mkdir(cgroup, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(c.PID)), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = os.Remove(cgroup) }
}

// startProcess returns a container that is nothing but a process: cat, which ends with the test.
func startProcess(t testing.TB, cat *exec.Cmd) Container {
	t.Helper()
	stdin, err := cat.StdinPipe()
	if err == nil {
		err = cat.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	c := Container{ID: newID(), PID: cat.Process.Pid}
	leave := enterCgroup(t, c)
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cat.Wait()
		leave()
	})
	return c
}

func newID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

func (c *container) path(path string) string { return c.root + path }

func (c *container) read(path string) string {
	c.t.Helper()
	content, err := os.ReadFile(c.path(path))
	var wrong *os.PathError
	if errors.As(err, &wrong) {
		return wrong.Err.Error()
	}
	return string(content)
}

// clean fails if a temporary folder is left.
func (c *container) clean() {
	c.t.Helper()
	for _, pattern := range []string{c.root + "/.devloop-sync-*", "/var/tmp/devloop-sync-*"} {
		if left, _ := filepath.Glob(pattern); left != nil {
			c.t.Errorf("left: %q", left)
		}
	}
}

// node runs commands with the tools of a kind of node.
type node struct {
	path   string
	signal syscall.Signal // ends a script and all that it started
}

func (n node) Run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	sh, err := exec.LookPath(filepath.Join(strings.Split(n.path, ":")[0], args[0]))
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, sh, args[1:]...)
	cmd.Args[0] = "sh"
	cmd.Env = []string{"PATH=" + n.path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, cmp.Or(n.signal, syscall.SIGKILL)) }
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, &stderr)
	}
	if stderr.Len() > 0 {
		fmt.Fprintf(os.Stderr, "script: %s\n", &stderr)
	}
	return stdout.String(), nil
}

// applets are all that the script needs of a node.
const applets = "cat chown id ln ls mkdir mktemp mv printf readlink rm rmdir sed sha256sum sh tar touch"

// nodes are the kinds of nodes: minikube's, and kind's, k3d's, and that of minikube's machines.
func nodes(t testing.TB) map[string]node {
	t.Helper()
	link := func(target string, names ...string) string {
		folder := t.TempDir()
		for _, name := range names {
			path, err := exec.LookPath(target)
			if target == "" {
				path, err = exec.LookPath(name)
			}
			if err == nil {
				err = os.Symlink(path, filepath.Join(folder, name))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return folder
	}
	return map[string]node{
		"busybox": {path: link("busybox", strings.Fields(applets)...)},
		"dash":    {path: link("dash", "sh") + ":" + link("", strings.Fields(applets)...)},
		"bash":    {path: link("bash", "sh") + ":" + link("", strings.Fields(applets)...)},
	}
}

// on runs a test with the tools of each kind of node.
func on(t *testing.T, test func(t *testing.T, n node)) {
	t.Helper()
	for name, n := range nodes(t) {
		t.Run(name, func(t *testing.T) { test(t, n) })
	}
}
