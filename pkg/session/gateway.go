package session

import (
	"context"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/proof"
)

// gatewayRoute is a forward that may lead to the API of a Dask Gateway.
type gatewayRoute struct {
	kind, namespace, name string // of the forward's target
	url                   string // of the gateway's options, if it is one
	certain               bool   // it is one: the forward's ready path is a gateway's
}

func (f *forwards) gatewayRoutes() (routes []gatewayRoute) {
	for _, o := range f.list {
		kind, name := o.Target()
		prefix, certain := strings.CutSuffix(o.Ready, dask.HealthPath)
		if !certain {
			prefix = ""
		}
		if certain || slices.Contains(dask.APIPorts, o.Port) {
			url := "http://" + localHost(o.bound.Addr()) + prefix + dask.OptionsPath
			routes = append(routes, gatewayRoute{kind, o.Namespace, name, url, certain})
		}
	}
	return routes
}

// askGateways asks a gateway of each release for the image of new clusters. silent says of which
// releases no gateway named one, and why. An error is that of a certain route.
func askGateways(
	ctx context.Context, want *expected, gateways []dask.Gateway,
) (answers []proof.Answer, silent []string, err error) {
	for i, r := range want.config.Releases {
		reason := ""
		for _, g := range gateways {
			if g.Release != r.ID() {
				continue
			}
			if reason == "" {
				reason = "no forward leads to its gateway's API"
			}
			at := slices.IndexFunc(want.routes, func(route gatewayRoute) bool {
				return g.Kind == route.kind && g.Namespace == route.namespace && g.Name == route.name
			})
			if at < 0 {
				continue
			}
			route := want.routes[at]
			image, why, err := dask.DefaultImage(ctx, route.url)
			switch {
			case err != nil && route.certain:
				return nil, nil, err
			case err != nil:
				why = err.Error()
			}
			if reason = why; image != "" {
				from := strings.TrimSuffix(route.url, dask.OptionsPath)
				answers = append(answers, proof.Answer{From: from, Image: image, Wants: want.imagesOf(i)})
				break
			}
		}
		if reason != "" {
			silent = append(silent, "release "+r.Name+": "+reason)
		}
	}
	return answers, silent, nil
}

// imagesOf returns the names of the images that a release names, or if there are none, of those
// that no release names.
func (e *expected) imagesOf(release int) []string {
	if own := e.images[release]; len(own) > 0 {
		return own
	}
	named := slices.Concat(e.images...)
	var left []string
	for _, image := range e.config.Images {
		if !slices.Contains(named, image.Name) && !isBase(e.config, image.Name) {
			left = append(left, image.Name)
		}
	}
	return left
}
