// Package session is one devloop for one project on one cluster: it opens the stages, gives each
// its part of the configuration, and closes them.
package session

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/pods"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/status/web"
	"github.com/devloop/devloop/pkg/watch"
)

// Options are what a session is made from.
type Options struct {
	Source  config.Source
	Config  *config.Config // as Source was read first
	Sink    event.Sink
	Secrets *event.Secrets // that are known; those of releases are added
	Adopt   bool           // releases that somebody else made are taken over
	Consent Consent
	Opened  func(*Session) // called as soon as there may be something to clean up
}

// Session is one devloop for one project on one cluster.
type Session struct {
	options  Options
	config   atomic.Pointer[config.Config] // the last valid one
	reported event.Changes
	*environment
	availability *availability
	journal      *journal.Journal
	deployer     *deploy.Deployer
	builders     *builders
	images       *images
	containers   *containers
	prover       *prover // nil without Open
	libraries    *libraries
	syncer       *syncer
	scoping      sync.Mutex                              // guards sending to pods, and clusterPods
	pods         chan pods.Scope                         // whose pods are followed: the newest counts
	clusterPods  []pods.Selector                         // of Dask clusters
	clusters     *dask.Follower                          // nil without Run
	forwards     *forwards                               // nil without Open
	objects      map[string][]*unstructured.Unstructured // of the releases of a part, by ID, as last rendered
	watcher      *watch.Watcher                          // nil without Run
}

// OpenWithoutForwards finds the cluster, makes sure that devloop may write to it, and locks the
// project's journal. It changes nothing in the cluster. The caller closes the session.
func OpenWithoutForwards(ctx context.Context, o Options) (*Session, error) {
	return openWith(ctx, o, newAvailability(o.Sink))
}

func openWith(ctx context.Context, o Options, a *availability) (*Session, error) {
	o.Sink = a.filter(o.Sink)
	s := &Session{options: o, environment: &environment{}, availability: a, pods: make(chan pods.Scope, 1),
		objects: map[string][]*unstructured.Unstructured{}}
	s.config.Store(o.Config)
	if err := s.open(ctx); err != nil {
		return nil, console.EnvironmentError{Err: errors.Join(err, s.Close())}
	}
	if o.Opened != nil {
		o.Opened(s)
	}
	return s, nil
}

func (s *Session) open(ctx context.Context) error {
	o, c := s.options, s.options.Config
	if err := s.connect(ctx, o); err != nil {
		return err
	}
	if err := s.verifyNodes(ctx, o.Sink); err != nil {
		return err
	}
	s.startWatchingCluster(ctx)
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	stateDir, err := journal.DefaultDir()
	if err != nil {
		return err
	}
	if s.journal, err = journal.Open(stateDir, s.cluster.UID, c.Name); err != nil {
		return err
	}
	s.add(s.journal.Close)
	here, isProfile := s.nodes.ProfileID()
	if isProfile {
		if err := recordPlace(s.journal, here); err != nil {
			return err
		}
	}
	tidyJournals(o.Sink.Stage("devloop"), stateDir, s.cluster.UID, here)
	layers := filepath.Join(cache, "registry", url.PathEscape(s.target.Context)+"_"+c.Name)
	registry, err := node.OpenRegistry(ctx, layers)
	if err != nil {
		return err
	}
	s.add(registry.Close)
	checks := filepath.Join(cache, "checks", url.PathEscape(s.target.Context)+"_"+c.Name+".json")
	passed := readPassedChecks(checks, s.cluster.UID+" "+s.cluster.Version, o.Sink.Stage("verify"))
	s.builders = newBuilders(s.environment, registry, s.journal, o.Sink, cache, passed)
	s.images = newImages(s.environment, s.builders, c)
	s.deployer = deploy.New(s.cluster, c.Name, s.journal, deploy.Options{
		CacheDir: filepath.Join(cache, "charts"), Folder: c.Dir, Adopt: o.Adopt,
		Runtime: control.SocketDir, Secret: o.Secrets.Hide,
		OperatorLabels: func(ctx context.Context, namespace string) (map[kube.Label]string, error) {
			return dask.OperatorLabels(ctx, s.cluster, namespace)
		}})
	synced := filepath.Join(cache, "synced", url.PathEscape(s.target.Context)+"_"+c.Name+".json")
	s.containers = newContainers(o.Sink, s.cluster,
		func(c *config.Config) []string { return s.deployer.Namespaces(releases(c)) },
		clusterReach{s.cluster, s.nodes}, imageSupply{s.images}, readKnownInputs(synced))
	s.syncer = newSyncer(o.Sink)
	s.libraries = newLibraries(o.Sink, s.syncer, s.deployer, s.cluster)
	s.followPods(c)
	return nil
}

// Open binds the forwards, opens the session and serves the forwards. leave closes all of it, the
// forwards last. Which forwards belong to a part of the releases is known only once it is open.
func Open(ctx context.Context, o Options) (s *Session, leave func() error, err error) {
	if err := o.Config.CheckDeploys(); err != nil {
		return nil, nil, err
	}
	availability := newAvailability(o.Sink)
	bound := &forwards{}
	if !o.Config.NeedsNarrowing() {
		if bound, err = bind(ctx, o.Config, availability.filter(o.Sink)); err != nil {
			return nil, nil, err
		}
	}
	if s, err = openWith(ctx, o, availability); err != nil {
		return nil, nil, errors.Join(err, bound.close())
	}
	if o.Config.NeedsNarrowing() {
		var part *config.Config
		if part, err = s.narrow(ctx, o.Config); err == nil {
			s.config.Store(part)
			ReportConfig(s.options.Sink, o.Config, part)
			bound, err = bind(ctx, part, s.options.Sink)
		}
		if err != nil {
			return nil, nil, errors.Join(err, s.Close())
		}
	}
	if err := s.deployer.RemoveCheckPods(ctx); err != nil {
		o.Sink.Stage("verify").Warn("pods that an earlier devloop has left could not be removed", err)
	}
	cache, err := CacheDir()
	if err == nil {
		err = s.builders.choose(ctx, o.Config, s.environment, cache)
	}
	if err != nil {
		return nil, nil, console.EnvironmentError{Err: errors.Join(err, s.Close(), bound.close())}
	}
	inspector := inspector{s.cluster, s.builders.main, s.builders.registry, s.nodes, s.images.remote,
		s.containers.syncedFiles}
	s.prover = newProver(inspector, o.Secrets)
	s.forwards = bound
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	wait := bound.serve(ctx, s.cluster)
	return s, func() error {
		err := s.Close()
		stop()
		wait()
		return err
	}, nil
}

// Close closes what the session opened, in reverse order.
func (s *Session) Close() error { return s.close() }

// KubeContext is the name of the cluster's kube context.
func (s *Session) KubeContext() string { return s.cluster.Context }

// ClusterTool is what made the cluster on this machine, "" if that is not proven.
func (s *Session) ClusterTool() string { return s.nodes.Origin().Tool }

// AskImages returns the libraries of images that the cluster must have already.
func (s *Session) AskImages(ctx context.Context, now *loop.Target) ([]proof.Libraries, error) {
	return s.libraries.ofPresent(ctx, &target{now, s.config.Load()}, s.images.store.Missing)
}

// answerWithin limits an answer to another command. It is shorter than the control server's limit.
const answerWithin = 50 * time.Second

// Answers answer what other commands ask, in time and without secrets in their errors.
func (s *Session) Answers() map[string]web.Question {
	limited := func(answer web.Question) web.Question {
		return func(ctx context.Context) (any, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errors.New("the cluster did not answer in time"))
			defer cancel()
			found, err := answer(ctx)
			return found, s.options.Secrets.Error(err)
		}
	}
	return map[string]web.Question{"chain": limited(s.prover.answer), "libraries": limited(s.libraries.answer),
		"images": limited(s.hashImages)}
}
