package deploy

// Templates are rendered in a child process: an endless loop in one cannot be stopped in any other
// way, and endless recursion ends the process. The child has a deadline and a memory limit, and
// asks the cluster through devloop.

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/subprocess"
)

// RenderArgument is the only argument of a process that has to call ServeRender at once.
const RenderArgument = "render-templates"

const (
	// renderTimeout is for the templates of one chart; large ones take a second.
	renderTimeout = 30 * time.Second
	// renderMemory limits the memory of the process, in bytes.
	renderMemory = 1 << 30
	// renderStack is how much of it may be stack, in bytes: enough for thousands of nested templates.
	renderStack = 256 << 20
	// maxRendered limits the output, in bytes; an object in a cluster has 1.5 MB at most.
	maxRendered = 64 << 20
	// lookupFile is the file descriptor for requests to the API server.
	lookupFile = 3
)

const hintEndless = "look for a template that calls itself (tpl, include) and for a long range (until, untilStep)"

// renderRequest is the input of the process.
type renderRequest struct {
	Chart        chartParts
	Values       any // of toGob
	Options      chartutil.ReleaseOptions
	Capabilities chartutil.Capabilities
	Lookup       bool // lookups are possible
	Lenient      bool // without the schema, and with "" for what the chart requires
}

// renderResult is its output.
type renderResult struct {
	Files   map[string]string // by the names of the templates
	Error   string            // "" if all went well
	Invalid bool              // the error is of values that a schema forbids
}

// chartParts is what templates can see of a chart.
type chartParts struct {
	Metadata         []byte // JSON
	Templates, Files []*chart.File
	Values           any // of toGob
	Schema           []byte
	Dependencies     []chartParts
}

// gob has no nil in interfaces, and does not tell an empty list from none.
type (
	gobNull struct{}
	gobList struct{ Items []any }
)

func init() { //nolint:gochecknoinits // as gob has it
	for _, value := range []any{gobNull{}, gobList{}, map[string]any{}, json.Number("")} {
		gob.Register(value)
	}
}

// toGob prepares values for gob, fromGob restores them. JSON would make floats of integers.
func toGob(value any) any {
	switch value := value.(type) {
	case nil:
		return gobNull{}
	case chartutil.Values:
		return toGob(map[string]any(value))
	case map[string]any:
		all := make(map[string]any, len(value))
		for key, inner := range value {
			all[key] = toGob(inner)
		}
		return all
	case []any:
		all := gobList{make([]any, len(value))}
		for i, inner := range value {
			all.Items[i] = toGob(inner)
		}
		return all
	}
	return value
}

func fromGob(value any) any {
	switch value := value.(type) {
	case gobNull:
		return nil
	case map[string]any:
		for key, inner := range value {
			value[key] = fromGob(inner)
		}
		return value
	case gobList:
		all := make([]any, len(value.Items))
		for i, inner := range value.Items {
			all[i] = fromGob(inner)
		}
		return all
	}
	return value
}

func partsOf(c *chart.Chart) (chartParts, error) {
	metadata, err := json.Marshal(c.Metadata)
	if err != nil {
		return chartParts{}, err
	}
	parts := chartParts{Metadata: metadata, Templates: c.Templates, Files: c.Files, Values: toGob(c.Values),
		Schema: c.Schema}
	for _, dependency := range c.Dependencies() {
		below, err := partsOf(dependency)
		if err != nil {
			return chartParts{}, err
		}
		parts.Dependencies = append(parts.Dependencies, below)
	}
	return parts, nil
}

func (p chartParts) chart() (*chart.Chart, error) {
	c := &chart.Chart{Metadata: &chart.Metadata{}, Templates: p.Templates, Files: p.Files, Schema: p.Schema}
	c.Values, _ = fromGob(p.Values).(map[string]any) // nil if there are none
	if err := json.Unmarshal(p.Metadata, c.Metadata); err != nil {
		return nil, err
	}
	for _, dependency := range p.Dependencies {
		below, err := dependency.chart()
		if err != nil {
			return nil, err
		}
		c.AddDependency(below)
	}
	return c, nil
}

// schemaError is of values that a chart's schema forbids.
type schemaError struct{ error }

// renderTemplates validates the values by the chart's schema and renders its templates; lookup asks
// the cluster, if that is not nil.
func renderTemplates(ctx context.Context, loaded *chart.Chart, values map[string]any, options chartutil.ReleaseOptions,
	capabilities *chartutil.Capabilities, cluster *rest.Config,
) (map[string]string, error) {
	parts, err := partsOf(loaded)
	if err != nil {
		return nil, err
	}
	request := renderRequest{Chart: parts, Values: toGob(values), Options: options, Capabilities: *capabilities,
		Lookup: cluster != nil}
	return request.files(ctx, cluster)
}

// renderLeniently renders templates whose values do not suffice, as far as that goes.
func renderLeniently(ctx context.Context, loaded *chart.Chart, values map[string]any, options chartutil.ReleaseOptions,
	capabilities *chartutil.Capabilities,
) (map[string]string, error) {
	parts, err := partsOf(loaded)
	if err != nil {
		return nil, err
	}
	request := renderRequest{Chart: parts, Values: toGob(values), Options: options, Capabilities: *capabilities,
		Lenient: true}
	return request.files(ctx, nil)
}

// files are what the templates are rendered to.
func (r renderRequest) files(ctx context.Context, cluster *rest.Config) (map[string]string, error) {
	result, err := r.inProcess(ctx, renderTimeout, cluster)
	switch {
	case err != nil:
		return nil, err
	case result.Invalid:
		return nil, schemaError{errors.New(result.Error)}
	case result.Error != "":
		return nil, errors.New(result.Error)
	}
	return result.Files, nil
}

// inProcess runs the process that renders, and kills it after timeout or when ctx ends: the error
// is ctx's cause then.
func (r renderRequest) inProcess(ctx context.Context, timeout time.Duration,
	cluster *rest.Config) (result renderResult, err error) {
	var request bytes.Buffer
	if err := gob.NewEncoder(&request).Encode(r); err != nil {
		return result, fmt.Errorf("its values: %w", err)
	}
	late := fmt.Errorf("its templates are not rendered after %s", timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	cmd, err := subprocess.Command(ctx, RenderArgument)
	if err != nil {
		return result, err
	}
	cmd.Stdin = &request
	asked := new(lookups)
	if r.Lookup {
		theirs, stop, err := serveLookups(ctx, cluster, asked)
		if err != nil {
			return result, err
		}
		defer stop()
		defer func() { _ = theirs.Close() }()
		cmd.ExtraFiles = []*os.File{theirs}
	}
	output, err := subprocess.Run(cmd, 2*maxRendered)
	switch cause := context.Cause(ctx); {
	case cause != nil && !errors.Is(cause, late):
		return result, cause
	case cause != nil && asked.pending.Load():
		return result, event.Transient(fmt.Errorf("%w: the API server has not answered a lookup", late))
	case cause != nil:
		return result, event.WithHint(late, hintEndless)
	}
	if err != nil {
		return result, renderFailure(err)
	}
	if err := gob.NewDecoder(output).Decode(&result); err != nil {
		return result, fmt.Errorf("read its rendered templates: %w", err)
	}
	if failed := asked.failed.Load(); failed != nil && result.Error != "" { // which only quotes it
		return result, event.Transient(fmt.Errorf("its templates look something up in the cluster: %w", *failed))
	}
	return result, nil
}

// renderFailure returns why the process failed before it answered.
func renderFailure(err error) error {
	switch {
	case errors.Is(err, subprocess.ErrStack):
		return event.WithHint(errors.New("its templates call each other, or themselves, without end"), hintEndless)
	case errors.Is(err, subprocess.ErrMemory):
		return event.WithHint(fmt.Errorf("its templates need more than %d MiB of memory", renderMemory>>20),
			hintEndless)
	}
	return fmt.Errorf("render its templates: %w", err)
}

// lookups is how templates are answered.
type lookups struct {
	pending atomic.Bool           // the API server is asked; it stays so if the context ends meanwhile
	failed  atomic.Pointer[error] // why the last one was not answered, nil if it was
}

// serveLookups lets templates read from the API server, through devloop's client for it.
func serveLookups(
	ctx context.Context, cluster *rest.Config, asked *lookups,
) (theirs *os.File, stop func(), err error) {
	transport, err := rest.TransportFor(cluster)
	if err != nil {
		return nil, nil, err
	}
	apiServer, _, err := rest.DefaultServerUrlFor(cluster)
	if err != nil {
		return nil, nil, err
	}
	syscall.ForkLock.RLock() // no other child may inherit them
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(pair[0])
		unix.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for lookups: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "lookups"), os.NewFile(uintptr(pair[1]), "lookups")
	conn, err := net.FileConn(ours)
	_ = ours.Close() // conn has its own
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	silent := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(apiServer) }, Transport: transport, ErrorLog: silent,
		ModifyResponse: func(answer *http.Response) error {
			asked.failed.Store(nil)
			if err := answerError(answer); event.IsTransient(err) {
				asked.failed.Store(&err)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			asked.failed.Store(&err)
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	ctx, cancel := context.WithCancel(ctx)
	server := &http.Server{
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: silent,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				http.Error(w, "templates only read", http.StatusMethodNotAllowed)
				return
			}
			asked.pending.Store(true)
			proxy.ServeHTTP(w, r)
			asked.pending.Store(ctx.Err() != nil)
		}),
	}
	conns := make(oneConn, 1)
	conns <- conn
	close(conns)
	_ = server.Serve(conns) // returns at once; conn is served in the background
	return theirs, func() {
		cancel()
		_ = server.Shutdown(context.WithoutCancel(ctx)) // waits for conn, whose other end is closed
	}, nil
}

// oneConn is a listener for a connection that is open already.
type oneConn chan net.Conn

func (c oneConn) Accept() (net.Conn, error) {
	if conn, ok := <-c; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (oneConn) Close() error   { return nil }
func (oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// ServeRender renders in a child process: it reads a request from in, writes the result to out, and
// returns the exit code. Exceeding a limit ends the process.
func ServeRender(in io.Reader, out io.Writer) int {
	subprocess.Limits{Memory: renderMemory, Stack: renderStack, Time: 2 * renderTimeout}.Set()
	var request renderRequest
	if err := gob.NewDecoder(in).Decode(&request); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	result := renderResult{}
	var err error
	if result.Files, err = request.render(); err != nil {
		result = renderResult{Error: err.Error(), Invalid: errors.As(err, new(schemaError))}
	}
	if err := gob.NewEncoder(out).Encode(result); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (r renderRequest) render() (map[string]string, error) {
	loaded, err := r.Chart.chart()
	if err != nil {
		return nil, err
	}
	values, _ := fromGob(r.Values).(map[string]any) // nil if there are none
	all, err := chartutil.ToRenderValuesWithSchemaValidation(loaded, values, r.Options, &r.Capabilities, true)
	if err != nil {
		return nil, err
	}
	merged, _ := all["Values"].(chartutil.Values) // it always is
	if err := chartutil.ValidateAgainstSchema(loaded, merged); err != nil && !r.Lenient {
		return nil, schemaError{err}
	}
	renderer := engine.Engine{LintMode: r.Lenient}
	if r.Lookup {
		conn, err := net.FileConn(os.NewFile(lookupFile, "lookups"))
		if err != nil {
			return nil, err
		}
		renderer = engine.New(&rest.Config{Host: "http://cluster", Transport: &http.Transport{
			MaxConnsPerHost: 1,
			DialContext:     func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		}})
	}
	files, err := renderer.Render(loaded, all)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, text := range files {
		size += len(text)
	}
	if size > maxRendered {
		return nil, fmt.Errorf("its templates make %d MiB, and %d are the most", size>>20, maxRendered>>20)
	}
	return files, nil
}
