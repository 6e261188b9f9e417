// The log as a file, which grows to a size and is then put aside.
package console

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/DeRuina/timberjack"

	"github.com/devloop/devloop/pkg/event"
)

const (
	logFileSize  = 10 // MB; a day of saves is one or two
	logFileKept  = 3  // older ones
	logFileStamp = "2006-01-02T15-04-05.000"
)

// NewFilePrinter opens a file that gets the lines that p does, and no colours. It is there before
// anything is logged, so that a path that cannot be is told at once. A link is not followed: a
// repository that was cloned may have one in the project's folder.
func NewFilePrinter(path string, p *Printer) (*Printer, error) {
	path, err := filepath.Abs(path)
	if info, statErr := os.Lstat(path); err == nil && statErr == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err == nil {
		const flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
		var file *os.File
		if file, err = os.OpenFile(path, flags, 0o600); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("--log-file: %w", err), "name a file in a folder that you may write to")
	}
	out := &timberjack.Logger{Filename: path, MaxSize: logFileSize, MaxBackups: logFileKept, FileMode: 0o600, BackupTimeFormat: logFileStamp, LocalTime: true}
	return &Printer{out: out, Secrets: p.Secrets, Close: out.Close}, nil
}
