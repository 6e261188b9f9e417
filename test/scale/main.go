// Command scale measures how devloop grows with what it has to look after: the real program, on a
// real etcd, API server and controller manager, on nodes and with a registry that are only data. So
// what is measured is devloop and its requests, and not what runs the pods. See run, which make
// scale starts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// deadline is for one size: preparing it, and all of its runs.
const deadline = 15 * time.Minute

// size is how much there is.
type size struct{ Images, Releases, Nodes, Pods, Files int }

// sizeOf is how much there is at a factor; 4 is a large company's platform on one cluster.
func sizeOf(factor, files int) size {
	return size{Images: 25 * factor, Releases: (25*factor + 1) / 2, Nodes: 5 * factor, Pods: 125 * factor,
		Files: files * factor}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measureAll(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scale: error:", err)
		os.Exit(1)
	}
}

func measureAll(ctx context.Context) error {
	factors := flag.String("factors", "1,2,4", "`sizes` to measure")
	runs := flag.Int("runs", 5, "unchanged `runs` and saves at each size")
	files := flag.Int("files", 50_000, "`files` in the largest context, at size 1")
	etcd := flag.String("etcd", "", "`path` of etcd")
	kube := flag.String("kube", "", "`folder` of kube-apiserver and kube-controller-manager")
	devloop := flag.String("devloop", "bin/devloop", "`path` of devloop")
	logs := flag.String("logs", "", "`folder` for what the programs print")
	flag.Parse()
	var taken []measured
	for text := range strings.SplitSeq(*factors, ",") {
		factor, err := strconv.Atoi(text)
		if err != nil || factor < 1 {
			return fmt.Errorf("-factors: %q is no size", text)
		}
		m, err := measure(ctx, lab{etcd: *etcd, kube: *kube, devloop: *devloop, logs: *logs}, sizeOf(factor, *files), *runs)
		if err != nil {
			return fmt.Errorf("size %d: %w", factor, err)
		}
		taken = append(taken, m)
	}
	_, err := os.Stdout.WriteString(table(taken))
	return err
}

// measure brings up a size, measures it, and takes it down again.
func measure(ctx context.Context, l lab, s size, runs int) (m measured, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("not done within %s", deadline))
	defer cancel()
	if l.dir, err = os.MkdirTemp("", "scale"); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, l.close(), os.RemoveAll(l.dir)) }()
	fmt.Fprintf(os.Stderr, "scale: %d images, %d releases, %d nodes, %d pods, %d files\n",
		s.Images, s.Releases, s.Nodes, s.Pods, s.Files)
	registry, err := l.startRegistry()
	if err != nil {
		return m, err
	}
	if err := l.startCluster(ctx, s); err != nil {
		return m, err
	}
	project, err := l.writeProject(s, registry)
	if err != nil {
		return m, err
	}
	return l.take(ctx, project, s, runs)
}
