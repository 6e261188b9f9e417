package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// decoder fills Go values from a tree, as their fields' tags say. It reports all problems, and does
// not stop at the first one.
type decoder struct {
	*tree.Report
	partial bool // other layers may have what this tree leaves out
	again   bool // each file was decoded before by itself, which reported its unknown keys
}

// read decodes n into what into points to. The check is for the value, for each item of a list, or
// for each key of a map. A wrong value leaves into as it was.
func (d *decoder) read(n *tree.Node, into any, check string) {
	switch into := into.(type) {
	case *string:
		if rules[check].max > 0 && n.Tag != "!!str" {
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
	case *Then:
		d.then(n, into)
	case *map[string]string: // text for a Dockerfile or a chart, so numbers need no quotes
		*into = map[string]string{}
		for _, e := range d.entries(n, check) {
			if !e.Value.IsNull() && d.is(e.Value, yaml.ScalarNode) {
				(*into)[e.Key.Value] = e.Value.Value
			}
		}
	case *SetValues:
		*into = SetValues{}
		for _, e := range d.entries(n, check) {
			if e.Value.IsScalar() {
				(*into)[e.Key.Value] = d.setValue(e.Value)
				continue
			}
			d.Wrong(e.Value, "must be a single value, but is %s; write one line per value, with dots in the key (a.b.c), "+
				"or use inlineValues", e.Value.Describe())
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

// then decodes one of the words, or a command.
func (d *decoder) then(n *tree.Node, into *Then) {
	words := []string{thenNothing, thenRestart}
	var then Then
	if !n.IsScalar() {
		d.read(n, (*[]string)(&then), "")
	} else if text, ok := d.text(n); !ok {
		return
	} else if message := rules["then"].violation(text); message == "" {
		then = Then{text}
	} else if similar := tree.Similar(text, words); tree.IsTypo(text, similar) {
		d.Wrong(n, "%s; did you mean %q?", message, similar)
	} else {
		d.Wrong(n, "%s: %s", message, commandOf(text))
	}
	if len(then) > 0 && !slices.Equal(then, Then{thenNothing}) {
		*into = then
	}
}

// shellSyntax is in a command line that only a shell understands.
var shellSyntax = regexp.MustCompile("[|&;<>()$`\"'*?\n]")

// commandOf returns a command line as a list in YAML.
func commandOf(line string) string {
	words := strings.Fields(line)
	if shellSyntax.MatchString(line) {
		words = []string{"sh", "-c", line}
	}
	list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, word := range words {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: word})
	}
	text, err := yaml.Marshal(list)
	if err != nil {
		return fmt.Sprintf("%q", words)
	}
	return strings.TrimSpace(string(text))
}

// compound decodes a struct or a list of them.
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
		// A list without identities is replaced as a whole, so no other layer completes its items.
		items := &decoder{d.Report, d.partial && len(identityKeys(into.Type())) > 0, d.again}
		for i, child := range n.Items {
			items.structure(child, into.Index(i))
		}
	}
}

// structure decodes a mapping with the keys of a struct and no other. A key without a value counts
// as left out.
func (d *decoder) structure(n *tree.Node, into reflect.Value) {
	if !d.is(n, yaml.MappingNode) {
		return
	}
	known := fields(into.Type())
	d.unknown(n, known)
	d.choice(n, known)
	for _, f := range known {
		value, target := n.Get(f.key), into.FieldByIndex(f.Index)
		required := f.required && (f.identity || !d.partial)
		switch {
		case value != nil && (required || f.choice || f.either && !d.partial) && isEmpty(value, f.Type):
			d.Wrong(value, "must not be empty")
		case value != nil && !value.IsNull():
			d.read(value, target.Addr().Interface(), f.check)
		case required:
			d.Wrong(n, "%q is missing", f.key)
		case f.fallback != "":
			d.read(&tree.Node{Node: parseValue(f.fallback)}, target.Addr().Interface(), f.check)
		case target.Kind() == reflect.Struct: // its fields have defaults
			d.structure(n.As(yaml.MappingNode, tree.JoinPath(n.Path, f.key)), target)
		}
	}
}

func isEmpty(n *tree.Node, t reflect.Type) bool {
	return n.IsNull() || n.IsList() && len(n.Items) == 0 && t.Kind() == reflect.Slice
}

// unknown reports the keys of n that are not among the known ones. One with a typo becomes the
// known one, so that this one is not missing, too, and no default stands in its place.
func (d *decoder) unknown(n *tree.Node, known []field) {
	keys, given := make([]string, len(known)), n.Keys()
	for i, f := range known {
		keys[i] = f.key
	}
	open := openKeys(known, given)
	for i, e := range n.Entries {
		if d.again && !e.Key.Origin.Assignment || slices.Contains(keys, e.Key.Value) {
			continue
		}
		meant := "; known here: " + strings.Join(keys, ", ")
		if similar := tree.Similar(e.Key.Value, open); similar != "" {
			meant = fmt.Sprintf("; did you mean %q?", similar)
			if tree.IsTypo(e.Key.Value, similar) {
				key := e.Key.As(yaml.ScalarNode, e.Key.Path)
				key.Value, n.Entries[i].Key, given[i] = similar, key, similar
				open = openKeys(known, given)
			}
		} else if similar := tree.DidYouMean(e.Key.Value, keys); similar != "" {
			meant = similar
		}
		d.Wrong(e.Key, "unknown key %q%s", e.Key.Value, meant)
	}
}

// openKeys returns the known keys that are not given, and that no given one excludes.
func openKeys(known []field, given []string) (open []string) {
	chosen := false
	for _, f := range known {
		if !slices.Contains(given, f.key) {
			open = append(open, f.key)
		} else if f.choice || f.either {
			chosen = true
		}
	}
	return slices.DeleteFunc(open, func(key string) bool {
		return chosen && slices.ContainsFunc(known, func(f field) bool { return f.key == key && (f.choice || f.either) })
	})
}

// choice reports n if it has none, or more than one, of the known keys that exclude each other.
func (d *decoder) choice(n *tree.Node, known []field) {
	var keys []string
	for _, f := range known {
		if f.choice || f.either && !d.partial {
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
			d.Wrong(e.Key, "has %q beside %q, but needs exactly one of these keys: %s",
				e.Key.Value, first, strings.Join(keys, ", "))
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

// is reports n if it is of another kind.
func (d *decoder) is(n *tree.Node, kind yaml.Kind) bool {
	if n.Kind == kind {
		return true
	}
	want := map[yaml.Kind]string{
		yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value",
	}
	d.Wrong(n, "must be %s, but is %s", want[kind], n.Describe())
	return false
}

// text decodes text that is not empty.
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

// number decodes a whole number within the bounds of a rule.
func (d *decoder) number(n *tree.Node, check string) (number int, ok bool) {
	r := rules[check]
	if !n.IsScalar() || n.Tag != "!!int" || n.Decode(&number) != nil || number < r.min || number > r.max {
		d.Wrong(n, "must be %s, but is %s", r.is, n.Describe())
		return 0, false
	}
	return number, true
}

// check reports n if its text breaks a rule.
func (d *decoder) check(n *tree.Node, text, check string) bool {
	message := rules[check].violation(text)
	if message != "" {
		d.Wrong(n, "%s", message)
	}
	return message == ""
}
