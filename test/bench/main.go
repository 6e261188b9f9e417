// Command bench measures devloop beside what people use without it, on a real cluster: see run,
// which make bench starts.
//
// A benchmark is a line in the list below and a function that prepares its two sides. Its name
// stays what it is, since figures are compared over time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

var benchmarks = []benchmark{
	{name: "forward/throughput-down", unit: "MB/s", goal: ">=0.9", alternative: "kubectl port-forward",
		prepare: throughputDown},
	{name: "forward/throughput-up", unit: "MB/s", goal: ">=0.9", alternative: "kubectl port-forward",
		prepare: throughputUp},
	{name: "forward/connect", unit: "ms", goal: "<=1.2", alternative: "kubectl port-forward", prepare: connectLatency},
	{name: "forward/failures", unit: "requests", goal: "<=0 requests",
		alternative: "kubectl port-forward, started again whenever it ends", prepare: failures},
	{name: "served/save-to-build-start", unit: "s", goal: "<=0.5", alternative: "a loop that looks once a second",
		prepare: saveToBuildStart},
	{name: "watch/save-to-build-start-slowest", unit: "s", goal: "<=0.15 s",
		alternative: "a loop that looks once a second", prepare: buildStartP99, runs: 3},
	{name: "deploy/unchanged", unit: "s", goal: "<=0.1",
		alternative: "helm upgrade --wait and kubectl rollout status of both releases", prepare: unchanged},
	{name: "deploy/unchanged-own", unit: "ms", goal: "<=150 ms", prepare: unchangedOwn},
	{name: "deploy/tag-changed", unit: "s", goal: "<=0.3", alternative: "the same; both without the rollout itself",
		prepare: tagChanged},
	{name: "build/hash-unchanged", unit: "ms", goal: "<=50 ms", alternative: "docker build", prepare: hashed(100, false)},
	{name: "build/hash-unchanged-large", unit: "ms", goal: "<=50 ms", alternative: "docker build",
		prepare: hashed(10_000, false)},
	{name: "build/hash-changed", unit: "ms", goal: "<=50 ms", alternative: "find | tar | sha256sum",
		prepare: hashed(100, true)},
	{name: "build/hash-changed-large", unit: "ms", goal: "<=0.5", alternative: "find | tar | sha256sum",
		prepare: hashed(10_000, true)},
	{name: "build/package-added", unit: "s", goal: "<=0.4", alternative: "docker build, usual Dockerfiles",
		prepare: packageAdded, runs: 3},
	{name: "build/code-change", unit: "s", goal: "<=1", alternative: "docker build", prepare: codeChanged},
	{name: "build/undo", unit: "ms", goal: "<=0.4", alternative: "docker build", prepare: undone},
	{name: "build/cancel", unit: "ms", goal: "<=200 ms", prepare: cancelled},
	{name: "load/small-change", unit: "s", goal: "<=0.1", alternative: "docker save | ctr import",
		prepare: loadChanged("containerd", (*loaded).changeSmall)},
	{name: "load/small-change-docker", unit: "s", goal: "<=0.1", alternative: "docker save | docker load",
		prepare: loadChanged("docker", (*loaded).changeSmall)},
	{name: "load/small-change-bytes", unit: "MB", goal: "<=6 MB", prepare: loadBytes},
	{name: "load/unchanged", unit: "ms", goal: "<=50 ms", prepare: loadUnchanged},
	{name: "load/large-change", unit: "s", goal: "<=0.67", alternative: "docker save | ctr import",
		prepare: loadChanged("containerd", (*loaded).changeLarge), runs: 5},
	{name: "load/large-change-docker", unit: "s", goal: "<=0.67", alternative: "docker save | docker load",
		prepare: loadChanged("docker", (*loaded).changeLarge), runs: 5},
	{name: "load/large-change-in-node", unit: "s", goal: "<=0.33", alternative: "docker build, docker save | ctr import",
		prepare: buildInNode("containerd"), runs: 5},
	{name: "load/large-change-in-node-docker", unit: "s", goal: "<=0.33",
		alternative: "docker build, docker save | docker load", prepare: buildInNode("docker"), runs: 5},
	{name: "sync/1-pod", unit: "s", goal: "<=0.15", alternative: "devloop without the rule: an image and new pods",
		prepare: syncInto(1, withoutSync)},
	{name: "sync/1-pod-copied", unit: "s", goal: "<=0.5",
		alternative: "a loop that looks once a second, tar | kubectl exec tar", prepare: syncInto(1, copied)},
	{name: "sync/1-pod-own", unit: "s", goal: "<=0.3 s", prepare: syncInto(1, nil)},
	{name: "sync/20-pods", unit: "s", goal: "<=0.15", alternative: "devloop without the rule: an image and new pods",
		prepare: syncInto(20, withoutSync), runs: 5},
	{name: "sync/20-pods-copied", unit: "s", goal: "<=0.5", alternative: "the same loop, one pod after another",
		prepare: syncInto(20, copied), runs: 5},
	{name: "sync/20-pods-own", unit: "s", goal: "<=0.3 s", prepare: syncInto(20, nil)},
	{name: "served/save-to-served", unit: "s", goal: "<=0.35",
		alternative: "docker build, docker save | ctr import, helm upgrade, kubectl rollout status, kubectl port-forward",
		prepare:     saveToServed},
	{name: "save/containerd/node/package", unit: "s", goal: "<=0.5", alternative: scripted, proven: "<=5 s",
		prepare: packageSaved("containerd", "node", platformScript), runs: 5},
	{name: "save/containerd/node/client", unit: "s", goal: "<=1.5 s", prepare: clientSaved("containerd", "node"), runs: 5},
	{name: "save/containerd/host/package", unit: "s", goal: "<=0.5", alternative: scripted, proven: "<=5 s",
		prepare: packageSaved("containerd", "host", platformScript), runs: 5},
	{name: "save/containerd/host/client", unit: "s", goal: "<=1.5 s", prepare: clientSaved("containerd", "host"), runs: 5},
	{name: "save/containerd/start", unit: "s", goal: "<=0.4 s", prepare: platformStarted("containerd", false), runs: 5},
	{name: "save/containerd/start-new", unit: "s", goal: "<=8 s", prepare: platformStarted("containerd", true), runs: 5},
	{name: "save/docker/node/package", unit: "s", goal: "<=0.5", alternative: scriptedInNode, proven: "<=5 s",
		prepare: packageSaved("docker", "node", platformScript), runs: 5},
	{name: "save/docker/node/client", unit: "s", goal: "<=1.5 s", prepare: clientSaved("docker", "node"), runs: 5},
	{name: "save/docker/host/package", unit: "s", goal: "<=0.5", alternative: scripted, proven: "<=5 s",
		prepare: packageSaved("docker", "host", platformScript), runs: 5},
	{name: "save/docker/host/client", unit: "s", goal: "<=1.5 s", prepare: clientSaved("docker", "host"), runs: 5},
	{name: "save/docker/start", unit: "s", goal: "<=0.4 s", prepare: platformStarted("docker", false), runs: 5},
	{name: "save/docker/start-new", unit: "s", goal: "<=8 s", prepare: platformStarted("docker", true), runs: 5},
	{name: "skaffold/served", unit: "s", goal: "<=0.35", alternative: "skaffold dev", prepare: servedBesideSkaffold},
	{name: "skaffold/package", unit: "s", goal: "<=0.5", alternative: "skaffold dev",
		prepare: packageSaved("docker", "node", skaffoldPlatform), runs: 5},
}

// The alternatives of a save to the platform.
const (
	scriptedInNode = "docker build in the node (docker-env), helm upgrade, kubectl rollout status, in a script"
	scripted       = "docker build, docker save into the node, helm upgrade, kubectl rollout status, in a script"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	runs := flag.Int("runs", 7, "`samples` of each side, after one that does not count")
	out := flag.String("out", "test/bench/out.json", "`file` for the figures")
	logs := flag.String("logs", "", "`folder` for what the measured programs print (none if empty)")
	flag.Usage = func() {
		_, _ = fmt.Fprintln(flag.CommandLine.Output(),
			"bench [flags] [NAME]: all benchmarks, or those whose name is or begins with NAME; in the project's folder")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *runs < 1 {
		return errors.New("-runs has to be 1 or more")
	}
	chosen := choose(flag.Arg(0))
	if len(chosen) == 0 {
		return fmt.Errorf("no benchmark is called %s: see the list in test/bench/main.go", flag.Arg(0))
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	var figures []figure
	for _, b := range chosen {
		bed := &testbed{dir: filepath.Join(dir, filepath.FromSlash(b.name)), shared: dir, logs: *logs}
		measured, err := measure(ctx, b, bed, *runs)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		figures = append(figures, measured...)
	}
	if _, err := io.WriteString(os.Stdout, table(figures, machine())); err != nil {
		return err
	}
	return writeJSON(*out, figures)
}

// choose returns the benchmarks of a name, or of parts before a slash; all of them for "".
func choose(name string) []benchmark {
	var chosen []benchmark
	for _, b := range benchmarks {
		if name == "" || b.name == name || strings.HasPrefix(b.name, name+"/") {
			chosen = append(chosen, b)
		}
	}
	return chosen
}
