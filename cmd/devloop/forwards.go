// The last stage of a run: the platform counts as up when it answers where its users ask.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
)

const (
	// checkTimeout is for traefik to learn of a new gateway pod, and then some.
	checkTimeout  = 60 * time.Second
	checkInterval = 100 * time.Millisecond
	// answerTimeout is for one request.
	answerTimeout = 5 * time.Second
)

type forwards struct{ list []config.Forward }

// Check asks every forward that has a ready path until it answers 200.
func (f forwards) Check(ctx context.Context, sink event.Sink) error {
	for _, forward := range f.list {
		if forward.Ready == "" || forward.Local == 0 {
			continue
		}
		url := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(forward.Local)) + forward.Ready
		err := sink.For("forward").Step(ctx, "platform answers", func(ctx context.Context) ([]any, error) {
			return nil, untilAnswers(ctx, url)
		}, "url", url)
		if err != nil {
			return err
		}
	}
	return nil
}

func untilAnswers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	client := &http.Client{Timeout: answerTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		status, err := answer(ctx, client, url)
		if err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-time.After(checkInterval):
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it answers %d", status)
			}
			return event.WithHint(fmt.Errorf("%s does not answer with 200 after %s: %w", url, checkTimeout, err),
				"look at the logs of the pods behind it: kubectl logs")
		}
	}
}

func answer(ctx context.Context, client *http.Client, url string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
