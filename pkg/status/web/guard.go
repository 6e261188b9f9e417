package web

// This file decides who may ask. Every program of every user of this machine, and every web page
// that is open in a browser, can send a request to a loopback port. Only the user can read the log,
// so what is in the log lets in: an address with a token, which a browser exchanges for a cookie,
// and other programs send in a header. What other web pages have the browser send is known by its
// headers. All users of the machine can read the command line of a browser, so one that devloop
// starts gets a ticket instead.

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// actHeader is required for actions, with any value: a page of another origin cannot set it.
const actHeader = "X-Devloop-Page"

// tokenParameter is the token's name in the address that the log shows.
const tokenParameter = "token"

// policy lets the page load only what devloop serves: text from a pod is harmless even if a browser
// took it for HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// permissions lets the page copy to the clipboard. Whether it may notify is the user's to say, in
// the browser; all else that a header can forbid is of no use to it.
const permissions = "clipboard-write=(self), clipboard-read=(), camera=(), display-capture=(), geolocation=(), " +
	"microphone=(), midi=(), payment=(), publickey-credentials-get=(), serial=(), usb=()"

// howToEnter is the answer to a request without the token of this process.
const howToEnter = "devloop shows this to its user alone: open the address that its log shows, " +
	"which ends in /?token=…; devloop status prints it again"

// Address returns the page's address, with the token, where Handler serves it at host (with a
// port).
func (s *Site) Address(host string) *url.URL {
	return &url.URL{Scheme: "http", Host: host, Path: "/", RawQuery: url.Values{tokenParameter: {s.token}}.Encode()}
}

// ticketLife is how long a browser has until it uses a ticket.
const ticketLife = time.Minute

// Ticket returns what lets in once, within ticketLife, in the place of the token.
func (s *Site) Ticket() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.tickets, func(_ string, ends time.Time) bool { return time.Now().After(ends) })
	ticket := rand.Text()
	s.tickets[ticket] = time.Now().Add(ticketLife)
	return ticket
}

// WithTicket returns an address of the page with a ticket in the place of the token.
func WithTicket(address, ticket string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	u.RawQuery = url.Values{tokenParameter: {ticket}}.Encode()
	return u.String(), nil
}

// punch uses a ticket up, and reports whether it was good.
func (s *Site) punch(ticket string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ends, known := s.tickets[ticket]
	delete(s.tickets, ticket)
	return known && time.Now().Before(ends)
}

// Token returns the secret in Address, which no other text may show.
func (s *Site) Token() string { return s.token }

// guard serves own, at / and at the page's path, to requests with the token, and public to all.
func (s *Site) guard(port int, own http.Handler, public map[string]http.Handler) http.Handler {
	hosts := hostsOf(port)
	cookie := "devloop-" + strconv.Itoa(port) // cookies do not know ports: another devloop's has another name
	inner := http.NewServeMux()
	inner.Handle("/", own)
	inner.Handle(s.path, http.StripPrefix(strings.TrimSuffix(s.path, "/"), own))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Permissions-Policy", permissions)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if code, why := foreign(r, hosts); code != 0 {
			refuse(w, code, why)
			return
		}
		byCookie := slices.ContainsFunc(r.CookiesNamed(cookie), func(c *http.Cookie) bool { return s.isToken(c.Value) })
		byHeader := s.isToken(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		shown := r.URL.Query().Get(tokenParameter)
		switch read := r.Method == http.MethodGet || r.Method == http.MethodHead; {
		case read && r.URL.Path == "/" && s.isToken(shown),
			r.Method == http.MethodGet && r.URL.Path == "/" && s.punch(shown):
			http.SetCookie(w, &http.Cookie{Name: cookie, Value: s.token, Path: s.path, HttpOnly: true,
				SameSite: http.SameSiteStrictMode})
			s.redirect(w, r)
		case !byCookie && !byHeader && read && public[r.URL.Path] != nil:
			public[r.URL.Path].ServeHTTP(w, r)
		case !byCookie && !byHeader:
			refuse(w, http.StatusForbidden, howToEnter)
		case r.Method == http.MethodPost && !byHeader && r.Header.Get(actHeader) == "":
			refuse(w, http.StatusForbidden,
				"devloop does what its own page asks for: the header "+actHeader+" is missing")
		default:
			inner.ServeHTTP(w, r)
		}
	})
}

func (s *Site) isToken(text string) bool {
	return subtle.ConstantTimeCompare([]byte(text), []byte(s.token)) == 1
}

// redirect sends a browser that got the cookie to the page's address without the token. After a
// link on another site, browsers send no strict cookie, redirects included: then our own page leads
// on.
func (s *Site) redirect(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		w.Header().Set("Refresh", "0; url="+s.path)
		_, _ = fmt.Fprintln(w, "devloop's page opens")
		return
	}
	http.Redirect(w, r, s.path, http.StatusSeeOther)
}

// refuse answers why, and closes the connection.
func refuse(w http.ResponseWriter, code int, why string) {
	w.Header().Set("Connection", "close")
	http.Error(w, why, code)
}

// hostsOf returns how a browser names the listener. Other names that resolve to 127.0.0.1 are not
// among them.
func hostsOf(port int) []string {
	var hosts []string
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]"} {
		hosts = append(hosts, host+":"+strconv.Itoa(port))
		if port == 80 {
			hosts = append(hosts, host) // browsers leave it out
		}
	}
	return hosts
}

// foreign returns why a request is refused that another web page makes, code 0 for any other.
func foreign(r *http.Request, hosts []string) (code int, why string) {
	if !slices.Contains(hosts, r.Host) {
		return http.StatusMisdirectedRequest, fmt.Sprintf("devloop answers as http://%s, not as %q", hosts[0], r.Host)
	}
	if origin, ok := r.Header["Origin"]; ok && !slices.Equal(origin, []string{"http://" + r.Host}) {
		return http.StatusForbidden, "devloop answers its own page, not one of another origin"
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" &&
		!followsLink(r) {
		return http.StatusForbidden, "devloop answers its own page, not one of another site"
	}
	return 0, ""
}

// followsLink reports whether a browser opens the page in a tab, as from a link in a web terminal.
func followsLink(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Path == "/" &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}
