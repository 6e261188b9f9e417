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
	logFileSize   = 10 // MB; a day of saves is one or two
	logFileBackup = 3  // older files that are kept
	logFileStamp  = "2006-01-02T15-04-05.000"
)

// OpenFile has p write to a file, too, without colours. Opening it now reports a bad path at once.
// A link is not followed: a cloned repository may contain one. Close closes the file.
func (p *Printer) OpenFile(path, format string, verbose bool) error {
	path, err := filepath.Abs(path)
	if info, statErr := os.Lstat(path); err == nil && statErr == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil {
		const flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
		var file *os.File
		if file, err = os.OpenFile(path, flags, 0o600); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return event.WithHint(fmt.Errorf("--log-file: %w", err), "name a file in a folder that you may write to")
	}
	out := &timberjack.Logger{Filename: path, MaxSize: logFileSize, MaxBackups: logFileBackup, FileMode: 0o600,
		BackupTimeFormat: logFileStamp, LocalTime: true}
	p.file, p.closeFile = &Printer{out: out}, out.Close
	p.file.Configure(format, verbose, false)
	return nil
}

// Close closes the log file, if there is one.
func (p *Printer) Close() error {
	if p.file == nil {
		return nil
	}
	return p.closeFile()
}
