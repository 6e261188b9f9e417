// Memory at rest: what a run took goes back to the system when nothing has changed for a while.
package main

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// giveMemoryBack returns unused memory to the system at once, where Go by itself takes minutes, and lets go of the pages of devloop's own
// program file. These count as its memory though the kernel could take them at any time; those that are needed come back, from the
// kernel's cache.
func giveMemoryBack() {
	debug.FreeOSMemory()
	program, err := os.Executable()
	if err != nil {
		return
	}
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer func() { _ = file.Close() }() // only read
	var begin, end uint64
	ours := false
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// 00400000-014ac000 r--p 00000000 fe:00 9986107   /usr/bin/devloop, then a line "Key:  number kB" for each figure (proc(5))
		fields := strings.Fields(lines.Text())
		if from, to, isRange := strings.Cut(fields[0], "-"); isRange && len(fields) > 1 {
			begin, _ = strconv.ParseUint(from, 16, 64)
			end, err = strconv.ParseUint(to, 16, 64)
			ours = err == nil && len(fields) == 6 && fields[5] == program && !strings.Contains(fields[1], "w")
			continue
		}
		if ours && len(fields) > 1 && fields[0] == "Anonymous:" && fields[1] == "0" { // what was changed in memory is not in the file
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED) // else it stays
		}
	}
}
