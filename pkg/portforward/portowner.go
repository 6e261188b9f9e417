package portforward

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// TakenError says that a process listens on a forward's local address.
type TakenError struct {
	Address netip.AddrPort
	PID     int    // of the process; 0 if it is not known
	owner   string // in words
}

func (e *TakenError) Error() string {
	text := fmt.Sprintf("local port %d is taken by %s", e.Address.Port(), e.owner)
	if e.Address.Addr() != loopback4 {
		text += " on " + e.Address.Addr().String()
	}
	return text
}

// Hint says what the user can do.
func (e *TakenError) Hint() string {
	find := findOwner(runtime.GOOS, e.Address.Port())
	if e.PID > 0 {
		find = fmt.Sprintf("stop it (kill %d)", e.PID)
	}
	return find + ", or give this forward another local port"
}

// findOwner says how the user finds what listens on a port, by runtime.GOOS.
func findOwner(system string, port uint16) string {
	command := fmt.Sprintf("sudo ss -ltnp 'sport = :%d'", port)
	if system != "linux" {
		command = fmt.Sprintf("sudo lsof -nP -iTCP:%d -sTCP:LISTEN", port)
	}
	return fmt.Sprintf("find it (%s) and stop it", command)
}

// portOwner finds the process that listens on an address. The answer comes from Linux's /proc. On
// other systems, and for other users' processes, it is vague.
func portOwner(at netip.AddrPort) *TakenError {
	inode := listeningSocket(at)
	if inode == "" {
		return &TakenError{at, 0, "another process"}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			pid := strings.Split(link, "/")[2]
			number, _ := strconv.Atoi(pid) // the pattern admits nothing but digits at its start
			return &TakenError{at, number, fmt.Sprintf("pid %s (%s)", pid, commandLine(pid))}
		}
	}
	return &TakenError{at, 0, "a process of another user"}
}

// listeningSocket is the inode of the socket that listens on an address, or on one that includes
// it. It is "" if there is none.
func listeningSocket(at netip.AddrPort) (inode string) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, _ := os.ReadFile(table)
		for line := range strings.Lines(string(text)) {
			// sl, local address:port in hex, remote, state, queues, timer, retransmits, uid,
			// timeout, inode
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != "0A" { // TCP_LISTEN
				continue
			}
			address, hexPort, _ := strings.Cut(fields[1], ":")
			port, err := strconv.ParseUint(hexPort, 16, 16)
			if err == nil && uint16(port) == at.Port() && overlap(kernelAddr(address), at.Addr()) {
				return fields[9]
			}
		}
	}
	return ""
}

// kernelAddr parses an address of /proc/net: hex, in 32-bit words in the machine's byte order.
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

// overlap reports whether sockets on both addresses conflict. Whether :: includes IPv4 cannot be
// seen, but mostly it does.
func overlap(a, b netip.Addr) bool {
	return a == b || a == netip.IPv6Unspecified() || b == netip.IPv6Unspecified() ||
		a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// commandLine is the command line of a process, short enough for a line of a log.
func commandLine(pid string) string {
	text, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	line := strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
	if line == "" {
		return "unknown command"
	}
	if runes := []rune(line); len(runes) > 80 {
		return string(runes[:79]) + "…"
	}
	return line
}
