package event

import (
	"strings"
	"testing"
)

func TestChanges(t *testing.T) {
	var c Changes
	for _, step := range []struct {
		key   string
		value any
		want  bool
	}{
		{"disk", "full", true},
		{"disk", "full", false},
		{"node", "full", true}, // another key
		{"disk", "nearly full", true},
		{"disk", "full", true}, // only the last value counts
		{"pod", []any{"web-1", 2}, true},
		{"pod", []any{"web-1", 2}, false},
		{"pod", nil, true},
		{"pod", nil, false},
		{"counts", [2]int64{1, 2}, true},
		{"counts", [2]int64{1, 2}, false},
	} {
		if got := c.Changed(step.key, step.value); got != step.want {
			t.Errorf("%s %v: changed: %t", step.key, step.value, got)
		}
	}
	if !c.Forget("disk") || c.Forget("disk") || !c.Changed("disk", "full") || c.Changed("node", "full") {
		t.Error("one key was to be forgotten")
	}
}

func TestChangedSet(t *testing.T) {
	var c Changes
	own := []string{"a"}
	for _, step := range []struct {
		set            []string
		added, removed string
	}{
		{nil, "", ""},
		{own, "a", ""},
		{[]string{"a"}, "", ""},
		{[]string{"a", "b"}, "b", ""},
		{[]string{"b", "a"}, "", ""},
		{[]string{"c", "d", "b"}, "c d", "a"},
		{[]string{"c"}, "", "d b"},
		{nil, "", "c"},
		{[]string{"c"}, "c", ""},
	} {
		added, removed := c.ChangedSet("pods", step.set)
		if strings.Join(added, " ") != step.added || strings.Join(removed, " ") != step.removed {
			t.Errorf("%v: added %v, removed %v", step.set, added, removed)
		}
		if len(step.set) > 0 {
			own[0] = "changed by its owner"
		}
	}
}

func TestMaskVarying(t *testing.T) {
	for text, want := range map[string]string{
		"pod web-7d9f8c6b5-x2x4z is not ready after 3s": "pod web## is not ready after #s",
		"pod hook-bcdfg failed":                         "pod hook# failed",
		"image worker:00112233445566778899aabb":         "image worker:#",
		"no such file":                                  "no such file",
	} {
		if got := MaskVarying(text); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
