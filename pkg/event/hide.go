package event

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/url"
	"reflect"
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
	// shortest is the least length of a secret, in bytes: a shorter one is found in ordinary words.
	shortest = 4
	// shortestPart is the same for a part of a file that may be a secret.
	shortestPart = 6
	// longestEncoded is up to what length a secret is looked for in its encodings, too.
	longestEncoded = 4 << 10
)

// Name names what an event is about: a project, an image, a pod. Secrets leaves it as it is: a
// password may well be the same as the name of a release. In Fields it becomes a string there.
type Name string

// Names are several. In Fields they become a []string.
type Names []string

// String returns the names for a line of text.
func (n Names) String() string { return strings.Join(n, ",") }

// Secrets are texts that no view may show. The zero value knows none. It is safe for concurrent
// use.
type Secrets struct {
	mu     sync.Mutex
	known  map[string]bool
	finder atomic.Pointer[finder] // nil while none is known
}

// Hide hides values from now on: as they are, line by line, as a log shows them, and as programs
// write them in JSON, URLs, HTML and base64.
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
		if len(value) <= longestEncoded {
			for _, encoded := range encodings(value) {
				if len(encoded) >= shortest {
					s.known[encoded] = true
				}
			}
		}
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= 2*shortest { // a shorter line stands in many texts
				s.known[line] = true
			}
		}
	}
	if len(s.known) == before {
		return
	}
	s.finder.Store(newFinder(slices.Collect(maps.Keys(s.known))))
}

// encodings returns a value as other languages write it.
func encodings(value string) []string {
	texts := []string{
		url.QueryEscape(value), url.PathEscape(value), html.EscapeString(value),
		strings.Trim(strconv.Quote(value), `"`),
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

// HideFile is Hide for a file that configures a program, which may show parts of it: what follows
// an =, a colon, or the word password, as in pip.conf, .npmrc, .netrc, .env, JSON and YAML; and the
// password of a URL. A path, an address without a password, a number, or several words are not
// secret by themselves.
func (s *Secrets) HideFile(content string) {
	found := []string{content}
	add := func(part string) {
		part = strings.Trim(strings.TrimSpace(part), `"',;`)
		_, notNumber := strconv.ParseFloat(part, 64)
		if len(part) >= shortestPart && notNumber != nil && !strings.ContainsAny(part, " \t") &&
			!isPath.MatchString(part) && !address.MatchString(part) {
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

// Text returns text without secrets and without what a cut at a … has left of one.
func (s *Secrets) Text(text string) string {
	if f := s.finder.Load(); f != nil {
		return f.hide(text)
	}
	return text
}

// Filter returns a Sink that takes secrets out of events, except for Names, and hands them to next.
func (s *Secrets) Filter(next Sink) Sink {
	return func(e Event) {
		e.Payload = s.payload(e.Payload)
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

// payload returns a payload without secrets. Types other than string are names or enumerations.
func (s *Secrets) payload(payload any) any {
	if payload == nil || s.finder.Load() == nil {
		return payload
	}
	clean := reflect.New(reflect.TypeOf(payload)).Elem()
	clean.Set(reflect.ValueOf(payload))
	s.clean(clean)
	return clean.Interface()
}

// clean takes secrets out of the strings of a value that may be set.
func (s *Secrets) clean(v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[string]():
		v.SetString(s.Text(v.String()))
	case v.Type() == reflect.TypeFor[time.Time](), v.Type() == reflect.TypeFor[Names]():
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			s.clean(v.Field(i))
		}
	case v.Kind() == reflect.Slice && !v.IsNil():
		list := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(list, v)
		for i := range list.Len() {
			s.clean(list.Index(i))
		}
		v.Set(list)
	}
}

// value returns a value of Fields without secrets. A type that it does not know becomes text if it
// has a secret in it.
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
	case error:
		return s.Error(v)
	}
	text := fmt.Sprint(value)
	if hidden := s.Text(text); hidden != text {
		return hidden
	}
	return value
}

// Error returns an error without secrets: err itself if it has none, else an error of its text and
// hint, which no longer wraps anything.
func (s *Secrets) Error(err error) error {
	if err == nil || s.finder.Load() == nil || !s.inError(err) {
		return err
	}
	return WithHint(hiddenError{s.Text(err.Error())}, s.Text(Hint(err)))
}

// inError reports whether the text of an error, or of one that it wraps, has a secret in it.
func (s *Secrets) inError(err error) bool {
	if s.Text(err.Error()) != err.Error() || s.Text(Hint(err)) != Hint(err) {
		return true
	}
	switch wraps := err.(type) { //nolint:errorlint // link by link
	case interface{ Unwrap() error }:
		inner := wraps.Unwrap()
		return inner != nil && s.inError(inner)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(wraps.Unwrap(), s.inError)
	}
	return false
}

// hiddenError is an error with secrets taken out.
type hiddenError struct{ fact string }

func (e hiddenError) Error() string { return e.fact }
