package skaffold

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// helmSet is what helm reads from its --set flags. Text may hold placeholders.
type helmSet struct {
	*translator
	set    *tree.Node // values by their paths
	inline *tree.Node // whole lists, which set cannot say; nil if there are none
}

var (
	setIndex   = regexp.MustCompile(`\[\d+\]`)
	setSpecial = regexp.MustCompile(`[\\.,=\[]`)
)

// assign reads path=value, a value at n: a comma begins another path=value, { } hold a list, and a
// backslash makes the next character an ordinary one.
func (h *helmSet) assign(n *tree.Node, text string, parse func(string) (map[string]any, error)) {
	values, err := parse(text)
	switch {
	case err != nil:
		h.Wrong(n, "helm --set cannot read it: %v; a comma within a value is written \\,", err)
	case len(values) == 0:
		h.Wrong(n, "has no key")
	default:
		h.put(n, values, "", nil, setIndex.MatchString(text))
	}
}

// put puts the value at the end of these keys, whose path is given, in place of an earlier one.
// Lists are set item by item if the text named items.
func (h *helmSet) put(n *tree.Node, value any, path string, keys []string, byItem bool) {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			below := tree.JoinPath(path, setSpecial.ReplaceAllString(key, `\$0`))
			h.put(n, v[key], below, append(slices.Clone(keys), key), byItem)
		}
	case []any:
		if !byItem {
			list := n.As(yaml.SequenceNode, n.Path)
			for _, item := range v {
				list.Items = append(list.Items, h.helmValue(n, item))
			}
			h.inline = tree.Merge(h.inline, wrap(list, keys), nil)
			return
		}
		for i, item := range v {
			if item != nil {
				h.put(n, item, path+"["+strconv.Itoa(i)+"]", keys, byItem)
			}
		}
	default:
		if strings.ContainsFunc(path, isPlaceholder) {
			h.Wrong(n, "helm --set reads what is behind a comma as another key: a comma within a value is written \\,")
			return
		}
		h.replaced(h.set, path)
		put(h.set, path, h.helmValue(n, v))
	}
}

// helmValue returns a value as helm reads it.
func (s *translator) helmValue(n *tree.Node, value any) *tree.Node {
	switch v := value.(type) {
	case bool:
		return typed(n, "!!bool", strconv.FormatBool(v))
	case int64:
		return typed(n, "!!int", strconv.FormatInt(v, 10))
	case string:
		return scalar(n, s.templated(v))
	}
	return typed(n, "!!null", "null")
}

// wrap returns n as the value at the end of these keys.
func wrap(n *tree.Node, keys []string) *tree.Node {
	for _, key := range slices.Backward(keys) {
		above := n.As(yaml.MappingNode, n.Path)
		put(above, key, n)
		n = above
	}
	return n
}
