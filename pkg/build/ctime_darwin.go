package build

import (
	"syscall"
	"time"
)

// changeTime is when the inode last changed: it moves even where a tool sets the mtime back.
func changeTime(stat *syscall.Stat_t) time.Time { return time.Unix(stat.Ctimespec.Unix()) }
