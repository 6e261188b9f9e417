package watch

// What only Linux knows of files.

import (
	"bytes"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// opaqueKinds are file systems where others may change files without this kernel knowing, by their
// number in statfs(2).
var opaqueKinds = map[uint32]string{
	0x00006969: "nfs",
	0x0000517B: "smb",
	0xFE534D42: "smb2",
	0xFF534D42: "cifs",
	0x0000564C: "ncp",
	0x01021997: "9p", // also WSL's /mnt/c, and minikube mount
	// sshfs, virtiofs, Docker Desktop's shares. Local disks with a driver in user space (NTFS,
	// exFAT) have the same number: their events would be reliable, polling is merely slower.
	0x65735546: "fuse",
	0x786F4256: "vboxsf",
	0xBACBACBC: "vmhgfs",
	0x7C7C6673: "prl_fs", // Parallels
	0x5346414F: "afs",
	0x6B414653: "afs", // the kernel's own
	0x73757245: "coda",
	0x00C36400: "ceph",
	0x0BD00BD0: "lustre",
	0x19830326: "beegfs",
	0x47504653: "gpfs",
	0x01161970: "gfs2",
	0x7461636F: "ocfs2",
	0x20030528: "orangefs",
}

// opaque returns the name of the folder's file system if its events are not reliable, else "".
func opaque(folder string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return ""
	}
	return opaqueKinds[uint32(s.Type)]
}

func kernelLimits() limits {
	read := func(name string) int {
		text, _ := os.ReadFile("/proc/sys/fs/inotify/" + name)
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	return inotifyLimits(read("max_user_watches"), read("max_user_instances"))
}

// system returns what the system knows of a file beyond the portable.
func system(info fs.FileInfo) (device, inode uint64, changed int64) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 0
	}
	return uint64(s.Dev), s.Ino, s.Ctim.Nano()
}

// mountTable returns what is mounted, a line each.
func mountTable() []byte {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return table
}

// changedMounts returns the folders, or files, at which one table differs from another.
func changedMounts(before, after []byte) []string {
	lines := map[string]int{}
	for line := range bytes.Lines(before) {
		lines[string(line)]--
	}
	for line := range bytes.Lines(after) {
		lines[string(line)]++
	}
	var points []string
	for line, n := range lines {
		// 36 35 98:0 /root /mount/point options - type source options
		if fields := strings.Fields(line); n != 0 && len(fields) > 4 {
			points = append(points, unescape(fields[4]))
		}
	}
	slices.Sort(points)
	return slices.Compact(points)
}

// unescape turns the octal escapes of a mount table into what they stand for. The kernel writes no
// others than these.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`).Replace
