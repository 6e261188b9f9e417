package kube

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/client-go/discovery"
)

// freshFor is how long the API server's answer about its kinds is trusted. After devloop's own
// writes it is asked again at once.
const freshFor = 5 * time.Second

// Capabilities returns what charts are told of the cluster. The caller owns the copy.
func (c *Cluster) Capabilities(ctx context.Context) (*chartutil.Capabilities, error) {
	c.mu.Lock()
	known, writes := c.Known, c.writes
	c.mu.Unlock()
	if known == nil {
		var err error
		known, err = shared(ctx, &c.discovering, strconv.Itoa(writes), AnswerTimeout,
			func(ctx context.Context) (*chartutil.Capabilities, error) { return c.discover(ctx, writes) })
		if err != nil {
			return nil, err
		}
	}
	return known.Copy(), nil
}

// discover asks for the version and the kinds. It keeps the answer if nothing was written since
// writes.
func (c *Cluster) discover(ctx context.Context, writes int) (*chartutil.Capabilities, error) {
	server := discovery.ToDiscoveryInterfaceWithContext(c.Discovery)
	version, err := server.ServerVersionWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster for its version: %w", err)
	}
	c.Mapper.Reset() // and with it the discovery cache
	_, _, err = server.ServerGroupsAndResourcesWithContext(ctx)
	if discovery.IsGroupDiscoveryFailedError(err) { // an API service that is down hides only its own kinds
		err = context.Cause(ctx)
	}
	var kinds chartutil.VersionSet
	if err == nil {
		kinds, err = action.GetVersionSet(c.Discovery) // from the cache
	}
	if err != nil {
		c.Mapper.Reset() // an incomplete answer must not stay in the cache
		return nil, fmt.Errorf("ask the cluster for its kinds: %w", err)
	}
	found := &chartutil.Capabilities{APIVersions: kinds, HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == writes {
		c.Version, c.discovered, c.Known = version.GitVersion, time.Now(), found
	}
	return found, nil
}

// Refresh asks the cluster again if its last answer may be stale.
func (c *Cluster) Refresh(ctx context.Context) error {
	c.mu.Lock()
	if time.Since(c.discovered) > freshFor {
		c.Known = nil
	}
	c.mu.Unlock()
	_, err := c.Capabilities(ctx)
	return err
}

// InvalidateCapabilities notes a write, after which the cluster may have other kinds.
func (c *Cluster) InvalidateCapabilities() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Known = nil
	c.writes++
}

// KubeVersion is the API server's version.
func (c *Cluster) KubeVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Version
}
