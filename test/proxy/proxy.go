// Package proxy is an HTTP proxy for tests.
package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Start runs a proxy for CONNECT requests until the test ends, and returns its URL. A client that
// wants host is connected to route(host).
func Start(t *testing.T, route func(host string) string) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		behind, err := new(net.Dialer).DialContext(r.Context(), "tcp", route(r.Host))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer behind.Close()
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(behind, client) }()
		_, _ = io.Copy(client, behind)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
