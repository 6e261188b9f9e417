package session

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/portforward"
	"github.com/devloop/devloop/pkg/proof"
)

// tunnelTimeout is how long a tunnel to a pod may take to open: less than the request through it.
const tunnelTimeout = 3 * time.Second

// routeTurns is how many times a route is asked that may lead to several pods: a proxy may
// alternate between them, and the requests of other clients take turns, too.
const routeTurns = 4

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

// answer is what a gateway gives to new clusters.
type answer struct {
	proof.Answer
	gateway dask.Gateway
}

// askGateways asks a gateway of each release for the image of new clusters. silent says of which
// releases no gateway named one, and why. It fails if a certain route or a pod cannot be asked.
func (i inspector) askGateways(
	ctx context.Context, want *expected, platform *dask.Platform,
) (answers []answer, silent []string, err error) {
	for at, r := range want.config.Releases {
		reason := ""
		for _, g := range platform.Gateways {
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
			images, why, err := i.askGateway(ctx, platform.APIPods(g), g, route)
			if err != nil {
				return nil, nil, err
			}
			if reason = why; len(images) == 0 {
				continue
			}
			for _, image := range images {
				answers = append(answers, answer{proof.Answer{From: route.Local, Image: image, Wants: want.imagesOf(at)}, g})
			}
			break
		}
		if reason != "" {
			silent = append(silent, "release "+r.Name+": "+reason)
		}
	}
	return answers, silent, nil
}

// askGateway asks a gateway which images new clusters get. why says why it names none. A proxy on
// the route may send requests to any of several pods, even to one that is ending. So the ready pods
// are asked too, since another pod's answer could hide theirs, and the route several times.
func (i inspector) askGateway(
	ctx context.Context, pods dask.APIPods, g dask.Gateway, route dask.Route,
) (images []string, why string, err error) {
	times := 1
	if pods.Ending || len(pods.Ready) > 1 {
		times = routeTurns
		if images, err = i.askPods(ctx, pods, g); err != nil {
			return nil, "", err
		}
	}
	// The route is asked last: a proxy on it learns of a new pod a moment later.
	onRoute, why, err := askRoute(ctx, route, times)
	switch {
	case err != nil && (route.Certain || len(images)+len(onRoute) > 0):
		return nil, "", err
	case err != nil:
		return nil, err.Error(), nil
	case len(onRoute) == 0 && len(images) > 0 && route.Certain:
		return nil, "", fmt.Errorf("pods of the gateway of release %s name an image for new clusters, %s does not: %s",
			g.Release, route.URL, why)
	case len(onRoute) == 0:
		return nil, why, nil
	}
	return slices.Compact(slices.Sorted(slices.Values(append(images, onRoute...)))), "", nil
}

// askRoute asks through a route which image new clusters get, that many times. why says why the
// gateway does not name one. It is an error if it names one only some of the time.
func askRoute(ctx context.Context, route dask.Route, times int) (images []string, why string, err error) {
	for range times {
		image, reason, err := dask.DefaultImage(ctx, route.Local+dask.OptionsPath)
		if err != nil {
			return images, "", err
		}
		if image == "" {
			why = reason
		} else {
			images = append(images, image)
		}
	}
	if n := len(images); n > 0 && n < times {
		return images, "", fmt.Errorf("%s names image %s for new clusters only some of the time: %s",
			route.URL, images[0], why)
	}
	return images, why, nil
}

// askPods asks the ready pods of a gateway which image new clusters get.
func (i inspector) askPods(ctx context.Context, pods dask.APIPods, g dask.Gateway) (images []string, err error) {
	if len(pods.Ready) == 0 {
		return nil, fmt.Errorf("no pod of the gateway of release %s is ready", g.Release)
	}
	for _, pod := range pods.Ready {
		image, err := i.askPod(ctx, g.Namespace, pod)
		if err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", g.Namespace, pod, err)
		}
		if image != "" {
			images = append(images, image)
		}
	}
	return images, nil
}

// askPod asks a pod of a gateway which image new clusters get; "" if it does not say.
func (i inspector) askPod(ctx context.Context, namespace, pod string) (image string, err error) {
	var refused atomic.Pointer[error] // why the pod cannot be reached
	target := portforward.Target{Namespace: namespace, Kind: portforward.Pod, Name: pod, Port: dask.APIPort}
	forward, err := portforward.Listen(ctx, portforward.Spec{Target: target, Bind: "127.0.0.1", Hold: tunnelTimeout},
		func(e event.Event) {
			if e.Phase == event.Warned && e.Err != nil {
				refused.Store(&e.Err)
			}
		})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() {
		_ = event.Guard(func() error { return forward.Serve(ctx, i.cluster.CurrentConfig, i.cluster.Client) })
	})
	image, _, err = dask.DefaultImage(ctx, "http://"+forward.Addr().String()+dask.OptionsPath)
	if why := refused.Load(); err != nil && why != nil {
		return "", *why
	}
	return image, err
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
