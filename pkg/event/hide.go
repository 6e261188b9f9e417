package event

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Hidden stands where a secret was.
const Hidden = "•••"

// shortest is how long a secret has to be, in bytes, to be looked for: a shorter one would be found in words that are none.
const shortest = 4

// Secrets are texts that no view may show: they are taken out of events on their way. The zero value knows none. It is safe for concurrent use.
type Secrets struct {
	mu       sync.Mutex
	known    map[string]bool
	replacer atomic.Pointer[strings.Replacer] // nil while none is known
}

// Hide has values hidden from now on, and each line of a value: a log shows them one by one.
func (s *Secrets) Hide(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.known)
	if s.known == nil {
		s.known = map[string]bool{}
	}
	for _, value := range values {
		if value = strings.TrimSpace(value); len(value) >= shortest {
			s.known[value] = true
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
	all := make([]string, 0, len(s.known))
	for secret := range s.known {
		all = append(all, secret)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }) // one that holds another goes first
	pairs := make([]string, 0, 2*len(all))
	for _, secret := range all {
		pairs = append(pairs, secret, Hidden)
	}
	s.replacer.Store(strings.NewReplacer(pairs...))
}

// HideFile is Hide for the content of a file, of which a program may show a part: the value of a line like token = ..., and a password in a URL.
// Words, paths and addresses without a password are no secrets by themselves.
func (s *Secrets) HideFile(content string) {
	s.Hide(content)
	for line := range strings.Lines(content) {
		if match := assignment.FindStringSubmatch(strings.TrimSpace(line)); match != nil {
			if value := strings.Trim(match[1], `"'`); len(value) >= 2*shortest && !strings.ContainsAny(value, "/ ") {
				s.Hide(value)
			}
		}
		for _, found := range address.FindAllString(line, -1) {
			if u, err := url.Parse(found); err == nil && u.User != nil {
				password, _ := u.User.Password()
				s.Hide(password, u.User.String())
			}
		}
	}
}

var (
	assignment = regexp.MustCompile(`^[\w.-]+\s*[:=]\s*(\S.*)$`)
	address    = regexp.MustCompile(`\w+://[^\s"']+`)
)

// Text returns text without secrets.
func (s *Secrets) Text(text string) string {
	if replacer := s.replacer.Load(); replacer != nil {
		return replacer.Replace(text)
	}
	return text
}

// Before returns a Sink that takes secrets out of what passes.
func (s *Secrets) Before(next Sink) Sink {
	return func(e Event) {
		if s.replacer.Load() == nil {
			next(e)
			return
		}
		e.Fields = slices.Clone(e.Fields)
		for i, field := range e.Fields {
			switch v := field.(type) {
			case string:
				e.Fields[i] = s.Text(v)
			case []string:
				texts := slices.Clone(v)
				for j := range texts {
					texts[j] = s.Text(texts[j])
				}
				e.Fields[i] = texts
			}
		}
		e.Err = s.Error(e.Err)
		next(e)
	}
}

// Error returns an error without secrets, which is err itself if there are none in it. It keeps its hint, and what it wraps is said, but cannot
// be reached.
func (s *Secrets) Error(err error) error {
	if err == nil || s.replacer.Load() == nil {
		return err
	}
	if !s.within(err) {
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
