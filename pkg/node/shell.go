package node

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// Shell runs commands as root on a node. It is safe for concurrent use.
type Shell struct{ node *node }

// Run runs a command with stdin, unless that is nil, and returns its standard output. The error of
// a failed command has its standard error.
func (s *Shell) Run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return s.node.transport.run(ctx, stdin, args...)
}

// Shell returns a shell on a node by its name in Kubernetes. It is false for a node that devloop
// cannot reach.
func (c *Cluster) Shell(name string) (*Shell, bool) {
	n := c.node(name)
	return &Shell{n}, n != nil
}

// node returns the node of a name in Kubernetes, nil if it is not known. The only node may have
// another name: with minikube's driver "none", that of the machine.
func (c *Cluster) node(name string) *node {
	for _, n := range c.nodes {
		if n.name == name || len(c.nodes) == 1 {
			return n
		}
	}
	return nil
}

// PIDs returns the first process of each of these containers that runs, as the node sees it. IDs
// are those of pods' statuses, without the scheme. A container may have ended meanwhile, or end at
// any time: /proc/PID/cgroup of its process has its ID.
func (c *Cluster) PIDs(ctx context.Context, name string, ids []string) (map[string]int, error) {
	n := c.node(name)
	if n == nil {
		return nil, fmt.Errorf("devloop cannot reach node %s", name)
	}
	pids, unknown := n.pids.of(ids)
	if len(unknown) == 0 {
		return pids, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := n.runtime.processes(ctx, n, unknown)
	if err != nil {
		return nil, fmt.Errorf("ask node %s for the processes of containers: %w", n.name, err)
	}
	wanted := map[string]bool{}
	for _, id := range unknown {
		wanted[id] = true
	}
	for line := range strings.Lines(out) {
		columns := strings.Fields(line) // ID PID …
		if len(columns) < 2 || !wanted[columns[0]] {
			continue
		}
		if pid, err := strconv.Atoi(columns[1]); err == nil && pid > 1 { // 0: it does not run
			pids[columns[0]] = pid
			n.pids.add(columns[0], pid)
		}
	}
	return pids, nil
}

// containerID is how runtimes name containers. Nothing else gets into a command.
var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// knownPIDs are the first processes of containers, which never change.
type knownPIDs struct {
	mu  sync.Mutex
	all map[string]int
}

// maxPIDs is how many containers are remembered, of which most have ended by then.
const maxPIDs = 4096

// of returns the processes that are known, and the IDs of containers whose are not.
func (k *knownPIDs) of(ids []string) (known map[string]int, unknown []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known = map[string]int{}
	for _, id := range ids {
		if pid, ok := k.all[id]; ok {
			known[id] = pid
		} else if containerID.MatchString(id) {
			unknown = append(unknown, id)
		}
	}
	return known, unknown
}

func (k *knownPIDs) add(id string, pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || len(k.all) >= maxPIDs {
		k.all = map[string]int{}
	}
	k.all[id] = pid
}
