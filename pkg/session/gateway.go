package session

import (
	"context"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/proof"
)

// way is a forward that may lead to a gateway.
type way struct {
	kind, namespace, name string
	url                   string // of the gateway's API, if it is one
	sure                  bool   // it answers HTTP: the forward's own ready path is the gateway's
}

// ways are the forwards that are open and may lead to a gateway's API.
func (f *forwards) ways() (ways []way) {
	for _, o := range f.list {
		kind, name := o.Target()
		prefix, sure := strings.CutSuffix(o.Ready, dask.HealthPath)
		if !sure {
			prefix = ""
		}
		if sure || slices.Contains(dask.APIPorts, o.Port) {
			ways = append(ways, way{kind, o.Namespace, name, "http://" + localHost(o.bound.Addr()) + prefix + dask.OptionsPath, sure})
		}
	}
	return ways
}

// ask asks each gateway of our releases for the image that new clusters get, by a forward that leads to it; silent are those that could not be asked,
// and why.
func (p *prover) ask(ctx context.Context, want *expected, gateways []dask.Gateway) (answers []proof.Answer, silent []string, err error) {
	for i, r := range want.config.Releases {
		why := ""
		for _, g := range gateways {
			if g.Release != r.ID() {
				continue
			}
			if why == "" {
				why = "release " + r.Name + ": no forward leads to its gateway's API"
			}
			at := slices.IndexFunc(want.ways, func(w way) bool { return g.Kind == w.kind && g.Namespace == w.namespace && g.Name == w.name })
			if at < 0 {
				continue
			}
			w := want.ways[at]
			image, reason, err := dask.DefaultImage(ctx, w.url)
			if err != nil && w.sure {
				return nil, nil, err
			}
			if err != nil {
				reason = err.Error()
			}
			if image != "" {
				answers = append(answers, proof.Answer{From: strings.TrimSuffix(w.url, dask.OptionsPath), Image: image, Wants: wanted(want.config, i)})
				why = ""
				break
			}
			why = "release " + r.Name + ": " + reason
		}
		if why != "" {
			silent = append(silent, why)
		}
	}
	return answers, silent, nil
}

// wanted are the names of the images that a release is given, or, if it is given none, of those that no release is given.
func wanted(c *config.Config, release int) []string {
	if own := c.Releases[release].Images(); len(own) > 0 {
		return own
	}
	var left []string
	for _, image := range c.Images {
		if namespaceOf(c, image.Name) == "" {
			left = append(left, image.Name)
		}
	}
	return left
}
