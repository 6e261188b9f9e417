// Package dask knows Dask Gateway: the gateways of a cluster, the clusters that their users started,
// and the image that new ones get.
package dask

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

const (
	optionsTimeout = 5 * time.Second // for a gateway's answer
	optionsLength  = 1 << 20         // of an answer, in bytes
)

// HealthPath is the path at which a gateway reports that it is up. What precedes it is the gateway's
// prefix.
const HealthPath = "/api/health"

// OptionsPath is the path of a gateway's cluster options.
const OptionsPath = "/api/v1/options"

// APIPorts are the ports of a gateway's services and pods that serve its API, by its chart.
var APIPorts = []string{"80", "8000", "web", "api", "http"}

// DefaultImage asks the gateway at the URL of its options which image new clusters get by default;
// "" and why if the options do not tell.
func DefaultImage(ctx context.Context, url string) (image, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, optionsTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = event.WithHint(fmt.Errorf("ask the gateway what it starts: %w", err),
				"look at the logs of the gateway's pods: devloop logs")
		}
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", err
	}
	request.SetBasicAuth("devloop", "") // its simple authenticator takes any name
	// RoundTrip follows no redirects: the gateway must not send devloop anywhere else.
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", url, err)
	}
	defer func() { _ = response.Body.Close() }() // only read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return "", "its gateway answers " + response.Status, nil
	default:
		return "", "", fmt.Errorf("%s answers %s", url, response.Status)
	}
	var answer struct {
		Options []struct {
			Field   string `json:"field"`
			Default any    `json:"default"`
			Spec    struct {
				Type string `json:"type"`
			} `json:"spec"`
		} `json:"cluster_options"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, optionsLength)).Decode(&answer); err != nil {
		return "", "", fmt.Errorf("%s: %w", url, err)
	}
	for _, o := range answer.Options {
		if text, ok := o.Default.(string); ok && o.Field == "image" && o.Spec.Type == "string" { // a list's is only a label
			return text, "", nil
		}
	}
	return "", "its gateway has no option image that is a text", nil
}
