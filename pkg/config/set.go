package config

// Assignments: forwards[0].local=8002. The path is followed down the tree, and a new tree is made on the way back up.

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

// assignment takes path=value apart: the name of an item may be a selector, with a = of its own.
var assignment = regexp.MustCompile(`(?s)^((?:[^[=]|\[[^]]*])+)=(.*)$`)

// assign returns all with one value set; order is that of its problems. What it leaves to the decoder: whether the keys
// are known, and whether the value is right.
func assign(r *tree.Report, all *tree.Node, a Assignment, order int) *tree.Node {
	from := &tree.Origin{Name: a.From + " " + a.Text, Order: order, Assignment: true}
	parts := assignment.FindStringSubmatch(a.Text)
	if parts == nil {
		r.Add(from, tree.Problem{Message: "must be path=value, like forwards[0].local=8002"})
		return all
	}
	path, text := parts[1], parts[2]
	s := &setter{Report: r, origin: from}
	if s.value = r.Build(from, parseValue(text), path); s.value == nil {
		return all
	}
	if changed := s.set(all, reflect.TypeFor[document](), "", path); !s.failed {
		return changed
	}
	return all
}

// parseValue reads a value as YAML, or as text where that is what it looks like to everybody but YAML: {{ image "a" }},
// ::1, #fff, nothing at all.
func parseValue(text string) *yaml.Node {
	plain := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if trimmed := strings.TrimSpace(text); strings.HasPrefix(trimmed, "{{") || strings.HasPrefix(trimmed, ":") {
		return plain
	}
	value, err := tree.DecodeDocument(yaml.NewDecoder(strings.NewReader(text)))
	if err != nil || value.Kind == yaml.ScalarNode && value.Style == 0 && value.Value != strings.TrimSpace(text) {
		return plain
	}
	return value
}

// setter is one assignment on its way.
type setter struct {
	*tree.Report
	origin *tree.Origin
	value  *tree.Node
	failed bool // reported already
}

// set returns what n, of type t, becomes when the value is laid over what rest names in it; nil if that removes n. at is
// the way to n, rest begins with the key or the [item] below it.
func (s *setter) set(n *tree.Node, t reflect.Type, at, rest string) *tree.Node {
	if rest == "" {
		return merge(n, s.value, t)
	}
	step, isItem, below := nextStep(rest, t)
	hasItems := hasItems(n, t, step, isItem)
	switch {
	case step == "":
		s.fail(at, "%q is no path; keys are written a.b, items of lists a[0] or a[name]", rest)
		return nil
	case t != nil && t.Kind() == reflect.Slice && isKeyed(t) && below != "" && n.Get(step) == nil:
		s.fail(at, "there is no %q%s", step, tree.DidYouMean(step, n.Keys()))
		return nil
	case hasItems && !isItem:
		s.fail(at, "is a list; say which item is meant, like %s[0]", at)
		return nil
	case hasItems:
		return s.setItem(n, t, at, step, below)
	}
	if n == nil || !n.IsMapping() {
		n = &tree.Node{Node: &yaml.Node{Kind: yaml.MappingNode}, Origin: s.origin, Path: at}
	}
	k := tree.NewKey(step)
	k.Origin, k.Path = s.origin, at
	changed := n.Clone()
	changed.Put(k, s.set(n.Get(step), typeOf(t, step), tree.JoinPath(at, step), below))
	return changed
}

// hasItems tells whether n, of type t, is a list that is written as one, or becomes one by this step.
func hasItems(n *tree.Node, t reflect.Type, step string, isItem bool) bool {
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
		s.fail(at, "%s", message)
		return nil
	}
	var item *tree.Node
	changed := n.Clone()
	if i < len(n.Items) {
		item = n.Items[i]
	} else {
		changed.Items = append(changed.Items, nil)
	}
	if changed.Items[i] = s.set(item, typeOf(t, step), at+"["+step+"]", below); changed.Items[i] == nil {
		changed.Items = slices.Delete(changed.Items, i, i+1)
	}
	return changed
}

func (s *setter) fail(at, format string, args ...any) {
	s.failed = true
	s.Wrong(&tree.Node{Node: &yaml.Node{}, Origin: s.origin, Path: at}, format, args...)
}

var (
	inlineValues = reflect.TypeFor[map[string]any]()

	plainKey = regexp.MustCompile(`^(\\.|[^.[])*`) // a dot within a key is written \.
	escaped  = regexp.MustCompile(`\\(.)`)
)

// nextStep takes the first key or item off a path below a value of type t. The step is "" if there is none.
func nextStep(path string, t reflect.Type) (step string, isItem bool, below string) {
	inner, isItem := strings.CutPrefix(path, "[")
	if t != nil && t.Kind() == reflect.Map && t != inlineValues { // its keys may have dots: a.b.c of a release's set
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

// itemIndex finds the item of a list that a step means: its number, or its name, which is what its identity begins with.
// The number of items itself means a new one.
func itemIndex(items []*tree.Node, identity []string, step string) (index int, message string) {
	if i, err := strconv.Atoi(step); err == nil {
		if i < 0 || i > len(items) {
			return 0, fmt.Sprintf("there is no item %d; the list has %d", i, len(items))
		}
		return i, ""
	}
	if len(identity) == 0 {
		return 0, fmt.Sprintf("%q is no number; the items of this list have no names", step)
	}
	var names []string
	index = -1
	for i, item := range items {
		at := slices.IndexFunc(identity, func(key string) bool { return item.Get(key) != nil })
		if at < 0 {
			continue
		}
		name := item.Get(identity[at]).Value
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
