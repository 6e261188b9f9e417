package deploy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/devloop/devloop/pkg/event"
)

// Errors of the connection to the API server are marked as transient by pkg/kube, where they are
// made. Here the rest is marked that may pass by itself: answers that say so, and what Helm has
// turned into text. Nothing else is: a file that cannot be read stays as it is until it changes.

// markBusy marks answers of an API server that is busy or starting.
func markBusy(err error) error {
	var answer apierrors.APIStatus
	switch {
	case !errors.As(err, &answer):
		return err
	case apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err),
		apierrors.IsServiceUnavailable(err),
		apierrors.IsInternalError(err), // a webhook that is being replaced, or etcd
		apierrors.IsForbidden(err) && strings.Contains(answer.Status().Message, startingUp):
		return event.Transient(err)
	}
	return err
}

// markHelm marks an error that Helm returns from a write. Helm turns some errors into text, and
// only that text is left to judge by.
func markHelm(err error) error {
	if err == nil || event.IsTransient(err) {
		return err
	}
	for _, words := range unreachable {
		if strings.Contains(err.Error(), words) {
			return event.Transient(err)
		}
	}
	return err
}

// unreachable are texts of errors of the connection to the API server, and of its answers.
var unreachable = []string{"connection refused", "connection reset by peer", "i/o timeout", "TLS handshake timeout",
	"\": context deadline exceeded", "http2: client connection lost", "use of closed network connection", "unexpected EOF",
	"the server was unable to return a response in the time allotted", "etcdserver: ", startingUp}

// startingUp is how an API server refuses writes, as forbidden, before it has read what its
// admission needs.
const startingUp = "not yet ready to handle request"

// markDownload marks the error of a request to a server that charts come from, unless someone gave
// it up.
func markDownload(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) || errors.As(err, new(*tls.CertificateVerificationError)) {
		return err
	}
	return event.Transient(err)
}

// answerError is the error of a server that does not give what it was asked for.
func answerError(answer *http.Response) error {
	err := fmt.Errorf("the server answers %s", answer.Status)
	if answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= http.StatusInternalServerError {
		return event.Transient(err)
	}
	return err
}
