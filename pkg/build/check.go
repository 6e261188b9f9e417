package build

// Commands that an image has to pass are tried in the sandbox of its build, before it is exported:
// no pod has to start for them, which takes a second or two.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/devloop/devloop/pkg/event"
)

// Check is a command that an image has to pass, in a pod's terms. Only a pass counts: a build has
// no cluster, which the command may need.
type Check struct {
	Command []string      // in place of the image's entrypoint
	Args    []string      // of Command, or without one of the entrypoint
	Limit   time.Duration // how long the command may take
	Event   event.Verification

	tried, passed bool
}

// Passed tells whether the last build of the image has tried the command, and it exited with 0.
func (c *Check) Passed() bool { return c.passed }

// Failed tells whether the last build ran the command, and it did not exit with 0 in time.
func (c *Check) Failed() bool { return c.tried && !c.passed }

// forget resets checks: their build failed, or starts.
func forget(checks []*Check) {
	for _, c := range checks {
		c.tried, c.passed = false, false
	}
}

// checkedBuild returns what BuildKit is to do in place of the Dockerfile frontend: the same, and
// the checks of the outcome.
func checkedBuild(sink event.Sink, frontend string, options map[string]string, checks []*Check) gateway.BuildFunc {
	return func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		result, err := c.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: options, Evaluate: true})
		caps := c.BuildOpts().Caps
		if err != nil || caps.Supports(gatewaypb.CapGatewayExec) != nil {
			return result, err
		}
		ref, err := result.SingleRef()
		if err != nil || ref == nil { // several platforms, or an empty image
			return result, nil
		}
		// Docker 20.10 says that it evaluates, and builds only for whoever looks at the outcome. That
		// time is not the checks'.
		if _, err := ref.StatFile(ctx, gateway.StatRequest{Path: "."}); err != nil {
			return nil, err
		}
		var image ocispecs.Image
		if err := json.Unmarshal(result.Metadata[exptypes.ExporterImageConfigKey], &image); err != nil {
			return result, nil // another frontend may make images without a configuration
		}
		for _, check := range checks {
			check.try(ctx, sink, c, ref, image.Config)
		}
		return result, nil
	}
}

// try runs the command in a copy of the image that nobody else sees.
func (c *Check) try(
	ctx context.Context, sink event.Sink, client gateway.Client, ref gateway.Reference, image ocispecs.ImageConfig,
) {
	args, ok := c.process(image)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Limit, errors.New("it took longer than "+c.Limit.String()))
	defer cancel()
	err := sink.Tentative().Stage("verify").Step(ctx, event.ImageVerified, func(ctx context.Context) (_ []any, err error) {
		// The network of a build is not a pod's, and Docker takes a tenth of a second to set it up.
		container, err := client.NewContainer(ctx, gateway.NewContainerRequest{NetMode: pb.NetMode_NONE,
			Mounts: []gateway.Mount{{Dest: "/", MountType: pb.MountType_BIND, Ref: ref}}})
		if err != nil {
			return nil, err
		}
		defer func() {
			releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
			defer cancel()
			err = errors.Join(err, container.Release(releasing))
		}()
		process, err := container.Start(ctx, gateway.StartRequest{Args: args, Env: image.Env, User: image.User,
			Cwd: cmp.Or(image.WorkingDir, "/")})
		if err != nil {
			return nil, err
		}
		return nil, process.Wait()
	}, c.Event)
	c.tried, c.passed = true, err == nil
}

// process returns what a pod would run, and whether that is known: kubelet replaces $(NAME).
func (c *Check) process(image ocispecs.ImageConfig) (args []string, ok bool) {
	switch {
	case len(c.Command) > 0:
		args = slices.Concat(c.Command, c.Args)
	case len(c.Args) > 0:
		args = slices.Concat(image.Entrypoint, c.Args)
	default:
		args = slices.Concat(image.Entrypoint, image.Cmd)
	}
	return args, len(args) > 0 && !slices.ContainsFunc(slices.Concat(c.Command, c.Args), func(word string) bool {
		return strings.Contains(word, "$(") || strings.Contains(word, "$$")
	})
}
