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

// TestLocal runs commands on this machine, as for minikube's driver "none".
func TestLocal(t *testing.T) {
	if os.Geteuid() != 0 {
		if err := exec.Command("sudo", "-n", "true").Run(); err != nil {
			t.Fatalf("commands run as root, as they do on a node: %v", err)
		}
	}
	here := localTransport{"here"}
	if out, err := here.run(t.Context(), strings.NewReader("fed"), "cat"); err != nil || out != "fed" {
		t.Errorf("%q, %v", out, err)
	}
	const script = "echo output; for i in 1 2 3 4; do echo $i >&2; done; exit 3"
	_, err := here.run(t.Context(), nil, "sh", "-c", script)
	if err == nil || err.Error() != "node here: sh -c "+script+": exit status 3: 2\n3\n4" {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := here.run(ctx, nil, "sleep", "60"); !errors.Is(err, why) {
		t.Errorf("ended: %v", err)
	}
	conn, err := here.pipe(t.Context(), "cat")
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
	listener, err := here.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		t.Errorf("it listens on %s", listener.Addr())
	}
}
