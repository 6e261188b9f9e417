package files

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inTime fails the test if read does not return in time: a FIFO would block forever.
func inTime(t *testing.T, read func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- read() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("it does not return")
		return nil
	}
}

func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	for link, target := range map[string]string{"link": at("file"), "zero": "/dev/zero", "fifolink": at("fifo"),
		"nothing": at("none")} {
		if err := os.Symlink(target, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		want error // nil if it can be read
		says string
	}{
		{"file", nil, ""},
		{"link", nil, ""},
		{"fifo", ErrNotRegular, "a named pipe"},
		{"fifolink", ErrNotRegular, "a named pipe"},
		{"zero", ErrNotRegular, "a device"},
		{"socket", ErrNotRegular, "a socket"},
		{".", syscall.EISDIR, "is a directory"},
		{"none", fs.ErrNotExist, ""},
		{"nothing", fs.ErrNotExist, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var read, copied []byte
			errs := map[string]error{
				"Read": inTime(t, func() (err error) { read, err = Read(dir+"/"+test.name, 100); return err }),
				"Copy": inTime(t, func() error {
					var b bytes.Buffer
					_, err := Copy(t.Context(), &b, dir+"/"+test.name, 100)
					copied = b.Bytes()
					return err
				}),
			}
			for function, err := range errs {
				var path *fs.PathError
				switch {
				case !errors.Is(err, test.want):
					t.Errorf("%s returns %v, want %v", function, err, test.want)
				case err != nil && (!errors.As(err, &path) || !strings.Contains(err.Error(), test.says)):
					t.Errorf("%s says %q, and not what is there: %q", function, err, test.says)
				}
			}
			if test.want == nil && (string(read) != "content" || string(copied) != "content") {
				t.Errorf("read %q, copied %q", read, copied)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int64]error{4: ErrTooLarge, 5: nil, 6: nil} {
		if _, err := Read(file, limit); !errors.Is(err, want) {
			t.Errorf("Read with a limit of %d: %v, want %v", limit, err, want)
		}
		var b bytes.Buffer
		if n, err := Copy(t.Context(), &b, file, limit); !errors.Is(err, want) || n > limit+1 {
			t.Errorf("Copy with a limit of %d: %d bytes and %v, want %v", limit, n, err, want)
		}
	}
	if err := os.Truncate(file, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file, 4<<20); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("Read of a file of 1 TiB: %v", err)
	}
}

func TestCopyEndsWithItsContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	superseded := errors.New("superseded")
	cancel(superseded)
	if _, err := Copy(ctx, new(bytes.Buffer), file, 100); !errors.Is(err, superseded) {
		t.Errorf("Copy returns %v, want the cause", err)
	}
}
