package dask

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// optionsTimeout is how long a gateway may take to answer.
const optionsTimeout = 5 * time.Second

// optionsLength is how long the answer of a gateway may be, in bytes.
const optionsLength = 1 << 20

// DefaultImage asks a gateway for its cluster options (GET /api/v1/options) and returns the default of the one named image; "" and why where that
// says nothing.
func DefaultImage(ctx context.Context, url string) (image, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, optionsTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = event.WithHint(fmt.Errorf("ask the gateway what it starts: %w", err), "look at the logs of the gateway's pods: devloop logs")
		}
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", err
	}
	request.SetBasicAuth("devloop", "") // its simple authenticator takes any name
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: noRedirects}
	response, err := client.Do(request)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = response.Body.Close() }() // only read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return "", "its gateway answers " + response.Status, nil
	default:
		return "", "", fmt.Errorf("%s answers %s", url, response.Status)
	}
	var said struct {
		Options []struct {
			Field   string `json:"field"`
			Default any    `json:"default"`
			Spec    struct {
				Type string `json:"type"`
			} `json:"spec"`
		} `json:"cluster_options"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, optionsLength)).Decode(&said); err != nil {
		return "", "", fmt.Errorf("%s: %w", url, err)
	}
	for _, o := range said.Options {
		if text, ok := o.Default.(string); ok && o.Field == "image" && o.Spec.Type == "string" { // that of a list is a label
			return text, "", nil
		}
	}
	return "", "its gateway has no option image that is a text", nil
}

// noRedirects keeps a gateway from sending devloop anywhere else.
func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// HealthPath is the path at which a Dask Gateway tells that it is up. What comes before it is the gateway's prefix.
const HealthPath = "/api/health"

// OptionsPath is where it tells its cluster options.
const OptionsPath = "/api/v1/options"

// APIPorts are those of a gateway's services and pods at which its API is, by its chart.
var APIPorts = []string{"80", "8000", "web", "api", "http"}
