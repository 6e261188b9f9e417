package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/files"
)

const (
	maxFile      = 4 << 20 // bytes
	maxDocuments = 100     // of a file
	maxDepth     = 49      // of lists and mappings; no chart has values half as deep
	maxAliased   = 5_000   // values that aliases stand for: aliases of aliases could make millions of a few lines
)

// ErrEmpty is the Cause of a Report on a file without a value.
var ErrEmpty = errors.New("the file is empty")

// ParseFile returns the trees of the documents in the file at path, absolute, or reports why there
// are none.
func (r *Report) ParseFile(from *Origin, path string) []*Node {
	text, err := files.Read(path, maxFile)
	if err != nil {
		r.Unreadable(from, path, err)
		return nil
	}
	return r.ParseAll(from, text)
}

// Parse returns the tree of the only document in text, or reports why there is none.
func (r *Report) Parse(from *Origin, text []byte) *Node { return r.Only(r.ParseAll(from, text)) }

// Only returns the only one of a file's documents, nil if there are none, or if it reported that
// there are several.
func (r *Report) Only(documents []*Node) *Node {
	switch len(documents) {
	case 0:
		return nil
	case 1:
		return documents[0]
	}
	r.Add(documents[1].Origin, Problem{Line: documents[1].Line, Column: documents[1].Column,
		Message: "a second YAML document starts here; " +
			"the file has to be one document: give each a file of its own, and a devloop of its own (devloop -f FILE)"})
	return nil
}

// ParseAll returns the trees of the documents in text, but for empty ones, or reports why there are
// none.
func (r *Report) ParseAll(from *Origin, text []byte) (documents []*Node) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		content, err := DecodeDocument(decoder)
		switch {
		case errors.Is(err, io.EOF) && len(documents) == 0:
			r.Cause = ErrEmpty
			r.Add(from, Problem{Message: ErrEmpty.Error()})
			return nil
		case errors.Is(err, io.EOF):
			return documents
		case err != nil:
			r.Add(from, syntaxProblem(err))
			return nil
		case content.Tag == "!!null":
			continue
		case len(documents) == maxDocuments:
			r.Add(from, Problem{Line: content.Line, Column: content.Column,
				Message: fmt.Sprintf("the file has more than %d YAML documents", maxDocuments)})
			return nil
		}
		root := r.Build(from, content, "")
		if root == nil {
			return nil
		}
		documents = append(documents, root)
	}
}

// DecodeDocument returns the content of the next document. It recovers from the parser's panics:
// a typo in a file must not end devloop.
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
	ancestors map[*yaml.Node]bool // an alias to one of them would never end
	aliases   int                 // being followed now
	aliased   int                 // values that aliases stood for so far
}

// Build returns the tree of y, the value at path, with aliases followed and merge keys ("<<") in
// place; or reports why there is none.
func (r *Report) Build(from *Origin, y *yaml.Node, path string) *Node {
	b := &builder{Report: r, origin: from, ancestors: map[*yaml.Node]bool{}}
	root := b.node(y, path)
	if b.aliased > maxAliased {
		r.Add(from, Problem{Message: fmt.Sprintf("its aliases (*name) stand for more than %d values", maxAliased)})
		return nil
	}
	return root
}

// node returns nil for what cannot be built.
func (b *builder) node(y *yaml.Node, path string) *Node {
	content := deref(y)
	if b.ancestors[content] {
		b.wrong(y, path, "the alias *%s stands within what it names", y.Value)
		return nil
	}
	if len(b.ancestors) > maxDepth {
		b.wrong(y, path, "stands in more than %d lists and mappings", maxDepth)
		return nil
	}
	if content != y {
		b.aliases++
		defer func() { b.aliases-- }()
	}
	if b.aliases > 0 {
		if b.aliased++; b.aliased > maxAliased {
			return nil
		}
	}
	b.ancestors[content] = true
	defer delete(b.ancestors, content)
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

// wrong reports what is wrong with the file's text, but not again for each alias to it.
func (b *builder) wrong(y *yaml.Node, path, format string, args ...any) {
	if b.aliases == 0 {
		b.Report.Wrong(&Node{Node: y, Origin: b.origin, Path: path}, format, args...)
	}
}

// mapping fills in the entries of n: its own, then those that "<<" adds under other keys.
func (b *builder) mapping(n *Node) {
	lines := map[string]int{} // where a key was first
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := deref(n.Content[i]), n.Content[i+1]
		line, seen := lines[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			b.wrong(key, n.Path, "a key must be text")
		case key.Tag == "!!merge" && deref(value).Kind == yaml.SequenceNode:
			merges = append(merges, deref(value).Content...)
		case key.Tag == "!!merge":
			merges = append(merges, value)
		case seen:
			b.wrong(key, n.Path, "%q is here twice; first on line %d", key.Value, line)
		default:
			lines[key.Value] = key.Line
			if child := b.node(value, JoinPath(n.Path, key.Value)); child != nil {
				n.Entries = append(n.Entries, Entry{&Node{Node: key, Origin: b.origin, Path: n.Path}, child})
			}
		}
	}
	for _, y := range merges {
		content := deref(y)
		if b.ancestors[content] {
			continue // merging a mapping into itself changes nothing
		}
		if content.Kind != yaml.MappingNode {
			b.wrong(content, JoinPath(n.Path, "<<"), "must be a mapping, but is %s", (&Node{Node: content}).Describe())
			continue
		}
		merged := b.node(y, n.Path)
		if merged == nil {
			continue
		}
		for _, e := range merged.Entries {
			if _, seen := lines[e.Key.Value]; !seen {
				lines[e.Key.Value] = e.Key.Line
				n.Entries = append(n.Entries, e)
			}
		}
	}
}
