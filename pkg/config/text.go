package config

// From a Config to the text of a devloop.yaml that means the same: only what is not the default stands in it.

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// Text returns a devloop.yaml that says what c does. Where c was read from a skaffold.yaml, comments tell what of that is
// not in it.
func (c *Config) Text() ([]byte, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	setKey(root, "apiVersion", plainNode("!!str", Version))
	setKey(root, "name", plainNode("!!str", c.Name))
	if err := writeFields(root, reflect.ValueOf(*c)); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("write a %s: %w", FileName, err)
	}
	return append(c.comments(), out.Bytes()...), nil
}

// comments are the lines that stand above all.
func (c *Config) comments() []byte {
	var out bytes.Buffer
	c.comment(&out, "and is in another way now, or not at all", false)
	c.comment(&out, "and comes to the same in devloop's way", true)
	if len(c.variables) > 0 {
		names := slices.Compact(slices.Sorted(slices.Values(c.variables)))
		fmt.Fprintf(&out, "# From the environment, as it was then: %s\n", oneLine(strings.Join(names, ", ")))
	}
	return out.Bytes()
}

// comment writes the notes of one kind.
func (c *Config) comment(out *bytes.Buffer, what string, harmless bool) {
	begun := false
	for _, note := range c.Notes {
		if note.Harmless != harmless {
			continue
		}
		if !begun {
			fmt.Fprintf(out, "# What stood in %s, %s:\n", oneLine(filepath.Base(c.Path)), what)
		}
		begun = true
		in := "" // which is the same for all but those of a skaffold.env
		if filepath.Base(note.File) != filepath.Base(c.Path) {
			in = oneLine(note.File) + ", "
		}
		fmt.Fprintf(out, "# - %sline %d, %s\n", in, note.Line, oneLine(note.Message))
	}
}

// oneLine is a text without the characters that end a comment, or that none may hold.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// setKey puts a value under a key.
func setKey(n *yaml.Node, key string, value *yaml.Node) {
	n.Content = append(n.Content, plainNode("!!str", key), value)
}

func plainNode(tag, text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
	if notPlain.MatchString(text) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// notPlain is what a block of lines would not keep.
var notPlain = regexp.MustCompile(`^\s|\s\n|[^\PC\n]|[\x{85}\x{2028}\x{2029}\x{feff}]`)

// writeFields puts what the fields of a struct hold into n.
func writeFields(n *yaml.Node, of reflect.Value) error {
	for _, f := range fields(of.Type()) {
		value := of.FieldByIndex(f.Index)
		if f.required && !value.IsZero() || f.required && value.Kind() == reflect.Int || !f.isDefault(value) {
			written, err := f.write(value)
			if err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
			setKey(n, f.key, written)
		}
	}
	return nil
}

// isDefault tells whether a value is what it is if it is left out.
func (f field) isDefault(value reflect.Value) bool {
	if f.fallback != "" {
		fallback := reflect.New(value.Type())
		(&decoder{Report: &tree.Report{}}).read(&tree.Node{Node: parseValue(f.fallback)}, fallback.Interface(), f.check)
		return reflect.DeepEqual(value.Interface(), fallback.Elem().Interface())
	}
	switch value.Kind() {
	case reflect.Struct:
		for _, inner := range fields(value.Type()) {
			if !inner.isDefault(value.FieldByIndex(inner.Index)) {
				return false
			}
		}
		return true
	case reflect.Slice, reflect.Map:
		return value.Len() == 0
	}
	return value.IsZero()
}

// write returns a value as devloop.yaml has it.
func (f field) write(value reflect.Value) (*yaml.Node, error) {
	switch v := value.Interface().(type) {
	case string:
		if _, err := strconv.Atoi(v); err == nil && rules[f.check].max > 0 {
			return plainNode("!!int", v), nil // a port, which may be a name
		}
		return plainNode("!!str", v), nil
	case bool:
		return plainNode("!!bool", strconv.FormatBool(v)), nil
	case int:
		return plainNode("!!int", strconv.Itoa(v)), nil
	case time.Duration:
		return plainNode("!!str", shortDuration(v)), nil
	case []string:
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, text := range v {
			list.Content = append(list.Content, plainNode("!!str", text))
		}
		return list, nil
	case map[string]string:
		return sortedMapping(v, func(text string) (*yaml.Node, error) { return plainNode("!!str", text), nil })
	case SetValues:
		return sortedMapping(v, valueNode)
	case map[string]any:
		return sortedMapping(v, valueNode)
	}
	switch {
	case value.Kind() == reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		err := writeFields(n, value)
		return n, err
	case value.Kind() != reflect.Slice || value.Type().Elem().Kind() != reflect.Struct:
		return nil, fmt.Errorf("a %s cannot be written", value.Type())
	}
	key, isKeyed := keyField(value.Type().Elem())
	list := &yaml.Node{Kind: yaml.SequenceNode}
	if isKeyed {
		list.Kind = yaml.MappingNode
	}
	for i := range value.Len() {
		item := &yaml.Node{Kind: yaml.MappingNode}
		if err := writeFields(item, value.Index(i)); err != nil {
			return nil, err
		}
		if isShort(item) {
			item.Style = yaml.FlowStyle
		}
		if isKeyed {
			setKey(list, value.Index(i).FieldByIndex(key.Index).String(), item)
			continue
		}
		list.Content = append(list.Content, item)
	}
	return list, nil
}

// isShort tells whether a mapping fits on a line.
func isShort(n *yaml.Node) bool {
	const most = 110
	length := 0
	for _, part := range n.Content {
		if part.Kind == yaml.MappingNode || part.Kind == yaml.SequenceNode && len(part.Content) > 8 {
			return false
		}
		length += len(part.Value) + 2
		for _, item := range part.Content {
			length += len(item.Value) + 2
		}
	}
	return length <= most
}

func sortedMapping[V any](m map[string]V, write func(V) (*yaml.Node, error)) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		value, err := write(m[key])
		if err != nil {
			return nil, err
		}
		setKey(n, key, value)
	}
	return n, nil
}

// valueNode returns a value of a chart, of any depth.
func valueNode(value any) (*yaml.Node, error) {
	switch v := value.(type) {
	case string:
		return plainNode("!!str", v), nil
	case map[string]any:
		return sortedMapping(v, valueNode)
	case []any:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v {
			written, err := valueNode(item)
			if err != nil {
				return nil, err
			}
			list.Content = append(list.Content, written)
		}
		return list, nil
	}
	n := &yaml.Node{}
	err := n.Encode(value)
	if _, isFloat := value.(float64); isFloat && !strings.ContainsAny(n.Value, ".e") {
		n.Tag, n.Value = "!!float", n.Value+".0" // which a whole number has not
	}
	return n, err
}

// shortDuration is a duration as people write it: 5m, and not 5m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return cmp.Or(text, "0s")
}
