package portforward

import (
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
)

// httpPorts are the ports on which servers speak HTTP by convention: http and http-alt of IANA's
// list, and those of Python's servers, of Dask's dashboard and of Jupyter.
var httpPorts = []string{"80", "8000", "8008", "8080", "8787", "8888"}

// URL returns the URL of a local address as a browser on this machine opens it. It says localhost
// where that leads to the address.
func URL(address *net.TCPAddr) string {
	host := address.IP.String()
	if address.IP.IsUnspecified() || address.IP.Equal(loopback4.AsSlice()) {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(address.Port))
}

// Address is what is known of the address now, for events. It has a URL if the target is known to
// speak HTTP: the forward has a path to check, or leads to a Dask Gateway, or its port says so (see
// speaksHTTP).
func (f *Forward) Address() event.Address {
	a := event.Address{Target: event.Name(f.spec.Target.String()), Local: event.Name(f.Addr().String()),
		Gateway: f.gateway.Load()}
	if a.Gateway || f.http.Load() || f.checked.Load() {
		a.URL = event.Name(URL(f.Addr()))
	}
	return a
}

// SetChecked tells whether the address has to answer an HTTP request before the platform counts as
// ready.
func (f *Forward) SetChecked(checked bool) { f.checked.Store(checked) }

// found takes the object that selects the target's pods, nil before there is one.
func (f *Forward) found(owner metav1.Object) {
	var labels map[string]string
	if owner != nil {
		labels = owner.GetLabels()
	}
	f.gateway.Store(f.spec.Gateway != nil && f.spec.Gateway(labels))
	f.http.Store(f.spec.Target.speaksHTTP(owner))
}

// speaksHTTP tells whether the target's port is for HTTP by what the service says, or else by
// convention: its appProtocol, its name, its number. The name begins with the protocol, as Istio
// reads it: http, http-admin. Of targets that are no services only the port in devloop.yaml counts.
func (t Target) speaksHTTP(owner metav1.Object) bool {
	names, numbers := []string{t.Port}, []string{t.Port}
	if service, ok := owner.(*corev1.Service); ok {
		for _, p := range service.Spec.Ports {
			number := strconv.Itoa(int(p.Port))
			if !isTCP(p.Protocol) || t.Port != p.Name && t.Port != number {
				continue
			}
			if p.AppProtocol != nil {
				return *p.AppProtocol == "http" || *p.AppProtocol == "kubernetes.io/ws"
			}
			names = []string{p.Name, p.TargetPort.StrVal}
			numbers = []string{number, p.TargetPort.String()}
			break
		}
	}
	for _, name := range names {
		switch protocol, _, _ := strings.Cut(name, "-"); protocol {
		case "http":
			return true
		case "https", "tls", "tcp", "grpc", "http2", "mongo", "mysql", "redis":
			return false
		}
	}
	return slices.ContainsFunc(numbers, func(number string) bool { return slices.Contains(httpPorts, number) })
}
