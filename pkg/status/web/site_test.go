// Tests of what is served, and to whom.
package web

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

const testPort = 4711

// asked is what the loop was asked to do.
type asked []string

func (a *asked) actions() Actions {
	return Actions{
		Rebuild:        func() { *a = append(*a, "rebuild") },
		RebuildRelease: func(name string) { *a = append(*a, "rebuild of "+name) },
		Pause: func(paused bool) {
			if paused {
				*a = append(*a, "pause")
			} else {
				*a = append(*a, "resume")
			}
		},
	}
}

func testSite(t *testing.T) (*Site, *status.Board, *asked) {
	t.Helper()
	board := status.NewBoard(nil)
	var a asked
	site := New(board, NewMetrics(board), a.actions(), event.Sink(board.Sink).Stage("devloop"))
	t.Cleanup(site.Close)
	return site, board, &a
}

// request is one as a browser on this machine makes it; headers are alternating names and values.
func request(method, path string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "localhost:4711"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	return r
}

// ofUser is a request with the token.
func ofUser(site *Site, r *http.Request) *http.Request {
	r.Header.Set("Authorization", "Bearer "+site.Token())
	return r
}

// ofPage is a request as a browser makes it that has opened the address.
func ofPage(site *Site, r *http.Request) *http.Request {
	r.AddCookie(&http.Cookie{Name: "devloop-4711", Value: site.Token()})
	return r
}

func answer(handler http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestRoutes(t *testing.T) {
	site, _, _ := testSite(t)
	for _, test := range []struct {
		method, path string
		code         int
		kind         string
	}{
		{"GET", "/", 200, "text/html; charset=utf-8"},
		{"HEAD", "/", 200, "text/html; charset=utf-8"},
		{"GET", "/app.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/logs.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/style.css", 200, "text/css; charset=utf-8"},
		{"GET", "/api/state", 200, "application/json"},
		{"GET", "/api/events", 200, "text/event-stream"},
		{"GET", "/metrics", 200, ""},
		{"GET", "/index.html", 404, ""}, // it is a template
		{"GET", "/assets/app.js", 404, ""},
		{"GET", "/../site.go", 404, ""},
		{"GET", "/api/rebuild", 405, ""},
		{"PUT", "/api/pause", 405, ""},
		{"DELETE", "/api/state", 405, ""},
	} {
		for name, handler := range map[string]http.Handler{"tcp": site.Handler(testPort), "socket": site.Local(nil)} {
			w := answer(handler, ofUser(site, request(test.method, test.path)))
			if kind := w.Header().Get("Content-Type"); w.Code != test.code && w.Code != 307 || test.kind != "" &&
				kind != test.kind {
				t.Errorf("%s: %s %s: %d, %q", name, test.method, test.path, w.Code, kind)
			}
		}
	}
	if w := answer(New(status.NewBoard(nil), nil, Actions{}, event.Stage{}).Local(nil),
		request("GET", "/metrics")); w.Code != 404 {
		t.Errorf("without metrics there are some: %d", w.Code)
	}
}

func TestFileThatDidNotChangeIsNotSentAgain(t *testing.T) {
	site, _, _ := testSite(t)
	first := answer(site.Handler(testPort), ofUser(site, request("GET", "/app.js")))
	tag := first.Header().Get("ETag")
	if tag == "" || first.Header().Get("Cache-Control") != "no-cache" {
		t.Fatalf("headers %v", first.Header())
	}
	if again := answer(site.Handler(testPort), ofUser(site, request("GET", "/app.js", "If-None-Match",
		tag))); again.Code != 304 || again.Body.Len() != 0 {
		t.Errorf("it was sent again: %d", again.Code)
	}
}

func TestStateIsJSON(t *testing.T) {
	site, board, _ := testSite(t)
	board.Sink(event.Event{Stage: "loop", Phase: event.Noted, Message: event.DevloopStarted,
		Payload: event.DevloopStart{Project: "demo", Cluster: "minikube"}})
	var state status.State
	if err := json.Unmarshal(answer(site.Local(nil), request("GET", "/api/state")).Body.Bytes(), &state); err != nil ||
		state.Project != "demo" || state.Runs == nil {
		t.Errorf("state %+v, error %v", state, err)
	}
}

func TestActions(t *testing.T) {
	site, _, asked := testSite(t)
	for _, path := range []string{"/api/rebuild", "/api/pause", "/api/resume"} {
		if w := answer(site.Local(nil), request("POST", path)); w.Code != 204 {
			t.Errorf("%s by the socket: %d", path, w.Code)
		}
		page := request("POST", strings.TrimSuffix(site.path, "/")+path, actHeader, "1", "Origin",
			"http://localhost:4711", "Sec-Fetch-Site", "same-origin")
		if w := answer(site.Handler(testPort), ofPage(site, page)); w.Code != 204 {
			t.Errorf("%s by the page: %d %s", path, w.Code, w.Body)
		}
		if w := answer(site.Handler(testPort), ofUser(site, request("POST", path))); w.Code != 204 {
			t.Errorf("%s by a program with the token: %d %s", path, w.Code, w.Body)
		}
	}
	if got := strings.Join(*asked, " "); got != "rebuild rebuild rebuild pause pause pause resume resume resume" {
		t.Errorf("asked for %s", got)
	}
}

func TestRunOfOneRelease(t *testing.T) {
	site, board, asked := testSite(t)
	ask := func(name string) *httptest.ResponseRecorder {
		return answer(site.Handler(testPort), ofPage(site, request("POST", "/api/rebuild/"+name, actHeader, "1")))
	}
	if w := ask("web"); w.Code != 404 || !strings.Contains(w.Body.String(), `no release is called "web"; there are none`) {
		t.Errorf("before any is known: %d %s", w.Code, w.Body)
	}
	board.Sink(event.Event{Stage: event.ConfigStage, Phase: event.Detailed, Message: event.ConfigRead,
		Payload: event.Config{
			Releases: event.Releases{{Namespace: "shop", Name: "web"}, {Namespace: "shop", Name: "api"}}}})
	if w := ask("web"); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, name := range []string{"wbe", "%20web", "web%2Fapi", strings.Repeat("x", 9000)} {
		w := ask(name)
		if w.Code != 404 || !strings.HasSuffix(w.Body.String(), "; there are: web, api\n") || w.Body.Len() > 400 {
			t.Errorf("%.20s: %d %.300s", name, w.Code, w.Body)
		}
	}
	if w := answer(site.Handler(testPort), ofPage(site, request("POST", "/api/rebuild/web"))); w.Code != 403 {
		t.Errorf("not by the page's script: %d", w.Code)
	}
	if w := answer(site.Handler(testPort), request("POST", "/api/rebuild/web", actHeader, "1")); w.Code != 403 {
		t.Errorf("by a stranger: %d", w.Code)
	}
	if got := strings.Join(*asked, ", "); got != "rebuild of web" {
		t.Errorf("asked for %s", got)
	}
}

func TestRefusals(t *testing.T) {
	site, _, asked := testSite(t)
	rebuild := []string{actHeader, "1"}
	for _, test := range []struct {
		name         string
		method, path string
		headers      []string
		code         int
	}{
		{"localhost", "GET", "/api/state", nil, 200},
		{"127.0.0.1", "GET", "/api/state", []string{"Host", "127.0.0.1:4711"}, 200},
		{"::1", "GET", "/api/state", []string{"Host", "[::1]:4711"}, 200},
		{"typed into the address bar", "GET", "/", []string{"Sec-Fetch-Site", "none"}, 200},
		{"a link in another page", "GET", "/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate",
			"Sec-Fetch-Dest", "document"}, 200},

		{"a name that was made to resolve to this machine", "GET", "/api/state", []string{"Host", "evil.example:4711"},
			421},
		{"another port", "GET", "/", []string{"Host", "localhost:80"}, 421},
		{"no port", "GET", "/", []string{"Host", "localhost"}, 421},
		{"no host", "GET", "/", []string{"Host", ""}, 421},
		{"another origin", "GET", "/api/stream", []string{"Origin", "http://evil.example"}, 403},
		{"another port of this machine", "GET", "/api/state", []string{"Origin", "http://localhost:3000"}, 403},
		{"an origin that is hidden", "POST", "/api/rebuild", append([]string{"Origin", "null"}, rebuild...), 403},
		{"the same name, but https", "GET", "/api/state", []string{"Origin", "https://localhost:4711"}, 403},
		{"a script of another site", "GET", "/api/state", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a script of another port", "GET", "/api/events", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"a frame in another site", "GET", "/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate",
			"Sec-Fetch-Dest", "iframe"}, 403},
		{"a link to more than the page", "GET", "/api/state",
			[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 403},
		{"a form of another site", "POST", "/api/rebuild", append([]string{"Sec-Fetch-Site", "cross-site"}, rebuild...),
			403},
		{"not by the page's script", "POST", "/api/rebuild", nil, 403},
		{"an empty header", "POST", "/api/pause", []string{actHeader, ""}, 403},
	} {
		w := answer(site.Handler(testPort), ofPage(site, request(test.method, test.path, test.headers...)))
		if w.Code != test.code {
			t.Errorf("%s: %d, not %d", test.name, w.Code, test.code)
		}
		if text := w.Body.String(); test.code != 200 && (strings.Count(text, "\n") != 1 || len(text) < 20) {
			t.Errorf("%s: it is not said why: %q", test.name, text)
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
			"Permissions-Policy": permissions, "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q", test.name, name, got)
			}
		}
	}
	if len(*asked) > 0 {
		t.Errorf("was done in spite of it: %v", *asked)
	}
	if w := answer(site.Handler(80), ofUser(site, request("GET", "/", "Host", "localhost"))); w.Code != 200 {
		t.Errorf("port 80, which browsers leave out: %d", w.Code)
	}
}

// The policy allows neither script nor style in the page itself: what is written so would silently
// do nothing.
func TestPageKeepsToItsPolicy(t *testing.T) {
	site, _, _ := testSite(t)
	page := answer(site.Handler(testPort), ofUser(site, request("GET", "/"))).Body.String()
	if !strings.Contains(page, "<title>devloop</title>") || strings.Contains(page, site.Token()) {
		t.Errorf("the page is not there, or hands out the token:\n%s", page)
	}
	for _, not := range []string{`<style`, `\sstyle=`, `\son[a-z]+=`, `<script(?:[^>]*)>[^<]`,
		`(?:src|href)="(?:https?:)?//`} {
		if found := regexp.MustCompile(not).FindString(page); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	other, _, _ := testSite(t)
	if len(site.token) < 26 || other.token == site.token || other.boot == site.boot || len(site.path) < 26 ||
		other.path == site.path {
		t.Errorf("tokens %q and %q, paths %q and %q", site.token, other.token, site.path, other.path)
	}
}

// Text of pods and errors must never be taken for HTML.
func TestScriptsSetTextOnly(t *testing.T) {
	files, err := assets.ReadDir("assets")
	if err != nil {
		t.Fatal(err)
	}
	scripts := 0
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".js") {
			continue
		}
		scripts++
		content, err := assets.ReadFile("assets/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		harmful := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|` +
			`new Function|https?://[^w]`)
		if found := harmful.Find(content); found != nil {
			t.Errorf("%s has %q", file.Name(), found)
		}
	}
	if scripts < 5 {
		t.Errorf("only %d scripts", scripts)
	}
}

// A handler that panics is sent of once, answers 500 or not at all, and holds nothing else up.
func TestPanicInAHandler(t *testing.T) {
	site, board, _ := testSite(t)
	questions := map[string]Question{
		"broken": func(context.Context) (any, error) { panic("oh no") },
	}
	site.actions.Rebuild = func() { panic("oh no") }
	var said strings.Builder
	server := httptest.NewUnstartedServer(site.Local(questions))
	server.Config.ErrorLog = log.New(&said, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	for _, test := range []struct{ method, path string }{{"GET", "/api/ask/broken"}, {"POST", "/api/rebuild"}} {
		got := fetch(t, visitor(t), test.method, server.URL+test.path)
		if got.code != 500 || !strings.Contains(got.text, "oh no") || !strings.Contains(got.text, "please report it") {
			t.Errorf("%s: %d %s", test.path, got.code, got.text)
		}
	}
	if got := fetch(t, visitor(t), "GET", server.URL+"/api/state"); got.code != 200 {
		t.Errorf("afterwards: %d", got.code)
	}
	warned := 0
	lines, _ := board.Lines(0, 100)
	for _, line := range lines {
		if line.Event.Phase == event.Warned {
			warned++
			if err := line.Event.Err; err == nil || !strings.Contains(event.Hint(err), "please report it") {
				t.Errorf("got %v", err)
			}
		}
	}
	if warned != 2 || said.Len() > 0 {
		t.Errorf("%d warnings for 2 panics; net/http said %q", warned, said.String())
	}

	// One in the middle of an answer is no end of it.
	half := httptest.NewServer(site.recovering(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half of an ans")
		_ = http.NewResponseController(w).Flush()
		panic("oh no")
	})))
	t.Cleanup(half.Close)
	response, err := visitor(t).Get(half.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("half of an answer looks whole: %s", text)
	}
}
