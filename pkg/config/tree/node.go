// Package tree holds YAML as a tree of nodes that know their file, line and column. It parses
// files, merges trees, and reports what is wrong as file:line:column: message.
package tree

import (
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Node is one value. Trees are not changed once they are built: merging makes a new one.
type Node struct {
	*yaml.Node // as written, with its position; of its content only a scalar's, the rest is below
	Origin     *Origin
	Path       string  // in its file, for messages: "releases[0].chart"
	Entries    []Entry // of a mapping, in order
	Items      []*Node // of a list
}

// Entry is one entry of a mapping. The key's Path is that of the mapping.
type Entry struct{ Key, Value *Node }

// Origin is the file or the assignment that a value was read from.
type Origin struct {
	Name       string // of the file as the caller named it, or the assignment
	Order      int    // of its problems among those of other origins
	Assignment bool   // it has no lines, and what looks like a number may be meant as text
}

func (n *Node) IsMapping() bool { return n.Kind == yaml.MappingNode }
func (n *Node) IsList() bool    { return n.Kind == yaml.SequenceNode }
func (n *Node) IsScalar() bool  { return n.Kind == yaml.ScalarNode }
func (n *Node) IsNull() bool    { return n.IsScalar() && n.Tag == "!!null" }

// Get returns the value of a key, nil if there is none.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	for _, e := range n.Entries {
		if e.Key.Value == key {
			return e.Value
		}
	}
	return nil
}

// Keys returns the keys of a mapping.
func (n *Node) Keys() []string {
	if n == nil {
		return nil
	}
	keys := make([]string, len(n.Entries))
	for i, e := range n.Entries {
		keys[i] = e.Key.Value
	}
	return keys
}

// List returns the items of a list, nil for anything else.
func (n *Node) List() []*Node {
	if n == nil {
		return nil
	}
	return n.Items
}

// Describe says what n is, for "must be a list, but is …".
func (n *Node) Describe() string {
	switch {
	case n.IsMapping():
		return "a mapping"
	case n.IsList():
		return "a list"
	case n.IsNull():
		return "empty"
	case n.Tag == "!!str":
		return "text " + strconv.Quote(n.Value)
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number (" + n.Value + ")"
	}
	return n.Value
}

// As returns an empty node of another kind with the position of n.
func (n *Node) As(kind yaml.Kind, path string) *Node {
	made := &yaml.Node{Kind: kind, Line: n.Line, Column: n.Column}
	return &Node{Node: made, Origin: n.Origin, Path: path}
}

// Clone returns a shallow copy of n.
func (n *Node) Clone() *Node {
	c := *n
	c.Entries, c.Items = slices.Clone(n.Entries), slices.Clone(n.Items)
	return &c
}

// Put sets the value of a key in n, or removes the key if the value is nil.
func (n *Node) Put(key, value *Node) {
	i := slices.IndexFunc(n.Entries, func(e Entry) bool { return e.Key.Value == key.Value })
	switch {
	case value != nil && i >= 0:
		n.Entries[i].Value = value
	case value != nil:
		n.Entries = append(n.Entries, Entry{key, value})
	case i >= 0:
		n.Entries = slices.Delete(n.Entries, i, i+1)
	}
}

// NewKey returns a key that stands in no file.
func NewKey(name string) *Node {
	return &Node{Node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: name}}
}

// JoinPath returns the path of a key in the mapping at path.
func JoinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Merge returns upper merged over lower, nil if upper removes it. Mappings are merged key by key,
// everything else is replaced, null removes. Two values of the same key are merged by mergeValue,
// by Merge if that is nil. lower may be nil.
func Merge(lower, upper *Node, mergeValue func(key string, lower, upper *Node) *Node) *Node {
	switch {
	case lower == nil:
		return upper
	case upper.IsNull():
		return nil
	case !lower.IsMapping() || !upper.IsMapping():
		return upper
	}
	if mergeValue == nil {
		mergeValue = func(_ string, lower, upper *Node) *Node { return Merge(lower, upper, nil) }
	}
	merged := lower.Clone()
	index := make(map[string]int, len(merged.Entries)) // by key
	for i, e := range merged.Entries {
		index[e.Key.Value] = i
	}
	for _, e := range upper.Entries {
		key := e.Key.Value
		if i, known := index[key]; known {
			merged.Entries[i].Value = mergeValue(key, merged.Entries[i].Value, e.Value)
		} else {
			index[key] = len(merged.Entries)
			merged.Entries = append(merged.Entries, e)
		}
	}
	merged.Entries = slices.DeleteFunc(merged.Entries, func(e Entry) bool { return e.Value == nil })
	return merged
}
