//go:build e2e

// A private index of Python packages, as a company has one.
package e2e

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// index answers over https with a certificate of its own, and only those who know the password. It
// has PyPI's packages, too.
type index struct{ url, ca, password string }

// startIndex serves an index with one package of its own, version 1.0, where builds in Docker reach
// it.
func startIndex(t *testing.T, library string) index {
	t.Helper()
	bridge, err := net.InterfaceByName("docker0")
	must(t, err)
	addresses, err := bridge.Addrs()
	must(t, err)
	ip := addresses[0].(*net.IPNet).IP
	listener, err := net.Listen("tcp", net.JoinHostPort(ip.String(), "0"))
	must(t, err)
	ca, certificate := certificate(t, ip)
	i := index{ca: ca, password: "pw" + unique()}
	files := "https://" + listener.Addr().String() + "/files"
	i.url = fmt.Sprintf("https://team:%s@%s/simple", i.password, listener.Addr())

	mux, name := http.NewServeMux(), library+"-1.0-py3-none-any.whl"
	pages, theirs := publicIndex(t)
	mux.Handle("/simple/", relay(pages, theirs, files))
	mux.Handle("/files/", http.StripPrefix("/files", relay(theirs, "", "")))
	mux.HandleFunc("/simple/"+library+"/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<a href="%s/%s">%s</a>`, files, name, name)
	})
	mux.HandleFunc("/files/"+name, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wheel(t, library)) })
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "team" || password != i.password {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	must(t, server.Listener.Close())
	server.Listener, server.TLS = listener, &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return i
}

// publicIndex returns where pip finds the public index's pages, and the files that they link to.
func publicIndex(t *testing.T) (pages, files string) {
	t.Helper()
	const ask = "from pip._internal.models.index import PyPI; print(PyPI.url, 'https://' + PyPI.file_storage_domain)"
	python := filepath.Join(setting(t, "DEVLOOP_TEST_VENV"), "bin", "python")
	out, err := command(t.Context(), os.Environ(), python, "-c", ask)
	must(t, err)
	_, err = fmt.Sscan(out, &pages, &files)
	must(t, err)
	return pages, files
}

// relay answers as another server does. In its pages, what begins with from leads elsewhere.
func relay(server, from, elsewhere string) http.Handler {
	target, _ := url.Parse(server)
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Authorization")
			r.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(r *http.Response) error {
			if from == "" {
				return nil
			}
			page, err := io.ReadAll(r.Body)
			page = bytes.ReplaceAll(page, []byte(from), []byte(elsewhere))
			r.Body = io.NopCloser(bytes.NewReader(page))
			r.Header.Set("Content-Length", strconv.Itoa(len(page)))
			return err
		},
	}
}

// certificate returns the certificate of a new CA, and that of a server at the address, which the
// CA has signed.
func certificate(t *testing.T, ip net.IP) (ca string, server tls.Certificate) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		return key
	}
	caKey, key := newKey(), newKey()
	from, to := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{ip}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	root.Subject.CommonName, leaf.Subject.CommonName = "CA of the test", "index of the test"
	caDER, err := x509.CreateCertificate(rand.Reader, root, root, &caKey.PublicKey, caKey)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, caKey)
	must(t, err)
	ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}))
	return ca, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// wheel is a package that holds an empty module.
func wheel(t *testing.T, library string) []byte {
	t.Helper()
	var archive bytes.Buffer
	out, info := zip.NewWriter(&archive), library+"-1.0.dist-info/"
	for _, file := range [][2]string{
		{library + ".py", "\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + library + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", library + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		entry, err := out.Create(file[0])
		must(t, err)
		_, err = io.WriteString(entry, file[1])
		must(t, err)
	}
	must(t, out.Close())
	return archive.Bytes()
}
