package config

// From the text of the file to YAML nodes: one document, aliases followed, merged keys ("<<") in place.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parse reads the text's only document.
func (d *decoder) parse(text []byte) (root value, ok bool) {
	documents := yaml.NewDecoder(bytes.NewReader(text))
	first, err := decodeNode(documents)
	if errors.Is(err, io.EOF) || err == nil && isNull(first) {
		d.problems = []Problem{{Message: "the file is empty"}}
		d.hint = "it has to start with \"apiVersion: " + Version + "\""
		return value{}, false
	}
	if err == nil {
		var second *yaml.Node
		if second, err = decodeNode(documents); err == nil {
			d.wrong(value{node: second}, "a second YAML document starts here; the file has to be one document")
			return value{}, false
		}
	}
	if !errors.Is(err, io.EOF) {
		d.problems = []Problem{syntaxProblem(err)}
		return value{}, false
	}
	return value{node: first}, true
}

// decodeNode returns the content of the next document. It turns the parser's panics about itself into errors: a typo in
// the file must not end devloop.
func decodeNode(documents *yaml.Decoder) (node *yaml.Node, err error) {
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

func deref(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// pair is one entry of a mapping.
type pair struct {
	key *yaml.Node
	value
}

// pairs returns the entries of a mapping in order, with those that "<<" brings in at the end.
func (d *decoder) pairs(v value) []pair {
	if !d.is(v, yaml.MappingNode) {
		return nil
	}
	var found []pair
	lines := map[string]int{}            // where a key was first
	visited := map[*yaml.Node]bool{}     // each mapping is merged once: that ends cycles too
	var add func(m *yaml.Node, own bool) // own keys win over merged ones
	add = func(m *yaml.Node, own bool) {
		if visited[m] {
			return
		}
		visited[m] = true
		var merged []*yaml.Node
		for i := 0; i+1 < len(m.Content); i += 2 {
			key, val := deref(m.Content[i]), deref(m.Content[i+1])
			line, seen := lines[key.Value]
			switch {
			case key.Kind != yaml.ScalarNode:
				d.wrong(value{key, v.path}, "a key must be text")
			case key.Tag == "!!merge":
				merged = append(merged, val)
			case !seen:
				lines[key.Value] = key.Line
				found = append(found, pair{key, value{val, join(v.path, key.Value)}})
			case own:
				d.wrong(value{key, v.path}, "%q is here twice; first on line %d", key.Value, line)
			}
		}
		for _, m := range merged {
			switch m.Kind {
			case yaml.MappingNode:
				add(m, false)
			case yaml.SequenceNode:
				for _, item := range m.Content {
					if item := deref(item); d.is(value{item, join(v.path, "<<")}, yaml.MappingNode) {
						add(item, false)
					}
				}
			default:
				d.is(value{m, join(v.path, "<<")}, yaml.MappingNode)
			}
		}
	}
	add(v.node, true)
	return found
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
