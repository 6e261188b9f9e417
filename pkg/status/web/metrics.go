package web

import (
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// Metrics are the numbers of one devloop, as /metrics shows them. Their names and labels never
// change.
type Metrics struct {
	board  *status.Board
	runs   *prometheus.CounterVec
	run    prometheus.Histogram
	stages *prometheus.HistogramVec
	bytes  prometheus.Counter
}

// buckets, in seconds, reach from a run without changes to one in which pip installs a lot.
var buckets = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640}

// forwardStates are those of pkg/portforward.
var forwardStates = []string{"ready", "waiting", "unreachable"}

var (
	forwardState = prometheus.NewDesc("devloop_forward_state",
		"1 for the state that a forward is in, 0 for the others.", []string{"target", "local", "state"}, nil)
	connections = prometheus.NewDesc("devloop_forward_connections",
		"Connections of a forward that a pod has (open) or that wait for one (held).",
		[]string{"target", "local", "kind"}, nil)
	healthy = prometheus.NewDesc("devloop_healthy", "1 while all is well, as devloop status --wait healthy has it.",
		nil, nil)
	clusterUp = prometheus.NewDesc("devloop_cluster_up",
		"1 while the cluster answers, 0 while it is stopped, deleted or does not answer.", nil, nil)
	chainWhole = prometheus.NewDesc("devloop_chain_whole",
		"1 if what runs was what is on the disk when that was checked last, else 0.", nil, nil)
	oldClusters = prometheus.NewDesc("devloop_old_clusters", "Dask clusters that still run an older image.", nil, nil)
	differences = prometheus.NewDesc("devloop_library_differences",
		"Libraries that are not the same in the images and this machine's environment.", nil, nil)
)

// NewMetrics returns the numbers of a board. They do not count runs of earlier processes.
func NewMetrics(board *status.Board) *Metrics {
	m := &Metrics{
		board: board,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "devloop_runs_total",
			Help: "Runs that ended, by outcome: succeeded, failed, superseded, interrupted."}, []string{"outcome"}),
		run: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "devloop_run_seconds", Buckets: buckets,
			Help: "Time from the first change to the platform's answer, of runs that succeeded."}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "devloop_stage_seconds", Buckets: buckets,
			Help: "Time in which something of a stage was under way, of runs that succeeded. Stages overlap."},
			[]string{"stage"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "devloop_loaded_bytes_total",
			Help: "Bytes of images that went to the nodes."}),
	}
	for _, outcome := range []status.Outcome{status.Succeeded, status.RunFailed, status.Superseded, status.Interrupted} {
		m.runs.WithLabelValues(string(outcome)) // so that a rate starts at 0
	}
	return m
}

// maxScrapes is how many requests are answered at the same time; others are refused.
const maxScrapes = 4

// Handler answers with the numbers. Without names, the label target is empty: local addresses tell
// forwards apart, and everyone on this machine can see those.
func (m *Metrics) Handler(names bool) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.runs, m.run, m.stages, m.bytes, gauges{m.board, names},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

// Count returns a Sink that counts the runs that end and hands events to next. The board has to
// get them first.
func (m *Metrics) Count(next event.Sink) event.Sink {
	return func(e event.Event) {
		if _, ended := e.Payload.(event.RunEnd); ended {
			m.count(m.board.State().Run)
		}
		next(e)
	}
}

func (m *Metrics) count(run *status.Run) {
	m.runs.WithLabelValues(string(run.Outcome)).Inc()
	m.bytes.Add(float64(run.Bytes))
	if run.Outcome != status.Succeeded {
		return
	}
	m.run.Observe(run.Seconds)
	for _, stage := range run.Stages {
		m.stages.WithLabelValues(stage.Name).Observe(stage.Seconds)
	}
}

// gauges are a prometheus.Collector of the State.
type gauges struct {
	board *status.Board
	names bool // of what is forwarded to
}

// Describe sends the gauges.
func (g gauges) Describe(to chan<- *prometheus.Desc) {
	to <- forwardState
	to <- connections
	to <- healthy
	to <- clusterUp
	to <- chainWhole
	to <- oldClusters
	to <- differences
}

// Collect sends their values.
func (g gauges) Collect(to chan<- prometheus.Metric) {
	state := g.board.State()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	oneIf := map[bool]float64{true: 1}
	// Without targets, a local address may occur once: its newest forward counts.
	seen := map[string]bool{}
	for _, f := range slices.Backward(state.Forwards) {
		target, local := string(f.Target), string(f.Local)
		if !g.names {
			target = ""
		}
		if !g.names && seen[local] {
			continue
		}
		seen[local] = true
		for _, name := range forwardStates {
			gauge(forwardState, oneIf[string(f.State) == name], target, local, name)
		}
		gauge(connections, float64(f.Open), target, local, "open")
		gauge(connections, float64(f.Waiting), target, local, "held")
	}
	gauge(healthy, oneIf[state.Health == status.Healthy])
	gauge(clusterUp, oneIf[state.Away == nil])
	if c := state.Chain; c != nil {
		gauge(chainWhole, oneIf[c.Error == "" && !slices.ContainsFunc(c.Links, event.Link.Broken)])
	}
	gauge(oldClusters, float64(len(state.Old)))
	if l := state.Libraries; l != nil {
		gauge(differences, float64(len(l.Differences)))
	}
}
