package session

// The commands that images have to pass, verify in devloop.yaml. Where an image is built in the
// node, its build tries them. Others, and those that fail there, are tried in a pod.

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/loop"
)

// checkLimit is how long a check may take in a build. A command that waits for something in the
// cluster would wait there forever.
const checkLimit = 10 * time.Second

// checkPods returns the checks of an image.
func checkPods(c *config.Config, image, ref string) (pods []deploy.CheckPod) {
	for _, v := range c.Verify {
		if v.Image == image {
			pods = append(pods, deploy.CheckPod{Image: ref, Name: v.Image, Purpose: deploy.PurposeVerify, Command: v.Command,
				Args: v.Args, Setting: c.WhereToSet("verify"), Namespace: v.Namespace, Timeout: v.Timeout})
		}
	}
	return pods
}

// podChecks are checks that only pass in a pod.
type podChecks struct {
	mu     sync.Mutex
	checks map[string]bool
}

func checkKey(image string, command, args []string) string {
	return fmt.Sprintf("%s %q %q", image, command, args)
}

func (p *podChecks) add(pod deploy.CheckPod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks == nil {
		p.checks = map[string]bool{}
	}
	p.checks[checkKey(pod.Name, pod.Command, pod.Args)] = true
}

func (p *podChecks) has(pod deploy.CheckPod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checks[checkKey(pod.Name, pod.Command, pod.Args)]
}

// inBuild returns the checks that a build of the image tries. Who names a namespace wants its pod.
func (p *podChecks) inBuild(c *config.Config, input build.Input) (checks []*build.Check) {
	for _, pod := range checkPods(c, input.Name, input.Tag.String()) {
		if pod.Namespace == "" && !p.has(pod) {
			checks = append(checks, &build.Check{Command: pod.Command, Args: pod.Args, Event: pod.Event(),
				Limit: min(pod.Timeout, checkLimit)})
		}
	}
	return checks
}

// triedInBuild returns the check as the build of an image has tried it, nil if it has not.
func triedInBuild(image *loop.Image, pod deploy.CheckPod) *build.Check {
	checks := inputsOf(image).Checks
	i := slices.IndexFunc(checks, func(c *build.Check) bool {
		return slices.Equal(c.Command, pod.Command) && slices.Equal(c.Args, pod.Args)
	})
	if i < 0 {
		return nil
	}
	return checks[i]
}
