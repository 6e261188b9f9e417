package dotenv

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string][]Variable{
		"":                                  nil,
		"# nothing\n\n  # at all":           nil,
		"A=1\nB = two words \nC=":           {{"A", "1", 1}, {"B", "two words", 2}, {"C", "", 3}},
		"export A=1\r\nexport\tB: 2\r\n":    {{"A", "1", 1}, {"B", "2", 2}},
		"exported=1":                        {{"exported", "1", 1}},
		"A=a#b # c\nB= # c\nC='a # b' # c":  {{"A", "a#b", 1}, {"B", "# c", 2}, {"C", "a # b", 3}},
		`A="a\nb\t\"c" B='a\n$A'`:           {{"A", "a\nbt\"c", 1}, {"B", `a\n$A`, 1}},
		"A=\"a\nb\"\nB=1":                   {{"A", "a\nb", 1}, {"B", "1", 3}},
		`A=x` + "\n" + `B=$A-${A}-\$A-$(A)`: {{"A", "x", 1}, {"B", "x-x-$A-x)", 2}},
		"A=1\nB":                            {{"A", "1", 1}},
		"A=$HOME.":                          {{"A", ".", 1}},
		"A=1\nA=2":                          {{"A", "1", 1}, {"A", "2", 2}},
	} {
		if got, line, message := Parse(text); !reflect.DeepEqual(got, want) || message != "" {
			t.Errorf("%q: got %+v, want %+v; line %d: %s", text, got, want, line, message)
		}
	}
	for text, want := range map[string]int{"A\n": 1, "A=1\nB\n": 2, "A=1\n\nB\nC=2": 3, "A=1\nA-B=1": 2, "A='x": 1,
		"A=1\nB=\"x\\\"\n": 2, "\xff=1": 1, "\ufeffA=1": 1, "A=\x00": 1, "A=0123456789\n" +
			strings.Repeat("A=$A$A\n", 20): 18} {
		if got, line, message := Parse(text); message == "" || line != want {
			t.Errorf("%q: %+v, line %d %q", text, got, line, message)
		}
	}
}

// FuzzParse holds that a quoted value comes back as it was, whatever stands before it.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "A=1", "export A='b' # c", "A=\"\\$B ${C}\"", "A: b\nB", "'", "A=\"a\n", "=",
		"A=$(b", "#\r\nA=\r\nB=2"} {
		f.Add(text, "value")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		list, line, message := Parse(text)
		if (message == "") != (line == 0) || line > strings.Count(text, "\n")+1 || message != "" && list != nil {
			t.Errorf("%q gives %+v, line %d %s", text, list, line, message)
		}
		list, _, message = Parse(text + "\n")
		if message != "" || strings.ContainsAny(value, "'\\\r\x00") ||
			slices.ContainsFunc([]rune(value), func(r rune) bool { return r == '\ufffd' }) {
			return
		}
		again, _, message := Parse(text + "\nLAST='" + value + "'\n")
		if message != "" || len(again) != len(list)+1 || again[len(list)].Value != value || again[len(list)].Name != "LAST" {
			t.Errorf("%q and %q give %+v, %s", text, value, again, message)
		}
	})
}
