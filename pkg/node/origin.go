package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/files"
)

// Origin is a cluster of a tool on this machine. The zero value means none.
type Origin struct {
	Tool string // "minikube", "kind" or "k3d"
	Name string // of the profile, or of the cluster
}

// Origin returns which tool on this machine serves the API server's address that Find was given.
// Only the address counts: a context can have any name.
func (c *Cluster) Origin() Origin { return c.origin }

// Verify makes sure that the nodes belong to the cluster that the context leads to. Without an
// Origin, they were found by name only: then each must run on a kernel of the cluster, whose boot
// IDs kernels returns. Otherwise Verify forgets the nodes, and the error says why.
func (c *Cluster) Verify(ctx context.Context, kernels func(context.Context) ([]string, error)) error {
	if c.origin != (Origin{}) || len(c.nodes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	known, err := kernels(ctx)
	for _, n := range c.nodes {
		var id string
		if err == nil {
			id, err = n.run(ctx, "cat", "/proc/sys/kernel/random/boot_id")
		}
		if err == nil && !slices.Contains(known, strings.TrimSpace(id)) {
			err = fmt.Errorf("node %s does not belong to the cluster that kube context %q leads to", n.name, c.name)
		}
	}
	if err != nil {
		err = errors.Join(err, c.Close())
		c.nodes, c.look = nil, nil
	}
	return err
}

// Ports of API servers within their nodes.
const (
	minikubePort = 8443 // if the profile has none
	// autoPausePort is that of the proxy in front of the API server that minikube's addon
	// auto-pause writes into the kubeconfig (AutoPauseProxyPort in its pkg/minikube/constants).
	autoPausePort = 32443
	// containerAPIPort is the one of kind (APIServerInternalPort in its pkg/cluster/constants)
	// and k3d (DefaultAPIPort in its pkg/types).
	containerAPIPort = 6443
)

// endpoint returns host and port of an API server. It is not ok for a URL with anything else in it:
// behind a path, there may be another API server.
func endpoint(server string) (host, port string, ok bool) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return "", "", false
	}
	return u.Hostname(), cmp.Or(u.Port(), "443"), u.Hostname() != ""
}

// serves reports whether an API server's address is exactly that of one of the profile's nodes, or
// a port that Docker or podman publishes for one at this moment (ControlPlaneEndpoint in
// minikube's pkg/minikube/driver has the same cases).
func (p profile) serves(ctx context.Context, server string, docker *client.Client) bool {
	host, port, ok := endpoint(server)
	if !ok || p.Driver == "ssh" { // any machine that ssh reaches
		return false
	}
	ip, _ := netip.ParseAddr(host) // invalid for a name
	api := strconv.Itoa(cmp.Or(p.APIServerPort, minikubePort))
	if p.hasTunnel() {
		return port == api && p.answers(ctx, addressesOf(host), port)
	}
	if vip := p.KubernetesConfig.APIServerHAVIP; vip != "" && host == vip && port == api && !ip.IsLoopback() {
		return true
	}
	for _, n := range p.Nodes {
		own, paused := strconv.Itoa(cmp.Or(n.Port, p.APIServerPort, minikubePort)), strconv.Itoa(autoPausePort)
		onNode := host == n.IP && (port == own || port == paused) && !ip.IsLoopback()
		switch {
		case onNode && (p.Driver == "none" || p.Driver == "native"): // this machine may have changed networks
			if onThisMachine(host) {
				return true
			}
		case onNode:
			return true
		case (p.Driver == "docker" || p.Driver == "podman") && onThisMachine(host):
			for _, inside := range []string{own, paused} {
				if p.publishes(ctx, docker, p.machine(n.Name), inside, host, port) {
					return true
				}
			}
		}
	}
	return false
}

// answers reports whether the profile's own API server is behind a port of loopback: it has the key
// of the certificate that minikube made with the profile. The port alone would prove nothing, since
// any tunnel may end there. Of several addresses of a name, no other server may answer at any.
func (p profile) answers(ctx context.Context, addresses []netip.Addr, port string) bool {
	certificate, err := files.Read(filepath.Join(p.folder, "apiserver.crt"), maxCertificate)
	own := x509.NewCertPool()
	if err != nil || !own.AppendCertsFromPEM(certificate) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	// The certificate is for localhost among others. It signs no other one, so nothing else passes.
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: own, ServerName: "localhost", MinVersion: tls.VersionTLS12}}
	answered := false
	for _, to := range addresses {
		if !endsAt(to, loopbackOf(to)) {
			return false
		}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(to.String(), port))
		switch {
		case err == nil:
			answered = true
			_ = conn.Close()
		case !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EADDRNOTAVAIL): // no IPv6
			return false
		}
	}
	return answered
}

// publishes reports whether a container of the profile runs and its port is published at host:port.
func (p profile) publishes(ctx context.Context, docker *client.Client, name, inside, host, port string) bool {
	engines, closeAll := p.engines(docker)
	defer closeAll()
	for _, engine := range engines {
		if !isLocal(engine) {
			continue
		}
		found, err := bindings(ctx, engine, name, inside)
		if err == nil && slices.ContainsFunc(found, func(b network.PortBinding) bool {
			return b.HostPort == port && reaches(host, b.HostIP)
		}) {
			return true
		}
	}
	return false
}

// publishesAPI reports whether a container of kind or k3d runs and publishes the port of an API
// server at host:port.
func publishesAPI(c container.Summary, host, port string) bool {
	return c.State == container.StateRunning && slices.ContainsFunc(c.Ports, func(p container.PortSummary) bool {
		return p.PrivatePort == containerAPIPort && p.PublicPort != 0 && strconv.Itoa(int(p.PublicPort)) == port &&
			reaches(host, p.IP)
	})
}

// isLocal reports whether the ports that a daemon publishes are on this machine. A daemon that is
// reached by TCP or ssh publishes them elsewhere.
func isLocal(docker *client.Client) bool {
	return docker != nil && strings.HasPrefix(docker.DaemonHost(), "unix://")
}

// reaches reports whether every connection to host ends at a listener with this address on this
// machine. At the same port of another address, even of loopback, there may be a tunnel.
func reaches(host string, listener netip.Addr) bool {
	addresses := addressesOf(host)
	return len(addresses) > 0 &&
		!slices.ContainsFunc(addresses, func(to netip.Addr) bool { return !endsAt(to, listener) })
}

func endsAt(to, listener netip.Addr) bool {
	if listener = listener.Unmap(); !listener.IsValid() {
		listener = netip.IPv4Unspecified() // as older Docker versions report it
	}
	if to.IsUnspecified() { // the kernel connects to loopback; k3d writes 0.0.0.0
		to = loopbackOf(to)
	}
	if listener.IsUnspecified() {
		return to.Is4() == listener.Is4() && isOwn(to)
	}
	return to == listener
}

// loopbackOf returns 127.0.0.1, or ::1 for an IPv6 address.
func loopbackOf(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// addressesOf returns the addresses that a connection to host may go to. Of names, only localhost
// is resolved.
func addressesOf(host string) (addresses []netip.Addr) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	if host != "localhost" {
		return nil
	}
	found, _ := net.LookupIP(host) //nolint:noctx // read from a file
	for _, ip := range found {
		if address, ok := netip.AddrFromSlice(ip); ok {
			addresses = append(addresses, address.Unmap())
		}
	}
	return addresses
}

// onThisMachine reports whether a host is this machine, by its loopback or another interface.
func onThisMachine(host string) bool {
	if host == "localhost" || host == "kubernetes.docker.internal" { // Docker Desktop's name for 127.0.0.1
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && isOwn(ip.Unmap())
}

func isOwn(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() { // k3d writes 0.0.0.0
		return true
	}
	addresses, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addresses, func(address net.Addr) bool {
		own, ok := address.(*net.IPNet)
		return ok && own.IP.Equal(ip.AsSlice())
	})
}
