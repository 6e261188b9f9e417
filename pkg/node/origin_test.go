package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// ownAddress returns an address of this machine that is not its loopback, "" if it has none.
func ownAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if own, ok := address.(*net.IPNet); ok && own.IP.To4() != nil && !own.IP.IsLoopback() {
			return own.IP.String()
		}
	}
	return ""
}

func TestOriginIsAMinikubeProfile(t *testing.T) {
	profile := func(driver, more string, nodes ...string) string {
		list := make([]string, len(nodes))
		for i, ip := range nodes {
			name := ""
			if i > 0 {
				name = fmt.Sprintf("m%02d", i+1)
			}
			list[i] = fmt.Sprintf(`{"Name": %q, "IP": %q, "Port": 8443}`, name, ip)
		}
		return fmt.Sprintf(`{"Driver": %q, "APIServerPort": 8443,
			"KubernetesConfig": {"ContainerRuntime": "containerd"}, %s "Nodes": [%s]}`,
			driver, more, strings.Join(list, ","))
	}
	own := ownAddress(t)
	files := map[string]string{
		"profiles/minikube/config.json": profile("kvm2", "", "192.168.39.7"),
		"profiles/pair/config.json":     profile("docker", "", "192.168.49.2", "192.168.49.3"),
		"profiles/far/config.json":      profile("ssh", "", "198.51.100.7"),
		"profiles/here/config.json":     profile("none", "", own),
		"profiles/moved/config.json":    profile("none", "", "192.0.2.77"),
		"profiles/loop/config.json":     profile("kvm2", "", "127.0.0.1"),
		"profiles/ha/config.json": strings.Replace(profile("kvm2", "", "192.168.61.2", "192.168.61.3"),
			`"ContainerRuntime"`, `"APIServerHAVIP": "192.168.61.254", "ContainerRuntime"`, 1),
	}
	for _, machine := range []string{
		"minikube", "pair", "pair-m02", "far", "here", "moved", "loop", "ha", "ha-m02"} {
		files["machines/"+machine+"/config.json"] = vmMachine
	}
	home(t, files)
	ports := func(api string) string {
		return inspected(true, `"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}], "8443/tcp": [`+api+`]`)
	}
	containers := map[string]string{
		"pair":     ports(`{"HostIp": "127.0.0.1", "HostPort": "32771"}`),
		"pair-m02": ports(`{"HostIp": "0.0.0.0", "HostPort": "32776"}`),
	}
	here := docker(t, containers)
	type question struct {
		context, server, want string
		docker                *client.Client
	}
	questions := []question{
		{"minikube", "https://192.168.39.7:8443", "minikube", here},
		{"minikube", "https://192.168.39.7:8443/", "minikube", nil},
		{"minikube", "https://192.168.39.7:32443", "minikube", here}, // auto-pause
		{"pair", "https://192.168.49.2:8443", "pair", here},
		{"pair", "https://127.0.0.1:32771", "pair", here},
		{"pair", "https://127.0.0.1:32776", "pair", here},
		{"renamed", "https://127.0.0.1:32771", "pair", here},
		{"minikube", "https://127.0.0.1:32771", "pair", here}, // another profile's name
		{"ha", "https://192.168.61.254:8443", "ha", here},
		{"ha", "https://192.168.61.3:8443", "ha", here},

		// A tunnel, with the name of a profile whose node is somewhere else.
		{"minikube", "https://127.0.0.1:47101", "", here},
		{"minikube", "https://127.0.0.1:8443", "", here},
		{"pair", "https://127.0.0.1:47101", "", here},
		{"pair", "https://127.0.0.1:32768", "", here}, // the port of ssh
		{"loop", "https://127.0.0.1:8443", "", here},
		{"here", "https://127.0.0.1:8443", "", here},
		{"moved", "https://192.0.2.77:8443", "", here},
		// A node's address, and something else behind it.
		{"minikube", "https://192.168.39.7:6443", "", here},
		{"minikube", "http://192.168.39.7:8443", "", here},
		{"minikube", "https://192.168.39.7:8443/k8s/clusters/prod", "", here},
		{"minikube", "https://minikube.example.com:8443", "", here},
		{"minikube", "192.168.39.7:8443", "", here},
		{"minikube", "", "", here},
		// minikube on a machine that ssh reaches.
		{"far", "https://198.51.100.7:8443", "", here},
	}
	if own != "" {
		questions = append(questions, question{"here", "https://" + own + ":8443", "here", here},
			question{"pair", "https://" + own + ":32776", "pair", here},
			question{"pair", "https://" + own + ":32771", "", here})
	}
	for _, q := range questions {
		if found, err := Find(t.Context(), q.context, q.server, q.docker, t.TempDir()); err != nil {
			t.Errorf("%s at %s: %v", q.context, q.server, err)
		} else if got := found.Origin(); got.Name != q.want || (q.want != "") != (got.Tool == "minikube") {
			t.Errorf("%s at %s: %+v, not %q", q.context, q.server, found.Origin(), q.want)
		}
	}

	// The ports that a daemon on another machine publishes are not this machine's.
	elsewhere := clientOf(t, "tcp://"+serveTCP(t, here))
	found, err := Find(t.Context(), "pair", "https://127.0.0.1:32771", elsewhere, t.TempDir())
	if err != nil || found.Origin() != (Origin{}) {
		t.Errorf("a daemon by TCP: %+v, %v", found, err)
	}
}

// With QEMU's built-in network, minikube's tunnel ends at a port of loopback, as any other tunnel
// may.
func TestOriginBehindATunnel(t *testing.T) {
	cert, _, own := certificate(t)
	_, _, foreign := certificate(t)
	serve := func(address string, certificate tls.Certificate) (port string) {
		t.Helper()
		listener, err := tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{certificate}})
		if err != nil {
			t.Skip(err) // without IPv6
		}
		server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second,
			ErrorLog: log.New(io.Discard, "", 0)}
		t.Cleanup(func() { _ = server.Close() })
		go func() { _ = server.Serve(listener) }()
		_, port, _ = net.SplitHostPort(listener.Addr().String())
		return port
	}
	write := func(port, certificate string) (folder string) {
		home(t, map[string]string{
			"profiles/qemu/apiserver.crt": certificate,
			"profiles/qemu/config.json": fmt.Sprintf(`{"Driver": "qemu2", "Network": "builtin", "APIServerPort": %s,
				"KubernetesConfig": {"ContainerRuntime": "containerd"}, "Nodes": [{"IP": "127.0.0.1", "Port": 8443}]}`, port),
			"machines/qemu/config.json": vmMachine,
		})
		return filepath.Join(os.Getenv("MINIKUBE_HOME"), ".minikube", "profiles", "qemu")
	}
	is := func(server string, own bool) {
		t.Helper()
		for _, context := range []string{"qemu", "renamed"} {
			found, err := Find(t.Context(), context, server, nil, t.TempDir())
			if err != nil {
				t.Fatalf("%s at %s: %v", context, server, err)
			}
			if got := found.Origin() == (Origin{"minikube", "qemu"}); got != own {
				t.Errorf("%s at %s: %+v", context, server, found.Origin())
			}
		}
	}
	port := serve("127.0.0.1:0", own)
	write(port, cert)
	is("https://127.0.0.1:"+port, true)
	is("https://localhost:"+port, true) // as minikube writes it
	is("https://127.0.0.2:"+port, false)
	is("https://127.0.0.1:8443", false)
	write(port, "")
	is("https://127.0.0.1:"+port, false)

	// The profile is stopped, or deleted by half, and another tunnel ends at its port.
	stale := serve("127.0.0.1:0", foreign)
	folder := write(stale, cert)
	is("https://127.0.0.1:"+stale, false)
	is("https://localhost:"+stale, false)
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, closed, _ := net.SplitHostPort(silent.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if (profile{folder: folder}).answers(ctx, addressesOf("127.0.0.1"), closed) {
		t.Error("a server that never says a word passes")
	}
	_ = silent.Close()
	write(closed, cert)
	is("https://127.0.0.1:"+closed, false)

	write(port, cert)
	if len(addressesOf("localhost")) < 2 {
		return
	}
	serve("[::1]:"+port, foreign)
	is("https://localhost:"+port, false) // who answers is a matter of luck
	is("https://[::1]:"+port, false)
}

// serveTCP forwards a port of this machine to the socket of a daemon, and returns its address.
func serveTCP(t *testing.T, daemon *client.Client) string {
	t.Helper()
	socket := strings.TrimPrefix(daemon.DaemonHost(), "unix://")
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker" },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestOriginIsAContainerOfKindOrK3d(t *testing.T) {
	home(t, nil)
	one := func(state, cluster, role, ports string) string {
		tool, name, _ := strings.Cut(cluster, " ")
		labels := fmt.Sprintf(`"io.x-k8s.kind.cluster": %q, "io.x-k8s.kind.role": %q`, name, role)
		if tool == "k3d" {
			labels = fmt.Sprintf(`"k3d.cluster": %q, "k3d.role": %q`, name, role)
		}
		return fmt.Sprintf(`{"Names": ["/%s-%s"], "State": %q, "Labels": {%s}, "Ports": [%s]}`,
			name, role, state, labels, ports)
	}
	port := func(ip string, inside, outside int) string {
		return fmt.Sprintf(`{"IP": %q, "PrivatePort": %d, "PublicPort": %d, "Type": "tcp"}`, ip, inside, outside)
	}
	list := "[" + strings.Join([]string{
		one("running", "kind dev", "control-plane", port("127.0.0.1", 6443, 40001)+","+port("127.0.0.1", 30443, 40005)),
		one("running", "kind dev", "worker", port("127.0.0.1", 6443, 40006)),
		one("exited", "kind old", "external-load-balancer", port("127.0.0.1", 6443, 40004)),
		one("running", "k3d team", "loadbalancer", port("0.0.0.0", 6443, 40002)),
		one("running", "k3d team", "server", ""),
		one("running", "k3d team", "registry", port("0.0.0.0", 6443, 40003)),
		one("running", "k3d far", "server", port("192.0.2.9", 6443, 40007)),
	}, ",") + "]"
	here := docker(t, map[string]string{"list": list})
	for _, test := range []struct {
		context, server string
		want            Origin
	}{
		{"kind-dev", "https://127.0.0.1:40001", Origin{"kind", "dev"}},
		{"renamed", "https://127.0.0.1:40001", Origin{"kind", "dev"}},
		{"kind-dev", "https://[::1]:40001", Origin{}}, // a tunnel at the same port
		{"kind-dev", "https://127.0.0.2:40001", Origin{}},
		{"kind-dev", "https://0.0.0.0:40002", Origin{"k3d", "team"}}, // the name of another cluster
		{"kind-dev", "https://127.0.0.1:47101", Origin{}},            // a tunnel of that name
		{"kind-dev", "https://127.0.0.1:40005", Origin{}},            // some port of the node
		{"kind-dev", "https://127.0.0.1:40006", Origin{}},            // no API server
		{"kind-old", "https://127.0.0.1:40004", Origin{}},            // it is stopped
		{"k3d-team", "https://127.0.0.1:40003", Origin{}},            // a registry
		{"k3d-far", "https://127.0.0.1:40007", Origin{}},             // another address
		{"kind-dev", "http://127.0.0.1:40001", Origin{}},
		{"kind-dev", "https://127.0.0.1:40001/proxy", Origin{}},
		{"kind-dev", "https://192.0.2.1:40001", Origin{}},
	} {
		found, err := Find(t.Context(), test.context, test.server, here, t.TempDir())
		if err != nil || found.Origin() != test.want {
			t.Errorf("%s at %s: %+v, %v", test.context, test.server, found, err)
		}
	}
	elsewhere := clientOf(t, "tcp://"+serveTCP(t, here))
	found, err := Find(t.Context(), "kind-dev", "https://127.0.0.1:40001", elsewhere, t.TempDir())
	if err != nil || found.Origin() != (Origin{}) || len(found.nodes) == 0 {
		t.Errorf("a daemon by TCP: %+v, %v", found, err)
	}
}

// TestReaches: at the same port, each loopback address may have another server.
func TestReaches(t *testing.T) {
	for _, test := range []struct {
		host, listener string
		want           bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.2", "127.0.0.1", false},
		{"::1", "127.0.0.1", false},
		{"::1", "::1", true},
		{"::ffff:127.0.0.1", "127.0.0.1", true},
		{"0.0.0.0", "127.0.0.1", true},
		{"::", "127.0.0.1", false},
		{"127.0.0.2", "0.0.0.0", true},
		{"::1", "0.0.0.0", false},
		{"::1", "::", true},
		{"192.0.2.1", "0.0.0.0", false},
		{"192.0.2.1", "192.0.2.1", true},
		{"tunnel.example", "0.0.0.0", false},
	} {
		if got := reaches(test.host, netip.MustParseAddr(test.listener)); got != test.want {
			t.Errorf("%s at a listener on %s: %t", test.host, test.listener, got)
		}
	}
	localhost, err := net.LookupIP("localhost")
	if err != nil {
		t.Fatal(err)
	}
	both := slices.ContainsFunc(localhost, func(ip net.IP) bool { return ip.To4() == nil })
	if got := reaches("localhost", netip.MustParseAddr("127.0.0.1")); got == both {
		t.Errorf("localhost (%v): %t", localhost, got)
	}
}

// TestVerify: nodes found by the context's name belong to the cluster only if they run on its
// kernels.
func TestVerify(t *testing.T) {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	switch {
	case goruntime.GOOS != "linux":
		t.Skip("only Linux has a boot ID")
	case err != nil:
		t.Fatal(err)
	}
	here := strings.TrimSpace(string(content))
	const bare = `{"Driver": "none", "KubernetesConfig": {"ContainerRuntime": "docker"},
		"Nodes": [{"IP": "192.0.2.77"}]}`
	const tunnel = "https://127.0.0.1:47101"
	problem := errors.New("forbidden")
	home(t, map[string]string{"profiles/here/config.json": bare,
		"profiles/vm/config.json": vmProfile, "machines/vm/config.json": vmMachine})
	for name, test := range map[string]struct {
		context, server string
		kernels         []string
		problem         error
		nodes           int
		want            string // error
	}{
		"own kernel": {context: "here", server: tunnel, kernels: []string{"another", here}, nodes: 1},
		"another kernel": {context: "here", server: tunnel, kernels: []string{"another"},
			want: `node here does not belong to the cluster that kube context "here" leads to`},
		"forbidden": {context: "here", server: tunnel, problem: problem, want: "forbidden"},
		// The kernels are not needed.
		"found by address": {context: "vm", server: "https://192.168.39.7:8443", problem: problem, nodes: 1},
		"no nodes":         {context: "prod", server: tunnel, problem: problem},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, err := Find(t.Context(), test.context, test.server, nil, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			kernels := func(context.Context) ([]string, error) { return test.kernels, test.problem }
			got := ""
			if err := cluster.Verify(t.Context(), kernels); err != nil {
				got = err.Error()
			}
			if got != test.want || len(cluster.nodes) != test.nodes {
				t.Errorf("%q, %d nodes", got, len(cluster.nodes))
			}
		})
	}
}
