package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/portforward"
)

const (
	// checkTimeout is how long the platform may take to answer after a rollout: traefik has to
	// learn of a new gateway pod.
	checkTimeout = 60 * time.Second
	// checkFirst is the first pause between two questions, which doubles up to checkInterval:
	// mostly, traefik learns of the pod in a moment.
	checkFirst     = 10 * time.Millisecond
	checkInterval  = 100 * time.Millisecond
	requestTimeout = 5 * time.Second
	// firstTimeout is how long the first answer may take, which doubles up to requestTimeout:
	// traefik may wait three seconds for a pod that has just ended, and not when it is asked again.
	firstTimeout = time.Second
	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 1 << 20
)

// forwards are the local addresses of devloop.yaml: opened first, changed by runs, closed last.
type forwards struct {
	sink event.Sink
	list []*openForward // in the order of devloop.yaml

	// Set by serve.
	ctx     context.Context //nolint:containedctx // of all connections, also of forwards that are opened later
	cluster *kube.Cluster
	serving sync.WaitGroup
}

// openForward is an open address and its configuration.
type openForward struct {
	config.Forward
	bound *portforward.Forward
	stop  context.CancelFunc // nil until it is served
}

// bind opens the addresses. The error has the place in devloop.yaml of each that cannot be opened.
func bind(ctx context.Context, c *config.Config, sink event.Sink) (*forwards, error) {
	f := &forwards{sink: sink}
	var errs []error
	for i := range c.Forwards {
		forward, err := ListenForward(ctx, c, i, sink)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.list = append(f.list, &openForward{Forward: c.Forwards[i], bound: forward})
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, f.close())...)
	}
	return f, nil
}

// reconcile opens and closes what differs between the open addresses and those of c, and touches no
// other. If an address cannot be opened, nothing changes, with one exception: a local port that is
// to lead somewhere else is closed first, and another process may take it in between.
func (f *forwards) reconcile(c *config.Config) error {
	old := slices.Clone(f.list)
	next := make([]*openForward, len(c.Forwards))
	for i, wanted := range c.Forwards {
		if at := slices.IndexFunc(old, func(o *openForward) bool { return sameAddress(o.Forward, wanted) }); at >= 0 {
			next[i] = old[at]
			old = slices.Delete(old, at, at+1)
		}
	}
	// A port that leads somewhere else now is moved once all others are open.
	var opened, moved []*openForward
	for i, wanted := range c.Forwards {
		if next[i] != nil {
			continue
		}
		next[i] = &openForward{Forward: wanted}
		if slices.ContainsFunc(old, func(o *openForward) bool { return o.bound.Addr().Port == wanted.Local }) {
			moved = append(moved, next[i])
			continue
		}
		opened = append(opened, next[i])
	}
	for _, o := range opened {
		var err error
		if o.bound, err = ListenForward(f.ctx, c, slices.Index(next, o), f.sink); err != nil {
			for _, other := range opened {
				if other.bound != nil {
					err = errors.Join(err, other.bound.Close())
				}
			}
			return err
		}
	}
	for _, o := range old {
		o.stop()
		_ = o.bound.Close() // frees the port; open connections end by themselves
		f.sink.Stage("forward").Note(event.ForwardCloses, o.bound.Address())
	}
	var errs []error
	for _, o := range moved {
		var err error
		if o.bound, err = ListenForward(f.ctx, c, slices.Index(next, o), f.sink); err != nil {
			errs = append(errs, err)
		}
	}
	for i, wanted := range c.Forwards {
		next[i].Ready, next[i].Hold = wanted.Ready, wanted.Hold
		if next[i].bound != nil {
			next[i].bound.SetChecked(wanted.Ready != "")
			next[i].bound.SetHold(wanted.Hold)
		}
	}
	f.list = slices.DeleteFunc(next, func(o *openForward) bool { return o.bound == nil })
	for _, o := range f.list {
		if o.stop == nil {
			f.start(f.ctx, o)
		}
	}
	return errors.Join(errs...)
}

// sameAddress tells whether a and b differ in nothing but what an open forward can change.
func sameAddress(a, b config.Forward) bool {
	a.Ready, a.Hold = b.Ready, b.Hold
	return a == b
}

// PortTakenError is about a forward whose local port another process has. It says where in the
// configuration the forward is.
type PortTakenError struct {
	By     *control.Running // the devloop that has it, nil if it is no devloop
	placed *tree.Error
}

func (e *PortTakenError) Error() string { return e.placed.Error() }
func (e *PortTakenError) Unwrap() error { return e.placed }

// ListenForward opens the address of a forward of c. The error has its place in devloop.yaml.
func ListenForward(ctx context.Context, c *config.Config, i int, sink event.Sink) (*portforward.Forward, error) {
	f := c.Forwards[i]
	kind, name := f.Target()
	forward, err := portforward.Listen(ctx, portforward.Spec{
		Target: portforward.Target{Namespace: f.Namespace, Kind: kind, Name: name, Port: f.Port},
		Bind:   f.Bind, Local: f.Local, Hold: f.Hold,
		Gateway: func(labels map[string]string) bool { return leadsToGateway(f, labels) },
	}, sink)
	if err != nil {
		var taken *portforward.TakenError
		if errors.As(err, &taken) {
			return nil, portTaken(ctx, c, i, taken)
		}
		key := "local"
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			key = "bind"
		}
		return nil, c.Wrong(fmt.Sprintf("forwards[%d].%s", i, key), err.Error(), event.Hint(err))
	}
	forward.SetChecked(f.Ready != "")
	return forward, nil
}

// portTaken asks the devloops that run whether the port is theirs.
func portTaken(ctx context.Context, c *config.Config, i int, taken *portforward.TakenError) *PortTakenError {
	at, port := fmt.Sprintf("forwards[%d].local", i), taken.Address.Port()
	all := control.FindRunning(ctx)
	by := slices.IndexFunc(all, func(r control.Running) bool { return r.PID != 0 && r.PID == taken.PID })
	if by < 0 {
		return &PortTakenError{nil, c.Wrong(at, taken.Error(), taken.Hint())}
	}
	project := "this project"
	if !all[by].Serves(c.Path) {
		project = fmt.Sprintf("project %s in %s", cmp.Or(all[by].State.Project, "another one"),
			filepath.Dir(all[by].State.File))
	}
	message := fmt.Sprintf("local port %d is taken by the devloop of %s (%s)", port, project, all[by])
	return &PortTakenError{&all[by], c.Wrong(at, message,
		"end that one by Ctrl+C in its terminal, or give this forward another local port")}
}

// close closes addresses that are not served.
func (f *forwards) close() error {
	var errs []error
	for _, o := range f.list {
		errs = append(errs, o.bound.Close())
	}
	return errors.Join(errs...)
}

// serve forwards connections to the cluster until ctx ends. wait returns when the last one has
// ended.
func (f *forwards) serve(ctx context.Context, cluster *kube.Cluster) (wait func()) {
	f.ctx, f.cluster = ctx, cluster
	for _, o := range f.list {
		f.start(ctx, o)
	}
	return f.serving.Wait
}

func (f *forwards) start(ctx context.Context, o *openForward) {
	stage := f.sink.Stage("forward")
	ctx, o.stop = context.WithCancel(ctx)
	stage.Note(event.ForwardListens, o.bound.Address())
	f.serving.Go(func() {
		err := stage.Guard("forward", func() error { return o.bound.Serve(ctx, f.cluster.CurrentConfig, f.cluster.Client) })
		if err != nil {
			stage.Warn("forward ended", err, o.bound.Address())
		}
	})
}

// Check asks every forward that has a ready path until it answers 200.
func (f *forwards) Check(ctx context.Context, sink event.Sink) error {
	for _, forward := range f.list {
		if forward.Ready == "" {
			continue
		}
		url := "http://" + localHost(forward.bound.Addr()) + forward.Ready
		err := sink.Stage("forward").Step(ctx, event.PlatformAnswers, func(ctx context.Context) ([]any, error) {
			return nil, untilAnswers(ctx, url)
		}, event.Answer{URL: url})
		if err != nil {
			return err
		}
	}
	return nil
}

// localHost returns where a client on this machine reaches a listener.
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
	client := &http.Client{
		Timeout: firstTimeout, Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: noRedirect,
	}
	var why error
	for pause := checkFirst; ; pause = min(2*pause, checkInterval) {
		asked := time.Now()
		err := checkReady(ctx, client, url)
		if err == nil {
			return nil
		}
		if time.Since(asked) >= client.Timeout {
			client.Timeout = min(2*client.Timeout, requestTimeout)
		}
		if why == nil || ctx.Err() == nil { // else the timeout cut the request off
			why = err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			hint := cmp.Or(event.Hint(why), "look at the logs of the pods behind it: kubectl logs")
			err := fmt.Errorf("%s does not answer with 200 after %s: %w", url, checkTimeout, why)
			return event.Transient(event.WithHint(err, hint))
		}
	}
}

// noRedirect keeps what runs in the cluster from sending devloop to addresses that only this user's
// programs can reach.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// checkReady returns nil if the server at url answers 200.
func checkReady(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return err
	}
	to := resp.Header.Get("Location")
	switch {
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode/100 == 3 && to != "":
		return event.WithHint(fmt.Errorf("it answers %d, which leads to %.200s", resp.StatusCode, to),
			"devloop follows no redirect: let ready name a path that answers by itself")
	}
	return fmt.Errorf("it answers %d", resp.StatusCode)
}
