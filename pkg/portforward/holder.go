package portforward

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder says which process listens on a local port, and what to do about it. Linux alone tells, in /proc; elsewhere, and
// for processes of other users, the answer is vaguer but never an error.
func holder(port int) (who, hint string) {
	elsewhere := fmt.Sprintf("or give this forward another `local:` than %d in devloop.yaml", port)
	inode := listeningSocket(port)
	if inode == "" {
		return "another process", "find and stop it, " + elsewhere
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		pid := strings.Split(link, "/")[2]
		return fmt.Sprintf("pid %s (%s)", pid, command(pid)), fmt.Sprintf("stop it (kill %s), %s", pid, elsewhere)
	}
	return "a process of another user", fmt.Sprintf("find it (sudo ss -ltnp 'sport = :%d') and stop it, %s", port, elsewhere)
}

// listeningSocket is the inode of the socket that listens on a port of any local address.
func listeningSocket(port int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			// sl, local address:port in hex, remote, state, queues, timer, retransmits, uid, timeout, inode
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != "0A" { // TCP_LISTEN
				continue
			}
			_, hex, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(hex, 16, 16); err == nil && int(n) == port {
				return fields[9]
			}
		}
	}
	return ""
}

// command is the command line of a process, in a length that suits one line of a log.
func command(pid string) string {
	text, err := os.ReadFile("/proc/" + pid + "/cmdline")
	line := strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
	if err != nil || line == "" {
		return "unknown command"
	}
	if runes := []rune(line); len(runes) > 80 {
		return string(runes[:79]) + "…"
	}
	return line
}
