package config

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

var (
	// assignment is path=value. The name of an item may be a selector, with a = of its own.
	assignment = regexp.MustCompile(`(?s)^((?:[^[=]|\[[^]]*])+)=(.*)$`)

	inlineValues = reflect.TypeFor[map[string]any]()

	plainKey = regexp.MustCompile(`^(\\.|[^.[])*`) // a dot within a key is written \.
	escaped  = regexp.MustCompile(`\\(.)`)
)

// assign returns root with one value set. order is that of its problems. The decoder checks the
// keys and the value.
func assign(r *tree.Report, root *tree.Node, a Assignment, order int) *tree.Node {
	from := &tree.Origin{Name: a.From + " " + a.Text, Order: order, Assignment: true}
	parts := assignment.FindStringSubmatch(a.Text)
	if parts == nil {
		r.Add(from, tree.Problem{Message: "must be path=value, like forwards[0].local=8002"})
		return root
	}
	path, text := parts[1], parts[2]
	s := &setter{Report: r, origin: from}
	if s.value = r.Build(from, parseValue(text), path); s.value == nil {
		return root
	}
	if changed := s.set(root, reflect.TypeFor[document](), "", path); !s.failed {
		return changed
	}
	return root
}

// parseValue reads a value as YAML, or as text if only YAML sees anything else in it:
// {{ image "a" }}, ::1, #fff, nothing at all.
func parseValue(text string) *yaml.Node {
	plain := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: text}
	trimmed := strings.TrimSpace(text)
	if strings.HasPrefix(trimmed, "{{") || strings.HasPrefix(trimmed, ":") {
		return plain
	}
	value, err := tree.DecodeDocument(yaml.NewDecoder(strings.NewReader(text)))
	if err != nil || value.Kind == yaml.ScalarNode && value.Style == 0 && value.Value != trimmed {
		return plain
	}
	return value
}

// setter follows the path of one assignment.
type setter struct {
	*tree.Report
	origin *tree.Origin
	value  *tree.Node
	failed bool // reported already
}

// set returns n, a value of type t, with the value merged over what rest names in it; nil if that
// removes n. at is the path of n, rest begins with the key or the [item] below it.
func (s *setter) set(n *tree.Node, t reflect.Type, at, rest string) *tree.Node {
	if rest == "" {
		return merge(n, s.value, t)
	}
	step, isItem, below := nextStep(rest, t)
	isList := isList(n, t, step, isItem)
	switch {
	case step == "":
		return s.fail(at, "%q is no path; keys are written a.b, items of lists a[0] or a[name]", rest)
	case t != nil && t.Kind() == reflect.Slice && isKeyed(t) && below != "" && n.Get(step) == nil:
		return s.fail(at, "there is no %q%s", step, tree.DidYouMean(step, n.Keys()))
	case isList && !isItem:
		return s.fail(at, "is a list; say which item is meant, like %s[0]", at)
	case isList:
		return s.setItem(n, t, at, step, below)
	}
	if n == nil || !n.IsMapping() {
		n = &tree.Node{Node: &yaml.Node{Kind: yaml.MappingNode}, Origin: s.origin, Path: at}
	}
	key := tree.NewKey(step)
	key.Origin, key.Path = s.origin, at
	changed := n.Clone()
	changed.Put(key, s.set(n.Get(step), typeOf(t, step), tree.JoinPath(at, step), below))
	return changed
}

// isList tells whether n, of type t, is a list that is written as one, or becomes one by this step.
func isList(n *tree.Node, t reflect.Type, step string, isItem bool) bool {
	switch {
	case t == nil:
		return false
	case t.Kind() != reflect.Interface:
		return t.Kind() == reflect.Slice && !isKeyed(t)
	case n != nil && !n.IsNull():
		return n.IsList()
	}
	_, err := strconv.Atoi(step)
	return isItem && err == nil
}

// setItem is set for a list.
func (s *setter) setItem(n *tree.Node, t reflect.Type, at, step, below string) *tree.Node {
	if n == nil || !n.IsList() {
		n = &tree.Node{Node: &yaml.Node{Kind: yaml.SequenceNode}, Origin: s.origin, Path: at}
	}
	i, message := itemIndex(n.Items, identityKeys(t), step)
	if message != "" {
		return s.fail(at, "%s", message)
	}
	changed := n.Clone()
	if i == len(n.Items) {
		changed.Items = append(changed.Items, nil)
	}
	item := s.set(changed.Items[i], typeOf(t, step), at+"["+step+"]", below)
	if item == nil {
		changed.Items = slices.Delete(changed.Items, i, i+1)
	} else {
		changed.Items[i] = item
	}
	return changed
}

func (s *setter) fail(at, format string, args ...any) *tree.Node {
	s.failed = true
	s.Wrong(&tree.Node{Node: &yaml.Node{}, Origin: s.origin, Path: at}, format, args...)
	return nil
}

// nextStep takes the first key or item off a path below a value of type t. The step is "" if there
// is none.
func nextStep(path string, t reflect.Type) (step string, isItem bool, below string) {
	inner, isItem := strings.CutPrefix(path, "[")
	if t != nil && t.Kind() == reflect.Map && t != inlineValues { // keys may have dots: a.b.c of a release's set
		if isItem {
			return strings.TrimSuffix(inner, "]"), true, ""
		}
		return strings.TrimPrefix(path, "."), false, ""
	}
	if isItem {
		step, below, _ = strings.Cut(inner, "]")
		if below != "" && below[0] != '.' && below[0] != '[' {
			return "", true, ""
		}
		return step, true, below
	}
	path = strings.TrimPrefix(path, ".")
	step = plainKey.FindString(path)
	return escaped.ReplaceAllString(step, "$1"), false, path[len(step):]
}

// itemIndex finds an item of a list by its number, or by its name: the first value of its identity.
// The number after the last one means a new item.
func itemIndex(items []*tree.Node, keys []string, step string) (index int, message string) {
	if i, err := strconv.Atoi(step); err == nil {
		if i < 0 || i > len(items) {
			return 0, fmt.Sprintf("there is no item %d; the list has %d", i, len(items))
		}
		return i, ""
	}
	if len(keys) == 0 {
		return 0, fmt.Sprintf("%q is no number; the items of this list have no names", step)
	}
	var names []string
	index = -1
	for i, item := range items {
		first := slices.IndexFunc(keys, func(key string) bool { return item.Get(key) != nil })
		if first < 0 {
			continue
		}
		name := item.Get(keys[first]).Value
		names = append(names, name)
		switch {
		case name != step:
		case index >= 0:
			return 0, fmt.Sprintf("items %d and %d are both called %q; say which one by its number", index, i, step)
		default:
			index = i
		}
	}
	if index < 0 {
		return 0, fmt.Sprintf("no item is called %q%s", step, tree.DidYouMean(step, names))
	}
	return index, ""
}
