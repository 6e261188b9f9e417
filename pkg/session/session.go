// Everything that lives as long as the process: opened in order, each part before what needs it, closed in reverse.
package session

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/pods"
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
}

// Session is one devloop for one project on one cluster.
type Session struct {
	options  Options
	config   atomic.Pointer[config.Config] // the last valid reading of devloop.yaml
	reported event.Changes
	sink     event.Sink
	docker   *client.Client
	cluster  *kube.Cluster
	nodes    *node.Cluster
	images   holder               // of images: the nodes, or a registry that they pull from
	push     *node.RemoteRegistry // the latter; nil for the nodes
	journal  *journal.Journal
	registry *node.Registry
	builder  *build.Builder // that hashes, and builds what inNode does not: of this machine's Docker, or of BUILDKIT_HOST
	origin   node.Source    // of the images that it builds
	inNode   *build.Builder // of the node's Docker or BuildKit; nil where nothing can be built there
	deployer *deploy.Deployer

	host       *build.Builder            // of this machine's Docker, whether that builds or not
	building   chan struct{}             // holds something for each build in the node
	nodeFailed atomic.Pointer[time.Time] // when inNode could not build and builder could

	pods    chan pods.Scope // which are followed: the newest one counts
	secrets *event.Secrets

	prover    *prover
	libraries *libraries
	syncer    *syncer

	forwards *forwards      // open before the session and after it
	watcher  *watch.Watcher // nil for one turn
	closers  []func() error
}

// OpenWithoutForwards finds the cluster, makes sure that it may be written to, and locks the project's
// journal. Nothing is changed in the cluster. The caller closes the session.
func OpenWithoutForwards(ctx context.Context, o Options) (*Session, error) {
	opened := &Session{options: o, sink: o.Sink, secrets: o.Secrets, pods: make(chan pods.Scope, 1)}
	opened.config.Store(o.Config)
	opened.prover, opened.libraries, opened.syncer = newProver(opened), newLibraries(opened), newSyncer(o.Sink)
	if err := opened.open(ctx); err != nil {
		return nil, console.EnvironmentError{Err: errors.Join(err, opened.Close())}
	}
	return opened, nil
}

// open fills s; what it opened before an error is in s.closers.
func (s *Session) open(ctx context.Context) (err error) {
	c := s.config.Load()
	target, err := s.connect(ctx, c)
	if err != nil {
		return err
	}
	if err := s.verifyNodes(ctx); err != nil {
		return err
	}
	s.images = s.nodes
	if c.Push != "" {
		s.push = node.NewRemoteRegistry(c.PushPlain())
		s.images = s.push
	}
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
	s.closers = append(s.closers, s.journal.Close)
	layers := filepath.Join(cache, "registry", url.PathEscape(target.Context)+"_"+c.Name)
	if s.registry, err = node.OpenRegistry(ctx, layers); err != nil {
		return err
	}
	s.closers = append(s.closers, s.registry.Close)
	s.host, s.building = build.New(s.docker, cache), make(chan struct{}, buildsInNode)
	s.deployer = deploy.New(s.cluster, c.Name, s.journal, deploy.Options{
		CacheDir: filepath.Join(cache, "charts"), Folder: c.Dir, Adopt: s.options.Adopt,
		Runtime: control.SocketDir, Secret: s.secrets.Hide,
		OperatorLabels: func(ctx context.Context, namespace string) (map[kube.Label]string, error) {
			return dask.OperatorLabels(ctx, s.cluster, namespace)
		}})
	s.followPods(c)
	return nil
}

// KubeContext is the name of the cluster's kube context.
func (s *Session) KubeContext() string { return s.cluster.Context }

// Answers are to what other commands ask, without secrets in their errors.
func (s *Session) Answers() map[string]web.Question {
	hidden := func(answer web.Question) web.Question {
		return func(ctx context.Context) (any, error) {
			found, err := answer(ctx)
			return found, s.secrets.Error(err)
		}
	}
	return map[string]web.Question{"chain": hidden(s.chain), "libraries": hidden(s.imageLibraries)}
}

func (s *Session) Close() error {
	var errs []error
	for _, closer := range slices.Backward(s.closers) {
		errs = append(errs, closer())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Open binds the forwards, opens the session and begins to serve. Leave ends all of it; the addresses are closed last.
func Open(ctx context.Context, o Options) (s *Session, leave func() error, err error) {
	bound, err := bind(ctx, o.Config, o.Sink)
	if err != nil {
		return nil, nil, err
	}
	if s, err = OpenWithoutForwards(ctx, o); err != nil {
		return nil, nil, errors.Join(err, bound.close())
	}
	if err := s.deployer.RemoveTrials(ctx); err != nil {
		o.Sink.For("verify").Warn("pods that an earlier devloop has left could not be removed", err)
	}
	if err := s.openBuilders(ctx); err != nil {
		return nil, nil, console.EnvironmentError{Err: errors.Join(err, s.Close(), bound.close())}
	}
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
