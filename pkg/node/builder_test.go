package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// certificate makes one that is its own authority, for both sides of a connection to 127.0.0.1, or
// localhost.
func certificate(t *testing.T) (cert, key string, parsed tls.Certificate) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "minikube"},
		NotAfter:    time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	if parsed, err = tls.X509KeyPair([]byte(cert), []byte(key)); err != nil {
		t.Fatal(err)
	}
	return cert, key, parsed
}

// TestDockerInTheNode: the client presents minikube's certificate, and finds the daemon's new port
// after the node restarted.
func TestDockerInTheNode(t *testing.T) {
	cert, key, own := certificate(t)
	daemon := func() *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Api-Version", "1.41")
			w.Header().Set("Ostype", "linux")
		}))
		known := x509.NewCertPool()
		known.AppendCertsFromPEM([]byte(cert))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: known,
			ClientAuth: tls.RequireAndVerifyClientCert}
		s.StartTLS()
		return s
	}
	containers := map[string]string{}
	at := func(s *httptest.Server) {
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		containers["minikube"] = inspected(true, `"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "1"}],
			"2376/tcp": [{"HostIp": "127.0.0.1", "HostPort": "`+port+`"}]`)
	}
	profile := strings.Replace(dockerProfile, ", "+secondNode, "", 1)
	home(t, map[string]string{
		"profiles/minikube/config.json": profile, "machines/minikube/config.json": dockerMachine,
		"certs/ca.pem": cert, "certs/cert.pem": cert, "certs/key.pem": key,
	})
	first := daemon()
	at(first)
	cluster, err := Find(t.Context(), "minikube", "https://127.0.0.1:1", docker(t, containers), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inside, err := cluster.Docker()
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	ping := func() error {
		found, err := inside.Ping(t.Context(), client.PingOptions{})
		if err == nil && found.OSType != "linux" {
			t.Errorf("%+v", found)
		}
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	first.CloseClientConnections()
	first.Close()
	if err := ping(); err == nil {
		t.Error("a stopped daemon answers")
	}
	second := daemon()
	defer second.Close()
	at(second)
	if err := ping(); err != nil {
		t.Errorf("after the node restarted at another port: %v", err)
	}
}

func TestDockerNotInTheNode(t *testing.T) {
	for want, cluster := range map[string]*Cluster{
		"not known":               {},
		"there are 2 nodes":       {nodes: []*node{{}, {}}},
		"another one: containerd": {nodes: []*node{{runtime: containerdRuntime{}}}},
		"ca.pem":                  {nodes: []*node{{runtime: dockerRuntime}}, certs: t.TempDir()},
	} {
		if _, err := cluster.Docker(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
