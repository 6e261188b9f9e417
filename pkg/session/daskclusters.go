package session

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/proof"
)

// WithDaskClusters calls do with the clusters that run, and those of them that run an older image
// than the releases were deployed with: a save that was not deployed has made none of them old.
// writes tells whether do changes anything, for which the cluster has to be the user's own.
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
	return do(ctx, e.cluster, platform.Clusters, proof.Old(deployedImages(o.Config, deployed), platform.Clusters))
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
