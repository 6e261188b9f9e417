// Which failures may pass by themselves: those of the way to the API server, and of an API server that is busy or just starting. What it
// refuses, it refuses again.
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

// markTransient marks err as transient where it is.
func markTransient(err error) error {
	var network net.Error
	switch {
	case err == nil, errors.Is(err, kube.ErrOtherCluster), errors.As(err, new(finalError)):
		return err
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNREFUSED),
		apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err),
		apierrors.IsInternalError(err): // a webhook that is being replaced, or etcd
		return event.Transient(err)
	}
	// Only what Helm itself said: around it may stand what pods printed.
	said := rootCause(err).Error()
	for _, words := range unreachable {
		if strings.Contains(said, words) {
			return event.Transient(err)
		}
	}
	return err
}

// rootCause is the error that the others were put around; of several that were joined, the first.
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

// finalError is one that no other try mends, whatever words are in it.
type finalError struct{ error }

func (f finalError) Unwrap() error { return f.error }

// unreachable are the words of errors that Helm has turned into text.
var unreachable = []string{"connection refused", "connection reset by peer", "i/o timeout", "TLS handshake timeout", "http2: client connection lost", "unexpected EOF",
	"Client.Timeout exceeded", "the server was unable to return a response in the time allotted", "etcdserver: ", startingUp}

// startingUp is what an API server refuses writes with that has not read yet what its admission needs: as forbidden.
const startingUp = "not yet ready to handle request"
