package config

// How files, profiles and assignments become one tree: Load says by which rules.

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// layered lays the files, the selected profiles and the assignments over each other. The result has no profiles.
func layered(r *tree.Report, files []*tree.Node, source Source) *tree.Node {
	t := reflect.TypeFor[document]()
	all := files[0]
	for _, f := range files[1:] {
		all = over(all, f, t)
	}
	all = all.Clone()
	all.Put(tree.NewKey("profiles"), nil)
	for _, name := range source.Profiles {
		known := profileNames(files)
		if !slices.Contains(known, name) {
			r.Add(files[0].Origin, tree.Problem{Message: noProfile(name, known)})
			continue
		}
		for _, f := range files {
			if profile := f.Get("profiles").Get(name); profile != nil && profile.IsMapping() {
				all = over(all, profile, t)
			}
		}
	}
	for i, a := range source.Set {
		all = assign(r, all, a, len(source.Files)+i)
	}
	return all
}

func noProfile(name string, known []string) string {
	if len(known) == 0 {
		return fmt.Sprintf("there is no profile %q: the file has no profiles", name)
	}
	return fmt.Sprintf("there is no profile %q (there are %s)%s", name, strings.Join(known, ", "), tree.DidYouMean(name, known))
}

func profileNames(files []*tree.Node) []string {
	var names []string
	seen := map[string]bool{}
	for _, f := range files {
		for _, name := range f.Get("profiles").Keys() {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

// ProfileNames returns the profiles that the files of the source have, for the completion of a command line: what cannot be
// read is left out.
func ProfileNames(source Source) []string {
	l := &loader{Report: &tree.Report{}, source: source}
	var layers []*tree.Node
	for i := range source.Files {
		if layer := l.read(i); layer != nil {
			layers = append(layers, layer)
		}
	}
	return profileNames(layers)
}

// over returns upper laid over lower, nil if it removes it. Both stand for a value of type t, nil if there is no such key. lower
// may be nil.
func over(lower, upper *tree.Node, t reflect.Type) *tree.Node {
	if lower != nil && lower.IsList() && upper.IsList() {
		if keys := identity(t); len(keys) > 0 {
			return overItems(lower, upper, keys, t.Elem())
		}
	}
	return tree.Merge(lower, upper, func(key string, lower, upper *tree.Node) *tree.Node { return over(lower, upper, typeOf(t, key)) })
}

// overItems merges each item of upper into the one of lower that agrees with it in these keys, or appends it. Where
// several agree, the first goes with the first, the second with the second.
func overItems(lower, upper *tree.Node, keys []string, t reflect.Type) *tree.Node {
	merged := lower.Clone()
	at := map[string][]int{} // where the items of an identity are that are not merged yet
	for i, item := range lower.Items {
		if is, ok := identityOf(item, keys); ok {
			at[is] = append(at[is], i)
		}
	}
	for _, item := range upper.Items {
		is, ok := identityOf(item, keys)
		if !ok || len(at[is]) == 0 {
			merged.Items = append(merged.Items, item)
			continue
		}
		i := at[is][0]
		at[is] = at[is][1:]
		merged.Items[i] = over(lower.Items[i], item, t)
	}
	return merged
}

// identityOf is what n has under keys, one of which may be missing where one of several is chosen. It
// has none where a value is no scalar.
func identityOf(n *tree.Node, keys []string) (is string, ok bool) {
	for _, key := range keys {
		switch value := n.Get(key); {
		case value == nil:
			is += "-"
		case value.IsScalar():
			is += strconv.Quote(value.Value)
		default:
			return "", false
		}
	}
	return is, true
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
