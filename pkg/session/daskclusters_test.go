package session

import (
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	for _, test := range []struct {
		written []string
		last    string
	}{
		{nil, ""},
		{[]string{"4\n"}, "4"},
		{[]string{"a\nOSE", "rror: no\r\n", "\n"}, "OSError: no"},
		{[]string{strings.Repeat("x", tailLength), "\nlast"}, "last"},
		{[]string{strings.Repeat("x\n", tailLength), "end"}, "end"},
	} {
		out := &tail{}
		for _, part := range test.written {
			if n, err := out.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if last := out.lastLine(); last != test.last || len(out.end) > tailLength {
			t.Errorf("%.40q: the last line is %q, of %d bytes", test.written, last, len(out.end))
		}
	}
}
