// The bench nodes, and how they reach an index of packages.
package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// benchNode is how programs reach the node of a runtime.
type benchNode struct {
	kubeconfig, home string // of minikube
	kubeContext      string
	server           string // the URL of the API
	address          string
	ssh              string // its name in NODE_SSH_CONFIG
	load             string // its command for an image on standard input
}

func nodeOf(runtime string) (n benchNode, err error) {
	n = benchNode{kubeconfig: os.Getenv("KUBECONFIG"), home: os.Getenv("MINIKUBE_HOME"), ssh: "node",
		load: "sudo ctr --namespace k8s.io images import -"}
	if runtime == "docker" {
		n = benchNode{kubeconfig: os.Getenv("DOCKER_NODE_KUBECONFIG"), home: os.Getenv("DOCKER_NODE_MINIKUBE_HOME"),
			ssh: "docker-node", load: "sudo docker load"}
	}
	config, err := clientcmd.LoadFromFile(n.kubeconfig)
	if err != nil {
		return n, err
	}
	n.kubeContext = config.CurrentContext
	n.server = config.Clusters[config.Contexts[n.kubeContext].Cluster].Server
	server, err := url.Parse(n.server)
	if err != nil {
		return n, err
	}
	n.address = server.Hostname()
	return n, nil
}

// env has devloop and helm use the cluster of the node.
func (n benchNode) env() []string {
	return []string{"KUBECONFIG=" + n.kubeconfig, "MINIKUBE_HOME=" + n.home}
}

// dockerEnv has docker build in the node, as "minikube docker-env" does.
func (n benchNode) dockerEnv() []string {
	return []string{"DOCKER_HOST=tcp://" + net.JoinHostPort(n.address, "2376"), "DOCKER_TLS_VERIFY=1",
		"DOCKER_CERT_PATH=" + filepath.Join(n.home, ".minikube", "certs")}
}

// startProxy starts an HTTP proxy on this machine's address in a node's network, until the end of
// the benchmark, and returns its URL. By itself, the node reaches no index of packages.
func startProxy(ctx context.Context, t *testbed, n benchNode) (string, error) {
	probe, err := new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(n.address, "22"))
	if err != nil {
		return "", err
	}
	host, _, err := net.SplitHostPort(probe.LocalAddr().String())
	if err := errors.Join(err, probe.Close()); err != nil {
		return "", err
	}
	// The same port each time, as it is part of what is built.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, "3128"))
	if err != nil {
		return "", err
	}
	forward := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodConnect {
				tunnel(w, r)
			} else {
				forward.ServeHTTP(w, r)
			}
		})}
	go func() { _ = server.Serve(listener) }() // until it is closed
	t.cleanup(func(context.Context) error { return server.Close() })
	return "http://" + listener.Addr().String(), nil
}

// tunnel connects a client of the proxy with the host that it asks for.
func tunnel(w http.ResponseWriter, r *http.Request) {
	host, err := new(net.Dialer).DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer host.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(host, buffered) }()
	_, _ = io.Copy(client, host)
}
