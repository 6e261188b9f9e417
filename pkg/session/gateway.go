package session

import (
	"context"
	"net"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/portforward"
	"github.com/devloop/devloop/pkg/proof"
)

// leadsToGateway tells whether a forward leads to the API of a Dask Gateway: its ready path is a
// gateway's, or its target has the labels of a gateway, and its port is one of the API.
func leadsToGateway(f config.Forward, labels map[string]string) bool {
	return strings.HasSuffix(f.Ready, dask.HealthPath) || slices.Contains(dask.APIPorts, f.Port) && dask.IsGateway(labels)
}

// gatewayRoutes returns the forwards that may lead to the API of a Dask Gateway.
func (f *forwards) gatewayRoutes() (routes []dask.Route) {
	for _, o := range f.list {
		if route, ok := gatewayRoute(o.Forward, o.bound.Addr()); ok {
			routes = append(routes, route)
		}
	}
	return routes
}

// configuredRoutes are gatewayRoutes of forwards that another process may have opened.
func configuredRoutes(c *config.Config) (routes []dask.Route) {
	for _, f := range c.Forwards {
		addresses := f.Addresses()
		if f.Local == 0 || len(addresses) == 0 {
			continue
		}
		if route, ok := gatewayRoute(f, &net.TCPAddr{IP: addresses[0].AsSlice(), Port: f.Local}); ok {
			routes = append(routes, route)
		}
	}
	return routes
}

func gatewayRoute(f config.Forward, address *net.TCPAddr) (route dask.Route, ok bool) {
	kind, name := f.Target()
	prefix, certain := strings.CutSuffix(f.Ready, dask.HealthPath)
	if !certain {
		prefix = ""
	}
	return dask.Route{Kind: kind, Namespace: f.Namespace, Name: name, Local: "http://" + localHost(address) + prefix,
		URL: portforward.URL(address) + prefix, Certain: certain}, certain || slices.Contains(dask.APIPorts, f.Port)
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
			route, found := dask.RouteTo(g, want.routes)
			if !found {
				continue
			}
			image, why, err := dask.DefaultImage(ctx, route.Local+dask.OptionsPath)
			switch {
			case err != nil && route.Certain:
				return nil, nil, err
			case err != nil:
				why = err.Error()
			}
			if reason = why; image != "" {
				answers = append(answers, proof.Answer{From: route.Local, Image: image, Wants: want.imagesOf(i)})
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
