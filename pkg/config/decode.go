package config

// How YAML nodes become Go values. Every reader takes a value, the place of a node, and reports what is wrong with it
// there; none of them stops at the first problem.

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder collects what is wrong with one file.
type decoder struct {
	dir      string // what paths are relative to
	problems []Problem
	hint     string
	missing  []string // absolute paths that the file names in vain
}

// value is a node, aliases followed, and its name in messages: "releases[0].chart".
type value struct {
	node *yaml.Node
	path string
}

func (d *decoder) wrong(v value, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if v.path != "" {
		message = v.path + ": " + message
	}
	message = strings.ReplaceAll(message, "\n", `\n`) // one line for each problem
	d.problems = append(d.problems, Problem{v.node.Line, v.node.Column, message})
}

// field is one key that a mapping may have.
type field struct {
	key      string
	required bool
	read     func(value)
}

func need(key string, read func(value)) field { return field{key, true, read} }
func may(key string, read func(value)) field  { return field{key, false, read} }

// fields reads a mapping with these keys and no other. They are read in the order of the schema, not of the file: so
// releases find the images known. A key without a value counts as left out.
func (d *decoder) fields(v value, known ...field) {
	if !d.is(v, yaml.MappingNode) {
		return
	}
	given := map[string]value{}
	keys := make([]string, len(known))
	for i, f := range known {
		keys[i] = f.key
	}
	for _, p := range d.pairs(v) {
		if !slices.Contains(keys, p.key.Value) {
			meant := didYouMean(p.key.Value, keys)
			if meant == "" {
				meant = "; known here: " + strings.Join(keys, ", ")
			}
			d.wrong(value{p.key, v.path}, "unknown key %q%s", p.key.Value, meant)
			continue
		}
		given[p.key.Value] = p.value
	}
	for _, f := range known {
		at, ok := given[f.key]
		switch {
		case ok && !isNull(at.node):
			f.read(at)
		case ok && f.required:
			d.wrong(at, "must not be empty")
		case f.required:
			d.wrong(v, "%q is missing", f.key)
		}
	}
}

// list reads a sequence, item by item.
func (d *decoder) list(read func(value)) func(value) {
	return func(v value) {
		if !d.is(v, yaml.SequenceNode) {
			return
		}
		for i, item := range v.node.Content {
			read(value{deref(item), fmt.Sprintf("%s[%d]", v.path, i)})
		}
	}
}

// is tells whether the node has that kind; if not, it says so.
func (d *decoder) is(v value, kind yaml.Kind) bool {
	if v.node.Kind == kind {
		return true
	}
	want := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
	d.wrong(v, "must be %s, but is %s", want[kind], found(v.node))
	return false
}

// found says what a node is, for "must be a list, but is …".
func found(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "empty"
	case n.Tag == "!!str":
		return fmt.Sprintf("text %q", n.Value)
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number (" + n.Value + ")"
	}
	return n.Value
}

// check reports the first rule that v, given as text, does not pass.
func (d *decoder) check(v value, text string, rules []rule) {
	for _, r := range rules {
		if message := r(v, text); message != "" {
			d.wrong(v, "%s", message)
			return
		}
	}
}

// text reads a string that is not empty.
func (d *decoder) text(into *string, rules ...rule) func(value) {
	return func(v value) {
		switch {
		case v.node.Kind != yaml.ScalarNode || isNull(v.node):
			d.wrong(v, "must be text, but is %s", found(v.node))
		case v.node.Tag != "!!str":
			d.wrong(v, "must be text, but is %s; put it in quotes", found(v.node))
		case v.node.Value == "":
			d.wrong(v, "must not be empty")
		default:
			*into = v.node.Value
			d.check(v, v.node.Value, rules)
		}
	}
}

// texts reads a list of strings.
func (d *decoder) texts(into *[]string, rules ...rule) func(value) {
	return d.list(func(v value) {
		var s string
		d.text(&s, rules...)(v)
		*into = append(*into, s)
	})
}

func (d *decoder) boolean(into *bool) func(value) {
	return func(v value) {
		if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!bool" || v.node.Decode(into) != nil {
			d.wrong(v, "must be true or false, but is %s", found(v.node))
		}
	}
}

// port reads a TCP port; rules see it in decimal.
func (d *decoder) port(into *int, rules ...rule) func(value) {
	return func(v value) {
		var n int
		if v.node.Kind != yaml.ScalarNode || v.node.Tag != "!!int" || v.node.Decode(&n) != nil || n < 1 || n > 65535 {
			d.wrong(v, "must be a port from 1 to 65535, but is %s", found(v.node))
			return
		}
		*into = n
		d.check(v, strconv.Itoa(n), rules)
	}
}

// duration reads a Go duration of at least least.
func (d *decoder) duration(into *time.Duration, least time.Duration) func(value) {
	return func(v value) {
		parsed, err := time.ParseDuration(v.node.Value)
		if v.node.Kind != yaml.ScalarNode || err != nil {
			d.wrong(v, "must be a duration like 30s or 5m, but is %s", found(v.node))
			return
		}
		if parsed < least {
			d.wrong(v, "must be at least %s, but is %s", least, parsed)
			return
		}
		*into = parsed
	}
}
