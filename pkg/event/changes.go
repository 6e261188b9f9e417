package event

import (
	"reflect"
	"regexp"
	"slices"
	"sync"
)

// Changes remembers what was reported last, so that a fact is reported again only once it has
// changed. The zero value remembers nothing. It is safe for concurrent use.
type Changes struct {
	mu   sync.Mutex
	last map[string]any
}

// Changed reports whether value differs from the last one that this key had. The first one does.
func (c *Changes) Changed(key string, value any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known := c.last[key]
	if known && reflect.DeepEqual(last, value) {
		return false
	}
	c.remember(key, value)
	return true
}

// ChangedSet compares a set with the previous one of this key, and returns what was added and what
// was removed. The first one is compared with the empty set.
func (c *Changes) ChangedSet(key string, set []string) (added, removed []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, _ := c.last[key].([]string)
	c.remember(key, slices.Clone(set))
	return without(set, last), without(last, set)
}

func without(set, other []string) []string {
	return slices.DeleteFunc(slices.Clone(set), func(member string) bool { return slices.Contains(other, member) })
}

// Forget makes the next value of the key a change, and reports whether there was one.
func (c *Changes) Forget(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.last[key]
	delete(c.last, key)
	return known
}

// remember needs mu.
func (c *Changes) remember(key string, value any) {
	if c.last == nil {
		c.last = map[string]any{}
	}
	c.last[key] = value
}

// Hashes, the random ends of names that Kubernetes generates, and numbers.
var varying = regexp.MustCompile(`[0-9a-f]{16,}|-[bcdfghjklmnpqrstvwxz2456789]{5,10}\b|[0-9]+`)

// MaskVarying replaces what differs between two reports of the same fact: numbers, hashes and the
// random ends of pods' names.
func MaskVarying(text string) string { return varying.ReplaceAllString(text, "#") }
