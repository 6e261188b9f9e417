package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/pods"
)

// Exec is a command to run in a pod.
type Exec struct {
	Name      string   // of the pod, or the beginning of one, or of a release; "" for that of shell in devloop.yaml
	Container string   // "" for the one with an image of devloop.yaml
	Command   []string // nil for a shell

	// Namespaces are those of a running devloop's pods: releases may have some in others than their
	// own.
	Namespaces []string

	// Streams gives the command what it reads and writes, until it ends.
	Streams func(ctx context.Context, in pods.Container, run func(pods.Streams) error) error
}

// shell starts the best shell that an image has. It leaves out -l: a login shell would replace the
// PATH that the image sets.
var shell = []string{"sh", "-c", "if command -v bash > /dev/null; then exec bash; fi; exec sh"}

// RunExec runs a command in a pod of the project. A pod is written to as a release is: its cluster
// has to be the user's own. The error may be a *pods.ExitError.
func RunExec(ctx context.Context, o Options, e Exec) (err error) {
	env := &environment{}
	defer func() { err = errors.Join(err, env.close()) }()
	if err := env.connect(ctx, o); err != nil {
		return console.EnvironmentError{Err: err}
	}
	return e.run(ctx, env.cluster, o.Config, o.Sink)
}

// Exec is RunExec for a devloop that runs.
func (s *Session) Exec(ctx context.Context, e Exec) error {
	c := s.config.Load()
	e.Namespaces = s.deployer.Namespaces(releases(c))
	return e.run(ctx, s.cluster, c, s.options.Sink)
}

func (e Exec) run(ctx context.Context, cluster *kube.Cluster, c *config.Config, sink event.Sink) error {
	in, err := e.container(ctx, cluster, c, sink)
	if err != nil {
		return err
	}
	command := e.Command
	if command == nil {
		command = shell
	}
	err = e.Streams(ctx, in, func(s pods.Streams) error { return pods.Exec(ctx, cluster, in, command, s) })
	var exit *pods.ExitError
	if e.Command == nil && errors.As(err, &exit) && exit.Code == pods.ExitNotFound && exit.Why != nil {
		return event.WithHint(fmt.Errorf("image %s has no shell: %w", in.Image, err),
			"a command that the image has can be run: devloop exec "+in.Pod+" -- COMMAND")
	}
	return err
}

// container finds the container that is meant.
func (e Exec) container(ctx context.Context, cluster *kube.Cluster, c *config.Config, sink event.Sink) (
	none pods.Container, err error) {
	name := cmp.Or(e.Name, c.ShellRelease())
	if name == "" {
		return none, console.UsageError{Err: event.WithHint(errors.New("there are several releases: name one"),
			c.ReleasesHint()+`; "shell: RELEASE" in devloop.yaml says which one is meant without a name`)}
	}
	list := allReleases(c)
	all, err := pods.List(ctx, cluster.Client, scopeOf(c, list, e.Namespaces), sink.Stage(event.PodStage))
	switch {
	case ctx.Err() != nil:
		return none, context.Cause(ctx)
	case err != nil:
		return none, console.EnvironmentError{Err: cluster.WhyAway(ctx, err)}
	}
	images := slices.Concat(c.Images, c.OtherImages)
	built := func(ref string) bool {
		return slices.ContainsFunc(images, func(i config.Image) bool {
			return strings.HasPrefix(ref, c.Repository(i.Name)+":")
		})
	}
	in, err := pods.Choice{Name: name, Container: e.Container, Built: built}.Of(all)
	if !errors.Is(err, pods.ErrNoPod) {
		return in, err
	}
	var names []string
	for _, r := range list {
		if r.Name == name {
			return none, event.WithHint(fmt.Errorf("release %s has no pod", name),
				"devloop status shows the releases and their pods")
		}
		names = append(names, r.Name)
	}
	for _, pod := range all {
		names = append(names, pod.Name)
	}
	return none, console.UsageError{Err: event.WithHint(
		fmt.Errorf("no release, and no pod of one, is called %q%s", name, tree.DidYouMean(name, names)),
		"there are: "+strings.Join(names, ", "))}
}
