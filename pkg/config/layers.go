package config

// How files, profiles and assignments become one tree: Load says by which rules.

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// layered lays the files, the selected profiles and the assignments over each other. The result has no profiles.
func (r *report) layered(files []*node, source Source) *node {
	t := reflect.TypeFor[document]()
	all := files[0]
	for _, f := range files[1:] {
		all = over(all, f, t)
	}
	all = all.copied()
	all.put(key("profiles"), nil)
	for _, name := range source.Profiles {
		known := profileNames(files)
		if !slices.Contains(known, name) {
			r.add(files[0].origin, Problem{Message: noProfile(name, known)})
			continue
		}
		for _, f := range files {
			if profile := f.get("profiles").get(name); profile != nil && profile.isMapping() {
				all = over(all, profile, t)
			}
		}
	}
	for i, a := range source.Set {
		all = r.assign(all, a, len(source.Files)+i)
	}
	return all
}

func noProfile(name string, known []string) string {
	if len(known) == 0 {
		return fmt.Sprintf("there is no profile %q: the file has no profiles", name)
	}
	return fmt.Sprintf("there is no profile %q (there are %s)%s", name, strings.Join(known, ", "), didYouMean(name, known))
}

func profileNames(files []*node) []string {
	var names []string
	for _, f := range files {
		for _, name := range f.get("profiles").keys() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// ProfileNames returns the profiles that the files have, for the completion of a command line: what cannot be read is
// left out.
func ProfileNames(files []string) []string {
	if len(files) == 0 {
		files = []string{DefaultFile()}
	}
	var roots []*node
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		r := &report{}
		if root := r.parse(&origin{name: name}, text); root != nil {
			roots = append(roots, r.converted(&Config{}, root, Source{Files: files}))
		}
	}
	return profileNames(roots)
}

// over returns what upper makes of lower, nil if it removes it. Both stand for a value of type t, nil if there is no
// such key. lower may be nil.
func over(lower, upper *node, t reflect.Type) *node {
	switch {
	case lower == nil:
		return upper
	case upper.isNull():
		return nil
	case lower.isMapping() && upper.isMapping():
		merged := lower.copied()
		for _, e := range upper.entries {
			merged.put(e.key, over(lower.get(e.key.Value), e.value, typeOf(t, e.key.Value)))
		}
		return merged
	case lower.isList() && upper.isList():
		if keys := identity(t); len(keys) > 0 {
			return overItems(lower, upper, keys, t.Elem())
		}
	}
	return upper
}

// overItems merges each item of upper into the one of lower that agrees with it in these keys, or appends it. Where
// several agree, the first goes with the first, the second with the second.
func overItems(lower, upper *node, keys []string, t reflect.Type) *node {
	merged := lower.copied()
	taken := map[*node]bool{}
	for _, item := range upper.items {
		i := slices.IndexFunc(lower.items, func(n *node) bool { return !taken[n] && agree(n, item, keys) })
		if i < 0 {
			merged.items = append(merged.items, item)
			continue
		}
		taken[lower.items[i]] = true
		merged.items[i] = over(lower.items[i], item, t)
	}
	return merged
}

func agree(a, b *node, keys []string) bool {
	for _, key := range keys {
		x, y := a.get(key), b.get(key)
		if x == nil && y == nil { // where one of several keys is chosen, it is the same one; otherwise both items are wrong
			continue
		}
		if x == nil || y == nil || !x.isScalar() || !y.isScalar() || x.Value != y.Value {
			return false
		}
	}
	return true
}

// identity returns the keys that tell the items of a list of type t from each other, none if such lists are replaced.
func identity(t reflect.Type) []string {
	if t == nil || t.Kind() != reflect.Slice || t.Elem().Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for _, f := range fields(t.Elem()) {
		if f.identity {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// typeOf returns the type of what stands under a key of a mapping of type t, nil if there is no such key. Below a value of
// any type, there may be any.
func typeOf(t reflect.Type, key string) reflect.Type {
	switch {
	case t == nil:
		return nil
	case t.Kind() == reflect.Struct:
		for _, f := range fields(t) {
			if f.key == key {
				return f.Type
			}
		}
		return nil
	case t.Kind() == reflect.Map, t.Kind() == reflect.Slice:
		return t.Elem()
	case t.Kind() == reflect.Interface:
		return t
	}
	return nil
}

// copied returns a copy of n that can be changed: its children are n's.
func (n *node) copied() *node {
	c := *n
	c.entries, c.items = slices.Clone(n.entries), slices.Clone(n.items)
	return &c
}

// put puts a value under a key, or removes what is there if it is nil.
func (n *node) put(key, value *node) {
	i := slices.IndexFunc(n.entries, func(e entry) bool { return e.key.Value == key.Value })
	switch {
	case value != nil && i >= 0:
		n.entries[i].value = value
	case value != nil:
		n.entries = append(n.entries, entry{key, value})
	case i >= 0:
		n.entries = slices.Delete(n.entries, i, i+1)
	}
}

// key returns the node of a key that stands in no file.
func key(name string) *node {
	return &node{Node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}}
}
