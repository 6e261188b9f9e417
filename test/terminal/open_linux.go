package terminal

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Open returns both ends of a terminal: what a user types is written to the master, and what the
// terminal shows is read from it.
func Open(t *testing.T, columns uint16) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	var number int
	raw, err := master.SyscallConn() // with Fd, Close would wait for a Read
	if err == nil {
		var setErr error
		err = raw.Control(func(fd uintptr) {
			if number, setErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); setErr == nil {
				setErr = errors.Join(unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0),
					unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
			}
		})
		err = errors.Join(err, setErr)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return master, terminal
}

// Shown returns what a terminal shows of what write writes.
func Shown(t *testing.T, columns uint16, write func(*os.File)) string {
	t.Helper()
	master, terminal := Open(t, columns)
	write(terminal)
	if _, err := terminal.WriteString("the end"); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	buffer := make([]byte, 64<<10)
	for deadline := time.Now().Add(time.Minute); !strings.HasSuffix(shown.String(), "the end"); {
		n, err := master.Read(buffer)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%q, %v", shown.String(), err)
		}
		shown.Write(buffer[:n])
	}
	return shown.String()
}
