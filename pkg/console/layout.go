package console

import (
	"fmt"
	"hash/fnv"
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
	"github.com/muesli/termenv"

	"github.com/devloop/devloop/pkg/event"
)

// layout makes lines of rows: no wider than the terminal, and wrapped between words.
type layout struct {
	width int // columns
	styles
}

// styles are colours, which repeat what the text says.
type styles struct {
	header, faint lipgloss.Style
	marks         map[mark]lipgloss.Style
	renderer      *lipgloss.Renderer
}

func newStyles(profile termenv.Profile) styles {
	renderer := lipgloss.NewRenderer(io.Discard)
	renderer.SetColorProfile(profile)
	renderer.SetHasDarkBackground(true) // asking the terminal could swallow a key
	style := renderer.NewStyle()
	return styles{
		header: style.Bold(true), faint: style.Faint(true), renderer: renderer,
		marks: map[mark]lipgloss.Style{
			markRun: style.Bold(true), markReady: style.Bold(true).Foreground(lipgloss.Color("2")),
			markNotice: style.Bold(true).Foreground(lipgloss.Color("3")),
			markFailed: style.Bold(true).Foreground(lipgloss.Color("1")), "": style,
		},
	}
}

const (
	widest    = 200 // columns that a line uses
	narrowest = 20  // columns that a line needs

	indent      = "   "
	labelWidth  = 9
	minText     = 40 // columns that are left for a text beside what stands at the right
	minCut      = 16 // columns that are left of a text that is cut
	rightMargin = 2  // columns before that, at least
)

// newLayout takes the terminal's width. The last column stays free: many terminals begin a new line
// after a character there.
func newLayout(columns int, s styles) layout {
	return layout{max(narrowest, min(columns, widest)-1), s}
}

// lines returns a row's lines.
func (l layout) lines(r row) []string {
	switch {
	case r.detail:
		return l.block(indent+" ", l.faint, l.wrapped(r.text, len(indent)+1), l.faint)
	case r.pod != "":
		return l.podLines(r)
	}
	prefix, hanging := l.prefix(r)
	right, hint := event.Printable(r.right), event.Printable(r.hint)
	isHint := right == "" && hint != ""
	if isHint {
		right = hint
	}
	room := l.width - ansi.StringWidth(prefix) - rightMargin - ansi.StringWidth(right)
	whole := l.columns(r, r.text)
	if r.cut {
		whole = l.columns(r, ansi.Truncate(event.Printable(r.text), max(minCut, room-l.subjectWidth()-2), "…"))
	}
	texts := l.wrapped(whole, ansi.StringWidth(prefix))
	switch {
	case r.parts != nil:
		texts = wrap(pack(r.parts, wide, l.width-ansi.StringWidth(prefix)), l.width-ansi.StringWidth(prefix))
	case r.changes != nil && room >= minText:
		texts = changeLines(r.changes, room)
	case r.changes != nil:
		texts = changeLines(r.changes, l.width-ansi.StringWidth(prefix))
	}
	fits := len(texts) == 1 && ansi.StringWidth(texts[0]) <= room
	if !fits && right != "" && !isHint && room >= minText { // the text goes on below
		if r.changes == nil {
			texts = wrap(printableLines(whole), room)
		}
		fits = ansi.StringWidth(texts[0]) <= room // unless that is an address, which is not broken
	}
	body := l.marks[""]
	if r.mark == markRun {
		body = l.header
	}
	lines := make([]string, 0, len(texts)+1)
	for i, text := range texts {
		before := prefix
		if i > 0 {
			before = hanging
		}
		hasRight := i == 0 && right != "" && fits
		if text == "" && !hasRight {
			before = strings.TrimRight(before, " ")
		}
		line := l.marks[r.mark].Render(before) + body.Render(text)
		if hasRight {
			gap := l.width - ansi.StringWidth(before) - ansi.StringWidth(text) - ansi.StringWidth(right)
			aside := l.faint
			if isHint {
				aside = l.marks[""]
			}
			line += strings.Repeat(" ", gap) + aside.Render(right)
		}
		lines = append(lines, line)
	}
	switch {
	case fits || right == "":
	case isHint:
		lines = append(lines, l.hint(hanging, hint)...)
	default:
		for _, part := range wrap([]string{right}, l.width-len(indent)) {
			lines = append(lines, strings.Repeat(" ", l.width-ansi.StringWidth(part))+l.faint.Render(part))
		}
	}
	if !isHint && hint != "" {
		lines = append(lines, l.hint(hanging, hint)...)
	}
	for _, b := range r.boxes {
		lines = append(lines, l.box(b)...)
	}
	return lines
}

// prefix is what a row begins with, and what its further lines do.
func (l layout) prefix(r row) (first, hanging string) {
	switch {
	case r.mark == markRun:
		return string(r.mark) + " ", "  "
	case r.mark == markNotice:
		return " " + string(r.mark) + " ", indent
	case r.mark != "":
		return pad(string(r.mark), len(indent)), indent
	case r.label != "":
		first = "  " + pad(event.Printable(r.label), labelWidth)
		return first, strings.Repeat(" ", ansi.StringWidth(first))
	}
	return indent, indent
}

// columns puts a stage's subject before its text.
func (l layout) columns(r row, text string) string {
	if r.subject == "" {
		return text
	}
	subject := event.Printable(r.subject)
	if text == "" {
		return subject
	}
	return pad(subject, l.subjectWidth()) + "  " + text
}

func (l layout) subjectWidth() int { return min(max(l.width/4, 16), 40) }

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// hint says below a row what the user can do.
func (l layout) hint(before, hint string) []string {
	texts := wrap(printableLines(hint), l.width-ansi.StringWidth(before)-2)
	for i, text := range texts {
		lead := "  "
		if i == 0 {
			lead = "→ "
		}
		texts[i] = before + lead + text
	}
	return texts
}

// box draws a failure. Its right side stays open, so that what is copied from it is only text.
func (l layout) box(b box) []string {
	border := lipgloss.NormalBorder()
	room := l.width - len(indent) - 2
	texts := wrap(printableLines(strings.Join(b.lines, "\n")), room)
	side := indent + l.marks[markFailed].UnsetBold().Render(border.Left)
	hints := l.hint(side+" ", event.Printable(b.hint))
	inner := ansi.StringWidth(event.Printable(b.title)) + 4
	for _, text := range texts {
		inner = max(inner, ansi.StringWidth(text)+1)
	}
	for _, text := range hints {
		inner = max(inner, ansi.StringWidth(text)-len(indent)-1)
	}
	edge := func(corner, title string) string {
		line := corner + border.Top
		if title != "" {
			line += " " + ansi.Truncate(title, room-4, "…") + " "
		}
		rest := max(0, min(inner+1, room+2)-ansi.StringWidth(line))
		return indent + l.marks[markFailed].UnsetBold().Render(line+strings.Repeat(border.Top, rest))
	}
	lines := []string{edge(border.TopLeft, event.Printable(b.title))}
	for _, text := range texts {
		lines = append(lines, strings.TrimRight(side+" "+text, " "))
	}
	if b.hint != "" {
		lines = append(lines, edge(border.MiddleLeft, ""))
		lines = append(lines, hints...)
	}
	return append(lines, edge(border.BottomLeft, ""))
}

// podLines shows the pod in a colour of its own.
func (l layout) podLines(r row) []string {
	name := OrDash(strings.TrimSpace(event.Printable(r.pod)))
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name)) // a hash takes all
	colour := l.renderer.NewStyle().Foreground(podColours[sum.Sum32()%uint32(len(podColours))])
	prefix := colour.Render(name)
	if r.label != "" {
		prefix = l.faint.Render(r.label) + " " + prefix
	}
	before := ansi.StringWidth(prefix) + 2
	if l.width-before < minCut { // a line of its own
		lines := l.block("", l.marks[""], wrap([]string{strings.TrimSpace(r.label + " " + name)}, l.width), colour)
		return append(lines, l.block("  ", l.marks[""], l.wrapped(r.text, podIndent), l.marks[""])...)
	}
	texts := wrapHanging(event.Printable(r.text), before, podIndent, l.width)
	for i, text := range texts {
		switch {
		case i == 0:
			texts[i] = strings.TrimRight(prefix+"  "+text, " ")
		case text != "":
			texts[i] = strings.Repeat(" ", podIndent) + text
		}
	}
	return texts
}

const podIndent = 2 // columns before what a pod's line goes on with

// live is a stage that is under way, in one line.
func (l layout) live(r row) string {
	prefix, _ := l.prefix(r)
	right := event.Printable(r.right)
	room := l.width - ansi.StringWidth(prefix) - rightMargin - ansi.StringWidth(right)
	text := ansi.Truncate(l.columns(r, event.Printable(r.text)), room, "…")
	return strings.TrimRight(prefix+pad(text, room+rightMargin)+right, " ")
}

// podColours are readable on dark and on light backgrounds. Asking the terminal for its background
// could swallow a key.
var podColours = []lipgloss.Color{"32", "35", "133", "166", "37", "161"}

// block puts the same before each line.
func (l layout) block(before string, beforeStyle lipgloss.Style, texts []string, style lipgloss.Style) []string {
	for i, text := range texts {
		texts[i] = beforeStyle.Render(before) + style.Render(text)
		if text == "" {
			texts[i] = ""
		}
	}
	return texts
}

// wrapped returns text in lines that leave room for something before them.
func (l layout) wrapped(text string, before int) []string {
	return wrap(printableLines(text), l.width-before)
}

// printableLines are the lines of a text without what a terminal would obey.
func printableLines(text string) []string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = event.Printable(line)
	}
	return lines
}

// wrapHanging breaks a line as wrap does, with before columns left in front of its first line and
// hanging in front of the others.
func wrapHanging(text string, before, hanging, width int) []string {
	lines := wrap([]string{text}, width-before)
	rest, found := strings.CutPrefix(text, lines[0])
	if len(lines) == 1 || !found {
		return lines
	}
	return append(lines[:1], wrap([]string{strings.TrimLeft(rest, " ")}, width-hanging)...)
}

// wrap breaks lines between words. A word that is wider than a line is broken, too, but not an
// address: the terminal breaks that, and can still open it. What indents a line indents all of it.
func wrap(lines []string, width int) []string {
	var wrapped []string
	for _, line := range lines {
		if ansi.StringWidth(line) <= width {
			wrapped = append(wrapped, strings.TrimRight(line, " "))
			continue
		}
		text := strings.TrimLeft(line, " ")
		if text == "" {
			wrapped = append(wrapped, "")
		}
		lead := strings.Repeat(" ", min(len(line)-len(text), width/4))
		now := lead
		for _, word := range words(text) {
			if ansi.StringWidth(now)+ansi.StringWidth(strings.TrimRight(word, " ")) > width && now != lead {
				wrapped = append(wrapped, strings.TrimRight(now, " "))
				now = lead
			}
			for ansi.StringWidth(lead)+ansi.StringWidth(strings.TrimRight(word, " ")) > width &&
				!strings.Contains(word, "://") {
				head := ansi.Truncate(word, width-ansi.StringWidth(lead), "")
				if head == "" { // one character that is wider than the line
					break
				}
				wrapped = append(wrapped, lead+head)
				word = word[len(head):]
			}
			now += word
		}
		if strings.TrimSpace(now) != "" {
			wrapped = append(wrapped, strings.TrimRight(now, " "))
		}
	}
	return wrapped
}

// changeLines are what changed in files, for a header: each file has lines of its own.
func changeLines(changes event.FileChanges, width int) (lines []string) {
	for _, change := range changes {
		items := change.Lines[:min(len(change.Lines), maxItems)]
		for {
			parts := []string{string(change.File) + " "}
			for _, item := range items {
				parts = append(parts, item.String()+",")
			}
			more := change.More + len(change.Lines) - len(items)
			if more > 0 {
				parts = append(parts, fmt.Sprintf("… %d more", more))
			}
			last := len(parts) - 1
			parts[last] = strings.TrimSuffix(parts[last], ",")
			of := wrap(pack(parts, " ", width), width)
			if len(of) <= maxChangeLines || len(items) == 0 {
				lines = append(lines, of...)
				break
			}
			items = items[:len(items)-1]
		}
	}
	return lines
}

const (
	maxChangeLines = 3  // of a file; -v has all that changed
	maxItems       = 50 // that these could have room for
)

// pack puts parts into as few lines as have room for them.
func pack(parts []string, between string, width int) []string {
	var lines []string
	for _, part := range parts {
		part = event.Printable(part)
		last := len(lines) - 1
		if last >= 0 && ansi.StringWidth(lines[last]+between+strings.TrimRight(part, " ")) <= width {
			lines[last] += between + part
		} else {
			lines = append(lines, part)
		}
	}
	return lines
}

// words splits a text into words, each with the spaces after it.
func words(text string) (all []string) {
	for text != "" {
		end := strings.IndexByte(text, ' ')
		if end < 0 {
			return append(all, text)
		}
		for end < len(text) && text[end] == ' ' {
			end++
		}
		all, text = append(all, text[:end]), text[end:]
	}
	return all
}
