package dask

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// Route is a forward that may lead to a gateway.
type Route struct {
	Kind, Namespace, Name string // of the forward's target
	Local                 string // URL of the gateway's root, for requests of devloop
	URL                   string // the same for a browser
	Certain               bool   // it leads to a gateway: the forward's ready path is a gateway's
}

// leadsTo tells whether a route leads to a gateway.
func (r Route) leadsTo(g Gateway) bool {
	return r.Kind == g.Kind && r.Namespace == g.Namespace && r.Name == g.Name
}

// RouteTo returns the first of the routes that leads to the gateway.
func RouteTo(g Gateway, routes []Route) (route Route, found bool) {
	at := slices.IndexFunc(routes, func(r Route) bool { return r.leadsTo(g) })
	if at < 0 {
		return Route{}, false
	}
	return routes[at], true
}

// routesTo returns the routes to the gateways of an instance.
func routesTo(instance string, gateways []Gateway, routes []Route) (leading []Route) {
	for _, g := range gateways {
		if route, found := RouteTo(g, routes); found && g.instance == instance {
			leading = append(leading, route)
		}
	}
	return leading
}

const (
	dashboardTimeout  = 60 * time.Second // for traefik to learn of a new cluster, and for the dashboard to answer
	dashboardInterval = 500 * time.Millisecond
	dashboardAnswer   = 5 * time.Second  // to one request
	dashboardAgain    = 30 * time.Second // until one that has not answered in time is asked again
)

// dashboardPath is where a gateway's proxy serves the dashboard of a cluster.
func dashboardPath(c event.DaskCluster) string { return "/clusters/" + c.FullName() + "/status" }

// dashboardURL returns the URL of a cluster's dashboard through the first route by which it
// answers, "" if it does through none.
func dashboardURL(ctx context.Context, c event.DaskCluster, routes []Route) (url string, err error) {
	for _, route := range routes {
		if err = answers(ctx, route.Local+dashboardPath(c)); err == nil {
			return route.URL + dashboardPath(c), nil
		}
	}
	return "", err
}

// awaitDashboard is dashboardURL, and waits until it answers.
func awaitDashboard(ctx context.Context, c event.DaskCluster, routes []Route) (url string, err error) {
	ctx, cancel := context.WithTimeout(ctx, dashboardTimeout)
	defer cancel()
	for {
		url, now := dashboardURL(ctx, c, routes)
		if now == nil {
			return url, nil
		}
		if err == nil || ctx.Err() == nil { // else the timeout cut the request off
			err = now
		}
		select {
		case <-time.After(dashboardInterval):
		case <-ctx.Done():
			return "", err
		}
	}
}

// answers returns nil if the server at url answers 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, dashboardAnswer)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := send(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close() // only read
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}
