// What nodes say about themselves, for a look at the whole set-up (devloop doctor).
package node

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Health is what one node says about itself.
type Health struct {
	Node    string
	Runtime string        // "containerd"
	Shell   string        // what a person types before a command to run it there, as root
	Images  int           // that it holds, by name
	Free    uint64        // bytes where its images are kept
	Ahead   time.Duration // of its clock, before this machine's; a second more or less means nothing
	Err     error         // why nothing else is known
}

// Check asks every node, in the order of the profile.
func (c *Cluster) Check(ctx context.Context) []Health {
	all := make([]Health, len(c.nodes))
	for i, n := range c.nodes {
		all[i] = Health{Node: n.name, Runtime: n.runtime.name(), Shell: n.shell}
		all[i].Err = n.check(ctx, &all[i])
	}
	return all
}

func (n *Node) check(ctx context.Context, h *Health) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	images, err := n.runtime.names(ctx, n)
	if err != nil {
		return err
	}
	h.Images = len(images)
	asked := time.Now()
	now, free, err := n.look(ctx)
	if err != nil {
		return err
	}
	asked = asked.Add(time.Since(asked) / 2) // the node looked at its clock somewhere on the way
	h.Ahead, h.Free = now.Sub(asked).Round(time.Second), free
	return nil
}

// look returns the node's clock and the bytes that are free where its images are kept.
func (n *Node) look(ctx context.Context) (now time.Time, free uint64, err error) {
	// POSIX alone, since busybox is all that some nodes have.
	out, err := n.run(ctx, "sh", "-c", "date +%s; df -Pk "+n.runtime.dir()+" 2> /dev/null || df -Pk /var/lib") // k3s keeps it elsewhere
	if err != nil {
		return now, 0, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	seconds, err := strconv.ParseInt(strings.TrimSpace(lines[0]), 10, 64)
	if err != nil {
		return now, 0, fmt.Errorf("node %s: its clock: %w", n.name, err)
	}
	fields := strings.Fields(lines[len(lines)-1]) // file system, size, used, available, in KiB
	if len(fields) < 4 {
		return now, 0, fmt.Errorf("node %s: df says %q", n.name, out)
	}
	kib, err := strconv.ParseUint(fields[3], 10, 64)
	if err != nil {
		return now, 0, fmt.Errorf("node %s: df says %q", n.name, out)
	}
	return time.Unix(seconds, 0), kib << 10, nil
}

// Free returns how many bytes are free on all nodes together where they keep images.
func (c *Cluster) Free(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var sum uint64
	for _, n := range c.nodes {
		_, free, err := n.look(ctx)
		if err != nil {
			return 0, err
		}
		sum += free
	}
	return sum, nil
}
