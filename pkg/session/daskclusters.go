package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/proof"
)

// WithDaskClusters calls do with the clusters that run, and those of them that run an older image
// than the releases were deployed with: a save that was not deployed has made none of them old.
// writes tells whether do changes anything, for which the cluster has to be the user's own; then it
// does not matter why a cluster waits.
func WithDaskClusters(ctx context.Context, o Options, writes bool,
	do func(ctx context.Context, cluster *kube.Cluster, all, old event.DaskClusters) error) (err error) {
	e := &environment{}
	defer func() { err = errors.Join(err, e.close()) }()
	if writes {
		err = e.connect(ctx, o)
	} else {
		e.cluster, err = Connect(ctx, o.Config.KubeContext)
	}
	if err != nil {
		return console.EnvironmentError{Err: err}
	}
	deployed, err := deploy.New(e.cluster, o.Config.Name, nil, deploy.Options{}).DeployedValues(ctx, releases(o.Config))
	if err != nil {
		return console.EnvironmentError{Err: err}
	}
	platform, err := dask.Running(ctx, e.cluster, namespacesOf(o.Config))
	if err != nil {
		return console.EnvironmentError{Err: err}
	}
	if !writes {
		if err := platform.Explain(ctx, e.cluster, configuredRoutes(o.Config)); err != nil {
			return console.EnvironmentError{Err: err}
		}
	}
	images := proof.Findings{Images: deployedImages(o.Config, deployed)}
	return do(ctx, e.cluster, platform.Clusters, proof.Old(images, platform.Clusters))
}

// restartTimeout is for a cluster's workers to end and to come back. The program that waits for
// them gives up before.
const restartTimeout = 2 * time.Minute

// RestartDaskCluster has a cluster load its modules again, as client.restart() does for its user,
// and returns how many workers the cluster has then.
func RestartDaskCluster(ctx context.Context, cluster *kube.Cluster, c event.DaskCluster) (workers int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, restartTimeout, fmt.Errorf("no answer after %s", restartTimeout))
	defer cancel()
	pod, err := dask.Scheduler(ctx, cluster, c)
	if err != nil {
		return 0, err
	}
	in, err := pods.Choice{Name: pod.Name, Container: dask.SchedulerContainer}.Of([]pods.Listed{{Pod: pod}})
	if err != nil {
		return 0, err
	}
	out, problem := &tail{}, &tail{}
	for _, python := range []string{"python", "python3"} {
		err = pods.Exec(ctx, cluster, in, []string{python, "-W", "ignore", "-c", dask.RestartProgram},
			pods.Streams{Out: out, Err: problem})
		var exit *pods.ExitError
		if !errors.As(err, &exit) || exit.Code != pods.ExitNotFound {
			break
		}
	}
	var exit *pods.ExitError
	if errors.As(err, &exit) && exit.Why == nil { // the program says what failed in its last line
		err = errors.New(cmp.Or(problem.lastLine(), err.Error()))
	}
	if err == nil {
		if workers, err = strconv.Atoi(out.lastLine()); err != nil {
			err = fmt.Errorf("the scheduler answers %q", out.lastLine())
		}
	}
	if err != nil {
		return 0, event.WithHint(fmt.Errorf("restart Dask cluster %s: %w", c.FullName(), err),
			"its scheduler's log: devloop logs "+pod.Name)
	}
	return workers, nil
}

// tail keeps the end of what is written to it.
type tail struct{ end []byte }

const tailLength = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if over := len(t.end) - tailLength; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
	return len(p), nil
}

// lastLine returns the last line that is not empty.
func (t *tail) lastLine() string {
	lines := strings.Split(strings.TrimSpace(string(t.end)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// deployedTag matches a tag of devloop, alone or at the end of a reference.
var deployedTag = regexp.MustCompile(fmt.Sprintf(`(?:^|:)([0-9a-f]{%d,})(?:@|$)`, build.TagLength))

// deployedImages returns each image with each tag in the values. Which image a tag belongs to does
// not matter: it is a hash.
func deployedImages(c *config.Config, values []string) (images []proof.Image) {
	for _, value := range values {
		match := deployedTag.FindStringSubmatch(value)
		if match == nil {
			continue
		}
		for _, image := range c.Images {
			images = append(images, proof.Image{Name: image.Name, Ref: c.Repository(image.Name) + ":" + match[1],
				Hash: match[1]})
		}
	}
	return images
}
