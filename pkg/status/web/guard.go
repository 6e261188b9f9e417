package web

// This file decides who may ask. Every program of every user of this machine, and every web page that is open in a browser, can send a
// request to a loopback port. What a web page must not do is read the log, or start a run: its requests are known by their headers.

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// tokenHeader has to be there to act. A page of another origin can neither read the token nor set a header of this name.
const tokenHeader = "X-Devloop-Token"

// policy lets the page load what devloop serves, and nothing else: text that comes from a pod can do nothing even if a browser took it for HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func guard(port int, token string, next http.Handler) http.Handler {
	hosts := hostsOf(port)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if code, why := refusal(r, hosts, token); code != 0 {
			http.Error(w, why, code)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostsOf returns how a browser names the listener. A name that was made to resolve to 127.0.0.1 is none of them.
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

// refusal says why a request is refused, with 0 if it is not.
func refusal(r *http.Request, hosts []string, token string) (code int, why string) {
	if !slices.Contains(hosts, r.Host) {
		return http.StatusMisdirectedRequest, fmt.Sprintf("devloop answers as http://%s, not as %q", hosts[0], r.Host)
	}
	if origin, ok := r.Header["Origin"]; ok && !slices.Equal(origin, []string{"http://" + r.Host}) {
		return http.StatusForbidden, "devloop answers its own page, not one of another origin"
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && !followsLink(r) {
		return http.StatusForbidden, "devloop answers its own page, not one of another site"
	}
	if r.Method == http.MethodPost && subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(token)) != 1 {
		return http.StatusForbidden, "the header " + tokenHeader + " is not the one that devloop gave its page: reload it"
	}
	return 0, ""
}

// followsLink reports whether a browser opens the page in a tab, as from a link that a terminal in another page shows.
func followsLink(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Path == "/" &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}
