package node

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestLocal runs commands on this machine, as with minikube's driver "none".
func TestLocal(t *testing.T) {
	if os.Geteuid() != 0 {
		if err := exec.Command("sudo", "-n", "true").Run(); err != nil {
			t.Fatalf("commands run as root, as they do on a node: %v", err)
		}
	}
	way := localTransport{"here"}
	if out, err := way.run(t.Context(), strings.NewReader("fed"), "cat"); err != nil || out != "fed" {
		t.Errorf("%q, %v", out, err)
	}
	_, err := way.run(t.Context(), nil, "sh", "-c", "echo four; echo lines of; echo what was; echo wrong >&2; exit 3")
	if err == nil || err.Error() != "node here: sh -c echo four; echo lines of; echo what was; echo wrong >&2; exit 3: exit status 3: wrong" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := way.run(ctx, nil, "sleep", "60"); !errors.Is(err, why) {
		t.Errorf("ended: %v", err)
	}
	conn, err := way.pipe(t.Context(), "cat")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "there and back\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "there and back\n" {
		t.Errorf("%q, %v", line, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	listener, err := way.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		t.Errorf("it listens on %s", listener.Addr())
	}
}
