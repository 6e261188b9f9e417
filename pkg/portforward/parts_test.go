package portforward

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestServiceBackends(t *testing.T) {
	terminating := pod("terminating", true)
	terminating.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	stranger := pod("stranger", true)
	stranger.Labels = nil
	noPort := service(intstr.FromInt32(0))
	noPort.Spec.Ports[0].Port = 81
	noSelector := service(intstr.FromInt32(0))
	noSelector.Spec.Selector = nil
	for _, c := range []struct {
		name     string
		services []any
		pods     []any
		want     string // pod:port of each, or why there are none
	}{
		{"by name", []any{service(intstr.FromString("web"))}, []any{pod("b", true), pod("a", true)}, "a:8000 b:8000"},
		{"by number", []any{service(intstr.FromInt32(9))}, []any{pod("a", true)}, "a:9"},
		{"the service's own", []any{service(intstr.FromInt32(0))}, []any{pod("a", true)}, "a:80"},
		{"not ready", []any{service(intstr.FromInt32(9))}, []any{pod("a", false), terminating, stranger}, "no pod of service ns/svc is ready"},
		{"no such name", []any{service(intstr.FromString("tls"))}, []any{pod("a", true)}, `pod a has no TCP port named "tls"`},
		{"no service", nil, []any{pod("a", true)}, "service ns/svc does not exist"},
		{"no port", []any{noPort}, nil, "service ns/svc has no TCP port 80"},
		{"no selector", []any{noSelector}, nil, "service ns/svc has no selector, so no pods"},
		{"malformed", []any{"?", nil, &corev1.Pod{}}, []any{7}, "service ns/svc does not exist"},
	} {
		found, why := to.backends(c.services, c.pods)
		var got []string
		for _, f := range found {
			got = append(got, fmt.Sprintf("%s:%d", f.pod, f.port))
		}
		if why != nil {
			got = append(got, why.Error())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for message, want := range map[string]bool{
		"error forwarding port 8000 to pod 3f, uid : failed to execute portforward in network namespace \"/var/run/netns/cni-1\": failed to connect to localhost:8000 inside namespace \"3f\", IPv4: dial tcp4 127.0.0.1:8000: connect: connection refused IPv6 dial tcp6 [::1]:8000: connect: connection refused ": true,
		"error forwarding port 8000 to pod 3f, uid : exit status 1: 2026/01/01 socat[7] E connect(5, AF=2 127.0.0.1:8000, 16): Connection refused":                                                                                                                                                                  true,
		"error forwarding port 8000 to pod 3f, uid : network namespace for sandbox \"3f\" is closed":                                                                                                                                                                                                                true,
		"error forwarding port 8000 to pod 3f, uid : failed to execute portforward in network namespace \"/var/run/netns/cni-1\": read tcp4 127.0.0.1:4->127.0.0.1:8000: read: connection reset by peer":                                                                                                            false,
		"error forwarding port 8000 to pod 3f, uid : write: broken pipe": false,
		"": false,
	} {
		if refused(message) != want {
			t.Errorf("%v: %s", !want, message)
		}
	}
}

// What does not fit is read only when it is certain that nothing has to be read again.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplay()
		client, said := io.Pipe()
		filled := make(chan error)
		go func() { filled <- r.fill(client) }()
		go said.Write(make([]byte, 2*replayLimit))

		read := func(attempt, limit int) (total int) {
			p := make([]byte, 1000)
			for total < limit {
				n, err := r.next(attempt, p[:min(len(p), limit-total)])
				if err != nil {
					return total
				}
				total += n
			}
			return total
		}
		first := r.begin()
		if n := read(first, replayLimit); n != replayLimit {
			t.Errorf("first attempt read %d", n)
		}
		synctest.Wait()
		if !r.again() {
			t.Fatal("settled too early")
		}
		second := r.begin()
		if _, err := r.next(first, make([]byte, 1)); !errors.Is(err, errInterrupted) {
			t.Errorf("the first attempt goes on: %v", err)
		}
		if n := read(second, replayLimit); n != replayLimit {
			t.Errorf("second attempt read %d", n)
		}
		r.hurry(first) // late, and for an attempt that is over
		synctest.Wait()
		if !r.again() {
			t.Fatal("settled by an attempt that is over")
		}
		r.hurry(second)
		if n := read(second, replayLimit); n != replayLimit {
			t.Errorf("read %d more", n)
		}
		if r.again() {
			t.Error("not settled, though bytes were let go")
		}
		said.Close()
		if err := <-filled; !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if _, err := r.next(second, make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("end of the client: %v", err)
		}
		r.close()
	})
}
