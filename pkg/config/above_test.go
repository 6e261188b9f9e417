package config

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFileAbove: a devloop.yaml above counts within one repository, if all that leads to it belongs
// to this user.
func TestFileAbove(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, project string)
		ours   bool
	}{
		"own": {func(*testing.T, string) {}, true},
		"own, by links": {func(t *testing.T, project string) {
			file := filepath.Join(project, FileName)
			must(t, os.Rename(file, file+".local"))
			must(t, os.Symlink(FileName+".local", file))
		}, true},
		"no repository": {func(t *testing.T, project string) {
			must(t, os.Remove(filepath.Join(project, ".git")))
		}, false},
		"stranger's file":   {giveAway(FileName), false},
		"stranger's folder": {giveAway("."), false},
		"stranger's .git":   {giveAway(".git"), false},
		"stranger's link": {func(t *testing.T, project string) {
			file := filepath.Join(project, FileName)
			must(t, os.Rename(file, file+".local"))
			must(t, os.Symlink(FileName+".local", file))
			giveAway(FileName)(t, project)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			project := filepath.Join(t.TempDir(), "project")
			must(t, os.MkdirAll(filepath.Join(project, ".git"), 0o700))
			must(t, os.MkdirAll(filepath.Join(project, "a", "b"), 0o700))
			must(t, os.WriteFile(filepath.Join(project, FileName), nil, 0o600))
			test.change(t, project)
			file, ours := FileAbove(filepath.Join(project, "a", "b"))
			if want := filepath.Join("..", "..", FileName); file != want || ours != test.ours {
				t.Errorf("%q, ours: %v", file, ours)
			}
		})
	}
}

// TestFileAboveOfALink: .. of a folder that is reached by a link is that of the folder itself.
func TestFileAboveOfALink(t *testing.T) {
	root := t.TempDir()
	for _, project := range []string{"one", "two"} {
		must(t, os.MkdirAll(filepath.Join(root, project, ".git"), 0o700))
		must(t, os.WriteFile(filepath.Join(root, project, FileName), nil, 0o600))
	}
	must(t, os.MkdirAll(filepath.Join(root, "two", "a", "b"), 0o700))
	must(t, os.Symlink(filepath.Join(root, "two", "a", "b"), filepath.Join(root, "one", "link")))
	if file, ours := FileAbove(filepath.Join(root, "one", "link")); file != filepath.Join("..", "..", FileName) || !ours {
		t.Errorf("%q, ours: %v", file, ours)
	}
}

// giveAway makes another user the owner of a file of the project.
func giveAway(name string) func(*testing.T, string) {
	return func(t *testing.T, project string) {
		t.Helper()
		if os.Getuid() != 0 {
			t.Skip("only root can give files away")
		}
		must(t, os.Lchown(filepath.Join(project, name), 12345, -1))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
