package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// problems are the mistakes in manifests, each on a line that begins with file:line:column.
type problems struct {
	lines []string
	more  int
}

func (p *problems) add(file string, line, column int, format string, args ...any) {
	if len(p.lines) == maxProblems {
		p.more++
		return
	}
	place := file
	if line > 0 {
		place += ":" + strconv.Itoa(line)
	}
	if column > 0 {
		place += ":" + strconv.Itoa(column)
	}
	p.lines = append(p.lines, place+": "+fmt.Sprintf(format, args...))
}

func (p *problems) asError() error {
	if len(p.lines) == 0 {
		return nil
	}
	text := strings.Join(p.lines, "\n")
	if p.more > 0 {
		text += fmt.Sprintf("\nand %d more", p.more)
	}
	return errors.New(text)
}

// parse returns the objects in a file, each checked.
func (p *problems) parse(file string, content []byte) []object {
	if !utf8.Valid(content) {
		p.add(file, 0, 0, "is not UTF-8 text; save it as UTF-8")
		return nil
	}
	var objects []object
	for _, part := range split(content) {
		d := document{problems: p, Document: Document{File: file, Line: part.line, Text: part.text}}
		objects = append(objects, d.objects()...)
	}
	return objects
}

// part is one YAML document of a file.
type part struct {
	line int // of its first line in the file, from 1
	text string
}

var (
	// begins and ends are the lines that separate documents. YAML knows them at the start of a line
	// only, but there even within text.
	begins = regexp.MustCompile(`^---(?:[ \t]|$)`)
	ends   = regexp.MustCompile(`^\.\.\.(?:[ \t]|$)`)
)

// split returns the documents of a file that hold more than comments and directives, with line ends
// of Unix. A document that begins on the line of its --- loses that.
func split(content []byte) []part {
	text := clean(content)
	var parts []part
	var lines []string
	start := 1 // line of the first of lines
	flush := func() {
		if joined := strings.Join(lines, "\n"); !isEmpty(lines) {
			parts = append(parts, splitJSON(part{start, joined + "\n"})...)
		}
		lines = nil
	}
	for i, line := range strings.Split(text, "\n") {
		switch {
		case begins.MatchString(line):
			flush()
			lines, start = []string{"   " + line[3:]}, i+1
			if strings.TrimSpace(line[3:]) == "" {
				lines, start = nil, i+2
			}
		case ends.MatchString(line):
			flush()
			start = i + 2
		default:
			lines = append(lines, line)
		}
	}
	flush()
	return parts
}

// clean returns text without a byte order mark and with line ends of Unix.
func clean(content []byte) string {
	return strings.ReplaceAll(string(bytes.TrimPrefix(content, []byte("\ufeff"))), "\r\n", "\n")
}

// isEmpty tells whether lines hold nothing but comments and directives.
func isEmpty(lines []string) bool {
	for _, line := range lines {
		if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// splitJSON returns the values of JSON that follow one another, as kubectl reads them.
func splitJSON(whole part) []part {
	if !strings.HasPrefix(strings.TrimSpace(whole.text), "{") {
		return []part{whole}
	}
	var parts []part
	decoder := json.NewDecoder(strings.NewReader(whole.text))
	for {
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) && len(parts) > 1 {
			return parts
		} else if err != nil {
			return []part{whole} // YAML in flow style, or a single value
		}
		before := whole.text[:decoder.InputOffset()-int64(len(value))]
		parts = append(parts, part{whole.line + strings.Count(before, "\n"), string(value) + "\n"})
	}
}
