package portforward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
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
		{"not ready", []any{service(intstr.FromInt32(9))}, []any{pod("a", false), terminating, stranger},
			"no pod of service ns/svc is ready"},
		{"no such name", []any{service(intstr.FromString("tls"))}, []any{pod("a", true)},
			`pod a has no TCP port named "tls"`},
		{"no service", nil, []any{pod("a", true)}, "service ns/svc does not exist"},
		{"no port", []any{noPort}, nil, "service ns/svc has no TCP port 80"},
		{"no selector", []any{noSelector}, nil, "service ns/svc has no selector, so no pods"},
		{"malformed", []any{"?", nil, &corev1.Pod{}}, []any{7}, "service ns/svc does not exist"},
	} {
		if s := found(to.backends(c.services, c.pods)); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	const prefix = "error forwarding port 8000 to pod 3f, uid : "
	const inNetns = prefix + `failed to execute portforward in network namespace "/var/run/netns/cni-1": `
	for message, want := range map[string]bool{
		inNetns + `failed to connect to localhost:8000 inside namespace "3f", IPv4: dial tcp4 127.0.0.1:8000: ` +
			"connect: connection refused IPv6 dial tcp6 [::1]:8000: connect: connection refused ": true,
		prefix + "exit status 1: 2026/01/01 socat[7] E connect(5, AF=2 127.0.0.1:8000, 16): Connection refused": true,
		prefix + `network namespace for sandbox "3f" is closed`:                                                 true,
		inNetns + "read tcp4 127.0.0.1:4->127.0.0.1:8000: read: connection reset by peer":                       false,
		prefix + "write: broken pipe": false,
		"":                            false,
	} {
		if isRefusal(message) != want {
			t.Errorf("%v: %s", !want, message)
		}
	}
}

// What does not fit is read only when nothing has to be read again.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplayBuffer()
		client, sender := io.Pipe()
		filled := make(chan error)
		go func() { filled <- r.fill(client) }()
		go sender.Write(make([]byte, 2*attemptLimit))

		read := func(attempt, limit int) (total int) {
			p := make([]byte, 1000)
			for total < limit {
				n, err := r.next(attempt, p[:min(len(p), limit-total)], nil)
				if err != nil {
					return total
				}
				total += n
			}
			return total
		}
		synctest.Wait()
		if n := len(r.kept); n != replayLimit {
			t.Errorf("%d bytes are kept while it waits", n)
		}
		first := r.startAttempt()
		if n := read(first, attemptLimit); n != attemptLimit {
			t.Errorf("first attempt read %d", n)
		}
		synctest.Wait()
		if !r.replayable() {
			t.Fatal("committed too early")
		}
		second := r.startAttempt()
		if _, err := r.next(first, make([]byte, 1), nil); !errors.Is(err, errAttemptOver) {
			t.Errorf("the first attempt goes on: %v", err)
		}
		if n := read(second, attemptLimit); n != attemptLimit {
			t.Errorf("second attempt read %d", n)
		}
		r.commitWhenFull(first) // late, and for an attempt that is over
		synctest.Wait()
		if !r.replayable() {
			t.Fatal("committed by an attempt that is over")
		}
		r.commitWhenFull(second)
		if n := read(second, attemptLimit); n != attemptLimit {
			t.Errorf("read %d more", n)
		}
		if r.replayable() {
			t.Error("not committed, though bytes were dropped")
		}
		sender.Close()
		if err := <-filled; !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if _, err := r.next(second, make([]byte, 1), nil); !errors.Is(err, io.EOF) {
			t.Errorf("end of the client: %v", err)
		}
		r.close()
	})
}

func TestBackends(t *testing.T) {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	deployment.Spec.Selector = selector
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	set.Spec.Selector = selector
	multi := service(intstr.FromString("web"))
	multi.Spec.Ports = []corev1.ServicePort{
		{Name: "dns", Port: 80, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(1)},
		{Name: "http", Port: 80, TargetPort: intstr.FromString("web")},
		{Name: "admin", Port: 81, TargetPort: intstr.FromInt32(9)},
	}
	sidecar, init := pod("sidecar", true), pod("init", true)
	always := corev1.ContainerRestartPolicyAlways
	sidecar.Spec.InitContainers, sidecar.Spec.Containers = sidecar.Spec.Containers, nil
	sidecar.Spec.InitContainers[0].RestartPolicy = &always
	init.Spec.InitContainers, init.Spec.Containers = init.Spec.Containers, nil
	evicted, terminating := pod("evicted", true), pod("terminating", true)
	evicted.Status.Phase = corev1.PodFailed
	terminating.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	ready := []any{pod("b", true), pod("a", true), pod("c", false), evicted, terminating}
	for _, c := range []struct {
		kind, name, port string
		owners, pods     []any
		want             string
	}{
		{Deployment, "web", "web", []any{deployment}, ready, "a:8000 b:8000"},
		{Deployment, "web", "9", []any{deployment}, ready, "a:9 b:9"},
		{Deployment, "other", "9", []any{deployment}, ready, "deployment ns/other does not exist"},
		{StatefulSet, "web", "web", []any{set}, ready, "a:8000 b:8000"},
		{Selector, "app in (web)", "web", nil, ready, "a:8000 b:8000"},
		{Selector, "app=other", "web", nil, ready, "no pod of selector ns/app=other is ready"},
		{Pod, "a", "web", nil, ready, "a:8000"},
		{Pod, "c", "web", nil, ready, "pod ns/c is not ready"},
		{Pod, "d", "web", nil, ready, "pod ns/d is not ready"},
		{Pod, "sidecar", "web", nil, []any{sidecar}, "sidecar:8000"},
		{Pod, "init", "web", nil, []any{init}, `pod init has no TCP port named "web"`},
		{Service, "svc", "http", []any{multi}, ready, "a:8000 b:8000"},
		{Service, "svc", "80", []any{multi}, ready, "a:8000 b:8000"},
		{Service, "svc", "admin", []any{multi}, ready, "a:9 b:9"},
		{Service, "svc", "dns", []any{multi}, ready, "service ns/svc has no TCP port dns"},
	} {
		target := Target{Namespace: "ns", Kind: c.kind, Name: c.name, Port: c.port}
		if got := found(target.backends(c.owners, c.pods)); got != c.want {
			t.Errorf("%s port %s: %s, want %s", target, c.port, got, c.want)
		}
	}
	if _, _, err := (Target{Kind: "job"}).queries(nil); err == nil {
		t.Error("a job can be forwarded to")
	}
}

// found formats the result of backends.
func found(backends []backend, why error) string {
	var all []string
	for _, b := range backends {
		if !b.ready {
			continue
		}
		all = append(all, fmt.Sprintf("%s:%d", b.pod, b.port))
	}
	if why != nil {
		all = append(all, why.Error())
	}
	return strings.Join(all, " ")
}

// Pods take turns, but one without a tunnel at hand is skipped while another one has one.
func TestTurns(t *testing.T) {
	p := newPods(to, nil, nil, newStatus(event.Stage{}, nil))
	for _, name := range []string{"a", "b", "c"} {
		p.ready = append(p.ready, newTunnelPool(backend{pod: name}, nil, nil, nil))
	}
	turns := func(room string) (picked string) {
		t.Helper()
		for _, pod := range p.ready {
			pod.hasRoom.Store(strings.Contains(room, pod.backend.pod))
		}
		for range 6 {
			pod, err := p.pick(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			picked += pod.backend.pod
		}
		return picked
	}
	for _, c := range []struct{ room, want string }{
		{"abc", "abcabc"}, {"bc", "bcbcbc"}, {"b", "bbbbbb"}, {"", "cabcab"}, {"abc", "cabcab"},
	} {
		if got := turns(c.room); got != c.want {
			t.Errorf("room at %q: %s, not %s", c.room, got, c.want)
		}
	}
}

func TestListen(t *testing.T) {
	addresses := func(listeners []*net.TCPListener) (all []string) {
		for _, l := range listeners {
			all = append(all, l.Addr().(*net.TCPAddr).IP.String())
			l.Close()
		}
		return all
	}
	wants := map[string]string{
		"": "[127.0.0.1]", Localhost: "[127.0.0.1]", "127.0.0.1": "[127.0.0.1]", "0.0.0.0": "[0.0.0.0]",
	}
	if six, err := net.Listen("tcp6", "[::1]:0"); err == nil { // else this machine has no IPv6
		six.Close()
		maps.Copy(wants, map[string]string{
			"": "[127.0.0.1 ::1]", Localhost: "[127.0.0.1 ::1]", "::1": "[::1]", "::": "[::]",
		})
	}
	for bind, want := range wants {
		listeners, err := listen(t.Context(), bind, 0)
		if err != nil {
			t.Errorf("%s: %v", bind, err)
			continue
		}
		if len(listeners) == 2 && listeners[0].Addr().(*net.TCPAddr).Port != listeners[1].Addr().(*net.TCPAddr).Port {
			t.Errorf("%s: two ports", bind)
		}
		if got := fmt.Sprint(addresses(listeners)); got != want {
			t.Errorf("%s: %s, want %s", bind, got, want)
		}
	}
	_, err := listen(t.Context(), "192.0.2.1", 0)
	if err == nil || !strings.HasPrefix(explain(err).Error(), "listen on 192.0.2.1: ") {
		t.Errorf("another machine's address: %v", err)
	}
}

func TestKernelAddr(t *testing.T) {
	for given, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "0.0.0.0": "0.0.0.0", "::1": "::1", "2001:db8::1234": "2001:db8::1234",
		"::ffff:10.0.0.1": "10.0.0.1",
	} {
		var text strings.Builder
		for word := range slices.Chunk(netip.MustParseAddr(given).AsSlice(), 4) { // as the kernel prints them: "%08X"
			fmt.Fprintf(&text, "%08X", binary.NativeEndian.Uint32(word))
		}
		if got := kernelAddr(text.String()).String(); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
	}
	if kernelAddr("012").IsValid() {
		t.Error("half a byte is an address")
	}
}

// An unanswered ping makes a tunnel silent, unless this side does not read.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		w := &wire{Conn: near, made: time.Now()}
		read := func() {
			go w.Read(make([]byte, 8))
			synctest.Wait()
		}
		later := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		later(time.Second)
		read()
		later(time.Hour)
		if w.silent(silentAfter) {
			t.Error("silent, and nothing was sent")
		}
		w.expectAnswer()
		later(silentAfter / 2)
		w.expectAnswer() // does not make the first one younger
		later(silentAfter/2 + 1)
		if !w.silent(silentAfter) || w.silent(deadAfter) {
			t.Error("not silent, or too long")
		}
		far.Write([]byte("here"))
		synctest.Wait()
		if w.silent(silentAfter) {
			t.Error("silent, and it has answered")
		}
		later(time.Second)
		w.expectAnswer()
		later(deadAfter + 1)
		if w.silent(silentAfter) {
			t.Error("silent, and nothing was read")
		}
		read()
		if !w.silent(deadAfter) {
			t.Error("not dead")
		}
		w.Close()
		far.Close()
	})
}

// What many connections meet is reported once, a state when it changes.
func TestStatus(t *testing.T) {
	var reported []string
	sink := event.Sink(func(e event.Event) { reported = append(reported, e.Message) })
	s := newStatus(sink.Stage("forward"), func() event.Address { return event.Address{} })
	none, broken := errors.New("none"), errors.New("broken")
	check := func(state event.Name, want ...string) {
		t.Helper()
		if s.state != state || !slices.Equal(reported, want) {
			t.Errorf("%s and reported %q, want %s and %q", s.state, reported, state, want)
		}
		reported = nil
	}
	s.setPods(nil, none)
	s.setPods(nil, none)
	check(stateWaiting, event.ForwardWaits)
	s.setPods(nil, errors.New("another reason"))
	check(stateWaiting, event.ForwardWaits) // as a detail
	s.warnOnce(heldTooLong, "", broken)
	s.warnOnce(heldTooLong, "", broken)
	check(stateWaiting, heldTooLong)
	s.setPods([]string{"a"}, nil)
	s.setPods([]string{"a"}, nil)
	check(stateReady, event.ForwardReady)
	s.warnOnce(heldTooLong, "", broken)
	check(stateReady, heldTooLong)
	s.setPods([]string{"a", "b"}, nil)
	check(stateReady, event.ForwardReady)
	s.dialFailed("a", time.Minute, broken)
	s.dialFailed("gone", time.Minute, broken)
	s.dialFailed("b", time.Millisecond, broken)
	check(stateReady)
	s.dialFailed("b", unreachableAfter, broken)
	s.dialFailed("b", time.Minute, broken)
	check(stateUnreachable, event.ForwardFails)
	s.dialSucceeded("a")
	check(stateReady, event.ForwardReady)
	s.setPods([]string{"b"}, nil)
	check(stateUnreachable, event.ForwardFails, event.ForwardLeaves)
	s.setPods(nil, none)
	check(stateWaiting, event.ForwardWaits)
}

// A redirect of a request for a tunnel is not followed: the request has the user's credentials.
func TestTunnelFollowsNoRedirect(t *testing.T) {
	strayed := make(chan struct{}, 10)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		strayed <- struct{}{}
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	config := &rest.Config{Host: server.URL, BearerToken: "token"}
	d := &dialer{cluster: func(context.Context) (*rest.Config, error) { return config, nil }, namespace: "ns"}
	if _, err := d.dial(t.Context(), "pod"); err == nil || !strings.Contains(err.Error(), "307") {
		t.Errorf("the error is %v", err)
	}
	if len(strayed) > 0 {
		t.Error("another server was asked")
	}
}
