package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

func TestAddressOf(t *testing.T) {
	cluster := func(name, owner, dashboard string, ended *time.Time) status.DaskCluster {
		return status.DaskCluster{Ended: ended, DaskCluster: event.DaskCluster{Namespace: "gw", Name: event.Name(name),
			Owner: owner, Dashboard: event.Name(dashboard)}}
	}
	s := status.State{Page: "http://127.0.0.1:1/", Clusters: []status.DaskCluster{
		cluster("3f1c", "ada", "http://localhost:2/clusters/gw.3f1c/status", nil),
		cluster("3f2d", "grace", "", nil),
		cluster("9a00", "grace", "http://localhost:2/clusters/gw.9a00/status", nil),
		cluster("gone", "mary", "http://localhost:2/clusters/gw.gone/status", &time.Time{}),
	}}
	s.Forwards = []status.Forward{{}, {Address: event.Address{URL: "http://localhost:2", Gateway: true}}}
	for name, want := range map[string]string{
		"":        "http://127.0.0.1:1/",
		"page":    "http://127.0.0.1:1/",
		"gateway": "http://localhost:2",
		"gw.3f1c": "http://localhost:2/clusters/gw.3f1c/status",
		"3f1c":    "http://localhost:2/clusters/gw.3f1c/status",
		"ada":     "http://localhost:2/clusters/gw.3f1c/status",
		"9":       "http://localhost:2/clusters/gw.9a00/status",
		"gw.9":    "http://localhost:2/clusters/gw.9a00/status",
		"3f":      `"3f" means 2 Dask clusters`,
		"grace":   `"grace" means 2 Dask clusters`,
		"3f2d":    "the dashboard of gw.3f2d has no address",
		"gone":    `no Dask cluster is called "gone"`,
		"gatewey": `no Dask cluster is called "gatewey"; did you mean "gateway"?`,
	} {
		got, err := addressOf(s, name)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	for _, name := range []string{"", "gateway"} {
		if address, err := addressOf(status.State{}, name); exitCode(err) != exitInput {
			t.Errorf("%q of nothing: %s, %v", name, address, err)
		}
	}
}

// Only this machine's own web servers are opened: names of clusters come from the cluster.
func TestCheckAddress(t *testing.T) {
	for address, want := range map[string]bool{
		"http://127.0.0.1:10360/?token=a": true, "http://localhost:8001/clusters/a.b/status": true, "https://[::1]:1/": true,
		"http://10.0.0.1/": false, "http://localhost.example/": false, "http://localhost@a.example/": false,
		"file:///etc/passwd": false, "javascript:alert(1)": false, "--help": false, "": false, "//localhost/": false,
	} {
		if err := checkAddress(address); (err == nil) != want {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestBrowsers(t *testing.T) {
	for _, test := range []struct{ env, system, want string }{
		{"BROWSER=firefox:w3m %s", "linux", "firefox,w3m %s"},
		{"DISPLAY=:0", "linux", "xdg-open,x-www-browser"},
		{"WAYLAND_DISPLAY=wayland-0 SSH_TTY=/dev/pts/1", "linux", "xdg-open,x-www-browser"},
		{"WSL_DISTRO_NAME=Debian", "linux", "wslview,xdg-open,explorer.exe"},
		{"", "darwin", "open"},
		{"SSH_CONNECTION=a", "darwin", "over ssh, no browser can be opened"},
		{"SSH_CONNECTION=a", "linux", "over ssh, no browser can be opened"},
		{"", "linux", "there is no display to open a browser on"},
	} {
		set := map[string]string{}
		if name, value, found := strings.Cut(test.env, "=firefox"); found {
			set[name] = "firefox" + value
		} else {
			for _, one := range strings.Fields(test.env) {
				name, value, _ := strings.Cut(one, "=")
				set[name] = value
			}
		}
		commands, err := browsers(func(name string) string { return set[name] }, test.system)
		got := strings.Join(commands, ",")
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s on %s: %s, not %s", test.env, test.system, got, test.want)
		}
	}
}

func TestOpenBrowser(t *testing.T) {
	const address = "http://localhost:1/?a=b&c=$(id)"
	file := filepath.Join(t.TempDir(), "opened")
	script := filepath.Join(t.TempDir(), "browser")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$*\" > "+file+"\n[ \"$1\" != fail ]\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		script:                         address,
		"nosuchbrowser:" + script:      address,
		script + " --new %s --private": "--new " + address + " --private",
	} {
		t.Setenv("BROWSER", command)
		err := openBrowser(t.Context(), address)
		got, readErr := os.ReadFile(file)
		if err != nil || readErr != nil || string(got) != want+"\n" {
			t.Errorf("%s: %v, %v, %q", command, err, readErr, got)
		}
	}
	t.Setenv("BROWSER", script+" fail")
	if err := openBrowser(t.Context(), address); err == nil || !strings.Contains(err.Error(), script) {
		t.Errorf("a browser that fails: %v", err)
	}
	t.Setenv("BROWSER", "nosuchbrowser")
	if err := openBrowser(t.Context(), address); !errors.Is(err, exec.ErrNotFound) || event.Hint(err) == "" {
		t.Errorf("no browser: %v", err)
	}
}

func TestOpenable(t *testing.T) {
	gone := time.Now()
	s := status.State{Page: "p", Clusters: []status.DaskCluster{
		{DaskCluster: event.DaskCluster{Namespace: "a", Name: "b", Dashboard: "http://localhost:1"}},
		{DaskCluster: event.DaskCluster{Namespace: "a", Name: "c"}},
		{DaskCluster: event.DaskCluster{Namespace: "a", Name: "d", Dashboard: "http://localhost:1"}, Ended: &gone},
	}}
	if got := openable(s); !slices.Equal(got, []string{"page", "a.b"}) {
		t.Error(got)
	}
}
