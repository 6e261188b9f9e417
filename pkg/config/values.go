package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/strvals"

	"github.com/devloop/devloop/pkg/config/tree"
)

// Helm reads values by the rules of YAML 1.1, in which no is false, and makes every number a
// float64. The rest of devloop.yaml is YAML 1.2. So what is below inlineValues, and in set, is read
// by Helm's own code from the text that the user wrote.

// mapping decodes inline values.
func (d *decoder) mapping(n *tree.Node) map[string]any {
	if !d.again {
		d.lateMerges(n)
	}
	values := make(map[string]any, len(n.Entries))
	for _, e := range n.Entries {
		key := d.helmKey(e.Key)
		if _, taken := values[key]; taken {
			d.Wrong(e.Key, "%q is here twice: for Helm, %s is the same key", key, e.Key.Value)
		}
		values[key] = d.value(e.Value)
	}
	return values
}

// value decodes an inline value of any depth.
func (d *decoder) value(n *tree.Node) any {
	switch {
	case n.IsMapping():
		return d.mapping(n)
	case n.IsList():
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = d.value(item)
		}
		return list
	case isText(n):
		return n.Value
	}
	values, err := chartutil.ReadValues([]byte("value: " + helmText(n)))
	if err != nil {
		d.Wrong(n, "%s cannot be a Helm value; put it in quotes if it is text", n.Value)
	}
	return values["value"]
}

// helmKey returns a key as Helm reads it: all are text, yes is "true", and 0x10 is "16".
func (d *decoder) helmKey(key *tree.Node) string {
	if isText(key) {
		return key.Value
	}
	values, err := chartutil.ReadValues([]byte("? " + helmText(key) + "\n: value"))
	if err != nil {
		d.Wrong(key, "%s cannot be a key of Helm values; put it in quotes", key.Value)
	}
	for read := range values {
		return read
	}
	return key.Value
}

// lateMerges reports keys above a "<<" that has them, too: Helm takes the values of the "<<",
// whereas YAML has it that a mapping's own values count.
func (d *decoder) lateMerges(n *tree.Node) {
	own := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Tag != "!!merge" {
			own[key.Value] = true
			continue
		}
		merged := d.Build(n.Origin, &yaml.Node{Kind: yaml.MappingNode, Content: n.Content[i : i+2]}, n.Path)
		for _, name := range merged.Keys() {
			if own[name] {
				d.Wrong(&tree.Node{Node: key, Origin: n.Origin, Path: n.Path},
					"has %q, which stands above: Helm would take this one; write << first", name)
			}
		}
	}
}

// setValue decodes a single value as helm --set reads the same text: true, false, null and decimal
// integers have a type of their own, everything else is text, as is what stands in quotes.
func (d *decoder) setValue(n *tree.Node) any {
	switch {
	case isText(n):
		return n.Value
	case n.IsNull():
		return nil
	}
	value, err := readSet(n.Value)
	if err != nil {
		d.Wrong(n, "helm --set cannot read %s; put it in quotes if it is text", n.Value)
	}
	return value
}

// readSet reads text as helm --set reads a single value.
func readSet(text string) (any, error) {
	values := map[string]any{}
	err := strvals.ParseInto("value="+meansMore.ReplaceAllString(text, `\$0`), values)
	return values["value"], err
}

// meansMore are the characters that mean something within a value of helm --set.
var meansMore = regexp.MustCompile(`[\\,{}]`)

// isText tells whether a scalar is text for every reader: by its style or its tag, or because no
// YAML has anything else that begins like that.
func isText(n *tree.Node) bool {
	if n.Style&yaml.TaggedStyle != 0 {
		return n.Tag == "!!str"
	}
	return n.Style != 0 || strings.Contains(n.Value, "\n") || !maybeTyped.MatchString(n.Value)
}

// maybeTyped is how numbers, booleans (yes, on, false), dates and null begin.
var maybeTyped = regexp.MustCompile(`^([-+.0-9~=<yYnNtTfFoO]|$)`)

// helmText returns a scalar that is no text, as it was written.
func helmText(n *tree.Node) string {
	if n.Style&yaml.TaggedStyle == 0 {
		return n.Value
	}
	quoted, _ := json.Marshal(n.Value) // the tag says what it is; a string has always a JSON
	return fmt.Sprintf("!<%s> %s", n.LongTag(), quoted)
}

// isTextInPlain tells whether Helm reads text without quotes as text, in a values file and by
// helm --set; what YAML does not allow without quotes gets them anyway.
func isTextInPlain(text string) bool {
	values, err := chartutil.ReadValues([]byte("value: " + text))
	_, inFile := values["value"].(string)
	set, _ := readSet(text)
	_, inSet := set.(string)
	return (inFile || err != nil) && inSet
}
