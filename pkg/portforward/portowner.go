package portforward

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
)

// portOwner names the process that listens on an address, with a hint. The answer comes from
// Linux's /proc. On other systems, and for other users' processes, it is vague.
func portOwner(at netip.AddrPort) (owner, hint string) {
	elsewhere := fmt.Sprintf("or give this forward another `local:` than %d in devloop.yaml", at.Port())
	inode, found := listeningSocket(at)
	if !found {
		return "another process", "find and stop it, " + elsewhere
	}
	processes, _ := procfs.AllProcs()
	for _, process := range processes {
		files, _ := process.FileDescriptorTargets() // hidden for other users' processes
		if slices.Contains(files, fmt.Sprintf("socket:[%d]", inode)) {
			return fmt.Sprintf("pid %d (%s)", process.PID, commandLine(process)),
				fmt.Sprintf("stop it (kill %d), %s", process.PID, elsewhere)
		}
	}
	hint = fmt.Sprintf("find it (sudo ss -ltnp 'sport = :%d') and stop it, %s", at.Port(), elsewhere)
	return "a process of another user", hint
}

// listeningSocket is the inode of the socket that listens on an address, or on one that includes
// it.
func listeningSocket(at netip.AddrPort) (inode uint64, found bool) {
	const listening = 10 // TCP_LISTEN
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return 0, false
	}
	sockets, _ := proc.NetTCP()
	sockets6, _ := proc.NetTCP6()
	for _, s := range append(sockets, sockets6...) {
		address, _ := netip.AddrFromSlice(s.LocalAddr)
		if s.St == listening && s.LocalPort == uint64(at.Port()) && overlap(address.Unmap(), at.Addr()) {
			return s.Inode, true
		}
	}
	return 0, false
}

// overlap reports whether sockets on both addresses conflict. Whether :: includes IPv4 cannot be
// seen, but mostly it does.
func overlap(a, b netip.Addr) bool {
	return a == b || a == netip.IPv6Unspecified() || b == netip.IPv6Unspecified() ||
		a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// commandLine is the command line of a process, short enough for a line of a log.
func commandLine(process procfs.Proc) string {
	words, _ := process.CmdLine()
	line := strings.TrimSpace(strings.Join(words, " "))
	if line == "" {
		return "unknown command"
	}
	if runes := []rune(line); len(runes) > 80 {
		return string(runes[:79]) + "…"
	}
	return line
}
