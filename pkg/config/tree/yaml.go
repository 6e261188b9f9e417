package tree

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

// Origin is what a value was read from.
type Origin struct {
	Name       string // of the file as the caller named it, or the assignment
	Order      int    // of its problems among those of others
	Assignment bool   // rather than a file: it has no lines, and its text may be meant where it looks like a number
}

// Node is one value. Trees are not changed once they are built: a layer over a tree is a new one.
type Node struct {
	*yaml.Node // as it was written, with its position; the content is below, except that of a scalar
	Origin     *Origin
	Path       string  // in its file, for messages: "releases[0].chart"
	Entries    []Entry // of a mapping, in order
	Items      []*Node // of a list
}

// Entry is one entry of a mapping. The key's path is that of the mapping.
type Entry struct{ Key, Value *Node }

func (n *Node) IsMapping() bool { return n.Kind == yaml.MappingNode }
func (n *Node) IsList() bool    { return n.Kind == yaml.SequenceNode }
func (n *Node) IsScalar() bool  { return n.Kind == yaml.ScalarNode }
func (n *Node) IsNull() bool    { return n.IsScalar() && n.Tag == "!!null" }

// Get returns what stands under a key, nil if there is nothing.
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

// Keys returns those of a mapping.
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

// List returns the items of a list, none of what is no list.
func (n *Node) List() []*Node {
	if n == nil {
		return nil
	}
	return n.Items
}

// Describe says what a node is, for "must be a list, but is …".
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

// As returns an empty mapping or list in the place of n.
func (n *Node) As(kind yaml.Kind, path string) *Node {
	return &Node{Node: &yaml.Node{Kind: kind, Line: n.Line, Column: n.Column}, Origin: n.Origin, Path: path}
}

// Clone returns a copy of n that can be changed: its children are n's.
func (n *Node) Clone() *Node {
	c := *n
	c.Entries, c.Items = slices.Clone(n.Entries), slices.Clone(n.Items)
	return &c
}

// Put puts a value under a key, or removes what is there if it is nil.
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

// NewKey returns the node of a key that stands in no file.
func NewKey(name string) *Node {
	return &Node{Node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}}
}

// maxFile is how much a file that configures something may hold, in bytes.
const maxFile = 4 << 20

// ErrEmpty is why a file has no tree.
var ErrEmpty = errors.New("the file is empty")

// ParseFile returns the tree of the file at path, which is absolute; nil if it cannot, and has reported why.
func (r *Report) ParseFile(from *Origin, path string) *Node {
	text, err := files.Read(path, maxFile)
	if err != nil {
		r.Unreadable(from, path, err)
		return nil
	}
	return r.Parse(from, text)
}

// Parse reads the text's only document. It returns nil if it cannot, and has reported why.
func (r *Report) Parse(from *Origin, text []byte) *Node {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	first, err := DecodeDocument(documents)
	switch {
	case errors.Is(err, io.EOF), err == nil && first.Tag == "!!null":
		r.Cause = ErrEmpty
		r.Add(from, Problem{Message: "the file is empty"})
		return nil
	case err != nil:
		r.Add(from, syntaxProblem(err))
		return nil
	}
	second, err := DecodeDocument(documents)
	switch {
	case err == nil:
		r.Add(from, Problem{Line: second.Line, Column: second.Column, Message: "a second YAML document starts here; the file has to be one document: " +
			"give each a file of its own, and a devloop of its own (devloop -f FILE)"})
		return nil
	case !errors.Is(err, io.EOF):
		r.Add(from, syntaxProblem(err))
		return nil
	}
	return r.Build(from, first, "")
}

// DecodeDocument returns the content of the next document. It turns the parser's panics about itself into errors: a typo in
// the file must not end devloop.
func DecodeDocument(documents *yaml.Decoder) (content *yaml.Node, err error) {
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
	*Report
	origin    *Origin
	within    map[*yaml.Node]bool // what is being built, from the root down: an alias to one of them would never end
	following int                 // aliases that are being followed
	aliased   int                 // values that aliases stood for so far
}

// Build returns the tree of a YAML node that stands at path.
func (r *Report) Build(from *Origin, y *yaml.Node, path string) *Node {
	b := &builder{Report: r, origin: from, within: map[*yaml.Node]bool{}}
	root := b.node(y, path)
	if b.aliased > mostAliased {
		r.Add(from, Problem{Message: fmt.Sprintf("its aliases (*name) stand for more than %d values", mostAliased)})
		return nil
	}
	return root
}

// node returns nil for what cannot be built.
func (b *builder) node(y *yaml.Node, path string) *Node {
	content := deref(y)
	if b.within[content] {
		b.wrong(&Node{Node: y, Path: path}, "the alias *%s stands within what it names", y.Value)
		return nil
	}
	if len(b.within) == deepest {
		b.wrong(&Node{Node: y, Path: path}, "stands in more than %d lists and mappings", deepest-1)
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
	n := &Node{Node: content, Origin: b.origin, Path: path}
	switch content.Kind {
	case yaml.MappingNode:
		b.mapping(n)
	case yaml.SequenceNode:
		for i, item := range content.Content {
			if child := b.node(item, fmt.Sprintf("%s[%d]", path, i)); child != nil {
				n.Items = append(n.Items, child)
			}
		}
	}
	return n
}

// wrong reports what is wrong with the file's text, once: not again for each alias to it.
func (b *builder) wrong(n *Node, format string, args ...any) {
	n.Origin = b.origin
	if b.following == 0 {
		b.Report.Wrong(n, format, args...)
	}
}

// mapping fills in the entries of n: its own, then those that "<<" brings in under other keys.
func (b *builder) mapping(n *Node) {
	lines := map[string]int{} // where a key was first
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := &Node{Node: deref(n.Content[i]), Origin: b.origin, Path: n.Path}, n.Content[i+1]
		line, seen := lines[key.Value]
		switch {
		case !key.IsScalar():
			b.wrong(key, "a key must be text")
		case key.Tag == "!!merge":
			merges = append(merges, value)
		case seen:
			b.wrong(key, "%q is here twice; first on line %d", key.Value, line)
		default:
			lines[key.Value] = key.Line
			if child := b.node(value, JoinPath(n.Path, key.Value)); child != nil {
				n.Entries = append(n.Entries, Entry{key, child})
			}
		}
	}
	merge := func(y *yaml.Node) {
		if b.within[deref(y)] {
			return // merged into itself: that changes nothing
		}
		if from := deref(y); from.Kind != yaml.MappingNode {
			at := &Node{Node: from, Path: JoinPath(n.Path, "<<")}
			b.wrong(at, "must be a mapping, but is %s", at.Describe())
			return
		}
		merged := b.node(y, n.Path)
		if merged == nil {
			return
		}
		for _, e := range merged.Entries {
			if _, seen := lines[e.Key.Value]; !seen {
				lines[e.Key.Value] = e.Key.Line
				n.Entries = append(n.Entries, e)
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

func JoinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
