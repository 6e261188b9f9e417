package session

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/devloop/devloop/pkg/event"
)

// optionsLength is how long the answer of a gateway may be, in bytes.
const optionsLength = 1 << 20

// gatewayImage asks a gateway for its cluster options (GET /api/v1/options) and returns the default of the one named image; "" and why where that
// says nothing.
func gatewayImage(ctx context.Context, url string) (image, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
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
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: noRedirect}
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
