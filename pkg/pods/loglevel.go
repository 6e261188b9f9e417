package pods

// The level of a log line is guessed from its text: each program has its own format.

import (
	"regexp"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// levelWords are the names of levels, in capitals.
var levelWords = map[string]event.Level{
	"TRACE": event.Debug, "TRC": event.Debug, "DEBUG": event.Debug, "DBG": event.Debug, "DEBU": event.Debug,
	"DBUG": event.Debug, "VERBOSE": event.Debug, "FINE": event.Debug, "FINER": event.Debug, "FINEST": event.Debug,
	"INFO": event.Info, "INF": event.Info, "INFORMATION": event.Info, "INFORMATIONAL": event.Info, "NOTICE": event.Info,
	"LOG":  event.Info,
	"WARN": event.Warning, "WARNING": event.Warning, "WRN": event.Warning,
	"ERROR": event.Error, "ERR": event.Error, "ERRO": event.Error, "EROR": event.Error, "CRITICAL": event.Error,
	"CRIT": event.Error, "FATAL": event.Error, "FTL": event.Error, "FATA": event.Error, "PANIC": event.Error,
	"DPANIC": event.Error, "ALERT": event.Error, "EMERG": event.Error, "EMERGENCY": event.Error, "SEVERE": event.Error,
}

// levelLetters are their abbreviations.
var levelLetters = map[byte]event.Level{'T': event.Debug, 'D': event.Debug, 'V': event.Debug, 'I': event.Info,
	'N': event.Info, 'W': event.Warning, 'E': event.Error, 'C': event.Error, 'F': event.Error}

var (
	// I0102 15:04:05.000000       1 main.go:7] text
	klogLine = regexp.MustCompile(`^[IWEF]\d{4} \d\d:\d\d:\d\d`)
	// tornado, Dask Gateway: [W 2024-01-02 15:04:05.000 Proxy] text
	letterLine = regexp.MustCompile(`^\[([TDVINWECF]) \d`)
	// JSON, logfmt
	keyedLevel = regexp.MustCompile(
		`(?:^|[\s,{"])(?i:level|lvl|severity|levelname|loglevel|log\.level)"?\s*[=:]\s*"?([A-Za-z]+|\d+)`)
	// 2024-01-02 15:04:05 W text
	timedLetter = regexp.MustCompile(`^[\d:./T+Z -]{8,35}\s\[?([DIWEF])\]?[\s:]`)
	startsError = regexp.MustCompile(`^(?:Caused by: |Exception in thread |panic: |fatal error: |runtime error: )`)
)

const (
	// levelHead is how far into a line its level is looked for, in bytes, and levelFields in how
	// many words.
	levelHead   = 160
	levelFields = 10
	// levelProse is how many plain words may precede a level; after more of them it is a word like
	// any other.
	levelProse = 2
)

// leveler finds the levels of the lines of one log, in order. The zero value is ready.
type leveler struct {
	before event.Level // of the line before
	trace  string      // that the lines belong to: "python", "go" or ""
}

// of returns the level of the next line: debug, info, warn or error.
func (l *leveler) of(line string) event.Level {
	level := ownLevel(line)
	below := line == "" || line[0] == ' '
	switch {
	case strings.HasPrefix(line, "Traceback (most recent call last)"):
		level, l.trace = event.Error, "python"
	case strings.HasPrefix(line, "During handling of the above exception"),
		strings.HasPrefix(line, "The above exception was"):
		level = event.Error // between two tracebacks
	case strings.HasPrefix(line, "panic: "), strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, ":"):
		level, l.trace = event.Error, "go"
	case l.trace == "python" && below, l.trace == "go" && level == "" && line != "":
		level = event.Error
	case l.trace == "python" && level == "": // the exception follows its stack
		level, l.trace = event.Error, ""
	default:
		l.trace = ""
		if level == "" && below {
			level = l.before // a continuation
		}
	}
	if level == "" {
		level = event.Info
	}
	l.before = level
	return level
}

// ownLevel is the level that a line itself shows, or "".
func ownLevel(line string) event.Level {
	if line == "" {
		return ""
	}
	head := line[:min(len(line), levelHead)]
	switch {
	case head[0] >= 'E' && head[0] <= 'W' && klogLine.MatchString(head):
		return levelLetters[line[0]]
	case head[0] == '[' && letterLine.MatchString(head):
		return levelLetters[head[1]]
	case head[0] >= 'C' && head[0] <= 'r' && startsError.MatchString(head):
		return event.Error
	}
	keyed := head
	if line[0] == '{' {
		keyed = line // its keys have no order
	}
	// expressions are slow
	if strings.Contains(keyed, "evel") || strings.Contains(keyed, "lvl") || strings.Contains(keyed, "everity") {
		if match := keyedLevel.FindStringSubmatch(keyed); match != nil {
			if level := namedLevel(match[1]); level != "" {
				return level
			}
		}
	}
	if head[0] >= '0' && head[0] <= '9' {
		if match := timedLetter.FindStringSubmatch(head); match != nil {
			return levelLetters[match[1][0]]
		}
	}
	return spokenLevel(head)
}

// namedLevel is the level of a value of a level key.
func namedLevel(value string) event.Level {
	if value[0] >= '0' && value[0] <= '9' {
		switch { // Node's loggers: 10 is trace, 60 is fatal
		case len(value) != 2:
			return ""
		case value >= "50":
			return event.Error
		case value >= "40":
			return event.Warning
		case value >= "30":
			return event.Info
		}
		return event.Debug
	}
	return levelWords[strings.ToUpper(value)]
}

// spokenLevel looks for a level among the first words of a line: in capitals, in brackets, or
// before a colon at the beginning.
func spokenLevel(head string) event.Level {
	prose := 0
	for at, field := range strings.FieldsFunc(head, func(r rune) bool {
		return r == ' ' || r == '\t' || r == '|' ||
			r == ';'
	}) {
		if at >= levelFields || prose > levelProse {
			return ""
		}
		word := strings.Trim(field, `[]()<>{}:,-"'*#`)
		switch {
		case word == "":
			continue
		case strings.HasSuffix(field, "Warning:"): // Python: DeprecationWarning: …
			return event.Warning
		case at == 0 && (strings.HasSuffix(field, "Error:") || strings.HasSuffix(field, "Exception:")):
			return event.Error
		}
		name, _, _ := strings.Cut(word, ":") // WARNING:root:text
		if level := levelWords[name]; level != "" {
			return level
		}
		if (field[0] == '[' && field[len(field)-1] == ']' || at == 0 && field[len(field)-1] == ':') &&
			levelWords[strings.ToUpper(name)] != "" {
			return levelWords[strings.ToUpper(name)]
		}
		if isPlain(word) {
			prose++
		}
	}
	return ""
}

// isPlain tells whether a word has only letters.
func isPlain(word string) bool {
	for i := range len(word) {
		if c := word[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return true
}
