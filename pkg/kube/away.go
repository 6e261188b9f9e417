package kube

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
)

// Only this file finds out why a cluster does not answer: from the error itself, from the
// kubeconfig, and from the machines that run the cluster, which its callers know how to look at.

// lookTimeout bounds the look at the machines of a cluster that does not answer.
const lookTimeout = 8 * time.Second

// Machines looks at the machines that run a cluster. The result has no State if it finds nothing
// wrong, or knows nothing.
type Machines func(context.Context) event.Cluster

// AwayError is why a cluster cannot be used now.
type AwayError struct {
	Context string // name of the kube context
	event.Cluster
	cause error // nil if the state already says more
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("kube context %q: %s", e.Context, e.Reason)
}

// Hint is what the user can do about it.
func (e *AwayError) Hint() string  { return e.Cluster.Hint }
func (e *AwayError) Unwrap() error { return e.cause }

// Ping returns an error if the cluster cannot be used now, or if another one answers in its place.
// Each stage asks first: a request to a server that hangs may take a minute, while runs are retried
// every half minute. The error holds an *AwayError, and is transient if the cluster may return.
func (c *Cluster) Ping(ctx context.Context) error {
	err := c.Answers(ctx)
	if err == nil || ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return err
	}
	return c.WhyAway(ctx, err)
}

// Answers is Ping without finding out why there is no answer. The server needs etcd to answer.
func (c *Cluster) Answers(ctx context.Context) error {
	asked, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	system, err := c.Client.CoreV1().Namespaces().Get(asked, metav1.NamespaceSystem, metav1.GetOptions{})
	switch {
	case err == nil && c.UID != "" && string(system.UID) != c.UID:
		if c.connection != nil {
			c.connection.refuse()
		}
		return ErrOtherCluster
	case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// WhyAway returns why the cluster did not answer a request that failed with err. It looks at the
// cluster's machines even if ctx has ended.
func (c *Cluster) WhyAway(ctx context.Context, err error) error {
	away := &AwayError{Context: c.Context, cause: err}
	if errors.Is(err, ErrOtherCluster) {
		away.Cluster = event.Cluster{State: event.ClusterReplaced, Reason: ErrOtherCluster.Error(),
			Hint: event.Hint(ErrOtherCluster)}
		return away
	}
	if c.Machines != nil && !errors.As(err, new(apierrors.APIStatus)) {
		// Whoever asks at the same time waits for the same look.
		seen, lookErr := shared(context.WithoutCancel(ctx), &c.looking, "", lookTimeout,
			func(ctx context.Context) (event.Cluster, error) { return c.Machines(ctx), nil })
		switch {
		case lookErr != nil:
		case seen.State == event.ClusterDeleted:
			away.Cluster, away.cause = seen, nil
			return away
		case seen.State == event.ClusterStopped, seen.State == event.ClusterPaused:
			away.Cluster = seen
			return event.Transient(away)
		default:
			away.Cluster = seen
		}
	}
	machines := away.Cluster
	away.Cluster = c.unreachable(err)
	if machines.Reason != "" {
		away.Reason += "; " + machines.Reason
	}
	away.Cluster.Hint = cmp.Or(away.Cluster.Hint, machines.Hint,
		"see whether it runs, or choose another context: --kube-context")
	return event.Transient(away)
}

// unreachable describes, from the error alone, an API server that does not answer as it should. It
// has no hint if the error does not tell what to do.
func (c *Cluster) unreachable(err error) event.Cluster {
	state := func(reason, hint string) event.Cluster {
		return event.Cluster{State: event.ClusterUnreachable, Reason: reason, Hint: hint}
	}
	server := c.Server
	if c.connection != nil {
		server = c.connection.server()
	}
	what := fmt.Sprintf("its API server %s does not answer", server)
	if !errors.Is(err, context.DeadlineExceeded) { // which says no more
		what += ": " + withoutURL(err).Error()
	}
	var invalid x509.CertificateInvalidError
	var wrongName x509.HostnameError
	var unknown *net.DNSError
	var remote *net.OpError
	switch {
	case apierrors.IsUnauthorized(err):
		return state(fmt.Sprintf("its API server %s refuses the kubeconfig's credentials", server), c.credentialsHint())
	case apierrors.IsForbidden(err):
		return state(fmt.Sprintf("its API server %s answers: %v", server, err), "the UID of the namespace "+
			metav1.NamespaceSystem+" tells clusters apart: have the context's user allowed to get it, or use another context")
	case errors.As(err, new(apierrors.APIStatus)):
		return state(fmt.Sprintf("its API server %s answers with an error: %v", server, err),
			"see what answers there, or choose another context: --kube-context")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().Before(invalid.Cert.NotBefore):
		return state(fmt.Sprintf("the certificate of its API server %s is valid only from %s", server,
			invalid.Cert.NotBefore.Format(time.DateTime)), "this machine's clock says "+time.Now().Format(time.DateTime))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return state(fmt.Sprintf("the certificate of its API server %s expired on %s", server,
			invalid.Cert.NotAfter.Format(time.DateOnly)),
			"have the cluster renew it, unless this machine's clock is wrong: it says "+time.Now().Format(time.DateOnly))
	case errors.As(err, &wrongName):
		return state(fmt.Sprintf("the certificate of its API server %s is for another name: %v", server, wrongName),
			"the address may belong to another cluster now; or give the name in the kubeconfig: tls-server-name")
	case errors.As(err, new(tls.RecordHeaderError)), errors.Is(err, http.ErrSchemeMismatch): // the latter of HTTP servers
		return state(fmt.Sprintf("what answers at its API server's address %s does not speak HTTPS", server),
			"another program may have the port now: see whether the cluster runs")
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return state(fmt.Sprintf("the certificate of its API server %s is not signed by the kubeconfig's authority", server),
			"the address may belong to another cluster now: have the cluster's tool write the kubeconfig again")
	case !event.IsTransient(err) && !errors.Is(err, context.DeadlineExceeded): // network marks what it sends
		hint := "see how the user of this context logs in: kubectl config view"
		if helper := c.execHelper(); helper != "" {
			hint = "see why the command fails that gives the kubeconfig's credentials: " + helper
		}
		return state(fmt.Sprintf("its API server %s was not asked: %v", server, withoutURL(err)), hint)
	case c.clientCertificateExpired() != "":
		return state(what+"; the kubeconfig's client certificate expired on "+c.clientCertificateExpired(),
			c.credentialsHint())
	case errors.As(err, &remote) && remote.Op == "remote error": // an alert of TLS
		return state(fmt.Sprintf("its API server %s refuses the connection: %v", server, remote.Err), c.credentialsHint())
	case c.target.Proxy != "":
		what += fmt.Sprintf("; requests to it go through the proxy %s, by %s", c.target.Proxy, c.target.ProxyFrom)
		return state(what, c.target.proxyHint())
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return state(what, fmt.Sprintf("this machine knows no host %s: is a VPN off?", unknown.Name))
	case errors.As(err, &unknown):
		return state(what, fmt.Sprintf("this machine cannot look up %s now: is the network, or a VPN, off?", unknown.Name))
	}
	return state(what, desktopHint(Target{Context: c.Context, Server: server}))
}

// withoutURL drops the request from an error of the HTTP client: the address is said already.
func withoutURL(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		return request.Err
	}
	return err
}

// credentialsHint says where the kubeconfig's credentials come from.
func (c *Cluster) credentialsHint() string {
	if helper := c.execHelper(); helper != "" {
		return "log in again: they come from the command " + helper
	}
	return "log in again, or have the cluster's tool write the kubeconfig again"
}

// execHelper is the command that gives the kubeconfig's credentials, "" without one.
func (c *Cluster) execHelper() string {
	if c.connection == nil {
		return ""
	}
	if helper := c.connection.config().ExecProvider; helper != nil {
		return helper.Command
	}
	return ""
}

// clientCertificateExpired returns the day on which the kubeconfig's certificate expired, "" if it
// did not.
func (c *Cluster) clientCertificateExpired() string {
	if c.connection == nil {
		return ""
	}
	block, _ := pem.Decode(c.connection.config().CertData)
	if block == nil {
		return ""
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || time.Now().Before(certificate.NotAfter) {
		return ""
	}
	return certificate.NotAfter.Format(time.DateOnly)
}

// proxyHint says how requests reach the server directly.
func (t Target) proxyHint() string {
	server, err := url.Parse(t.Server)
	if err != nil || t.ProxyFrom == proxyURL {
		return "see whether the proxy reaches it, or remove proxy-url from the kubeconfig"
	}
	return fmt.Sprintf("if it is reached without the proxy, add it to NO_PROXY: export NO_PROXY=%s",
		strings.Trim(os.Getenv("NO_PROXY")+","+server.Hostname(), ","))
}

// desktopHint names the application whose cluster has this context and address, "" for none.
func desktopHint(t Target) string {
	for _, a := range applications {
		if a.matches(t) {
			return fmt.Sprintf("context and address are those of %s's cluster: see whether %s runs, with Kubernetes enabled",
				a.name, a.name)
		}
	}
	return ""
}

// Trouble returns a channel that receives after a request to the API server got no answer.
func (c *Cluster) Trouble() <-chan struct{} { return c.connection.trouble }
