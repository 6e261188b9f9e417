package config

// From the text of a file to a tree of values: one document, aliases followed, merged keys ("<<") in place.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/files"
)

// mostAliased is how many values a file's aliases may stand for. A few lines of aliases to aliases would stand for
// millions otherwise; large files have some hundreds of values in all.
const mostAliased = 5_000

// deepest is how many lists and mappings may stand within each other. No chart has values that are half as deep.
const deepest = 50

// origin is what a value was read from.
type origin struct {
	name       string // of the file as the caller named it, or the assignment
	order      int    // of its problems among those of others
	assignment bool   // rather than a file: it has no lines, and its text may be meant where it looks like a number
}

// node is one value. Trees are not changed once they are built: a layer over a tree is a new one.
type node struct {
	*yaml.Node // as it was written, with its position; the content is below, except that of a scalar
	origin     *origin
	path       string  // in its file, for messages: "releases[0].chart"
	entries    []entry // of a mapping, in order
	items      []*node // of a list
}

// entry is one entry of a mapping. The key's path is that of the mapping.
type entry struct{ key, value *node }

func (n *node) isMapping() bool { return n.Kind == yaml.MappingNode }
func (n *node) isList() bool    { return n.Kind == yaml.SequenceNode }
func (n *node) isScalar() bool  { return n.Kind == yaml.ScalarNode }
func (n *node) isNull() bool    { return n.isScalar() && n.Tag == "!!null" }

// get returns what stands under a key, nil if there is nothing.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for _, e := range n.entries {
		if e.key.Value == key {
			return e.value
		}
	}
	return nil
}

// keys returns those of a mapping.
func (n *node) keys() []string {
	if n == nil {
		return nil
	}
	keys := make([]string, len(n.entries))
	for i, e := range n.entries {
		keys[i] = e.key.Value
	}
	return keys
}

// list returns the items of a list, none of what is no list.
func (n *node) list() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// describe says what a node is, for "must be a list, but is …".
func (n *node) describe() string {
	switch {
	case n.isMapping():
		return "a mapping"
	case n.isList():
		return "a list"
	case n.isNull():
		return "empty"
	case n.Tag == "!!str":
		return "text " + strconv.Quote(n.Value)
	case n.Tag == "!!int", n.Tag == "!!float":
		return "a number (" + n.Value + ")"
	}
	return n.Value
}

// as returns an empty mapping or list in the place of n.
func (n *node) as(kind yaml.Kind, path string) *node {
	return &node{Node: &yaml.Node{Kind: kind, Line: n.Line, Column: n.Column}, origin: n.origin, path: path}
}

// clone returns a copy of n that can be changed: its children are n's.
func (n *node) clone() *node {
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

// newKey returns the node of a key that stands in no file.
func newKey(name string) *node {
	return &node{Node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}}
}

// maxFile is how much a file that configures something may hold, in bytes.
const maxFile = 4 << 20

// errEmpty is why a file has no tree.
var errEmpty = errors.New("the file is empty")

// parseFile returns the tree of the file at path, which is absolute; nil if it cannot, and has reported why.
func (r *report) parseFile(from *origin, path string) *node {
	text, err := files.Read(path, maxFile)
	if err != nil {
		r.unreadable(from, path, err)
		return nil
	}
	return r.parse(from, text)
}

// parse reads the text's only document. It returns nil if it cannot, and has reported why.
func (r *report) parse(from *origin, text []byte) *node {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	first, err := decodeDocument(documents)
	switch {
	case errors.Is(err, io.EOF), err == nil && first.Tag == "!!null":
		r.cause = errEmpty
		r.add(from, Problem{Message: "the file is empty"})
		return nil
	case err != nil:
		r.add(from, syntaxProblem(err))
		return nil
	}
	second, err := decodeDocument(documents)
	switch {
	case err == nil:
		r.add(from, Problem{Line: second.Line, Column: second.Column, Message: "a second YAML document starts here; the file has to be one document: " +
			"give each a file of its own, and a devloop of its own (devloop -f FILE)"})
		return nil
	case !errors.Is(err, io.EOF):
		r.add(from, syntaxProblem(err))
		return nil
	}
	return r.build(from, first, "")
}

// decodeDocument returns the content of the next document. It turns the parser's panics about itself into errors: a typo in
// the file must not end devloop.
func decodeDocument(documents *yaml.Decoder) (content *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: this is not valid YAML, and confused the parser: %v", r)
		}
	}()
	var document yaml.Node
	if err := documents.Decode(&document); err != nil {
		return nil, err
	}
	return deref(document.Content[0]), nil
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

func syntaxProblem(err error) Problem {
	message, line := err.Error(), 1 // the parser leaves out the line if it is the first
	if m := yamlError.FindStringSubmatch(message); m != nil {
		message = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	switch {
	case strings.Contains(message, "cannot start any token"):
		message += " (YAML is indented with spaces, not tabs; text that starts with @, ` or % needs quotes)"
	case strings.Contains(message, "mapping values are not allowed"):
		message += " (a text with \": \" in it needs quotes)"
	}
	return Problem{Line: line, Message: message}
}

func deref(y *yaml.Node) *yaml.Node {
	if y.Kind == yaml.AliasNode {
		return y.Alias
	}
	return y
}

// builder makes the tree of one file.
type builder struct {
	*report
	origin    *origin
	within    map[*yaml.Node]bool // what is being built, from the root down: an alias to one of them would never end
	following int                 // aliases that are being followed
	aliased   int                 // values that aliases stood for so far
}

// build returns the tree of a YAML node that stands at path.
func (r *report) build(from *origin, y *yaml.Node, path string) *node {
	b := &builder{report: r, origin: from, within: map[*yaml.Node]bool{}}
	root := b.node(y, path)
	if b.aliased > mostAliased {
		r.add(from, Problem{Message: fmt.Sprintf("its aliases (*name) stand for more than %d values", mostAliased)})
		return nil
	}
	return root
}

// node returns nil for what cannot be built.
func (b *builder) node(y *yaml.Node, path string) *node {
	content := deref(y)
	if b.within[content] {
		b.wrong(&node{Node: y, path: path}, "the alias *%s stands within what it names", y.Value)
		return nil
	}
	if len(b.within) == deepest {
		b.wrong(&node{Node: y, path: path}, "stands in more than %d lists and mappings", deepest-1)
		return nil
	}
	if content != y {
		b.following++
		defer func() { b.following-- }()
	}
	if b.following > 0 {
		if b.aliased++; b.aliased > mostAliased {
			return nil
		}
	}
	b.within[content] = true
	defer delete(b.within, content)
	n := &node{Node: content, origin: b.origin, path: path}
	switch content.Kind {
	case yaml.MappingNode:
		b.mapping(n)
	case yaml.SequenceNode:
		for i, item := range content.Content {
			if child := b.node(item, fmt.Sprintf("%s[%d]", path, i)); child != nil {
				n.items = append(n.items, child)
			}
		}
	}
	return n
}

// wrong reports what is wrong with the file's text, once: not again for each alias to it.
func (b *builder) wrong(n *node, format string, args ...any) {
	n.origin = b.origin
	if b.following == 0 {
		b.report.wrong(n, format, args...)
	}
}

// mapping fills in the entries of n: its own, then those that "<<" brings in under other keys.
func (b *builder) mapping(n *node) {
	lines := map[string]int{} // where a key was first
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := &node{Node: deref(n.Content[i]), origin: b.origin, path: n.path}, n.Content[i+1]
		line, seen := lines[key.Value]
		switch {
		case !key.isScalar():
			b.wrong(key, "a key must be text")
		case key.Tag == "!!merge":
			merges = append(merges, value)
		case seen:
			b.wrong(key, "%q is here twice; first on line %d", key.Value, line)
		default:
			lines[key.Value] = key.Line
			if child := b.node(value, joinPath(n.path, key.Value)); child != nil {
				n.entries = append(n.entries, entry{key, child})
			}
		}
	}
	merge := func(y *yaml.Node) {
		if b.within[deref(y)] {
			return // merged into itself: that changes nothing
		}
		if from := deref(y); from.Kind != yaml.MappingNode {
			at := &node{Node: from, path: joinPath(n.path, "<<")}
			b.wrong(at, "must be a mapping, but is %s", at.describe())
			return
		}
		merged := b.node(y, n.path)
		if merged == nil {
			return
		}
		for _, e := range merged.entries {
			if _, seen := lines[e.key.Value]; !seen {
				lines[e.key.Value] = e.key.Line
				n.entries = append(n.entries, e)
			}
		}
	}
	for _, y := range merges {
		if list := deref(y); list.Kind == yaml.SequenceNode {
			for _, item := range list.Content {
				merge(item)
			}
			continue
		}
		merge(y)
	}
}

func joinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
