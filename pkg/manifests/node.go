package manifests

import (
	"fmt"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// decode parses one document. It recovers from the parser's panics.
func decode(text string) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: this is not valid YAML, and confused the parser: %v", r)
		}
	}()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, err
	}
	if len(document.Content) == 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}, nil
	}
	return document.Content[0], nil
}

// get returns a value of a mapping with aliases and merge keys followed, nil if there is none.
func get(n *yaml.Node, key string) *yaml.Node { return find(n, key, map[*yaml.Node]bool{}) }

// find is get, and looks at no mapping twice: they may merge each other.
func find(n *yaml.Node, key string, seen map[*yaml.Node]bool) *yaml.Node {
	if n = deref(n); n == nil || seen[n] {
		return nil
	}
	seen[n] = true
	if n.Kind == yaml.SequenceNode { // of what is merged
		for _, item := range n.Content {
			if value := find(item, key, seen); value != nil {
				return value
			}
		}
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return deref(n.Content[i+1])
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			if value := find(n.Content[i+1], key, seen); value != nil {
				return value
			}
		}
	}
	return nil
}

func deref(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// text returns the text of a key, "" if there is none.
func text(n *yaml.Node, key string) string {
	if value := get(n, key); value != nil && isText(value) {
		return value.Value
	}
	return ""
}

// oldBool matches what Kubernetes, which reads YAML 1.1, takes for true or false unless it is in
// quotes.
var oldBool = regexp.MustCompile(`^(y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF)$`)

// isText tells whether Kubernetes reads a value as text.
func isText(n *yaml.Node) bool {
	switch {
	case n.Kind != yaml.ScalarNode:
		return false
	case n.Tag == "!!str":
		return n.Style != 0 || !oldBool.MatchString(n.Value)
	}
	return n.Tag == "!!timestamp"
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "empty"
	case isText(n):
		return "text " + strconv.Quote(line(n.Value))
	}
	return line(n.Value)
}

// list returns the items of a list, or none.
func list(n *yaml.Node, key string) (items []*yaml.Node) {
	found := get(n, key)
	if found == nil || found.Kind != yaml.SequenceNode {
		return nil
	}
	for _, item := range found.Content {
		items = append(items, deref(item))
	}
	return items
}
