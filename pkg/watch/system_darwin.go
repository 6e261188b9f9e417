package watch

// What only macOS knows of files.

import (
	"io/fs"
	"strings"
	"syscall"
)

// opaque returns the name of the folder's file system if others may change files there without this
// kernel knowing, else "".
func opaque(folder string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return ""
	}
	var name strings.Builder
	for _, c := range s.Fstypename {
		if c == 0 {
			break
		}
		name.WriteByte(byte(c))
	}
	switch kind := name.String(); kind {
	case "nfs", "smbfs", "afpfs", "webdav", "macfuse", "osxfuse", "virtiofs", "AppleVirtIOFS", "prl_fs", "vmhgfs":
		return kind
	}
	return ""
}

func kernelLimits() limits {
	var process syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &process) // it fails for an unknown resource only
	kernel, _ := syscall.SysctlUint32("kern.maxfilesperproc")
	return kqueueLimits(process.Cur, process.Max, uint64(kernel))
}

// system returns what the system knows of a file beyond the portable.
func system(info fs.FileInfo) (device, inode uint64, changed int64) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 0
	}
	return uint64(s.Dev), s.Ino, s.Ctimespec.Nano()
}

// mountTable says nothing: a mount over a watched folder goes unseen.
func mountTable() []byte { return nil }

func changedMounts(_, _ []byte) []string { return nil }
