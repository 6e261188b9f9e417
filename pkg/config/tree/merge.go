package tree

import "slices"

// Merge returns upper merged into lower, nil if upper removes it: mappings are merged key by key, all else is replaced, null
// removes. below merges two values under a key; nil is merge itself. lower may be nil. Neither tree is changed.
func Merge(lower, upper *Node, below func(key string, lower, upper *Node) *Node) *Node {
	switch {
	case lower == nil:
		return upper
	case upper.IsNull():
		return nil
	case !lower.IsMapping() || !upper.IsMapping():
		return upper
	}
	merged := lower.Clone()
	at := make(map[string]int, len(merged.Entries)) // where the entry of a key is
	for i, e := range merged.Entries {
		at[e.Key.Value] = i
	}
	for _, e := range upper.Entries {
		key := e.Key.Value
		i, known := at[key]
		switch {
		case !known:
			at[key] = len(merged.Entries)
			merged.Entries = append(merged.Entries, e)
		case below != nil:
			merged.Entries[i].Value = below(key, merged.Entries[i].Value, e.Value)
		default:
			merged.Entries[i].Value = Merge(merged.Entries[i].Value, e.Value, nil)
		}
	}
	merged.Entries = slices.DeleteFunc(merged.Entries, func(e Entry) bool { return e.Value == nil })
	return merged
}
