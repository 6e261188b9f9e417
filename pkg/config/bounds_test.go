package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// loadInTime fails the test if the configuration is not read before a deadline.
func loadInTime(t *testing.T, source Source) (c *Config, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err = Load(source)
	}()
	select {
	case <-done:
		return c, err
	case <-time.After(5 * time.Minute): // seconds, unless the machine is busy; hours for the square
		t.Fatal("it is still being read")
		return nil, nil
	}
}

func placeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, text)
}

// A pipe, a device and a file without end in the place of each file that is read are an error, or
// left alone.
func TestOnlyFilesAreRead(t *testing.T) {
	valid := "apiVersion: " + Version + "\nname: x\nreleases: [{ name: a, chart: ./c, namespace: n }]\n"
	for _, test := range []struct {
		name, bad string            // which file it is
		files     map[string]string // the others
		source    Source
		want      string // "" if it does without
	}{
		{"the base", "devloop.yaml", nil, Source{}, "devloop.yaml: cannot be read: "},
		{"a layer", "over.yaml", map[string]string{"devloop.yaml": valid},
			Source{Files: []string{"devloop.yaml", "over.yaml"}}, "over.yaml: cannot be read: "},
	} {
		for kind, place := range map[string]func(path string) error{
			"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
			"large": func(path string) error {
				return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40))
			},
		} {
			t.Run(test.name+", "+kind, func(t *testing.T) {
				t.Chdir(t.TempDir())
				placeFile(t, "c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n")
				for name, text := range test.files {
					placeFile(t, name, text)
				}
				placeFile(t, test.bad, "") // its folder
				if err := os.Remove(test.bad); err != nil {
					t.Fatal(err)
				}
				if err := place(test.bad); err != nil {
					t.Fatal(err)
				}
				_, err := loadInTime(t, test.source)
				if test.want != "" && kind != "large" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%v, without %q", err, test.want)
				}
				if ProfileNames(Source{Files: []string{test.bad}}) != nil {
					t.Error("it has profiles")
				}
			})
		}
	}
	t.Chdir(t.TempDir())
	placeFile(t, "devloop.yaml", valid+strings.Repeat("#", 4<<20))
	if _, err := loadInTime(t, Source{}); !errors.Is(err, files.ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// However much is wrong, what is said of it is short.
func TestProblemsAreFew(t *testing.T) {
	const many, maxProblems, maxMessage = 200_000, 50, 1000
	head := "apiVersion: " + Version + "\nname: x\n"
	var unknown, entries, deep strings.Builder
	for i := range many {
		fmt.Fprintf(&unknown, "key%d: 1\n", i)
		if i < 50_000 {
			fmt.Fprintf(&entries, " k%d: [1]\n", i)
		}
	}
	deep.WriteString("images: ")
	for range 40 {
		deep.WriteString("{ " + strings.Repeat("k", 20_000) + ": ")
	}
	deep.WriteString("x" + strings.Repeat(" }", 40))
	for _, test := range []struct{ name, text, want string }{
		{"unknown keys", head + unknown.String(), "\nand 199,950 more"},
		{"wrong entries", head + "images:\n" + entries.String(), " more"},
		{"a long key", head + strings.Repeat("k", 1000) + ": 1\n", ""},
		{"a long value", head + "images: " + strings.Repeat("v", 1<<20) + "\n", ""},
		{"a long number", head + "forwards: [{ service: a, namespace: b, port: 1, local: 1" + strings.Repeat("0", 1<<20) +
			" }]\n", " … "},
		{"long keys in each other", head + deep.String(), ""},
		{"deep", head + "images: " + strings.Repeat("[", 1<<20), ""},
		{"a long name", head + "releases: [{ name: " + strings.Repeat("v", 1<<20) + ", chart: " + strings.Repeat("w", 1<<20) +
			", namespace: n }]\n", " … "},
		{"not YAML", strings.Repeat("k: [", 1<<20), ""},
		{"one long line of nothing", head + strings.Repeat("\"", 1<<20), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			placeFile(t, "devloop.yaml", test.text)
			_, err := loadInTime(t, Source{})
			if err == nil {
				t.Fatal("nothing is wrong")
			}
			var wrong *tree.Error
			if !errors.As(err, &wrong) || len(wrong.Problems) > maxProblems {
				t.Errorf("%T, %d problems", err, len(wrong.Problems))
			}
			if text := err.Error(); len(text) > (maxProblems+1)*(maxMessage+100) || !strings.Contains(text, test.want) {
				t.Errorf("%d bytes: %.300s ... %s", len(text), text, text[max(0, len(text)-300):])
			}
		})
	}
}

// The time that laying large files over each other takes grows with their size, not with its
// square.
func TestLargeFilesAreReadInTime(t *testing.T) {
	t.Chdir(t.TempDir())
	placeFile(t, "c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n")
	var values strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&values, "    k%d: 1\n", i)
	}
	release := "releases:\n- name: a\n  chart: ./c\n  namespace: n\n  inlineValues:\n" + values.String()
	write(t, "devloop.yaml", "apiVersion: "+Version+"\nname: x\n"+release)
	write(t, "over.yaml", release)
	c, err := loadInTime(t, Source{Files: []string{"devloop.yaml", "over.yaml"}})
	if err != nil {
		t.Fatalf("%.300v", err)
	}
	if n := len(c.Releases[0].InlineValues); n != 100_000 {
		t.Errorf("%d values", n)
	}
}
