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

// checksOf returns the checks of an image.
func checksOf(c *config.Config, image, ref string) (pods []deploy.CheckPod) {
	for _, v := range c.Verify {
		if v.Image == image {
			pods = append(pods, deploy.CheckPod{Image: ref, Name: v.Image, Purpose: deploy.PurposeVerify, Command: v.Command,
				Args: v.Args, Setting: c.WhereToSet("verify"), Namespace: v.Namespace, Timeout: v.Timeout})
		}
	}
	return pods
}

// podOnly are checks that failed in a build and passed in a pod: builds try them no more.
type podOnly struct {
	mu     sync.Mutex
	checks map[string]bool
}

// checkKey tells the checks of images, or of namespaces, apart.
func checkKey(of string, command, args []string) string {
	return fmt.Sprintf("%s %q %q", of, command, args)
}

func (p *podOnly) add(pod deploy.CheckPod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks == nil {
		p.checks = map[string]bool{}
	}
	p.checks[checkKey(pod.Name, pod.Command, pod.Args)] = true
}

func (p *podOnly) has(pod deploy.CheckPod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.checks[checkKey(pod.Name, pod.Command, pod.Args)]
}

// inBuild returns the checks that a build of the image tries. One with a
// namespace needs a pod there.
func (p *podOnly) inBuild(c *config.Config, input build.Input) (checks []*build.Check) {
	for _, pod := range checksOf(c, input.Name, input.Tag.String()) {
		if pod.Namespace == "" && !p.has(pod) {
			checks = append(checks, &build.Check{Command: pod.Command, Args: pod.Args, Event: pod.Event(),
				Limit: min(pod.Timeout, checkLimit)})
		}
	}
	return checks
}

// triedInBuild returns the check that the image's build was given to try, nil if there is none.
func triedInBuild(image *loop.Image, pod deploy.CheckPod) *build.Check {
	if pod.Namespace != "" {
		return nil
	}
	checks := inputsOf(image).Checks
	i := slices.IndexFunc(checks, func(c *build.Check) bool {
		return slices.Equal(c.Command, pod.Command) && slices.Equal(c.Args, pod.Args)
	})
	if i < 0 {
		return nil
	}
	return checks[i]
}
