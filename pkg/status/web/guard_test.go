// Tests of who is let in, with real servers and a client that keeps cookies as a browser does.
package web

import (
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// serve serves a site as devloop does, at that address or, if it is empty, at any.
func serve(t *testing.T, site *Site, at string) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	if at != "" {
		_ = server.Listener.Close()
		var err error
		if server.Listener, err = net.Listen("tcp4", at); err != nil {
			t.Fatal(err)
		}
	}
	server.Config.Handler = site.Handler(server.Listener.Addr().(*net.TCPAddr).Port)
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// visitor is a client with cookies.
func visitor(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// reply is an answer that was read.
type reply struct {
	code    int
	text    string
	at      string // where redirects led to
	last    bool   // of its connection
	header  http.Header
	cookies []*http.Cookie
}

func fetch(t *testing.T, client *http.Client, method, url string, headers ...string) reply {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, string(body), response.Request.URL.String(), response.Close, response.Header,
		response.Cookies()}
}

func TestStrangerIsNotLetIn(t *testing.T) {
	site, board, asked := testSite(t)
	board.Sink(event.Event{Stage: "pod", Phase: event.Noted, Message: event.PodLog,
		Payload: event.LogLine{Line: "hello"}})
	server := serve(t, site, "")
	for _, client := range []struct {
		name    string
		headers []string
	}{
		{"nothing", nil},
		{"an empty token", []string{"Authorization", "Bearer "}},
		{"a wrong one", []string{"Authorization", "Bearer " + site.Token() + "x"}},
		{"a part of it", []string{"Authorization", "Bearer " + site.Token()[1:]}},
		{"another scheme", []string{"Authorization", "Basic " + site.Token()}},
		{"a wrong cookie", []string{"Cookie", "devloop-" + portOf(server) + "=x"}},
		{"another port's cookie", []string{"Cookie", "devloop-1=" + site.Token()}},
		{"what a page sends to act", []string{actHeader, "1"}},
	} {
		for _, path := range []string{"/", "/?token=", "/?token=x", "/index.html", "/app.js", "/api/state",
			"/api/stream", "/api/events", "/api/events?follow=1",
			"/api/state?token=" + site.Token(), site.path, site.path + "api/state", site.path + "metrics", "/nothing"} {
			got := fetch(t, visitor(t), "GET", server.URL+path, client.headers...)
			if got.code != 403 || got.text != howToEnter+"\n" || !got.last || len(got.cookies) > 0 {
				t.Errorf("with %s, %s: %d, %q, cookies %v", client.name, path, got.code, got.text, got.cookies)
			}
		}
		for _, path := range []string{"/api/rebuild", "/api/pause", "/api/resume", site.path + "api/rebuild"} {
			if got := fetch(t, visitor(t), "POST", server.URL+path, client.headers...); got.code != 403 {
				t.Errorf("with %s, POST %s: %d", client.name, path, got.code)
			}
		}
	}
	if len(*asked) > 0 {
		t.Errorf("was done: %v", *asked)
	}
}

func portOf(server *httptest.Server) string {
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	return port
}

func TestAddressOfTheLogLetsIn(t *testing.T) {
	site, _, asked := testSite(t)
	server := serve(t, site, "")
	address := site.Address(server.Listener.Addr().String()).String()
	if !strings.HasPrefix(address, server.URL+"/?token=") {
		t.Fatalf("the address is %s", address)
	}
	once := visitor(t)
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	got := fetch(t, once, "GET", address)
	cookies := got.cookies
	if got.code != 303 || len(cookies) != 1 || got.header.Get("Cache-Control") != "no-store" ||
		got.header.Get("Referrer-Policy") != "no-referrer" {
		t.Fatalf("%d, %v", got.code, got.header)
	}
	if c := cookies[0]; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != site.path || c.Domain != "" ||
		c.Name != "devloop-"+portOf(server) || c.MaxAge != 0 {
		t.Errorf("the cookie is %s", c)
	}

	client := visitor(t)
	got = fetch(t, client, "GET", address)
	page := got.at
	if got.code != 200 || !strings.Contains(got.text, "<title>devloop</title>") ||
		strings.Contains(page, site.Token()) || strings.Contains(got.text, site.Token()) {
		t.Errorf("%d at %s:\n%s", got.code, page, got.text)
	}
	for _, path := range []string{"app.js", "style.css", "api/state", "api/events", "metrics"} {
		if got := fetch(t, client, "GET", page+path); got.code != 200 {
			t.Errorf("%s: %d", path, got.code)
		}
	}
	if got := fetch(t, client, "POST", page+"api/rebuild"); got.code != 403 || !strings.Contains(got.text, actHeader) {
		t.Errorf("a POST that a form could make: %d %s", got.code, got.text)
	}
	if got := fetch(t, client, "POST", page+"api/rebuild", actHeader, "1"); got.code != 204 || len(*asked) != 1 {
		t.Errorf("%d, asked for %v", got.code, *asked)
	}

	// Another server, at another port of this host gets none of it.
	other, err := url.Parse("http://127.0.0.1:1/")
	if err != nil {
		t.Fatal(err)
	}
	if sent := client.Jar.Cookies(other); len(sent) > 0 {
		t.Errorf("another port is sent %v", sent)
	}
}

// A browser sends no strict cookie to where another site has led it: our own answer leads on.
func TestLinkOfAnotherSiteLetsIn(t *testing.T) {
	site, _, _ := testSite(t)
	w := answer(site.Handler(testPort), request("GET", "/?token="+site.Token(), "Sec-Fetch-Site", "cross-site",
		"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"))
	if w.Code != 200 || w.Header().Get("Refresh") != "0; url="+site.path || len(w.Result().Cookies()) != 1 {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
	w = answer(site.Handler(testPort), request("GET", "/?token="+site.Token(), "Sec-Fetch-Site", "cross-site",
		"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"))
	if w.Code != 403 || len(w.Result().Cookies()) != 0 {
		t.Errorf("an image: %d, %v", w.Code, w.Header())
	}
}

// A ticket lets one browser in, soon, and to nothing but the page.
func TestTicket(t *testing.T) {
	site, _, _ := testSite(t)
	server := serve(t, site, "")
	open := func(ticket string) string {
		address, err := WithTicket(site.Address(server.Listener.Addr().String()).String(), ticket)
		if err != nil || strings.Contains(address, site.Token()) {
			t.Fatalf("%s, %v", address, err)
		}
		return address
	}
	first, second, late := site.Ticket(), site.Ticket(), site.Ticket()
	for _, request := range []struct{ method, address, header string }{
		{"HEAD", open(first), ""},
		{"GET", open(first) + "x", ""},
		{"GET", server.URL + "/api/state?token=" + first, ""},
		{"GET", server.URL + "/api/state", "Bearer " + first},
	} {
		if got := fetch(t, visitor(t), request.method, request.address, "Authorization", request.header); got.code != 403 {
			t.Errorf("%v: %d", request, got.code)
		}
	}
	for _, ticket := range []string{second, first} {
		client := visitor(t)
		if got := fetch(t, client, "GET", open(ticket)); got.code != 200 || strings.Contains(got.at, ticket) {
			t.Errorf("a ticket: %d at %s", got.code, got.at)
		}
		if got := fetch(t, client, "GET", server.URL+site.path+"api/state"); got.code != 200 {
			t.Errorf("who has entered with it: %d", got.code)
		}
		if got := fetch(t, visitor(t), "GET", open(ticket)); got.code != 403 || got.text != howToEnter+"\n" {
			t.Errorf("once more: %d %s", got.code, got.text)
		}
	}
	site.tickets[late] = time.Now()
	if got := fetch(t, visitor(t), "GET", open(late)); got.code != 403 {
		t.Errorf("later: %d", got.code)
	}
	site.tickets[late] = time.Now()
	if site.Ticket(); len(site.tickets) != 1 {
		t.Errorf("old ones are kept: %v", site.tickets)
	}
}

// A devloop that takes the place of another has another token: a page that is still open is sent
// how to get in.
func TestRestartedDevloop(t *testing.T) {
	first, _, _ := testSite(t)
	server := serve(t, first, "")
	client, at := visitor(t), server.Listener.Addr().String()
	got := fetch(t, client, "GET", first.Address(at).String())
	page := got.at
	client.CloseIdleConnections()
	server.Close()

	second, _, _ := testSite(t)
	serve(t, second, at)
	for _, path := range []string{"", "api/state", "api/stream"} {
		if got := fetch(t, client, "GET", page+path); got.code != 403 || got.text != howToEnter+"\n" {
			t.Errorf("/%s: %d %s", path, got.code, got.text)
		}
	}
	if got := fetch(t, client, "GET", second.Address(at).String()); got.code != 200 ||
		!strings.Contains(got.text, "<title>devloop</title>") {
		t.Errorf("its own address: %d %s", got.code, got.text)
	}
}

// Figures are for everybody, names are not.
func TestMetricsTellStrangersNoNames(t *testing.T) {
	board := status.NewBoard(nil)
	site := New(board, NewMetrics(board), Actions{}, event.Stage{})
	t.Cleanup(site.Close)
	ready := func(target, local event.Name) {
		board.Sink(event.Event{Stage: "forward", Phase: event.Noted, Message: event.ForwardReady,
			Payload: event.Forward{Address: event.Address{Target: target, Local: local}, State: "ready",
				Pods: event.Names{"web-1"}}})
	}
	ready("service old/web", "127.0.0.1:8001") // whose last words came after those of its successor
	ready("service shop/web", "127.0.0.1:8001")
	ready("service shop/db", "127.0.0.1:5432")
	server := serve(t, site, "")
	got := fetch(t, visitor(t), "GET", server.URL+"/metrics")
	for _, want := range []string{`devloop_runs_total{outcome="succeeded"} 0`, "devloop_healthy 0",
		`devloop_forward_state{local="127.0.0.1:8001",state="ready",target=""} 1`,
		`devloop_forward_connections{kind="open",local="127.0.0.1:5432",target=""} 0`} {
		if got.code != 200 || !strings.Contains(got.text, want+"\n") {
			t.Errorf("%d: no %s in\n%s", got.code, want, got.text)
		}
	}
	for _, name := range []string{"shop", "web", "service"} {
		if strings.Contains(got.text, name) {
			t.Errorf("a stranger is sent %s:\n%s", name, got.text)
		}
	}
	got = fetch(t, visitor(t), "GET", server.URL+"/metrics", "Authorization", "Bearer "+site.Token())
	want := `devloop_forward_state{local="127.0.0.1:8001",state="ready",target="service shop/web"} 1`
	if got.code != 200 || !strings.Contains(got.text, want+"\n") {
		t.Errorf("%d: no %s in\n%s", got.code, want, got.text)
	}
	if got := fetch(t, visitor(t), "POST", server.URL+"/metrics"); got.code != 403 {
		t.Errorf("POST: %d", got.code)
	}
}

// Nothing here takes a body, and a server's time for reading one does not end a stream.
func TestBodies(t *testing.T) {
	site, board, asked := testSite(t)
	server := httptest.NewUnstartedServer(nil)
	server.Config.Handler = site.Handler(server.Listener.Addr().(*net.TCPAddr).Port)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	server.Start()
	t.Cleanup(server.Close)

	for _, body := range []io.Reader{strings.NewReader("x"), io.MultiReader(strings.NewReader("of no known length"))} {
		r, err := http.NewRequest(http.MethodPost, server.URL+"/api/rebuild", body)
		if err != nil {
			t.Fatal(err)
		}
		response, err := visitor(t).Do(ofUser(site, r))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 413 || !response.Close || len(*asked) > 0 {
			t.Errorf("%s, asked for %v", response.Status, *asked)
		}
	}

	_, stream := follow(t, site, server, "/api/events?follow=1")
	for n := 1; n <= 10; n++ {
		<-time.After(50 * time.Millisecond)
		note(board, strconv.Itoa(n))
		for text := ""; !strings.Contains(text, "\"msg\":\""+strconv.Itoa(n)+"\""); {
			part := make([]byte, 4<<10)
			read, err := stream.Read(part)
			if text += string(part[:read]); err != nil {
				t.Fatalf("the stream ended before line %d: %v", n, err)
			}
		}
	}
}
