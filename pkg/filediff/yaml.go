package filediff

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/event"
)

const (
	maxDocuments = 500 // of a file
	maxDepth     = 50  // of paths
)

// yamlChanges returns the paths that changed between two YAML texts, as "set" in devloop.yaml
// writes them, and no values. Items of a list go by their names where all have one, else by their
// place.
func yamlChanges(before, after []byte) []event.LineChange {
	old, oldErr := documents(before)
	now, err := documents(after)
	if oldErr != nil || err != nil {
		return nil
	}
	var d yamlDiff
	if len(old) <= 1 && len(now) <= 1 {
		d.values("", only(old), only(now), 0)
		return d.changes
	}
	oldNamed, ok := withNames(old, objectName)
	nowNamed, alsoOK := withNames(now, objectName)
	if !ok || !alsoOK {
		oldNamed, nowNamed = numbered(old), numbered(now)
	}
	for _, p := range pairs(oldNamed, nowNamed) {
		d.document = p.name
		d.pair("", p, 0)
	}
	return d.changes
}

func documents(text []byte) (list []*yaml.Node, err error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document yaml.Node
		switch err := decoder.Decode(&document); {
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil:
			return nil, err
		case len(list) == maxDocuments:
			return nil, errors.New("too many documents")
		case len(document.Content) == 1 && document.Content[0].ShortTag() != "!!null":
			list = append(list, document.Content[0])
		}
	}
}

// only returns the only document. That of an empty file is an empty mapping.
func only(documents []*yaml.Node) *yaml.Node {
	if len(documents) == 0 {
		return &yaml.Node{Kind: yaml.MappingNode}
	}
	return documents[0]
}

// entry is a value and what it is called.
type entry struct {
	name  string
	value *yaml.Node
}

// keyed returns the entries of a mapping.
func keyed(mapping *yaml.Node) []entry {
	entries := make([]entry, 0, len(mapping.Content)/2)
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		entries = append(entries, entry{mapping.Content[i].Value, mapping.Content[i+1]})
	}
	return entries
}

// withNames returns a list with the names of its items. It is not ok if one of them has none, or
// the same as another.
func withNames(list []*yaml.Node, nameOf func(*yaml.Node) string) (entries []entry, ok bool) {
	seen := map[string]bool{}
	for _, item := range list {
		name := nameOf(item)
		if name == "" || seen[name] {
			return nil, false
		}
		seen[name], entries = true, append(entries, entry{name, item})
	}
	return entries, true
}

// numbered returns documents that have no names.
func numbered(documents []*yaml.Node) []entry {
	entries := make([]entry, len(documents))
	for i, document := range documents {
		entries[i] = entry{fmt.Sprintf("document %d", i+1), document}
	}
	return entries
}

// child returns the value of a key, nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n != nil && n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
	}
	return nil
}

// itemName returns the name of an item in a list, "" if it has none.
func itemName(item *yaml.Node) string {
	if name := child(item, "name"); name != nil && name.Kind == yaml.ScalarNode {
		return name.Value
	}
	return ""
}

// objectName returns the kind and the name of a Kubernetes object, "" if it is none.
func objectName(document *yaml.Node) string {
	kind, name := child(document, "kind"), itemName(child(document, "metadata"))
	if kind == nil || kind.Value == "" || name == "" {
		return ""
	}
	return kind.Value + "/" + name
}

// pair are the values that a name has before and after, nil where there is none.
type pair struct {
	name        string
	before, now *yaml.Node
}

// pairs returns the names in the order of now, then those that are gone.
func pairs(before, now []entry) []pair {
	old := make(map[string]*yaml.Node, len(before))
	for _, e := range before {
		old[e.name] = e.value
	}
	list, seen := make([]pair, 0, len(now)), make(map[string]bool, len(now))
	for _, e := range now {
		if !seen[e.name] {
			seen[e.name], list = true, append(list, pair{e.name, old[e.name], e.value})
		}
	}
	for _, e := range before {
		if !seen[e.name] {
			seen[e.name], list = true, append(list, pair{e.name, e.value, nil})
		}
	}
	return list
}

// yamlDiff collects changes.
type yamlDiff struct {
	document string // in front of each path
	changes  []event.LineChange
}

func (d *yamlDiff) add(path string, change event.Change) {
	if path = strings.TrimSpace(d.document + " " + path); path == "" {
		return // all of it: the file says that
	}
	d.changes = append(d.changes, event.LineChange{Name: short(path), Change: change})
}

func (d *yamlDiff) pair(path string, p pair, depth int) {
	switch {
	case p.before == nil:
		d.add(path, event.Added)
	case p.now == nil:
		d.add(path, event.Removed)
	default:
		d.values(path, p.before, p.now, depth)
	}
}

func (d *yamlDiff) values(path string, before, now *yaml.Node, depth int) {
	switch {
	case depth == maxDepth || before.Kind != now.Kind || now.Kind != yaml.MappingNode && now.Kind != yaml.SequenceNode:
		if !equal(before, now) {
			d.add(path, event.Changed)
		}
	case now.Kind == yaml.MappingNode:
		for _, p := range pairs(keyed(before), keyed(now)) {
			key := strings.ReplaceAll(p.name, ".", `\.`)
			if path != "" {
				key = path + "." + key
			}
			d.pair(key, p, depth+1)
		}
	default:
		d.lists(path, before.Content, now.Content, depth+1)
	}
}

func (d *yamlDiff) lists(path string, before, now []*yaml.Node, depth int) {
	old, ok := withNames(before, itemName)
	if named, alsoOK := withNames(now, itemName); ok && alsoOK {
		for _, p := range pairs(old, named) {
			d.pair(path+"["+p.name+"]", p, depth)
		}
		return
	}
	first := 0
	for len(before) > 0 && len(now) > 0 && equal(before[0], now[0]) {
		before, now, first = before[1:], now[1:], first+1
	}
	for len(before) > 0 && len(now) > 0 && equal(before[len(before)-1], now[len(now)-1]) {
		before, now = before[:len(before)-1], now[:len(now)-1]
	}
	for i := range max(len(before), len(now)) {
		p := pair{}
		if i < len(before) {
			p.before = before[i]
		}
		if i < len(now) {
			p.now = now[i]
		}
		d.pair(fmt.Sprintf("%s[%d]", path, first+i), p, depth)
	}
}

// equal tells whether two values mean the same, however they are written. What an alias stands for
// is compared where it is written.
func equal(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Kind != yaml.MappingNode {
		return a.Kind == b.Kind && a.ShortTag() == b.ShortTag() && a.Value == b.Value &&
			slices.EqualFunc(a.Content, b.Content, equal)
	}
	return !slices.ContainsFunc(pairs(keyed(a), keyed(b)), func(p pair) bool {
		return p.before == nil || p.now == nil || !equal(p.before, p.now)
	})
}
