package portforward

import (
	"net"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/devloop/devloop/pkg/event"
)

func TestURLOfAnAddress(t *testing.T) {
	for ip, want := range map[string]string{
		"127.0.0.1": "http://localhost:8001", "0.0.0.0": "http://localhost:8001", "::": "http://localhost:8001",
		"::1": "http://[::1]:8001", "127.0.0.2": "http://127.0.0.2:8001", "192.0.2.7": "http://192.0.2.7:8001",
		"2001:db8::7": "http://[2001:db8::7]:8001",
	} {
		if got := URL(&net.TCPAddr{IP: net.ParseIP(ip), Port: 8001}); got != want {
			t.Errorf("%s: %s, not %s", ip, got, want)
		}
	}
}

// What a service says of its port counts more than conventions.
func TestWhichTargetsSpeakHTTP(t *testing.T) {
	port := func(name, appProtocol string, number int32, target intstr.IntOrString) *corev1.Service {
		p := corev1.ServicePort{Name: name, Port: number, TargetPort: target}
		if appProtocol != "" {
			p.AppProtocol = &appProtocol
		}
		return &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "other", Port: 1}, p}}}
	}
	none := intstr.IntOrString{}
	for _, c := range []struct {
		port  string
		owner metav1.Object
		want  bool
	}{
		{"80", nil, true}, {"8888", nil, true}, {"5432", nil, false}, {"http", nil, true}, {"http-admin", nil, true},
		{"https", nil, false}, {"db", nil, false},
		{"5000", port("", "http", 5000, none), true},
		{"80", port("", "kubernetes.io/h2c", 80, none), false},
		{"80", port("tcp-db", "", 80, none), false},
		{"5000", port("http", "", 5000, none), true},
		{"web", port("web", "", 5000, intstr.FromInt32(8080)), true},
		{"web", port("web", "", 5000, intstr.FromString("http")), true},
		{"web", port("web", "", 5000, intstr.FromString("tls")), false},
		{"web", port("web", "", 5000, none), false},
	} {
		if got := (Target{Kind: Service, Port: c.port}).speaksHTTP(c.owner); got != c.want {
			t.Errorf("port %s of %v: %v", c.port, c.owner, got)
		}
	}
}

// A forward learns what it leads to from the service, and from what devloop.yaml checks.
func TestAddressOfAForward(t *testing.T) {
	f, err := Listen(t.Context(), Spec{Target: Target{Namespace: "ns", Kind: Service, Name: "svc", Port: "5000"},
		Gateway: func(labels map[string]string) bool { return labels["gateway"] == "yes" }}, event.Sink(func(event.Event) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	url := event.Name(URL(f.Addr()))
	check := func(wantURL event.Name, gateway bool) {
		t.Helper()
		if a := f.Address(); a.URL != wantURL || a.Gateway != gateway || a.Target != "service ns/svc" {
			t.Errorf("%+v", a)
		}
	}
	check("", false)
	f.SetChecked(true)
	check(url, false)
	f.SetChecked(false)
	check("", false)
	f.found(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"gateway": "yes"}}})
	check(url, true)
}
