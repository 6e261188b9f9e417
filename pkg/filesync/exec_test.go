//go:build linux

package filesync

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inside is a Shell in a container, as a user: as by exec, where nodes cannot be reached.
type inside struct {
	node
	pid, user int
}

func (i inside) Run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	enter := []string{"--target", strconv.Itoa(i.pid), "--mount", "--pid", "--root", "--wd",
		"--setuid", strconv.Itoa(i.user), "--setgid", strconv.Itoa(i.user), "/usr/bin/env", "PATH=" + i.path}
	return node{path: "/usr/bin"}.Run(ctx, stdin, append(append([]string{"nsenter"}, enter...), args...)...)
}

func TestInContainer(t *testing.T) {
	image := map[string]string{"/usr": "/", "/dev": "/", "/tmp": "/", "/app/old": "old", "/other/x": "old"}
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if target, err := os.Readlink(name); err == nil {
			image[name] = "-> " + target
		}
	}
	for _, user := range []int{0, 1000} {
		c := startContainer(t, image, "bind", "/usr", "usr", "bind", "/dev", "dev")
		for _, path := range []string{"/app", "/app/old"} {
			if err := errors.Join(os.Chown(c.path(path), user, user), os.Chmod(c.path("/tmp"), 0o1777)); err != nil {
				t.Fatal(err)
			}
		}
		here := []Container{{}}
		shell := inside{node{path: "/usr/bin"}, c.PID, user}
		all := []File{source(t, "/app/old", "new", 0o644), source(t, "/app/new/file", "new", 0o600),
			{Path: "/app/never", Absent: true}}
		written, err := Write(t.Context(), shell, here, all)
		if err != nil || written[0].Err != nil {
			t.Fatal(user, err, written)
		}
		for _, file := range all {
			if !written[0].Files[file.Path].Matches(file) {
				t.Errorf("%d: %+v", user, written[0].Files[file.Path])
			}
		}
		if owner := ownerOf(t, c.path("/app/new/file")); owner != strconv.Itoa(user)+":"+strconv.Itoa(user) {
			t.Errorf("%d: owner %s", user, owner)
		}
		written, err = Write(t.Context(), shell, here, []File{source(t, "/other/x", "new", 0o644)})
		refusal := &Refusal{}
		if err != nil || (user != 0) != errors.As(written[0].Err, &refusal) || (user == 0) != (c.read("/other/x") == "new") {
			t.Errorf("%d: %v, %+v: %s", user, err, written, c.read("/other/x"))
		}
		c.clean()
	}

	bare := startContainer(t, map[string]string{"/usr": "/", "/dev": "/", "/bin": "-> usr/bin", "/lib": "-> usr/lib",
		"/lib64": "-> usr/lib64", "/tools/x": ""}, "bind", "/usr", "usr", "bind", "/dev", "dev")
	shell := inside{node{path: "/tools"}, bare.PID, 0}
	if err := os.Symlink("/usr/bin/sh", bare.path("/tools/sh")); err != nil {
		t.Fatal(err)
	}
	listings, err := Look(t.Context(), shell, []Container{{}}, []string{"/x"})
	refusal := &Refusal{}
	if err != nil || !errors.As(listings[0].Err, &refusal) || !strings.HasPrefix(refusal.Reason, "there is no ") {
		t.Errorf("%v, %+v", err, listings)
	}
}

func TestUserNamespace(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}}}
	c := startProcess(t, cmd)
	on(t, func(t *testing.T, n node) {
		written, err := Write(t.Context(), n, []Container{c}, []File{source(t, t.TempDir()+"/x", "new", 0o644)})
		if refusal := (&Refusal{}); err != nil || !errors.As(written[0].Err, &refusal) ||
			refusal.Reason != "it is in a user namespace of its own" {
			t.Errorf("%v, %+v", err, written)
		}
	})
}
