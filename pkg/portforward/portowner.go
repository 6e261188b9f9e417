package portforward

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// holder says which process listens where a listener was wanted, and what to do about it. Linux alone tells, in /proc; elsewhere, and
// for processes of other users, the answer is vaguer but never an error.
func holder(at netip.AddrPort) (who, hint string) {
	elsewhere := fmt.Sprintf("or give this forward another `local:` than %d in devloop.yaml", at.Port())
	inode := listeningSocket(at)
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
	return "a process of another user", fmt.Sprintf("find it (sudo ss -ltnp 'sport = :%d') and stop it, %s", at.Port(), elsewhere)
}

// listeningSocket is the inode of the socket that listens at an address, or at one that includes it.
func listeningSocket(at netip.AddrPort) string {
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
			address, port, _ := strings.Cut(fields[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil && uint16(n) == at.Port() && overlap(kernelAddr(address), at.Addr()) {
				return fields[9]
			}
		}
	}
	return ""
}

// kernelAddr reads an address as /proc/net has it: hex, in words of 32 bits in the machine's byte order.
func kernelAddr(text string) netip.Addr {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw)%4 != 0 {
		return netip.Addr{}
	}
	for word := range slices.Chunk(raw, 4) {
		binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
	}
	address, _ := netip.AddrFromSlice(raw)
	return address.Unmap()
}

// overlap reports whether sockets on both addresses get in each other's way. Of the unspecified IPv6 address it is not seen whether it
// means IPv4 as well: mostly it does.
func overlap(a, b netip.Addr) bool {
	return a == b || a == netip.IPv6Unspecified() || b == netip.IPv6Unspecified() ||
		a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
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
