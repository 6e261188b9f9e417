// From a save to this repository's own platform, as its users have it: both images, both charts,
// the real program.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/devloop/devloop"
	"github.com/devloop/devloop/pkg/event"
)

const (
	platformPort      = 8001 // in devloop.yaml
	platformTheirPort = 8002
	platformTheirs    = "bench-theirs" // namespace, release and beginning of the images' names

	optionsInterval = 50 * time.Millisecond // between questions to the gateway: each keeps it busy for 10 ms
	platformQuiet   = 2 * time.Second       // after a run, for what devloop does in the background

	// The line of devloop's JSON when a run has ended well.
	proven = `"phase":"succeeded","msg":"` + event.RunComplete + `"`
)

// pinned are small packages of pure Python. A save adds one of them to requirements.txt, another
// one than the save before: pip fetches each from PyPI once, later it is in its cache mount.
var pinned = []string{"six==1.17.0", "toml==0.10.2", "tabulate==0.9.0", "colorama==0.4.6", "termcolor==2.5.0",
	"wcwidth==0.2.13", "iniconfig==2.0.0", "xmltodict==0.14.2"}

// platform is one side's copy of the platform.
type platform struct {
	t          *testbed
	dir        string
	runtime    string
	node       benchNode
	namespace  string
	port       int
	saves      int
	image      string // that the gateway gave to new clusters, at the last look
	httpClient http.Client
}

func newPlatform(t *testbed, runtime, namespace string, port int) (*platform, error) {
	node, err := nodeOf(runtime)
	if err != nil {
		return nil, err
	}
	p := &platform{t: t, dir: filepath.Join(t.dir, namespace), runtime: runtime, node: node, namespace: namespace,
		port: port, httpClient: http.Client{Timeout: answerTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
	t.env = node.env()
	return p, os.CopyFS(p.dir, devloop.Platform)
}

// addPackage saves requirements.txt with one package more than the repository's.
func (p *platform) addPackage() (time.Time, error) {
	text, err := devloop.Platform.ReadFile("requirements.txt")
	if err != nil {
		return time.Time{}, err
	}
	p.saves++
	// The comment makes the file one that no build cache has seen.
	return replace(filepath.Join(p.dir, "requirements.txt"),
		fmt.Sprintf("%s%s # save %d of %s\n", text, pinned[p.saves%len(pinned)], time.Now().UnixNano(), p.namespace))
}

// editClient saves Dockerfile.client with another last layer.
func (p *platform) editClient() (time.Time, error) {
	text, err := devloop.Platform.ReadFile("Dockerfile.client")
	if err != nil {
		return time.Time{}, err
	}
	return replace(filepath.Join(p.dir, "Dockerfile.client"), fmt.Sprintf("%sENV SAVED=%d\n", text, time.Now().UnixNano()))
}

// given asks the gateway until it gives another image to new clusters than at the last look, and
// returns when that was, and for how many seconds there was no answer before.
func (p *platform) given(ctx context.Context) (at time.Time, silent float64, err error) {
	var missed outage
	for {
		began := time.Now()
		image, err := p.askImage(ctx)
		missed.asked(began, err)
		if err == nil && image != p.image {
			p.image = image
			return time.Now(), missed.seconds, nil
		}
		if wait(ctx, optionsInterval) != nil {
			return time.Time{}, 0, fmt.Errorf("the gateway gives no new image (%w), the last was %q: %w",
				context.Cause(ctx), image, err)
		}
	}
}

func (p *platform) askImage(ctx context.Context) (string, error) {
	options := fmt.Sprintf("http://127.0.0.1:%d/api/v1/options", p.port)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, options, nil)
	if err != nil {
		return "", err
	}
	req.SetBasicAuth("ada", "")
	resp, err := p.httpClient.Do(req)
	if err != nil {
		return "", err
	}
	var answer struct {
		Options []struct {
			Field   string `json:"field"`
			Default any    `json:"default"`
		} `json:"cluster_options"`
	}
	if err := errors.Join(json.NewDecoder(resp.Body).Decode(&answer), resp.Body.Close()); err != nil {
		return "", err
	}
	for _, option := range answer.Options {
		if option.Field == "image" {
			return fmt.Sprint(option.Default), nil
		}
	}
	return "", fmt.Errorf("the answer of the gateway (%s) has no image", resp.Status)
}

// settle waits until no pod is ending any more, so that the next sample is not disturbed.
func (p *platform) settle(ctx context.Context) error {
	for {
		ending, err := output(ctx, "kubectl", "--kubeconfig", p.node.kubeconfig, "get", "pods", "--namespace", p.namespace,
			"--output", "jsonpath={.items[*].metadata.deletionTimestamp}")
		if err == nil && ending == "" {
			return wait(ctx, platformQuiet)
		}
		if waited := wait(ctx, podsInterval); waited != nil {
			return errors.Join(fmt.Errorf("pods in %s are still ending: %w", p.namespace, waited), err)
		}
	}
}

// platformLoop is devloop on its copy.
type platformLoop struct {
	*platform
	args    []string
	proxy   string // for builds in the node, "" for those on the host
	devloop *process
}

// newPlatformLoop prepares devloop for images that are built in the node or on the host.
func newPlatformLoop(ctx context.Context, t *testbed, runtime, buildIn string) (*platformLoop, error) {
	p, err := newPlatform(t, runtime, "dask-gateway", platformPort)
	if err != nil {
		return nil, err
	}
	// The chart, as on a laptop that has downloaded it before.
	if _, err := output(ctx, "test/seed-chart", filepath.Join(t.shared, "cache", "devloop")); err != nil {
		return nil, err
	}
	l := &platformLoop{platform: p, args: []string{"--log-format", "json", "-v", "--profile", "small", "--set",
		"buildIn=" + buildIn}}
	if buildIn == "node" {
		if l.proxy, err = startProxy(ctx, t, p.node); err != nil {
			return nil, err
		}
		for _, variable := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
			for _, image := range []string{"worker", "daskclient"} {
				l.args = append(l.args, "--set", "images."+image+".args."+variable+"="+l.proxy)
			}
		}
	}
	t.cleanup(func(ctx context.Context) error {
		return errors.Join(removeImages(ctx, "worker"), removeImages(ctx, "daskclient"))
	})
	return l, nil
}

// start starts devloop, and returns when its first run was complete, in seconds.
func (l *platformLoop) start(ctx context.Context, more ...string) (float64, error) {
	begin := time.Now()
	var err error
	if l.devloop, err = l.t.startDevloop(ctx, l.dir, append(l.args, more...)...); err != nil {
		return 0, err
	}
	return l.complete(ctx, begin)
}

// complete waits for the end of a run, records it and returns its time in seconds.
func (l *platformLoop) complete(ctx context.Context, saved time.Time) (float64, error) {
	if _, err := l.devloop.await(ctx, proven); err != nil {
		return 0, err
	}
	s, err := newSave(l.devloop.said(), saved)
	l.t.saves = append(l.t.saves, s)
	return s.Complete, err
}

// stop ends devloop, which removes what it deployed unless it was started otherwise.
func (l *platformLoop) stop(ctx context.Context) error {
	return l.devloop.interrupt(ctx)
}

// run has devloop run until the end of the benchmark.
func (l *platformLoop) run(ctx context.Context) error {
	_, err := l.start(ctx)
	l.t.cleanup(l.stop)
	l.t.saves = nil // that was no save
	return err
}

// beside starts the alternative on a platform of its own, and returns what it does with a save.
type beside func(ctx context.Context, mine *platformLoop) (theirs sample, err error)

// packageSaved measures from a save of requirements.txt until the gateway gives the new image to
// clusters.
func packageSaved(runtime, buildIn string, alternative beside,
) func(context.Context, *testbed) (ours, theirs sample, err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		mine, err := newPlatformLoop(ctx, t, runtime, buildIn)
		if err == nil {
			err = mine.run(ctx)
		}
		if err != nil {
			return nil, nil, err
		}
		if _, _, err := mine.given(ctx); err != nil {
			return nil, nil, err
		}
		ours = func(ctx context.Context) (float64, error) {
			mine.devloop.skip()
			saved, err := mine.addPackage()
			if err != nil {
				return 0, err
			}
			at, silent, err := mine.given(ctx)
			if err != nil {
				return 0, mine.devloop.failure(err.Error())
			}
			if _, err := mine.complete(ctx, saved); err != nil {
				return 0, err
			}
			given := at.Sub(saved).Seconds()
			t.saves[len(t.saves)-1].Given = given
			t.outages.ours = append(t.outages.ours, silent)
			return given, mine.settle(ctx)
		}
		theirs, err = alternative(ctx, mine)
		return ours, theirs, err
	}
}

// clientSaved measures from a save of Dockerfile.client until the run is complete.
func clientSaved(runtime, buildIn string) func(context.Context, *testbed) (ours, theirs sample, err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		mine, err := newPlatformLoop(ctx, t, runtime, buildIn)
		if err == nil {
			err = mine.run(ctx)
		}
		return func(ctx context.Context) (float64, error) {
			mine.devloop.skip()
			saved, err := mine.editClient()
			if err != nil {
				return 0, err
			}
			seconds, err := mine.complete(ctx, saved)
			return seconds, errors.Join(err, mine.settle(ctx))
		}, nil, err
	}
}

// platformStarted measures from the start of devloop until its first run is complete. All images
// are on the node; the releases are there as well, unless they are to be new.
func platformStarted(runtime string, newReleases bool) func(context.Context, *testbed) (ours, theirs sample,
	err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		mine, err := newPlatformLoop(ctx, t, runtime, "host")
		if err != nil {
			return nil, nil, err
		}
		cleanup := "--cleanup=" + strconv.FormatBool(newReleases)
		ours = func(ctx context.Context) (float64, error) {
			seconds, err := mine.start(ctx, cleanup)
			if err != nil {
				return 0, err
			}
			return seconds, errors.Join(mine.stop(ctx), wait(ctx, platformQuiet))
		}
		if !newReleases {
			t.cleanup(func(ctx context.Context) error {
				remove, err := t.startDevloop(ctx, mine.dir, "delete")
				if err != nil {
					return err
				}
				return remove.finish(ctx)
			})
		}
		_, err = ours(ctx) // the images
		t.saves = nil
		return ours, nil, err
	}
}

// platformScript is what people write by hand. It begins at the moment of the save, as if it had
// the best of watchers.
func platformScript(ctx context.Context, mine *platformLoop) (sample, error) {
	t := mine.t
	p, err := newPlatform(t, mine.runtime, platformTheirs, platformTheirPort)
	if err != nil {
		return nil, err
	}
	chart, err := output(ctx, "test/images/chart")
	if err != nil {
		return nil, err
	}
	script, err := filepath.Abs("test/bench/platform")
	if err != nil {
		return nil, err
	}
	args, env := []string{p.namespace, strconv.Itoa(p.port), chart}, t.env
	if mine.runtime == "docker" && mine.proxy != "" {
		env = slices.Concat(env, p.node.dockerEnv(), []string{"HTTP_PROXY=" + mine.proxy, "HTTPS_PROXY=" + mine.proxy,
			"NO_PROXY=" + p.node.address + ",127.0.0.1"})
	} else {
		args = append(args, "ssh", "-F", os.Getenv("NODE_SSH_CONFIG"), p.node.ssh)
		args = append(args, strings.Fields(p.node.load)...)
		t.cleanup(func(ctx context.Context) error {
			return errors.Join(removeImages(ctx, p.namespace+"-worker"), removeImages(ctx, p.namespace+"-client"))
		})
	}
	t.cleanup(deleteNamespace(p.node.kubeconfig, p.namespace))
	t.cleanup(func(ctx context.Context) error {
		_, err := output(ctx, "helm", "--kubeconfig", p.node.kubeconfig, "--namespace", p.namespace, "uninstall",
			p.namespace, "dask-session")
		return err
	})
	running, err := t.start(ctx, p.dir, env, script, args...)
	if err != nil {
		return nil, err
	}
	t.cleanup(func(ctx context.Context) error { return running.finish(ctx) })
	theirs := p.theirs(running, "saved\n", " done")
	_, err = theirs(ctx)
	return theirs, err
}

// theirs measures from a save of requirements.txt until the gateway gives the new image to
// clusters. A program that does not watch the file gets trigger on its standard input.
func (p *platform) theirs(program *process, trigger, done string) sample {
	return func(ctx context.Context) (float64, error) {
		program.skip()
		saved, err := p.addPackage()
		if err != nil {
			return 0, err
		}
		if _, err := io.WriteString(program.stdin, trigger); err != nil {
			return 0, program.failure(err.Error())
		}
		at, silent, err := p.given(ctx)
		if err != nil {
			return 0, program.failure(err.Error())
		}
		p.t.outages.theirs = append(p.t.outages.theirs, silent)
		if _, err := program.await(ctx, done); err != nil {
			return 0, err
		}
		return at.Sub(saved).Seconds(), p.settle(ctx)
	}
}
