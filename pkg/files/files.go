// Package files reads untrusted files: regular ones only, and never more than a limit. A FIFO would
// block the reader until another process writes, and a device may have no end. Files of devloop's
// own are replaced as a whole.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrNotRegular is in the error for a path to anything but a regular file or a folder.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge is in the error for a file that is larger than the caller's limit.
	ErrTooLarge = errors.New("too large")
)

// Open opens a regular file for reading; links are followed. It does not block and opens no device.
// The error is an *fs.PathError like that of os.Open, with syscall.EISDIR for a folder and with
// ErrNotRegular for anything else. The caller closes the file.
func Open(path string) (*os.File, error) {
	info, err := os.Stat(path) // opening a device may already have an effect
	if err != nil {
		return nil, err
	}
	if err := regular(path, info); err != nil {
		return nil, err
	}
	// It may have been replaced since: with O_NONBLOCK not even a FIFO blocks.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err = file.Stat(); err == nil {
		err = regular(path, info)
	}
	if err != nil {
		_ = file.Close() // nothing was written
		return nil, err
	}
	return file, nil
}

func regular(path string, info fs.FileInfo) error {
	mode := info.Mode()
	what := "no file that can be read"
	switch {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	case mode&fs.ModeNamedPipe != 0:
		what = "a named pipe"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	case mode&fs.ModeDevice != 0:
		what = "a device"
	}
	return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("it is %s, %w", what, ErrNotRegular)}
}

// Read returns the content of a regular file, or ErrTooLarge if it has more than limit bytes.
func Read(path string, limit int64) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	return ReadOpen(file, limit)
}

// ReadOpen is Read for a file that the caller has opened, and closes.
func ReadOpen(file *os.File, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		return nil, tooLarge(file.Name(), limit)
	}
	return content, err
}

// Copy writes the content of a regular file to dst and returns the number of bytes. It ends when
// ctx does, with its cause, and after limit bytes, with ErrTooLarge.
func Copy(ctx context.Context, dst io.Writer, path string, limit int64) (int64, error) {
	file, err := Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }() // only read
	written, err := io.Copy(dst, io.LimitReader(UntilDone(ctx, file), limit+1))
	if err == nil && written > limit {
		err = tooLarge(path, limit)
	}
	return written, err
}

// UntilDone returns a reader of r that fails with ctx's cause once ctx is done.
func UntilDone(ctx context.Context, r io.Reader) io.Reader { return untilDone{ctx, r} }

type untilDone struct {
	ctx  context.Context //nolint:containedctx // of one call
	from io.Reader
}

func (u untilDone) Read(block []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.from.Read(block)
}

func tooLarge(path string, limit int64) error {
	size := fmt.Sprintf("%d bytes", limit)
	if limit >= 1<<20 {
		size = fmt.Sprintf("%d MiB", limit>>20)
	}
	return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%w: it has more than %s", ErrTooLarge, size)}
}
