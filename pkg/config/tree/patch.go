package tree

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Patch is one operation of JSON Patch (RFC 6902). A path may name an item of a list by the value
// of one of its keys, too: /releases/name=web.
type Patch struct {
	At                *Node // the patch itself, for messages
	Operation         string
	Path, From, Value *Node // nil if they are left out
}

// Apply returns root with the patch applied, or root itself if it reported that the patch is wrong,
// or does not fit.
func (p Patch) Apply(r *Report, root *Node) *Node {
	switch {
	case p.Path == nil:
		r.Wrong(p.At, `"path" is missing`)
		return root
	case p.Value == nil && slices.Contains([]string{"add", "replace", "test"}, p.Operation):
		r.Wrong(p.At, `"value" is missing`)
		return root
	case p.From == nil && slices.Contains([]string{"move", "copy"}, p.Operation):
		r.Wrong(p.At, `"from" is missing`)
		return root
	}
	steps := pointer(p.Path)
	if len(steps) == 0 && p.Operation != "test" {
		r.Wrong(p.Path, "%q is no path like /build/artifacts/0/image", p.Path.Value)
		return root
	}
	var made *Node
	switch p.Operation {
	case "add", "replace", "remove":
		made = edit(root, steps, p.Value, p.Operation)
	case "test":
		if there := find(root, steps); there == nil || !Equal(there, p.Value) {
			r.Wrong(p.Path, "the patch does not fit: %s is not what it tests for", p.Path.Value)
		}
		return root
	case "move", "copy":
		value := find(root, pointer(p.From))
		if value == nil {
			r.Wrong(p.From, "there is nothing at %s", p.From.Value)
			return root
		}
		made = root
		if p.Operation == "move" {
			made = edit(root, pointer(p.From), nil, "remove")
		}
		made = edit(made, steps, value, "add")
	default:
		r.Wrong(p.Path, "there is no operation %q; there are add, replace, remove, test, move and copy", p.Operation)
		return root
	}
	if made == nil {
		r.Wrong(p.Path, "the patch does not fit: there is nothing at %s", p.Path.Value)
		return root
	}
	return made
}

// pointer splits a path like /build/artifacts/0/image; it returns nil for anything else.
func pointer(path *Node) []string {
	rest, ok := strings.CutPrefix(path.Value, "/")
	if !ok || rest == "" {
		return nil
	}
	steps := strings.Split(rest, "/")
	for i, step := range steps {
		steps[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
	}
	return steps
}

// find returns the value that steps lead to, nil if there is none.
func find(n *Node, steps []string) *Node {
	if len(steps) == 0 {
		return nil
	}
	for _, step := range steps {
		if i := item(n, step); i >= 0 {
			n = n.Items[i]
		} else if n = n.Get(step); n == nil {
			return nil
		}
	}
	return n
}

// item returns the index of the item of a list that a step means, -1 if there is none: by its
// number or, written name=web, by the value of one of its keys.
func item(n *Node, step string) int {
	if key, value, found := strings.Cut(step, "="); found {
		return slices.IndexFunc(n.List(), func(item *Node) bool {
			v := item.Get(key)
			return v != nil && v.Value == value
		})
	}
	i, err := strconv.Atoi(step)
	if err != nil || i < 0 || i >= len(n.List()) {
		return -1
	}
	return i
}

// edit returns a tree with the value that steps lead to added, replaced or removed; nil if there is
// nothing there.
func edit(n *Node, steps []string, value *Node, op string) *Node {
	step, rest := steps[0], steps[1:]
	i, old := item(n, step), n.Get(step)
	if i >= 0 {
		old = n.Items[i]
	}
	changed := n.Clone()
	if len(rest) > 0 {
		if old == nil {
			return nil
		}
		if value = edit(old, rest, value, op); value == nil {
			return nil
		}
		op = "replace"
	}
	switch {
	case n.IsMapping() && (old != nil || op == "add"):
		key := NewKey(step)
		if value != nil {
			key = value.As(yaml.ScalarNode, n.Path)
			key.Tag, key.Style, key.Value = "!!str", yaml.DoubleQuotedStyle, step
		}
		changed.Put(key, value)
	case n.IsList() && op == "add" && (step == "-" || step == strconv.Itoa(len(n.Items))):
		changed.Items = append(changed.Items, value)
	case n.IsList() && op == "add" && i >= 0:
		changed.Items = slices.Insert(changed.Items, i, value)
	case n.IsList() && op == "remove" && i >= 0:
		changed.Items = slices.Delete(changed.Items, i, i+1)
	case n.IsList() && op == "replace" && i >= 0:
		changed.Items[i] = value
	default:
		return nil
	}
	return changed
}

// Equal compares two values, keys in any order.
func Equal(a, b *Node) bool {
	if a.Kind != b.Kind || len(a.Entries) != len(b.Entries) || len(a.Items) != len(b.Items) {
		return false
	}
	for _, e := range a.Entries {
		if other := b.Get(e.Key.Value); other == nil || !Equal(e.Value, other) {
			return false
		}
	}
	for i, item := range a.Items {
		if !Equal(item, b.Items[i]) {
			return false
		}
	}
	return !a.IsScalar() || a.Value == b.Value
}
