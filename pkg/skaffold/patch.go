package skaffold

import (
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// patch applies one patch of a profile, in the notation of JSON Patch (RFC 6902), to root.
func (s *translation) patch(root, n *tree.Node) *tree.Node {
	var path, from, value *tree.Node
	op := "replace"
	s.section(n, keys{
		"op":    func(n *tree.Node) { op = s.text(n) },
		"path":  into(&path),
		"from":  into(&from),
		"value": into(&value),
	})
	if value == nil {
		value = n.Get("value") // null is a value, too
	}
	switch {
	case op == "" || !n.IsMapping():
		return root
	case path == nil:
		s.Wrong(n, `"path" is missing`)
		return root
	case value == nil && slices.Contains([]string{"add", "replace", "test"}, op):
		s.Wrong(n, `"value" is missing`)
		return root
	case from == nil && slices.Contains([]string{"move", "copy"}, op):
		s.Wrong(n, `"from" is missing`)
		return root
	}
	steps := pointer(path)
	if len(steps) == 0 && op != "test" {
		s.Wrong(path, "%q is no path like /build/artifacts/0/image", path.Value)
		return root
	}
	var made *tree.Node
	switch op {
	case "add", "replace", "remove":
		made = edit(root, steps, value, op)
	case "test":
		if there := find(root, steps); there == nil || !equal(there, value) {
			s.Wrong(path, "the patch does not fit: %s is not what it tests for", path.Value)
		}
		return root
	case "move", "copy":
		made, value = root, find(root, pointer(from))
		if value == nil {
			s.Wrong(from, "there is nothing at %s", from.Value)
			return root
		}
		if op == "move" {
			made = edit(root, pointer(from), nil, "remove")
		}
		made = edit(made, steps, value, "add")
	default:
		s.Wrong(path, "there is no operation %q; there are add, replace, remove, test, move and copy", op)
		return root
	}
	if made == nil {
		s.Wrong(path, "the patch does not fit: there is nothing at %s", path.Value)
		return root
	}
	return made
}

// pointer splits a path like /build/artifacts/0/image; it returns nil for anything else.
func pointer(path *tree.Node) []string {
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
func find(n *tree.Node, steps []string) *tree.Node {
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
func item(n *tree.Node, step string) int {
	if key, value, found := strings.Cut(step, "="); found {
		return slices.IndexFunc(n.List(), func(item *tree.Node) bool {
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
func edit(n *tree.Node, steps []string, value *tree.Node, op string) *tree.Node {
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
		key := tree.NewKey(step)
		if value != nil {
			key = scalar(value, step)
			key.Path = n.Path
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

// equal compares two values, keys in any order.
func equal(a, b *tree.Node) bool {
	if a.Kind != b.Kind || len(a.Entries) != len(b.Entries) || len(a.Items) != len(b.Items) {
		return false
	}
	for _, e := range a.Entries {
		if other := b.Get(e.Key.Value); other == nil || !equal(e.Value, other) {
			return false
		}
	}
	for i, item := range a.Items {
		if !equal(item, b.Items[i]) {
			return false
		}
	}
	return !a.IsScalar() || a.Value == b.Value
}
