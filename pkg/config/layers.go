package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// mergeLayers merges the files, the selected profiles and the assignments, as Load describes. The
// result has no profiles.
func mergeLayers(r *tree.Report, files []*tree.Node, source Source) *tree.Node {
	t := reflect.TypeFor[document]()
	merged := files[0]
	for _, f := range files[1:] {
		merged = merge(merged, f, t)
	}
	merged = merged.Clone()
	merged.Put(tree.NewKey("profiles"), nil)
	known := profileNames(files)
	var selected []string
	for _, name := range source.Profiles {
		name, isOff := strings.CutPrefix(name, "-")
		switch {
		case !slices.Contains(known, name):
			r.Add(files[0].Origin, tree.Problem{Message: noProfile(name, known)})
		case isOff:
			selected = slices.DeleteFunc(selected, func(other string) bool { return other == name })
		case !slices.Contains(selected, name):
			selected = append(selected, name)
		}
	}
	for _, name := range selected {
		for _, f := range files {
			if profile := f.Get("profiles").Get(name); profile != nil && profile.IsMapping() {
				merged = merge(merged, profile, t)
			}
		}
	}
	for i, a := range source.Set {
		merged = assign(r, merged, a, len(source.Files)+i)
	}
	return merged
}

func noProfile(name string, known []string) string {
	if len(known) == 0 {
		return fmt.Sprintf("there is no profile %q: the file has no profiles", name)
	}
	return fmt.Sprintf("there is no profile %q (there are %s)%s",
		name, strings.Join(known, ", "), tree.DidYouMean(name, known))
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

// merge merges two values of type t, which is nil for an unknown key. It returns nil if upper
// removes lower, which may be nil.
func merge(lower, upper *tree.Node, t reflect.Type) *tree.Node {
	if lower != nil && lower.IsList() && upper.IsList() {
		if keys := identityKeys(t); len(keys) > 0 {
			return mergeItems(lower, upper, keys, t.Elem())
		}
	}
	return tree.Merge(lower, upper, func(key string, lower, upper *tree.Node) *tree.Node {
		return merge(lower, upper, typeOf(t, key))
	})
}

// mergeItems merges each item of upper into the one of lower with the same identity, or appends it.
// If several have the same, the first is merged with the first, the second with the second.
func mergeItems(lower, upper *tree.Node, keys []string, t reflect.Type) *tree.Node {
	merged := lower.Clone()
	unmerged := map[string][]int{} // items of lower by identity
	for i, item := range lower.Items {
		if id, ok := identity(item, keys); ok {
			unmerged[id] = append(unmerged[id], i)
		}
	}
	for _, item := range upper.Items {
		id, ok := identity(item, keys)
		if !ok || len(unmerged[id]) == 0 {
			merged.Items = append(merged.Items, item)
			continue
		}
		i := unmerged[id][0]
		unmerged[id] = unmerged[id][1:]
		merged.Items[i] = merge(lower.Items[i], item, t)
	}
	return merged
}

// identity joins the values of keys. A missing one counts, since choices leave keys out; one that
// is no scalar makes the item unidentifiable.
func identity(n *tree.Node, keys []string) (id string, ok bool) {
	for _, key := range keys {
		switch value := n.Get(key); {
		case value == nil:
			id += "-"
		case value.IsScalar():
			id += strconv.Quote(value.Value)
		default:
			return "", false
		}
	}
	return id, true
}
