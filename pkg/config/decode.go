package config

// How a tree of values becomes the Go values that config.go describes. No reader stops at the first problem.

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// decoder reads one tree.
type decoder struct {
	*tree.Report
	partial bool // the tree is one of several that are laid over each other: what it leaves out, another one may say
	again   bool // its files were read before, each by itself: their unknown keys are told of
}

// field is one key of a mapping, as the tags of a struct's field describe it (see file).
type field struct {
	reflect.StructField
	key, fallback, check       string
	required, identity, choice bool
}

// fields returns the keys of the mapping that t, a struct, stands for.
func fields(t reflect.Type) []field {
	var list []field
	for _, f := range reflect.VisibleFields(t) {
		if tag, ok := f.Tag.Lookup("key"); ok && tag != "*" {
			key, option, _ := strings.Cut(tag, ",")
			choice := option == "choice"
			identity := option == "identity" || choice
			list = append(list, field{f, key, f.Tag.Get("default"), f.Tag.Get("check"), option != "" && !choice, identity, choice})
		}
	}
	return list
}

// keyField returns the field that holds the key which a mapping of type t stands under: a list of such structs is
// written as a mapping.
func keyField(t reflect.Type) (field, bool) {
	if t.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(t) {
			if f.Tag.Get("key") == "*" {
				return field{StructField: f, check: f.Tag.Get("check")}, true
			}
		}
	}
	return field{}, false
}

func isKeyed(list reflect.Type) bool {
	_, ok := keyField(list.Elem())
	return ok
}

// read decodes n into what into points to. The check is of the value, of each item of a list, or of each key of a map.
// What is wrong is left as it was.
func (d *decoder) read(n *tree.Node, into any, check string) {
	switch into := into.(type) {
	case *string:
		if rules[check].most > 0 && n.Tag != "!!str" {
			if number, ok := d.number(n, check); ok {
				*into = strconv.Itoa(number)
			}
		} else if text, ok := d.text(n); ok && d.check(n, text, check) {
			*into = text
		}
	case *bool:
		if !n.IsScalar() || n.Tag != "!!bool" || n.Decode(into) != nil {
			d.Wrong(n, "must be true or false, but is %s", n.Describe())
		}
	case *int:
		if number, ok := d.number(n, check); ok {
			*into = number
		}
	case *time.Duration:
		parsed, err := time.ParseDuration(n.Value)
		if !n.IsScalar() || err != nil || !rules["duration"].pattern.MatchString(n.Value) {
			d.Wrong(n, "must be %s, but is %s", rules["duration"].is, n.Describe())
		} else if d.check(n, n.Value, check) {
			*into = parsed
		}
	case *[]string:
		if d.is(n, yaml.SequenceNode) {
			*into = make([]string, len(n.Items))
			for i, item := range n.Items {
				d.read(item, &(*into)[i], check)
			}
		}
	case *map[string]string: // all of them are text for a Dockerfile or a chart, so numbers need no quotes
		*into = map[string]string{}
		for _, e := range d.entries(n, check) {
			if !e.Value.IsNull() && d.is(e.Value, yaml.ScalarNode) {
				(*into)[e.Key.Value] = e.Value.Value
			}
		}
	case *SetValues:
		*into = SetValues{}
		for _, e := range d.entries(flat(n), check) {
			if e.Value.IsScalar() {
				(*into)[e.Key.Value] = d.scalar(e.Value)
				continue
			}
			d.Wrong(e.Value, "%s must be a single value, but is %s; write one line per value, with dots in the key (a.b.c), "+
				"or use inlineValues", e.Key.Value, e.Value.Describe())
		}
	case *map[string]any:
		if d.is(n, yaml.MappingNode) {
			*into = d.mapping(n)
		}
	case *map[string]Config: // profiles
		profile := &decoder{Report: d.Report, partial: true}
		for _, e := range d.entries(n, check) {
			if !e.Value.IsNull() {
				profile.read(e.Value, &Config{}, "")
			}
		}
	default:
		d.compound(n, reflect.ValueOf(into).Elem())
	}
}

// compound reads a struct or a list of them.
func (d *decoder) compound(n *tree.Node, into reflect.Value) {
	if into.Kind() == reflect.Struct {
		d.structure(n, into)
		return
	}
	item := into.Type().Elem()
	if key, ok := keyField(item); ok {
		for _, e := range d.entries(n, key.check) {
			value := reflect.New(item).Elem()
			value.FieldByIndex(key.Index).SetString(e.Key.Value)
			if e.Value.IsNull() { // "worker:" alone takes all defaults
				e.Value = e.Value.As(yaml.MappingNode, e.Value.Path)
			}
			d.structure(e.Value, value)
			into.Set(reflect.Append(into, value))
		}
		return
	}
	if d.is(n, yaml.SequenceNode) {
		into.Set(reflect.MakeSlice(into.Type(), len(n.Items), len(n.Items)))
		items := &decoder{d.Report, d.partial && len(identity(into.Type())) > 0, d.again} // other lists are replaced, so they are whole
		for i, child := range n.Items {
			items.structure(child, into.Index(i))
		}
	}
}

// structure reads a mapping with the keys of a struct and no other. A key without a value counts as left out.
func (d *decoder) structure(n *tree.Node, into reflect.Value) {
	if !d.is(n, yaml.MappingNode) {
		return
	}
	known := fields(into.Type())
	d.unknown(n, known)
	d.choice(n, known)
	for _, f := range known {
		at, target := n.Get(f.key), into.FieldByIndex(f.Index).Addr().Interface()
		required := f.required && (f.identity || !d.partial)
		isEmpty := at != nil && (at.IsNull() || at.IsList() && len(at.Items) == 0 && f.Type.Kind() == reflect.Slice)
		switch {
		case isEmpty && (required || f.choice):
			d.Wrong(at, "must not be empty")
		case at != nil && !at.IsNull():
			d.read(at, target, f.check)
		case required:
			d.Wrong(n, "%q is missing", f.key)
		case f.fallback != "":
			d.read(&tree.Node{Node: parseValue(f.fallback)}, target, f.check)
		case into.FieldByIndex(f.Index).Kind() == reflect.Struct: // its fields have defaults
			d.read(n.As(yaml.MappingNode, tree.JoinPath(n.Path, f.key)), target, "")
		}
	}
}

// unknown reports the keys of n that are not among the known ones.
func (d *decoder) unknown(n *tree.Node, known []field) {
	keys := make([]string, len(known))
	for i, f := range known {
		keys[i] = f.key
	}
	for _, e := range n.Entries {
		if d.again && !e.Key.Origin.Assignment || slices.Contains(keys, e.Key.Value) {
			continue
		}
		meant := tree.DidYouMean(e.Key.Value, keys)
		if meant == "" {
			meant = "; known here: " + strings.Join(keys, ", ")
		}
		d.Wrong(e.Key, "unknown key %q%s", e.Key.Value, meant)
	}
}

// choice reports n if it has none, or more than one, of the known keys that exclude each other.
func (d *decoder) choice(n *tree.Node, known []field) {
	var keys []string
	for _, f := range known {
		if f.choice {
			keys = append(keys, f.key)
		}
	}
	first := ""
	for _, e := range n.Entries {
		switch {
		case !slices.Contains(keys, e.Key.Value):
		case first == "":
			first = e.Key.Value
		default:
			d.Wrong(e.Key, "has %q beside %q, but needs exactly one of these keys: %s", e.Key.Value, first, strings.Join(keys, ", "))
		}
	}
	if first == "" && len(keys) > 0 {
		d.Wrong(n, "needs one of these keys: %s", strings.Join(keys, ", "))
	}
}

// entries returns those of a mapping, after a check of their keys.
func (d *decoder) entries(n *tree.Node, check string) []tree.Entry {
	if !d.is(n, yaml.MappingNode) {
		return nil
	}
	for _, e := range n.Entries {
		d.check(e.Key, e.Key.Value, check)
	}
	return n.Entries
}

// is tells whether n has that kind; if not, it says so.
func (d *decoder) is(n *tree.Node, kind yaml.Kind) bool {
	if n.Kind == kind {
		return true
	}
	want := map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}
	d.Wrong(n, "must be %s, but is %s", want[kind], n.Describe())
	return false
}

// text reads a string that is not empty.
func (d *decoder) text(n *tree.Node) (text string, ok bool) {
	switch {
	case !n.IsScalar() || n.IsNull():
		d.Wrong(n, "must be text, but is %s", n.Describe())
	case n.Tag != "!!str" && !n.Origin.Assignment:
		d.Wrong(n, "must be text, but is %s; put it in quotes", n.Describe())
	case n.Value == "":
		d.Wrong(n, "must not be empty")
	default:
		return n.Value, true
	}
	return "", false
}

// number reads a whole number in the bounds of the rule of that name.
func (d *decoder) number(n *tree.Node, name string) (number int, ok bool) {
	r := rules[name]
	if !n.IsScalar() || n.Tag != "!!int" || n.Decode(&number) != nil || number < r.least || number > r.most {
		d.Wrong(n, "must be %s, but is %s", r.is, n.Describe())
		return 0, false
	}
	return number, true
}

// check reports it if n, given as text, breaks the rule of that name.
func (d *decoder) check(n *tree.Node, text, name string) bool {
	message := rules[name].breach(text)
	if message != "" {
		d.Wrong(n, "%s", message)
	}
	return message == ""
}

// flat returns a mapping whose values have its own path, for messages: the dots in the keys of set would read as more of
// the path.
func flat(n *tree.Node) *tree.Node {
	if n == nil {
		return nil
	}
	c := n.Clone()
	for i, e := range c.Entries {
		value := *e.Value
		value.Path = strings.TrimSuffix(value.Path, "."+e.Key.Value)
		c.Entries[i].Value = &value
	}
	return c
}

// mapping returns a mapping of inline values.
func (d *decoder) mapping(n *tree.Node) map[string]any {
	values := make(map[string]any, len(n.Entries))
	for _, e := range n.Entries {
		values[keyText(e.Key)] = d.value(e.Value)
	}
	return values
}

// value returns an inline value, of any depth.
func (d *decoder) value(n *tree.Node) any {
	switch {
	case n.IsMapping():
		return d.mapping(n)
	case n.IsList():
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = d.value(item)
		}
		return list
	}
	return d.scalar(n)
}

// keyText returns a key of inline values as Helm reads it from a values file: true and 8080 are text, since JSON has no
// other keys.
func keyText(key *tree.Node) string {
	var typed any
	switch key.Tag {
	case "!!int", "!!float", "!!bool":
		if key.Decode(&typed) == nil {
			return fmt.Sprint(typed)
		}
	}
	return key.Value
}

// scalar returns a single Helm value with the type that it has in YAML. Dates are text, as for helm --set.
func (d *decoder) scalar(n *tree.Node) any {
	var typed any
	switch n.Tag {
	case "!!str", "!!timestamp":
		return n.Value
	case "!!null", "!!bool", "!!int", "!!float":
		if err := n.Decode(&typed); err != nil {
			d.Wrong(n, "%q does not fit its tag %s", n.Value, n.Tag)
		}
	default:
		d.Wrong(n, "has a tag that is not known: %s", n.Tag)
	}
	if f, ok := typed.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		d.Wrong(n, "%s cannot be a Helm value; put it in quotes if it is text", n.Value)
	}
	return typed
}
