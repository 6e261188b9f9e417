package config

import (
	"path/filepath"
	"reflect"
	"testing"
)

// checkText holds that the devloop.yaml that is made of c means the same.
func checkText(t *testing.T, c *Config) {
	t.Helper()
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.Dir, "made.yaml")
	write(t, path, string(text))
	again, err := Load(Source{Files: []string{path}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(meant(again), meant(c)) {
		t.Errorf("it says %#v\nand not  %#v\n%s", meant(again), meant(c), text)
	}
}

// TestText holds that a devloop.yaml with every key comes back as it was.
func TestText(t *testing.T) {
	t.Chdir(project(t))
	for _, text := range []string{platformFile, base} {
		write(t, FileName, text)
		c, err := Load(Source{})
		if err != nil {
			t.Fatal(err)
		}
		checkText(t, c)
	}
}

// meant is what a configuration says, wherever it was read from.
func meant(c *Config) *Config {
	plain := said(c)
	plain.Path, plain.Format, plain.Notes = "", "", nil
	return plain
}
