package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Hidden stands where a secret was.
const Hidden = "•••"

const (
	// shortest is how long a secret has to be, in bytes, to be looked for: a shorter one would be found in words that are none.
	shortest = 4
	// shortestPart is the same for a part of one, of which it is only guessed that it is secret.
	shortestPart = 6
	// longestWritten is up to what length a secret is looked for in its encodings, too.
	longestWritten = 4 << 10
)

// Name is the value of a field that others recognize what an event is about by: a project, an
// image, a pod. It is left as it is: a password may well be the same as the name of a release.
// Behind Secrets.Before it is a string.
type Name string

// Names are several. Behind Secrets.Before they are a []string.
type Names []string

// Secrets are texts that no view may show: they are taken out of events on their way. The zero value knows none. It is safe for concurrent use.
type Secrets struct {
	mu     sync.Mutex
	known  map[string]bool
	finder atomic.Pointer[finder] // nil while none is known
}

// Hide has values hidden from now on: as they are, each line of them, since a log shows them one by one, and as programs write them in JSON, in URLs, in
// HTML and as base64.
func (s *Secrets) Hide(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.known)
	if s.known == nil {
		s.known = map[string]bool{}
	}
	for _, value := range values {
		value = strings.TrimSpace(value)
		if len(value) < shortest {
			continue
		}
		s.known[value] = true
		if len(value) <= longestWritten {
			for _, written := range encodings(value) {
				if len(written) >= shortest {
					s.known[written] = true
				}
			}
		}
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= 2*shortest { // others stand in many texts
				s.known[line] = true
			}
		}
	}
	if len(s.known) == before {
		return
	}
	s.finder.Store(newFinder(slices.Collect(maps.Keys(s.known))))
}

// encodings are a value as other languages write it.
func encodings(value string) []string {
	texts := []string{
		url.QueryEscape(value), url.PathEscape(value), html.EscapeString(value), strings.Trim(strconv.Quote(value), `"`),
		base64.StdEncoding.EncodeToString([]byte(value)), base64.RawStdEncoding.EncodeToString([]byte(value)),
		base64.URLEncoding.EncodeToString([]byte(value)), base64.RawURLEncoding.EncodeToString([]byte(value)),
		Printable(value), strings.Join(strings.Fields(Printable(value)), " "), // as lines of the log show it
	}
	encoded := texts[4]
	for _, width := range []int{64, 76} { // columns after which openssl and base64 begin a new line
		for chunk := range slices.Chunk([]byte(encoded), width) {
			if len(encoded) > width && len(chunk) >= 2*shortest {
				texts = append(texts, string(chunk))
			}
		}
	}
	for _, escape := range []bool{true, false} {
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(escape)
		if encoder.Encode(value) == nil {
			texts = append(texts, strings.Trim(strings.TrimSpace(out.String()), `"`))
		}
	}
	return texts
}

// HideFile is Hide for what configures a program, which may show a part of it: what stands behind a = or a colon, in quotes, or behind the word password,
// as in pip.conf, .npmrc, .netrc, .env, JSON and YAML; and the password of a URL. What is a path, an address without a password, a number or
// more than one word is no secret by itself.
func (s *Secrets) HideFile(content string) {
	found := []string{content}
	add := func(part string) {
		part = strings.Trim(strings.TrimSpace(part), `"',;`)
		_, notNumber := strconv.ParseFloat(part, 64)
		if len(part) >= shortestPart && notNumber != nil && !strings.ContainsAny(part, " \t") && !isPath.MatchString(part) && !address.MatchString(part) {
			found = append(found, part)
		}
	}
	for line := range strings.Lines(content) {
		if _, value, ok := strings.Cut(line, "="); ok {
			add(value)
		}
		if _, value, ok := strings.Cut(line, ": "); ok {
			add(value)
		}
		for _, match := range quoted.FindAllStringSubmatch(line, -1) {
			if value, err := strconv.Unquote(match[1]); err == nil {
				add(value)
			}
		}
		for _, match := range afterWord.FindAllStringSubmatch(line, -1) {
			add(match[1])
		}
		for _, at := range address.FindAllString(line, -1) {
			if u, err := url.Parse(at); err == nil && u.User != nil {
				password, _ := u.User.Password()
				found = append(found, password, u.User.String())
			}
		}
	}
	s.Hide(found...)
}

var (
	quoted    = regexp.MustCompile(`:\s*("(?:[^"\\]|\\.)*")`)
	afterWord = regexp.MustCompile(`(?i)\b(?:password|passwd|token|secret)\s+(\S+)`)
	address   = regexp.MustCompile(`\w+://[^\s"']+`)
	isPath    = regexp.MustCompile(`^[~.]{0,2}(/[\w.@-]+)+/?$`)
)

// Text returns text without secrets, nor parts of those that a cut at a … has left.
func (s *Secrets) Text(text string) string {
	if f := s.finder.Load(); f != nil {
		return f.hide(text)
	}
	return text
}

// Before returns a Sink that takes secrets out of what passes, but for Names.
func (s *Secrets) Before(next Sink) Sink {
	return func(e Event) {
		e.Fields = slices.Clone(e.Fields)
		for i := 1; i < len(e.Fields); i += 2 {
			e.Fields[i] = s.value(e.Fields[i])
		}
		if e.Stage == ConfigStage && e.Message != ConfigRead {
			e.Message = s.Text(e.Message)
		}
		e.Err = s.Error(e.Err)
		next(e)
	}
}

// value returns the value of a field without secrets. What it does not know becomes text if there
// is a secret in it.
func (s *Secrets) value(value any) any {
	switch v := value.(type) {
	case Name:
		return string(v)
	case Names:
		return []string(v)
	case nil, bool, int, int32, int64, uint16, uint64, float64, time.Time, time.Duration:
		return v
	case string:
		return s.Text(v)
	case []string:
		texts := slices.Clone(v)
		for i := range texts {
			texts[i] = s.Text(texts[i])
		}
		return texts
	case interface {
		withTexts(change func(string) string) any
	}:
		return v.withTexts(s.Text)
	case error:
		return s.Error(v)
	}
	text := fmt.Sprint(value)
	if hidden := s.Text(text); hidden != text {
		return hidden
	}
	return value
}

// Error returns an error without secrets, which is err itself if there are none in it. It keeps its hint, and what it wraps is said, but cannot
// be reached.
func (s *Secrets) Error(err error) error {
	if err == nil || s.finder.Load() == nil || !s.within(err) {
		return err
	}
	return WithHint(hiddenError{s.Text(err.Error())}, s.Text(Hint(err)))
}

// within tells whether an error or one that it wraps has a secret in its words.
func (s *Secrets) within(err error) bool {
	if s.Text(err.Error()) != err.Error() || s.Text(Hint(err)) != Hint(err) {
		return true
	}
	switch wraps := err.(type) { //nolint:errorlint // link by link
	case interface{ Unwrap() error }:
		inner := wraps.Unwrap()
		return inner != nil && s.within(inner)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(wraps.Unwrap(), s.within)
	}
	return false
}

// hiddenError is an error with secrets taken out.
type hiddenError struct{ fact string }

func (e hiddenError) Error() string { return e.fact }
