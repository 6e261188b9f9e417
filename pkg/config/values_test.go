package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	helm "helm.sh/helm/v3/pkg/cli/values"
)

// hostile are plain values that programs read differently, or that helm --set gives a meaning.
var hostile = []string{
	"no", "No", "NO", "yes", "y", "n", "N", "on", "Off", "true", "True", "tRUE", "false", "0", "-0", "3", "+3", "-3",
	"1.10", "3.0", "1.", ".5", "1e3", "1E-3", "0755", "0o755", "08", "0x1F", "0b11", "1_000", "0x_1F", "12:30:45",
	"190:20:30.15", "2001-01-01", "2001-12-14 21:59:43.10 -5", "9007199254740993", "-9223372036854775808",
	"18446744073709551615", "18446744073709551616", "1000680000", "1e400", "=", "<", "a<<b", "nope", "v1.10", "8080:80",
	`back\slash`, "a b", "it's", "ünï", "null", "NULL",
}

// withCommas are plain values that YAML allows in a block only.
var withCommas = []string{"1,000", "a,b=c", "x{y,z}", "http://x/y?a=b,c={d}", "a[0]"}

// styled are values with quotes, tags or several lines.
var styled = []string{
	`"no"`, `'no'`, `"1.10"`, `"0755"`, `'2001-01-01'`, `""`, `"~"`, `"null"`, `"a\tb\u00e9"`, "|\n   no", "|-\n   1.10",
	">\n   folded\n   text\n\n   more", "plain\n   over lines\n\n   no", "!!str no", "!!str 1.10", `!!int "8"`,
	"!!float 3", "!!bool yes", `!!bool "no"`, "!mine 5", "!!binary aGk=", "!!timestamp 2001-01-01", "!!null null",
	"[no, 1.10, [0755], { a: yes }]", `{ yes: 1, 1.10: a, 0x10: b, 2001-01-01: c, "no": d, 'n': e }`, "[]", "{}",
	"[~, ]", "\n   - no\n   - - 08\n", "&a no", "~", "",
}

// loadValues loads a devloop.yaml whose release has text, indented by two, below a key.
func loadValues(t *testing.T, key, text string) Release {
	t.Helper()
	text = "apiVersion: devloop/v1\nname: p\nreleases:\n- name: r\n  chart: chart.tgz\n  namespace: n\n  " + key + ":\n" +
		strings.ReplaceAll("\n"+text, "\n", "\n  ")
	c, err := load(t, project(t), text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c.Releases[0]
}

// TestInlineValuesAreHelms holds that the same text means the same below inlineValues and in a
// values file of helm install -f.
func TestInlineValuesAreHelms(t *testing.T) {
	var text strings.Builder
	for i, value := range slices.Concat(hostile, withCommas, styled) {
		fmt.Fprintf(&text, "  v%d: %s\n", i, value)
	}
	for i, key := range append([]string{`"no"`, "'n'", `"1.10"`, "!!str on", `!!bool "yes"`}, hostile...) {
		if !strings.EqualFold(key, "null") && key != "18446744073709551615" { // no keys for Helm
			fmt.Fprintf(&text, "  k%d: { ? %s : x }\n", i, key)
		}
	}
	text.WriteString("  base: &base { on: off, n: 08, deep: { 0755: yes } }\n" +
		"  merged: { <<: *base, n: no }\n" +
		"  both: { <<: [{ x: 1, on: 2 }, *base], more: *base }\n" +
		"  list: [*base, { <<: *base }]\n")
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := (&helm.Options{ValueFiles: []string{file}}).MergeValues(nil)
	if err != nil {
		t.Fatal(err)
	}
	got := loadValues(t, "inlineValues", text.String()).InlineValues
	for key, value := range want {
		if !reflect.DeepEqual(got[key], value) {
			t.Errorf("%s: %#v, and for Helm %#v", key, got[key], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d values, and Helm has %d", len(got), len(want))
	}
}

// TestSetIsHelms holds that a plain value of set means what it means in helm --set, and one in
// quotes what it means in helm --set-string.
func TestSetIsHelms(t *testing.T) {
	var text strings.Builder
	var plain, quoted []string
	for i, value := range slices.Concat(hostile, withCommas) {
		fmt.Fprintf(&text, "  p%d: %s\n  q%d: '%s'\n", i, value, i, strings.ReplaceAll(value, "'", "''"))
		escaped := strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(value) // else another assignment begins there
		plain = append(plain, fmt.Sprintf("p%d=%s", i, escaped))
		quoted = append(quoted, fmt.Sprintf("q%d=%s", i, escaped))
	}
	want, err := (&helm.Options{Values: plain, StringValues: quoted}).MergeValues(nil)
	if err != nil {
		t.Fatal(err)
	}
	got := loadValues(t, "set", text.String()).Set
	for key, value := range want {
		if !reflect.DeepEqual(got[key], value) {
			t.Errorf("%s: %#v, and for Helm %#v", key, got[key], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d values, and Helm has %d", len(got), len(want))
	}
}
