package skaffold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/config"
)

// loadInTime fails the test if the configuration is not read before a deadline.
func loadInTime(t *testing.T, source config.Source) (c *config.Config, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err = config.Load(source)
	}()
	select {
	case <-done:
		return c, err
	case <-time.After(time.Minute):
		t.Fatal("it is still being read")
		return nil, nil
	}
}

func placeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, text)
}

const skaffoldStart = "apiVersion: skaffold/v4beta11\nkind: Config\nmetadata: { name: x }\n"

// A pipe, a device and a file without end in the place of each file that is read are an error, or
// left alone.
func TestOnlyFilesAreRead(t *testing.T) {
	fromSkaffold := config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate}
	ofRelease := func(more string) string {
		return skaffoldStart + "build: { artifacts: [{ image: app }] }\n" +
			"deploy: { helm: { releases: [{ name: a, chartPath: c" + more + " }] } }\n"
	}
	for _, test := range []struct {
		name, bad string            // which file it is
		files     map[string]string // the others
		want      string            // "" if it does without
	}{
		{"skaffold.yaml", "skaffold.yaml", nil, "skaffold.yaml: cannot be read: "},
		{"skaffold.env", "skaffold.env", map[string]string{"skaffold.yaml": ofRelease("")}, ""},
		{"a values file", "v.yaml", map[string]string{"skaffold.yaml": ofRelease(", valuesFiles: [v.yaml]")}, "v.yaml"},
		{"a setFile", "big", map[string]string{"skaffold.yaml": ofRelease(", setFiles: { k: big }")}, `"big"`},
		{"a template", "c/templates/x.yaml", map[string]string{"skaffold.yaml": ofRelease("")}, ""},
		{"a Dockerfile", "Dockerfile", map[string]string{"skaffold.yaml": ofRelease("")}, ""},
		{"the repositories of helm", ".config/helm/repositories.yaml",
			map[string]string{"skaffold.yaml": skaffoldStart + "deploy: { helm: { releases: [{ name: a, remoteChart: " +
				"b/c }] } }\n"}, "the chart repositories that helm knows cannot be read: "},
	} {
		for kind, place := range map[string]func(path string) error{
			"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
			"large": func(path string) error {
				return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40))
			},
		} {
			t.Run(test.name+", "+kind, func(t *testing.T) {
				dir := t.TempDir()
				t.Chdir(dir)
				t.Setenv("HELM_REPOSITORY_CONFIG", filepath.Join(dir, ".config/helm/repositories.yaml"))
				placeFile(t, "c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n")
				placeFile(t, "Dockerfile", "FROM scratch\n")
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
				_, err := loadInTime(t, fromSkaffold)
				if test.want != "" && kind != "large" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%v, without %q", err, test.want)
				}
				if config.ProfileNames(config.Source{Files: []string{test.bad}, Translate: Translate}) != nil {
					t.Error("it has profiles")
				}
			})
		}
	}
}

func TestNotesAreFew(t *testing.T) {
	t.Chdir(t.TempDir())
	placeFile(t, "c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n")
	var unknown strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&unknown, "key%d: 1\n", i)
	}
	write(t, "skaffold.yaml", skaffoldStart+"deploy: { helm: { releases: [{ name: a, chartPath: c }] } }\n"+
		unknown.String())
	c, err := loadInTime(t, config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate})
	if err != nil {
		t.Fatal(err)
	}
	if last := c.Notes[len(c.Notes)-1].String(); len(c.Notes) != 1001 ||
		!strings.HasPrefix(last, "skaffold.yaml: and 99,0") {
		t.Errorf("%d, %s", len(c.Notes), last)
	}
}
