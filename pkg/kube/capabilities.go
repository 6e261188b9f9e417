package kube

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/client-go/discovery"

	"github.com/devloop/devloop/pkg/event"
)

// Capabilities is what charts are told of the cluster. Who asks while it is being asked waits for
// that answer; who gives up takes it from nobody.
func (c *Cluster) Capabilities(ctx context.Context) (*chartutil.Capabilities, error) {
	c.mu.Lock()
	able, writes := c.Known, c.writes
	c.mu.Unlock()
	if able != nil {
		return able.Copy(), nil
	}
	answered := c.asking.DoChan(strconv.Itoa(writes), func() (able any, err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), AnswerTimeout)
		defer cancel()
		err = event.Stage{}.Guard("discovery", func() error {
			able, err = c.discover(ctx, writes)
			return err
		})
		return able, err
	})
	select {
	case answer := <-answered:
		if able, ok := answer.Val.(*chartutil.Capabilities); ok && answer.Err == nil {
			return able.Copy(), nil
		}
		return nil, answer.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// discover asks for the version and the kinds, and keeps the answer if nothing was written since
// writes.
func (c *Cluster) discover(ctx context.Context, writes int) (*chartutil.Capabilities, error) {
	server := discovery.ToDiscoveryInterfaceWithContext(c.Discovery)
	version, err := server.ServerVersionWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster for its version: %w", err)
	}
	c.Mapper.Reset() // and the cache below it
	_, _, err = server.ServerGroupsAndResourcesWithContext(ctx)
	if discovery.IsGroupDiscoveryFailedError(err) { // one API service that is down must not keep all
		err = context.Cause(ctx)
	}
	var kinds chartutil.VersionSet
	if err == nil {
		kinds, err = action.GetVersionSet(c.Discovery) // of what has just been asked
	}
	if err != nil {
		c.Mapper.Reset() // what was not answered in time must not count as known
		return nil, fmt.Errorf("ask the cluster for its kinds: %w", err)
	}
	able := &chartutil.Capabilities{APIVersions: kinds, HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == writes {
		c.Version, c.asked, c.Known = version.GitVersion, time.Now(), able
	}
	return able, nil
}

// Refresh asks the cluster again where what it said may be old.
func (c *Cluster) Refresh(ctx context.Context) error {
	c.mu.Lock()
	if time.Since(c.asked) > fresh {
		c.Known = nil
	}
	c.mu.Unlock()
	_, err := c.Capabilities(ctx)
	return err
}

// Wrote says that the cluster may know other kinds than before.
func (c *Cluster) Wrote() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Known = nil
	c.writes++
}

// KubeVersion is that of the API server.
func (c *Cluster) KubeVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Version
}
