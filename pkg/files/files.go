// Package files reads files that others wrote: only regular ones, and never more than a bound. A
// FIFO would block the reader until somebody writes, and a device may have no end.
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

// ErrNotRegular is in the error of a path at which there is something else than a regular file.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLarge is in the error of a file that is larger than the caller's limit.
var ErrTooLarge = errors.New("too large")

// Open opens a regular file for reading; links are followed. It does not block and opens no device.
// The error is an *fs.PathError as that of os.Open: with syscall.EISDIR for a folder, and with
// ErrNotRegular for anything else. The caller closes the file.
func Open(path string) (*os.File, error) {
	info, err := os.Stat(path) // because to open a device may already do something
	if err != nil {
		return nil, err
	}
	if err := regular(path, info); err != nil {
		return nil, err
	}
	// Something else may be there by now: with O_NONBLOCK not even a FIFO blocks.
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

// Read returns what is in a regular file. A file of more than limit bytes is an error with
// ErrTooLarge, and is not read.
func Read(path string, limit int64) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, tooLarge(path, limit)
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1)) // it may be growing
	if err == nil && int64(len(content)) > limit {
		return nil, tooLarge(path, limit)
	}
	return content, err
}

// Copy writes what is in a regular file to dst, a block at a time, and returns the number of bytes.
// It ends when ctx does, with the cause, and after limit bytes, with ErrTooLarge.
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

// UntilDone returns a reader of r that ends when ctx does, with the cause.
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
