package config

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// Text returns a devloop.yaml that says what c, which Load returned, does. Notes on a translated
// file become comments.
func (c *Config) Text() ([]byte, error) {
	var out bytes.Buffer
	file := oneLine(filepath.Base(c.Path))
	c.comment(&out, "What devloop does differently from "+file+", or not at all", false)
	c.comment(&out, "What devloop does in its own way, to the same effect as "+file, true)
	if len(c.variables) > 0 {
		names := slices.Compact(slices.Sorted(slices.Values(c.variables)))
		fmt.Fprintf(&out, "# Filled in from the environment: %s\n", oneLine(strings.Join(names, ", ")))
	}
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(encodable(c.root, reflect.TypeFor[document]())); err != nil {
		return nil, fmt.Errorf("write a %s: %w", FileName, err)
	}
	return out.Bytes(), nil
}

// comment writes the notes of one kind below a title.
func (c *Config) comment(out *bytes.Buffer, title string, harmless bool) {
	for _, note := range c.Notes {
		if note.Harmless != harmless {
			continue
		}
		if title != "" {
			fmt.Fprintf(out, "# %s:\n", title)
			title = ""
		}
		place := "" // in the file itself
		if path, err := filepath.Abs(note.File); err != nil || path != c.Path {
			place = oneLine(note.File) + ", "
		}
		if note.Line > 0 { // it is of a file
			place += fmt.Sprintf("line %d, ", note.Line)
		}
		fmt.Fprintf(out, "# - %s%s\n", place, oneLine(note.Message))
	}
}

// oneLine replaces the characters that would end a comment, or that YAML does not allow.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// encodable returns n, a value of type t, for the YAML encoder, with the keys of a struct in the
// order of its fields.
func encodable(n *tree.Node, t reflect.Type) *yaml.Node {
	made := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value}
	isValue := t != nil && t.Kind() == reflect.Interface
	if notPlain.MatchString(n.Value) || isValue && n.IsScalar() && isText(n) && !isTextInPlain(n.Value) {
		made.Style = yaml.DoubleQuotedStyle
	}
	put := func(e tree.Entry) {
		below := typeOf(t, e.Key.Value)
		var key reflect.Type
		if below != nil && below.Kind() == reflect.Interface { // Helm reads the keys of values, too
			key = below
		}
		made.Content = append(made.Content, encodable(e.Key, key), encodable(e.Value, below))
	}
	if t != nil && t.Kind() == reflect.Struct {
		for _, f := range fields(t) {
			for _, e := range n.Entries {
				if e.Key.Value == f.key && !e.Value.IsNull() { // a key without a value counts as left out
					put(e)
				}
			}
		}
		return made
	}
	for _, e := range n.Entries {
		put(e)
	}
	for _, item := range n.Items {
		made.Content = append(made.Content, encodable(item, typeOf(t, "")))
	}
	return made
}

// notPlain is text that would change in plain or literal style.
var notPlain = regexp.MustCompile(`^\s|\s\n|[^\PC\n]|[\x{85}\x{2028}\x{2029}\x{feff}]`)
