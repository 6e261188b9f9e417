package node

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Health is the state of one node.
type Health struct {
	Node       string
	Runtime    string        // "containerd"
	Shell      string        // what a user types before a command to run it there, as root
	Images     int           // with a name
	Free       uint64        // bytes where its images are kept
	ClockAhead time.Duration // of its clock before this machine's, precise to about a second
	Err        error         // why the rest is unknown
}

// Check returns the state of every node.
func (c *Cluster) Check(ctx context.Context) []Health {
	all := make([]Health, 0, len(c.nodes))
	for _, n := range c.nodes {
		h := Health{Node: n.name, Runtime: n.runtime.name(), Shell: n.shell}
		h.Err = n.check(ctx, &h)
		all = append(all, h)
	}
	return all
}

func (n *node) check(ctx context.Context, h *Health) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	images, err := n.runtime.names(ctx, n)
	if err != nil {
		return err
	}
	h.Images = len(images)
	asked := time.Now()
	now, free, err := n.clockAndFree(ctx)
	if err != nil {
		return err
	}
	asked = asked.Add(time.Since(asked) / 2) // the node read its clock at some point in between
	h.ClockAhead, h.Free = now.Sub(asked).Round(time.Second), free
	return nil
}

// clockAndFree returns the node's time and the bytes free where its images are kept.
func (n *node) clockAndFree(ctx context.Context) (now time.Time, free uint64, err error) {
	// POSIX only, since some nodes have just busybox. k3s keeps images elsewhere.
	out, err := n.run(ctx, "sh", "-c", "date +%s; df -Pk "+n.runtime.dir()+" 2> /dev/null || df -Pk /var/lib")
	if err != nil {
		return now, 0, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	seconds, err := strconv.ParseInt(strings.TrimSpace(lines[0]), 10, 64)
	if err != nil {
		return now, 0, fmt.Errorf("node %s: its clock: %w", n.name, err)
	}
	fields := strings.Fields(lines[len(lines)-1]) // file system, size, used, available, in KiB
	if len(fields) >= 4 {
		if kib, err := strconv.ParseUint(fields[3], 10, 64); err == nil {
			return time.Unix(seconds, 0), kib << 10, nil
		}
	}
	return now, 0, fmt.Errorf("node %s: df says %q", n.name, out)
}
