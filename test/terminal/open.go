package terminal

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Open returns both ends of a terminal: what a user types is written to the master, and what the
// terminal shows is read from it.
func Open(t *testing.T, columns uint16) (master, terminal *os.File) {
	t.Helper()
	blocking, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	// In the blocking mode in which pty leaves it, Close would wait for a Read.
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: columns}), blocking.Close(),
		unix.SetNonblock(fd, true)); err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), blocking.Name())
	t.Cleanup(func() { _ = master.Close() })
	return master, terminal
}

// Shown returns what a terminal shows of what write writes.
func Shown(t *testing.T, columns uint16, write func(*os.File)) string {
	t.Helper()
	master, terminal := Open(t, columns)
	if err := master.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	const end = "the end"
	var shown strings.Builder
	var broken error
	var reading sync.WaitGroup
	reading.Go(func() { // a terminal holds little that nobody reads
		buffer := make([]byte, 64<<10)
		for n := 0; !strings.HasSuffix(shown.String(), end) && broken == nil; {
			n, broken = master.Read(buffer)
			shown.Write(buffer[:n])
		}
	})
	write(terminal)
	if _, err := terminal.WriteString(end); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	if broken != nil {
		t.Fatalf("%q, %v", shown.String(), broken)
	}
	return shown.String()
}
