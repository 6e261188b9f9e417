package portforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/devloop/devloop/pkg/event"
)

// Localhost is the Bind for both loopback addresses: programs that connect to "localhost" try
// either.
const Localhost = "localhost"

// portAttempts is how often to look for a port that is free on both loopback addresses.
const portAttempts = 20

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// listen binds a port on the addresses that bind stands for; 0 picks a port.
func listen(ctx context.Context, bind string, port int) ([]*net.TCPListener, error) {
	if bind != Localhost && bind != "" {
		address, err := netip.ParseAddr(bind)
		if err != nil {
			return nil, fmt.Errorf("%q is neither %s nor an IP address", bind, Localhost)
		}
		listener, err := listenOn(ctx, address, port)
		return []*net.TCPListener{listener}, err
	}
	for try := 1; ; try++ {
		four, err := listenOn(ctx, loopback4, port)
		if err != nil {
			return nil, err
		}
		six, err := listenOn(ctx, loopback6, four.Addr().(*net.TCPAddr).Port)
		switch {
		case err == nil:
			return []*net.TCPListener{four, six}, nil
		case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT): // a machine without IPv6
			return []*net.TCPListener{four}, nil
		}
		_ = four.Close() // it is unused
		if port != 0 || try == portAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

func listenOn(ctx context.Context, address netip.Addr, port int) (*net.TCPListener, error) {
	network := "tcp" // for ::, both families, as people expect
	if address.Is4() {
		network = "tcp4"
	}
	listener, err := new(net.ListenConfig).Listen(ctx, network, netip.AddrPortFrom(address, uint16(port)).String())
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// explain says why an address cannot be bound, with a hint.
func explain(err error) error {
	var failed *net.OpError
	if !errors.As(err, &failed) {
		return err
	}
	tcp, ok := failed.Addr.(*net.TCPAddr)
	if !ok {
		return err
	}
	at := netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), uint16(tcp.Port))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return portOwner(at)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return event.WithHint(fmt.Errorf("listen on %s: %w", at.Addr(), syscall.EADDRNOTAVAIL),
			"use an address that this machine has (ip address)")
	case errors.Is(err, syscall.EACCES):
		return event.WithHint(fmt.Errorf("local port %d: %w", at.Port(), syscall.EACCES),
			"ports below 1024 are for root: give this forward another local port")
	}
	return err
}
