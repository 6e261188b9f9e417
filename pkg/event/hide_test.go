package event

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSecretsAreHidden(t *testing.T) {
	var s Secrets
	s.Hide("hunter2", "abc", "first line of it\nsecond\nlong enough line") // abc is too short to be looked for
	s.HideFile("[global]\nindex-url = https://user:pass-word@index.example/simple\ntoken: 's3cr3t-token'\n" +
		"cert = /run/secrets/ca.pem\nretries = 123456\n" +
		"//registry.example/:_authToken=npm_abcdef\nmachine x login me password netrc-word\n" +
		"password = abc/def+ghi==\n" + `{"auths": {"x": {"auth": "dXNlcjpwYXNz"}}}`)
	s.Hide(`a"b<c&d e`)
	var sent []Event
	sink := s.Filter(func(e Event) { sent = append(sent, e) })
	sink(Event{Message: "m", Fields: []any{"line", "it is hunter2!", "list", []string{"x", "hunter2"}, "n", 7},
		Err: WithHint(fmt.Errorf("login: %w", errors.New("hunter2 is wrong")), "not hunter2")})
	text, err := json.Marshal(sent[0])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") || strings.Count(string(text), Hidden) != 4 {
		t.Errorf("%s", text)
	}
	for text, want := range map[string]string{
		"says long enough line":                        "says " + Hidden,
		"second abc":                                   "second abc",
		"user:pass-word@index.example":                 Hidden + "@index.example",
		"the token s3cr3t-token":                       "the token " + Hidden,
		"/run/secrets/ca.pem is no certificate":        "/run/secrets/ca.pem is no certificate",
		"after 123456 tries":                           "after 123456 tries",
		"npm_abcdef netrc-word abc/def+ghi==":          Hidden + " " + Hidden + " " + Hidden,
		"dXNlcjpwYXNz":                                 Hidden,
		`"a\"b<c&d e" a\"b\u003cc\u0026d e`:            `"` + Hidden + `" ` + Hidden,
		"a%22b%3Cc%26d+e a&#34;b&lt;c&amp;d e":         Hidden + " " + Hidden,
		"YSJiPGMmZCBl aHVudGVyMg":                      Hidden + " " + Hidden, // base64
		"index-url = https://user:pass-word@index.exa": "index-url = https://" + Hidden + "@index.exa",
	} {
		if got := s.Text(text); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}

	// What things are called stays, or they could not be recognized.
	sink(Event{Message: "m", Fields: []any{"release", Name("hunter2"), "pods", Name("hunter2-1,hunter2-2"), "output",
		"hunter2", "why", "not hunter2"}})
	want := "releasehunter2podshunter2-1,hunter2-2output" + Hidden + "whynot " + Hidden
	if got := fmt.Sprint(sent[1].Fields...); got != want {
		t.Error(got)
	}

	// A large file is no reason to wait.
	var large strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&large, "KEY_%d=value-%d\n", i, i)
	}
	start := time.Now()
	s.HideFile(large.String())
	if took := time.Since(start); took > time.Minute || s.Text("value-19999") != Hidden {
		t.Errorf("%s, %s", took, s.Text("value-19999"))
	}

	// An error that has no secret in it stays what it is, for errors.Is; one that wraps one does
	// not.
	if err := fmt.Errorf("x: %w", ErrSuperseded); s.Error(err) != err { //nolint:errorlint // the same one
		t.Error("an error without a secret was changed")
	}
	if err := s.Error(quiet{errors.New("hunter2")}); strings.Contains(fmt.Sprint(err, errors.Unwrap(err)), "hunter2") {
		t.Errorf("the cause says it: %v", err)
	}
	if s.Error(nil) != nil {
		t.Error("an error out of nothing")
	}
}

// quiet is an error that does not say what it wraps.
type quiet struct{ cause error }

func (q quiet) Error() string { return "quiet" }
func (q quiet) Unwrap() error { return q.cause }

// A secret that was cut before it came here is hidden, too, whichever part of it is left; so is one
// that was wrapped.
func TestPartsOfSecretsAreHidden(t *testing.T) {
	const secret = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
	var s Secrets
	s.Hide(secret, "pass  word\twith spaces", strings.Repeat("k3y", 60))
	// as much as makes a text that may have been cut by a limit
	long := strings.Repeat("pulling layer after layer ", 40)
	for n := shortest; n < len(secret); n++ {
		begin, end := secret[:n], secret[n:]
		for text, want := range map[string]string{
			"token " + begin + "…":                     "token " + Hidden + "…",
			"token " + begin + " … and more":           "token " + Hidden + " … and more",
			long + begin:                               long + Hidden,
			long + begin + "\n the next line":          "",
			"curl " + begin + "\n" + end + " failed":   "curl " + Hidden + " failed",
			"curl " + begin + "\r\n  " + end + " x\ny": "curl " + Hidden + " x\ny",
		} {
			got := s.Text(text)
			if want != "" && got != want {
				t.Errorf("%d: %q, not %q", n, got, want)
			}
			if strings.Contains(got, begin) {
				t.Errorf("%d: %q shows %q", n, got, begin)
			}
		}
		if len(end) >= shortest {
			for text, want := range map[string]string{
				"…" + end + " was wrong": "…" + Hidden + " was wrong",
				"x … " + end:             "x … " + Hidden,
				end + " " + long:         Hidden + " " + long,
			} {
				if got := s.Text(text); got != want {
					t.Errorf("%d: %q, not %q", n, got, want)
				}
			}
		}
	}
	for text, want := range map[string]string{
		"the same … as ever":      "the same … as ever",
		"pass word with spaces":   Hidden, // as the title of a build step has it
		"two\nlines":              "two\nlines",
		"gh\np_ " + secret + "\n": "gh\np_ " + Hidden + "\n",
	} {
		if got := s.Text(text); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k3y", 60)))
	for line := range slices.Chunk([]byte(encoded), 76) {
		if got := s.Text(string(line)); got != Hidden {
			t.Errorf("a line of base64: %q", got)
		}
	}
}

// Whatever the type of a field, what is text in it goes through.
func TestSecretsInFieldsOfAllTypes(t *testing.T) {
	var s Secrets
	var sent Event
	sink := s.Filter(func(e Event) { sent = e })
	for _, known := range []bool{false, true} {
		if known {
			s.Hide("hunter2")
		}
		sink(Event{Fields: []any{"a", Name("hunter2"), "b", Names{"hunter2", "x"}}})
		if sent.Fields[1] != "hunter2" || !slices.Equal(sent.Fields[3].([]string), []string{"hunter2", "x"}) {
			t.Errorf("names: %#v", sent.Fields)
		}
	}
	names, err := json.Marshal(Event{Fields: []any{"a", Name("x"), "b", Names{"y", "z"}}})
	if err != nil || !strings.Contains(string(names), `"fields":{"a":"x","b":["y","z"]}`) {
		t.Errorf("%s, %v", names, err)
	}
	type typed string
	at := time.Now()
	for _, value := range []any{
		"hunter2", []string{"hunter2"}, typed("hunter2"), errors.New("hunter2"),
		fmt.Errorf("x: %w", errors.New("hunter2")), []byte("hunter2"),
		Links{{Image: "x", Is: "hunter2", Want: "hunter2"}},
		DaskClusters{{Name: "x", Owner: "hunter2", Image: "hunter2"}},
		Differences{{Library: "hunter2", Versions: []string{"hunter2"}}}, map[string]any{"x": "hunter2"},
		[]any{"hunter2"},
	} {
		before := fmt.Sprintf("%#v", value)
		sink(Event{Message: "m", Fields: []any{"x", value}})
		text, err := json.Marshal(sent)
		if err != nil || strings.Contains(string(text), "hunter2") ||
			strings.Contains(fmt.Sprintf("%s %v", sent.Fields...), "hunter2") {
			t.Errorf("%T: %s, %v", value, text, err)
		}
		if after := fmt.Sprintf("%#v", value); after != before {
			t.Errorf("%T: the sender's own has become %s", value, after)
		}
	}
	for _, value := range []any{nil, true, 7, int64(7), 7.5, at, time.Second, typed("x"), Links(nil)} {
		sink(Event{Fields: []any{"x", value}})
		if fmt.Sprintf("%#v", sent.Fields[1]) != fmt.Sprintf("%#v", value) {
			t.Errorf("%#v has become %#v", value, sent.Fields[1])
		}
	}
	sink(Event{Stage: ConfigStage, Message: "hunter2 is not known"})
	if sent.Message != Hidden+" is not known" {
		t.Error(sent.Message)
	}
}

func FuzzText(f *testing.F) {
	f.Add("secret-token", "x secret-\n token … sec", 5)
	f.Fuzz(func(t *testing.T, secret, text string, at int) {
		var s Secrets
		s.Hide(secret)
		if secret = strings.TrimSpace(secret); len(secret) < shortest {
			return
		}
		if strings.Contains(s.Text(text), secret) && !strings.Contains(Hidden, secret) {
			t.Errorf("%q shows %q", s.Text(text), secret)
		}
		n := shortest + max(at, -at)%len(secret)
		if n < 0 || n >= len(secret) || strings.ContainsAny(secret, "•…\n\r \t") {
			return
		}
		if got := s.Text("\x00" + secret[:n] + cutMark); strings.Contains(got, secret[:n]) {
			t.Errorf("%q shows %q of %q", got, secret[:n], secret)
		}
	})
}
