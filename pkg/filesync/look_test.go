//go:build linux

package filesync

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestLook(t *testing.T) {
	on(t, func(t *testing.T, n node) {
		one := startContainer(t, map[string]string{"/app/x": "x", `/app/a\b "c"`: "odd", "/abs": "-> /app",
			"/up": "-> ../../../app/../app", "/dead": "-> nowhere", "/app/link": "-> x", "/ring": "-> ring", "/d": "/",
			"/etc/passwd": "in the container",
			"/out":        "-> /proc/1/root/etc"})
		two := startContainer(t, nil)
		if err := errors.Join(os.Chmod(one.path("/app/x"), 0o711), syscall.Mkfifo(one.path("/pipe"), 0o600)); err != nil {
			t.Fatal(err)
		}
		x := source(t, "", "x", 0o711)
		passwd := source(t, "", "in the container", 0o644)
		want := map[string]State{
			"/app/x": {Mode: 0o711, Digest: x.Digest}, "/abs/x": {Mode: 0o711, Digest: x.Digest},
			"/up/x":        {Mode: 0o711, Digest: x.Digest},
			`/app/a\b "c"`: {Mode: 0o644, Digest: source(t, "", "odd", 0).Digest},
			"/abs":         {Mode: fs.ModeSymlink | fs.ModeDir, Link: "/app"}, "/app/link": {Mode: fs.ModeSymlink, Link: "x"},
			"/dead": {Mode: fs.ModeSymlink, Link: "nowhere"}, "/dead/x": {Absent: true},
			"/ring":   {Mode: fs.ModeSymlink, Link: "ring"},
			"/ring/x": {Absent: true}, "/d": {Mode: fs.ModeDir}, "/pipe": {Mode: fs.ModeIrregular}, "/app/x/y": {Absent: true},
			"/etc/passwd": {Mode: 0o644, Digest: passwd.Digest}, "/none": {Absent: true},
		}
		var paths []string
		for path := range want {
			paths = append(paths, path)
		}
		listings, err := Look(t.Context(), n, []Container{one.Container, two.Container}, append(paths, "/out/passwd"))
		if err != nil || listings[0].Err != nil || listings[1].Err != nil {
			t.Fatal(err, listings)
		}
		for path, state := range want {
			if got := listings[0].Files[path]; got != state {
				t.Errorf("%s: %+v, not %+v", path, got, state)
			}
			if got := listings[1].Files[path]; !got.Absent {
				t.Errorf("the other, %s: %+v", path, got)
			}
		}
		for range 2 {
			if listings, err := Look(t.Context(), n, nil, paths); err != nil || listings != nil {
				t.Errorf("%v, %v", listings, err)
			}
		}
	})
}

// What a node says is untrusted.
func TestReport(t *testing.T) {
	containers, paths := []Container{{ID: "a"}}, []string{"/x"}
	for out, ok := range map[string]bool{
		"v\t0\na\t0\t0\n":            true,
		"v\t1\n":                     false,
		"v\t-1\n":                    false,
		"a\t0\t1\n":                  false,
		"a\t0\n":                     false,
		"a\tx\ty\n":                  false,
		"l\t0\t0\to\n":               false,
		"f\t0\t0\n":                  false,
		"e\t0\n":                     false,
		"z\t0\t0\n":                  false,
		"":                           true,
		"-rw-r--r-- 1 0 0 1\n.\n.\n": true,
		"garbage":                    true,
		"f\t0\t0\t/f\n-rw-r--r-- 1\n-rw-r--r-- 2\n.\n":                                 true,
		"f\t0\t0\t/f\n-rz\n.\n.\n":                                                     true,
		"f\t0\t0\t/f\n-rw-r--r-- 1\n.\n" + strings.Repeat("0", 64) + "\n":              true,
		"f\t0\t0\t/f\n-rw-r--r-- 1\n.\n\\" + strings.Repeat("0", 64) + "  /g\\\\\n.\n": true,
	} {
		r := newReport(containers, paths)
		if err := r.read(out); (err == nil) != ok {
			t.Errorf("%q: %v", out, err)
		}
		if listings := r.listings(); (listings[0].Err == nil) != strings.HasSuffix(out, "a\t0\t0\n") {
			t.Errorf("%q: %+v", out, listings)
		}
	}
}
