package pods

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apistream "k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // client-go has its types in its API
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// connectTimeout is how long the API server may take until a command runs. The command itself
	// has no limit.
	connectTimeout = 20 * time.Second
	// deathTimeout is how long the kubelet may take to report that a container has died.
	deathTimeout = 3 * time.Second
	deathPoll    = 200 * time.Millisecond
)

// Exit codes of shells for a command that could not be started, and for one that was killed.
const (
	exitNotExecutable = 126
	ExitNotFound      = 127 // the container does not have it
	exitKilled        = 137 // by SIGKILL, as all of a container that ends
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer // on a terminal, all goes to Out
	Terminal bool
	Sizes    <-chan remotecommand.TerminalSize // of the terminal; closed when ctx ends
}

// ExitError is how a command ended that did not succeed.
type ExitError struct {
	Code int   // never 0
	Why  error // what ended it, or kept it from starting; nil if it ended by itself
}

func (e *ExitError) Error() string {
	if e.Why != nil {
		return e.Why.Error()
	}
	return fmt.Sprintf("the command ended with exit code %d", e.Code)
}

func (e *ExitError) Unwrap() error { return e.Why }

// Exec runs a command in a container until it ends, or ctx does. Bytes pass unchanged: what the
// command prints is for the user's own terminal or file, as if it ran there. The error is an
// *ExitError if the command did not succeed.
func Exec(ctx context.Context, c *kube.Cluster, in Container, command []string, s Streams) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	options := remotecommand.StreamOptions{Stdin: s.In, Tty: s.Terminal, Stdout: &output{s.Out, end}}
	if s.Terminal {
		options.TerminalSizeQueue = sizes(s.Sizes)
	} else {
		options.Stderr = &output{s.Err, end}
	}
	err := stream(ctx, c, in, command, options)
	var exit utilexec.CodeExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		code := &ExitError{Code: exit.Code}
		if exit.Code == exitKilled {
			code.Why = whyDied(ctx, c, in)
		}
		return code
	}
	if why := notStarted(command[0], in, err); why != nil {
		return why
	}
	if why := whyDied(ctx, c, in); why != nil {
		return &ExitError{1, why}
	}
	return fmt.Errorf("run %s in pod %s: %w", command[0], in.Pod, err)
}

// output ends the session when nobody reads what the command writes.
type output struct {
	io.Writer
	end context.CancelCauseFunc
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.end(fmt.Errorf("write what the command prints: %w", err))
	}
	return n, err
}

// sizes are the sizes of a terminal, as client-go asks for them.
type sizes <-chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	if size, more := <-s; more {
		return &size
	}
	return nil
}

// stream runs a command through a WebSocket, which every proxy lets pass, or through SPDY for API
// servers before 1.30.
func stream(ctx context.Context, c *kube.Cluster, in Container, command []string,
	options remotecommand.StreamOptions) error {
	now, err := c.CurrentConfig(ctx)
	if err != nil {
		return err
	}
	config := rest.CopyConfig(now)
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.Timeout = 0 // it bounds the whole exchange, and a session has no end
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return connecting{next} })
	host, path, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("address of the API server: %w", err)
	}
	endpoint := host.JoinPath(path, "namespaces", in.Namespace, "pods", in.Pod, "exec")
	query, err := scheme.ParameterCodec.EncodeParameters(&corev1.PodExecOptions{Container: in.Name, Command: command,
		Stdin: true, Stdout: true, Stderr: options.Stderr != nil, TTY: options.Tty}, corev1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	endpoint.RawQuery = query.Encode()
	webSocket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, endpoint.String())
	if err != nil {
		return err
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return err
	}
	watched := &statusWatcher{Upgrader: upgrader}
	plainSPDY, err := remotecommand.NewSPDYExecutorForTransports(transport, watched, http.MethodPost, endpoint)
	if err != nil {
		return err
	}
	err = streamUntil(ctx, webSocket, options)
	if !httpstream.IsUpgradeFailure(err) && !httpstream.IsHTTPSProxyError(err) {
		return err
	}
	// The server did not upgrade: it may not know this protocol, or the pod may be gone. If the pod
	// is gone, the other protocol fails as well.
	switch spdyErr := streamUntil(ctx, plainSPDY, options); {
	case httpstream.IsUpgradeFailure(spdyErr):
		return err
	case spdyErr == nil && !watched.seen.Load():
		return errSessionLost
	default:
		return spdyErr
	}
}

var errSessionLost = event.Transient(errors.New("the connection was lost, how the command ended is not known"))

// statusWatcher sees whether the server says how a command ended. Through SPDY, the library takes a
// lost connection for success.
type statusWatcher struct {
	spdy.Upgrader
	seen atomic.Bool
}

func (w *statusWatcher) NewConnection(r *http.Response) (apistream.Connection, error) {
	conn, err := w.Upgrader.NewConnection(r)
	if err != nil {
		return nil, err
	}
	return &watchedConnection{conn, w}, nil
}

type watchedConnection struct {
	apistream.Connection
	watcher *statusWatcher
}

func (c *watchedConnection) CreateStream(headers http.Header) (apistream.Stream, error) {
	s, err := c.Connection.CreateStream(headers)
	if err != nil || headers.Get(corev1.StreamType) != corev1.StreamTypeError {
		return s, err
	}
	return &watchedStream{s, c.watcher}, nil
}

type watchedStream struct {
	apistream.Stream
	watcher *statusWatcher
}

func (s *watchedStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if n > 0 {
		s.watcher.seen.Store(true)
	}
	return n, err
}

// streamUntil returns when ctx ends, even if the library hangs.
func streamUntil(ctx context.Context, e remotecommand.Executor, options remotecommand.StreamOptions) error {
	done := make(chan error, 1)
	go func() { done <- event.Guard(func() error { return e.StreamWithContext(ctx, options) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connecting bounds how long a connection takes to be made.
type connecting struct{ next http.RoundTripper }

// RoundTrip makes the connection. While the library waits for the answer it heeds a deadline, but
// not a cancelled context.
func (c connecting) RoundTrip(r *http.Request) (*http.Response, error) {
	late := event.Transient(fmt.Errorf("the API server has not answered after %s", connectTimeout))
	ctx, cancel := context.WithTimeoutCause(r.Context(), connectTimeout, late)
	defer cancel()
	stop := func() bool { return true }
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		stop = context.AfterFunc(ctx, func() { _ = info.Conn.Close() })
	}})
	answer, err := c.next.RoundTrip(r.WithContext(traced))
	if errors.Is(err, os.ErrDeadlineExceeded) { // the deadline of ctx, a moment before ctx itself ends
		<-ctx.Done()
	}
	if stopped := stop(); !stopped || err != nil && ctx.Err() != nil { // ctx has ended and closed it
		return nil, context.Cause(ctx)
	}
	return answer, err
}

// notStarted explains the error of a command that a container does not have. Runtimes say so in
// text alone.
func notStarted(command string, in Container, err error) error {
	text := err.Error()
	if !strings.Contains(text, "exec") {
		return nil
	}
	for _, missing := range []string{"executable file not found", "no such file or directory"} {
		if strings.Contains(text, missing) {
			err := fmt.Errorf("container %s of pod %s has no command %q", in.Name, in.Pod, command)
			return &ExitError{ExitNotFound, err}
		}
	}
	if strings.Contains(text, "permission denied") {
		err := fmt.Errorf("container %s of pod %s may not execute %q", in.Name, in.Pod, command)
		return &ExitError{exitNotExecutable, err}
	}
	return nil
}

// whyDied returns what happened to the container while a command ran in it, nil if it still runs.
// It looks even if ctx has ended.
func whyDied(ctx context.Context, c *kube.Cluster, in Container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deathTimeout)
	defer cancel()
	for {
		pod, err := c.Client.CoreV1().Pods(in.Namespace).Get(ctx, in.Pod, metav1.GetOptions{})
		var died error
		switch {
		case ctx.Err() != nil:
			return nil
		case apierrors.IsNotFound(err), err == nil && pod.UID != in.uid:
			return fmt.Errorf("pod %s was deleted while the command ran", in.Pod)
		case err != nil && !errors.As(err, new(apierrors.APIStatus)):
			return c.WhyAway(ctx, err)
		case err != nil:
			return err
		case pod.DeletionTimestamp != nil:
			return fmt.Errorf("pod %s is being deleted", in.Pod)
		default:
			died = deathOf(pod, in)
		}
		if died != nil {
			return died
		}
		select {
		case <-time.After(deathPoll):
		case <-ctx.Done():
			return nil
		}
	}
}

// deathOf returns why a container ended, nil while it runs.
func deathOf(pod *corev1.Pod, in Container) error {
	for _, status := range allContainers(pod) {
		if status.Name != in.Name {
			continue
		}
		for _, state := range []corev1.ContainerState{status.State, status.LastTerminationState} {
			if end := state.Terminated; end != nil && kube.ContainerID(end.ContainerID) == in.id {
				return fmt.Errorf("container %s of pod %s ended while the command ran: %s", in.Name, in.Pod, deathReason(end))
			}
		}
		if kube.ContainerID(status.ContainerID) != in.id {
			return fmt.Errorf("container %s of pod %s was replaced while the command ran", in.Name, in.Pod)
		}
	}
	return nil
}
