package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
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

// TestTextOfValues holds that what Helm would take for something else without quotes keeps them.
func TestTextOfValues(t *testing.T) {
	var text, keys strings.Builder
	for i, value := range slices.Concat(hostile, withCommas) {
		fmt.Fprintf(&text, "  p%d: %s\n  q%d: %q\n", i, value, i, value)
		fmt.Fprintf(&keys, "  %q: %d\n", value, i)
	}
	for i, value := range []string{"", " a ", "a: b", "# a", "- a", "[a]", "a\nb", "\u2028"} {
		fmt.Fprintf(&text, "  t%d: %q\n", i, value)
		fmt.Fprintf(&keys, "  %q: %d\n", value, i)
	}
	for i, value := range styled {
		fmt.Fprintf(&keys, "  s%d: %s\n", i, value)
	}
	for key, values := range map[string]string{"set": text.String(), "inlineValues": text.String() + keys.String()} {
		loadValues(t, key, values)
		c, err := Load(Source{})
		if err != nil {
			t.Fatal(err)
		}
		checkText(t, c)
	}
}
