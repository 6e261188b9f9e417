package build

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestConnectionStaysOpen: builds share a connection. After a failure the last of them closes it.
func TestConnectionStaysOpen(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer() // knows no service
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	var dials atomic.Int32
	b := &buildkit{keep: true, connect: func(ctx context.Context) (*bkclient.Client, error) {
		return bkclient.New(ctx, "", bkclient.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "tcp", listener.Addr().String())
		}))
	}}
	open := func() (*bkclient.Client, func(error) error) {
		client, release, err := b.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return client, release
	}
	use := func(says string, client *bkclient.Client, want codes.Code, connections int32) {
		if _, err := client.ListWorkers(t.Context()); status.Code(err) != want || dials.Load() != connections {
			t.Errorf("%s: %v on connection %d, not %s on %d", says, err, dials.Load(), want, connections)
		}
	}
	broken := errors.New("the connection is gone")
	end := func(release func(error) error, failed bool) {
		if failed {
			if err := release(broken); !errors.Is(err, broken) {
				t.Errorf("the work failed, and its error is %v", err)
			}
		} else if err := release(nil); err != nil {
			t.Error(err)
		}
	}
	const alive, closed = codes.Unimplemented, codes.Canceled

	first, releaseFirst := open()
	use("the first build", first, alive, 1)
	end(releaseFirst, false)
	second, releaseSecond := open()
	use("the next one", second, alive, 1)
	third, releaseThird := open()
	end(releaseThird, true)
	use("one beside a build that failed", second, alive, 1)
	fourth, releaseFourth := open()
	use("the one after it", fourth, alive, 2)
	end(releaseSecond, false)
	use("what the last user left", third, closed, 2)
	if err := b.close(); err != nil {
		t.Error(err)
	}
	use("one that still runs at the end", fourth, alive, 2)
	end(releaseFourth, false)
	use("the end", fourth, closed, 2)
}
