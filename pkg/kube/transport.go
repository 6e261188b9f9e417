package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// What fails between devloop and the API server is marked as transient here, where it is known to
// be a failure of the connection. Elsewhere an error does not tell: syscall.Errno implements
// net.Error, and so each missing file would look like a failure of the network.

// network is the innermost transport. The transports around it add credentials, for which they may
// run programs and read files.
type network struct{ next http.RoundTripper }

func newNetwork(next http.RoundTripper) http.RoundTripper { return network{next} }

// RoundTrip marks errors.
func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := n.next.RoundTrip(r)
	if err != nil {
		return nil, connectionError(r.Context(), err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols { // whose body is a connection
		response.Body = &networkBody{response.Body, r.Context()}
	}
	return response, nil
}

// networkBody marks the error of an answer that is cut short.
type networkBody struct {
	io.ReadCloser
	ctx context.Context //nolint:containedctx // the request's
}

func (b *networkBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // as an io.Reader has to return it
		err = connectionError(b.ctx, err)
	}
	return n, err
}

// connectionError marks the error of a request as transient, unless the request was canceled. This
// includes a certificate that does not fit: the kubeconfig may change, and is followed.
func connectionError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // see below
		// client-go sends a GET again after such an error. It does not unwrap, but knows this text.
		err = fmt.Errorf("use of closed network connection: %w", err)
	}
	return event.Transient(err)
}

// bounded limits how long a request and its answer take. http.Client's own Timeout would replace
// the error by one that wraps nothing.
type bounded struct {
	next    http.RoundTripper
	timeout time.Duration
}

func newBounded(next http.RoundTripper) http.RoundTripper { return bounded{next, requestTimeout} }

// RoundTrip sends a request that ends after the timeout.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(r.Context(), b.timeout)
	response, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = &boundedBody{response.Body, cancel}
	return response, nil
}

type boundedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
