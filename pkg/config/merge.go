package config

import "slices"

// merge returns upper merged into lower, nil if upper removes it: mappings are merged key by key, all else is replaced, null
// removes. below merges two values under a key; nil is merge itself. lower may be nil. Neither tree is changed.
func merge(lower, upper *node, below func(key string, lower, upper *node) *node) *node {
	switch {
	case lower == nil:
		return upper
	case upper.isNull():
		return nil
	case !lower.isMapping() || !upper.isMapping():
		return upper
	}
	merged := lower.clone()
	at := make(map[string]int, len(merged.entries)) // where the entry of a key is
	for i, e := range merged.entries {
		at[e.key.Value] = i
	}
	for _, e := range upper.entries {
		key := e.key.Value
		i, known := at[key]
		switch {
		case !known:
			at[key] = len(merged.entries)
			merged.entries = append(merged.entries, e)
		case below != nil:
			merged.entries[i].value = below(key, merged.entries[i].value, e.value)
		default:
			merged.entries[i].value = merge(merged.entries[i].value, e.value, nil)
		}
	}
	merged.entries = slices.DeleteFunc(merged.entries, func(e entry) bool { return e.value == nil })
	return merged
}
