// The local addresses: opened first, closed last. The last stage of a run asks through them, since the platform counts as up when it
// answers where its users ask.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/portforward"
)

const (
	// checkTimeout is for traefik to learn of a new gateway pod, and then some.
	checkTimeout  = 60 * time.Second
	checkInterval = 100 * time.Millisecond
	// answerTimeout is for one request.
	answerTimeout = 5 * time.Second
)

// forwards are the local addresses of devloop.yaml, open for as long as devloop runs.
type forwards struct {
	list  []config.Forward
	bound []*portforward.Forward // one for each
}

// bind opens the addresses. Each that cannot be is an error in devloop.yaml, which says where.
func bind(ctx context.Context, c *config.Config, sink event.Sink) (forwards, error) {
	f := forwards{list: c.Forwards}
	var errs []error
	for i := range c.Forwards {
		forward, err := listen(ctx, c, i, sink)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.bound = append(f.bound, forward)
	}
	if len(errs) > 0 {
		return forwards{}, errors.Join(append(errs, f.close())...)
	}
	return f, nil
}

// listen opens the address of one forward. The error names its place in devloop.yaml.
func listen(ctx context.Context, c *config.Config, i int, sink event.Sink) (*portforward.Forward, error) {
	f := c.Forwards[i]
	kind, name := f.Target()
	forward, err := portforward.Listen(ctx, portforward.Spec{
		Target: portforward.Target{Namespace: f.Namespace, Kind: kind, Name: name, Port: f.Port},
		Bind:   f.Bind, Local: f.Local, Hold: f.Hold,
	}, sink)
	if err != nil {
		key := "local"
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			key = "bind"
		}
		return nil, c.Wrong(fmt.Sprintf("forwards[%d].%s", i, key), err.Error(), event.Hint(err))
	}
	return forward, nil
}

// close closes addresses that will not be served.
func (f forwards) close() error {
	var errs []error
	for _, forward := range f.bound {
		errs = append(errs, forward.Close())
	}
	return errors.Join(errs...)
}

// serve carries connections to the cluster until ctx ends. Wait returns when the last of them has ended.
func (f forwards) serve(ctx context.Context, cluster *deploy.Cluster, sink event.Sink) (wait func()) {
	say := sink.For("forward")
	var serving sync.WaitGroup
	for _, forward := range f.bound {
		about := []any{"target", forward.Target(), "local", forward.Addr()}
		say.Note("listening", about...)
		serving.Go(func() {
			if err := forward.Serve(ctx, cluster.Direct, cluster.Client); err != nil {
				say.Warn("forward ended", err, about...)
			}
		})
	}
	return serving.Wait
}

// Check asks every forward that has a ready path until it answers 200.
func (f forwards) Check(ctx context.Context, sink event.Sink) error {
	for i, forward := range f.list {
		if forward.Ready == "" {
			continue
		}
		url := "http://" + localHost(f.bound[i].Addr()) + forward.Ready
		err := sink.For("forward").Step(ctx, "platform answers", func(ctx context.Context) ([]any, error) {
			return nil, untilAnswers(ctx, url)
		}, "url", url)
		if err != nil {
			return err
		}
	}
	return nil
}

// localHost is where a client on this machine finds an address that is listened on.
func localHost(address *net.TCPAddr) string {
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(address.Port))
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
