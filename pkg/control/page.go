package control

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
)

// usualPagePort is the page's, unless somebody has it.
const usualPagePort = 10360

// ListenPage opens the page's address on loopback. Port 0 is the usual one, or a free one where that
// is taken.
func ListenPage(ctx context.Context, port int) (net.Listener, error) {
	open := func(port int) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	if port != 0 {
		return open(port)
	}
	listener, err := open(usualPagePort)
	if errors.Is(err, syscall.EADDRINUSE) {
		return open(0)
	}
	return listener, err
}
