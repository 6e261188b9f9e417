package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestSettingsPath(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	for set, want := range map[string]string{
		"":          "/home/somebody/.config/devloop/config.yaml",
		"relative":  "/home/somebody/.config/devloop/config.yaml",
		"/settings": "/settings/devloop/config.yaml",
	} {
		t.Setenv("XDG_CONFIG_HOME", set)
		if got, err := SettingsPath(); got != want || err != nil {
			t.Errorf("%q: %s, %v", set, got, err)
		}
	}
}

func TestLoadSettings(t *testing.T) {
	write := func(t *testing.T, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	check := func(t *testing.T, path string, want []string, says string) {
		t.Helper()
		got, err := LoadSettings(path)
		switch {
		case says == "" && err != nil, says != "" && (err == nil || err.Error() != strings.ReplaceAll(says, "FILE", path)):
			t.Errorf("%v, not %q", err, says)
		case !reflect.DeepEqual(got.AllowContexts, want):
			t.Errorf("%q", got.AllowContexts)
		}
	}
	for text, test := range map[string]struct {
		want []string
		says string
	}{
		"allowContexts: [prod, 'arn:aws:eks:eu-west-1:1:cluster/team']\n": {
			want: []string{"prod", "arn:aws:eks:eu-west-1:1:cluster/team"}},
		"allowContexts:\n":         {},
		"allowContext: [prod]\n":   {says: `FILE:1:1: unknown key "allowContext"; did you mean "allowContexts"?`},
		"\nallowContexts: prod\n":  {says: `FILE:2:16: allowContexts: must be a list, but is text "prod"`},
		"allowContexts: [a, '']\n": {says: "FILE:1:20: allowContexts[1]: must not be empty"},
		"name: demo\n":             {says: `FILE:1:1: unknown key "name"; known here: allowContexts`},
		"[prod]\n":                 {says: "FILE:1:1: must be a mapping, but is a list"},
		"":                         {says: "FILE: the file is empty"},
		"a: b: c\n": {says: "FILE:1: mapping values are not allowed in this context (a text with \": " +
			"\" in it needs quotes)"},
	} {
		t.Run(text, func(t *testing.T) { check(t, write(t, text), test.want, test.says) })
	}
	t.Run("no file", func(t *testing.T) { check(t, filepath.Join(t.TempDir(), "config.yaml"), nil, "") })
	t.Run("a link", func(t *testing.T) { // as people have who keep their settings in a repository of their own
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.Symlink(write(t, "allowContexts: [prod]"), path); err != nil {
			t.Fatal(err)
		}
		check(t, path, []string{"prod"}, "")
	})
	t.Run("others may write", func(t *testing.T) {
		for _, mode := range []os.FileMode{0o620, 0o602} {
			path := write(t, "allowContexts: [prod]")
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			check(t, path, nil, "FILE: cannot be read: others may write to it")
		}
	})
	t.Run("another user's", func(t *testing.T) {
		path := write(t, "allowContexts: [prod]")
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Skip("only root can give a file away")
		}
		check(t, path, nil, "FILE: cannot be read: it belongs to another user (uid 12345)")
	})
	t.Run("no regular file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		check(t, path, nil, "FILE: cannot be read: it is a named pipe, not a regular file")
	})
	t.Run("too large", func(t *testing.T) {
		check(t, write(t, "allowContexts: ["+strings.Repeat("a, ", settingsSize)+"]"), nil,
			"FILE: cannot be read: too large: it has more than 65536 bytes")
	})
}

// A hint names the file that is in use.
func TestWhereToSet(t *testing.T) {
	for want, c := range map[string]Config{
		"local.images in devloop.yaml": {Path: "/work/devloop.yaml"},
		"local.images in dev.yaml":     {Path: "/work/dev.yaml"},
		"local.images, by --set":       {Path: "/work/skaffold.yaml", Format: "skaffold/v4beta11"},
	} {
		if got := c.WhereToSet("local.images"); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
