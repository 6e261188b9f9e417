package deploy

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// markTransient marks errors that a retry may fix: those of the connection to the API server, and
// of an API server that is busy or starting.
func markTransient(err error) error {
	var network net.Error
	switch {
	case err == nil, errors.Is(err, kube.ErrOtherCluster), errors.As(err, new(finalError)):
		return err
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNREFUSED),
		apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err),
		apierrors.IsServiceUnavailable(err),
		apierrors.IsInternalError(err): // a webhook that is being replaced, or etcd
		return event.Transient(err)
	}
	// Only the root cause: the text around it may be what pods printed.
	text := rootCause(err).Error()
	for _, words := range unreachable {
		if strings.Contains(text, words) {
			return event.Transient(err)
		}
	}
	return err
}

// rootCause is the innermost error; of joined errors, that of the first.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if several, ok := err.(interface{ Unwrap() []error }); ok && len(several.Unwrap()) > 0 {
			next = several.Unwrap()[0]
		}
		if next == nil {
			return err
		}
		err = next
	}
}

// finalError is not fixed by a retry, whatever its text.
type finalError struct{ error }

func (f finalError) Unwrap() error { return f.error }

// unreachable are texts of errors that Helm has turned into strings.
var unreachable = []string{"connection refused", "connection reset by peer", "i/o timeout", "TLS handshake timeout",
	"http2: client connection lost", "unexpected EOF",
	"Client.Timeout exceeded", "the server was unable to return a response in the time allotted", "etcdserver: ",
	startingUp}

// startingUp is how an API server refuses writes, as forbidden, before it has read what its
// admission needs.
const startingUp = "not yet ready to handle request"
