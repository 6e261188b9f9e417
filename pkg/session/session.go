// Everything that lives as long as the process: opened in order, each part before what needs it, closed in reverse.
package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
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
	invalid  string                        // what was said last of a reading that is not
	wants    [5]string                     // what was asked for while devloop runs, of what is fixed
	sink     event.Sink
	docker   *client.Client
	cluster  *kube.Cluster
	nodes    *node.Cluster
	images   holder     // of images: the nodes, or a registry that they pull from
	push     *node.Push // the latter; nil for the nodes
	journal  *journal.Journal
	registry *node.Registry
	builder  *build.Builder // that hashes, and builds what inNode does not: of this machine's Docker, or of BUILDKIT_HOST
	origin   node.Source    // of the images that it builds
	inNode   *build.Builder // of the node's Docker or BuildKit; nil where nothing can be built there
	deployer *deploy.Deployer

	host       *build.Builder            // of this machine's Docker, whether that builds or not
	building   chan struct{}             // holds something for each build in the node
	nodeFailed atomic.Pointer[time.Time] // when inNode could not build and builder could

	staleMu sync.Mutex
	stale   []string // base images that were told of as out of reach

	pods    chan pods.Scope // which are followed: the newest one counts
	secrets *event.Secrets

	prover    *prover
	libraries *libraries
	syncer    *syncer

	toldMu sync.Mutex
	held   map[name.Tag]bool // images whose place on the nodes was told

	forwards *forwards      // open before the session and after it
	watcher  *watch.Watcher // nil for one turn
	closers  []func() error
}

// OpenWithoutForwards finds the cluster, makes sure that it may be written to, and locks the project's
// journal. Nothing is changed in the cluster. The caller closes the session.
func OpenWithoutForwards(ctx context.Context, o Options) (*Session, error) {
	opened := &Session{options: o, sink: o.Sink, secrets: o.Secrets, pods: make(chan pods.Scope, 1), held: map[name.Tag]bool{}}
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
		s.push = node.NewPush(c.PushPlain())
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

// connect finds the cluster and its nodes, and makes sure that it may be written to. Until then,
// the cluster is asked for nothing but who it is.
func (s *Session) connect(ctx context.Context, c *config.Config) (target kube.Target, err error) {
	if target, err = s.findNodes(ctx, c); err != nil {
		return target, err
	}
	if s.cluster, err = kube.ConnectTo(ctx, target); err != nil {
		if event.Hint(err) != "" {
			hint := "start the cluster, or choose another context: --kube-context"
			err = event.WithHint(err, cmp.Or(s.nodes.Start(), hint))
		}
		return target, err
	}
	grounds, err := s.options.Consent.allow(ctx, s.sink, c.Dir, target, s.cluster, s.nodes.Origin())
	if err != nil {
		return target, err
	}
	s.sink.For("devloop").Note(event.ClusterChosen,
		"context", target.Context, "server", target.Server, "why", grounds.String())
	return target, nil
}

// verifyNodes forgets nodes that have only the context's name in common with the cluster: they
// would get images that its pods never find.
func (s *Session) verifyNodes(ctx context.Context) error {
	err := s.nodes.Verify(ctx, func(ctx context.Context) ([]string, error) {
		return kube.BootIDs(ctx, s.cluster.Client.CoreV1().Nodes())
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		s.sink.For("node").Warn("the cluster's nodes are not known, images reach them by push only", err)
	}
	return nil
}

// FindNodes finds the kube context, where it leads, and the nodes of its cluster.
func (s *Session) findNodes(ctx context.Context, c *config.Config) (target kube.Target, err error) {
	if target, err = kube.ReadContext(c.KubeContext); err != nil {
		return target, err
	}
	if s.docker, err = OpenDocker(); err != nil {
		return target, err
	}
	s.closers = append(s.closers, s.docker.Close)
	if s.nodes, err = FindNodes(ctx, target, s.docker); err != nil {
		return target, err
	}
	s.closers = append(s.closers, s.nodes.Close)
	return target, nil
}

// FindNodes finds the nodes of the cluster that a kube context leads to.
func FindNodes(ctx context.Context, target kube.Target, docker *client.Client) (*node.Cluster, error) {
	dir, err := journal.DefaultDir()
	if err != nil {
		return nil, err
	}
	return node.Find(ctx, target.Context, target.Server, docker, filepath.Join(dir, "hostkeys"))
}

// holder is what has to hold an image before a pod can run it.
type holder interface {
	// Missing returns those of tags that are not there.
	Missing(ctx context.Context, tags []name.Tag) ([]name.Tag, error)
	Give(ctx context.Context, sink event.Sink, source node.Source, registry *node.Registry, tags []name.Tag) error
}

// openBuilders finds out where images can be built: on this machine, in the node, where nothing has to be moved, or where BUILDKIT_HOST says.
func (s *Session) openBuilders(ctx context.Context) error {
	c := s.config.Load()
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	say := s.sink.For("node")
	s.builder, s.origin = s.host, node.Docker{Client: s.docker}
	remote := os.Getenv("BUILDKIT_HOST")
	switch {
	case len(c.Images) == 0:
		return nil
	case c.Push != "" && c.BuildIn == "node":
		return c.Wrong("buildIn", "images that are pushed cannot be built in the node", "use host or auto")
	case remote != "" && c.BuildIn != "node":
		s.builder, s.origin = build.Remote(remote, s.registry, cache), node.Built{}
		say.Note("images are built by another BuildKit", "why", "BUILDKIT_HOST is "+remote)
		return s.builder.Alive(ctx)
	case c.BuildIn == "host":
		say.Note("images are built on this machine", "why", "buildIn is host")
		return nil
	case c.Push != "":
		say.Note("images are built on this machine", "why", "they are pushed to "+c.Push)
		return nil
	}
	if s.inNode, err = s.openInNode(ctx); err != nil {
		if c.BuildIn == "node" {
			return c.Wrong("buildIn", fmt.Sprintf("images cannot be built in the node: %v", err), "use host or auto")
		}
		say.Note("images are built on this machine", "why", "not in the node: "+err.Error())
		return nil
	}
	say.Note("images are built in the node", "why", "what is built there need not be moved")
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := build.Ping(ctx, s.docker); err != nil {
		say.Note("this machine needs no Docker", "why", err.Error())
		s.builder, s.inNode = s.inNode.Alone(), nil
	}
	return nil
}

// openInNode returns a builder of the node's own Docker or BuildKit that builds what s.builder has hashed, or why there is none.
func (s *Session) openInNode(ctx context.Context) (*build.Builder, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	docker, err := s.nodes.Docker()
	if errors.Is(err, node.ErrOtherRuntime) {
		dial, err := s.nodes.BuildKit()
		if err != nil {
			return nil, err
		}
		return s.builder.InContainerd(ctx, dial, s.nodes)
	}
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, docker.Close)
	if _, err := build.Ping(ctx, docker); err != nil {
		return nil, err
	}
	return s.builder.InDocker(docker), nil
}

// askTimeout is how long a daemon may take to answer at start.
const askTimeout = 10 * time.Second

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

// Cleanup removes what was deployed. Images stay, for the next start. leaves is what the user can
// press to cut it short.
func (s *Session) Cleanup(ctx context.Context, leaves string, what deploy.Removal) error {
	say := s.sink.For("cleanup")
	say.Note(event.DevloopEnds, "leave at once with", leaves)
	what.Before = s.config.Load().Cleanup.Before
	err := s.deployer.Cleanup(ctx, s.sink, releases(s.config.Load()), what)
	if err != nil {
		return event.WithHint(fmt.Errorf("clean up: %w", err), "devloop delete tries again")
	}
	count := func(kinds ...string) (n int) {
		for _, kind := range kinds {
			n += len(s.journal.Names(kind))
		}
		return n
	}
	switch {
	case count(journal.Release, journal.Namespace) > 0: // told, with what keeps it
	case count(journal.CRD, journal.Volume) > 0:
		say.Note("nothing else left behind")
	default:
		say.Note("nothing left behind")
	}
	return nil
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

// Abandon ends what runs now, at once, for a process that is about to end at once, too. It returns
// what stays behind: each a kind and a name.
func (s *Session) Abandon() (left []string) {
	s.deployer.Abandon()
	for _, kind := range []string{journal.Release, journal.Namespace, journal.Pod} {
		for _, name := range s.journal.Names(kind) {
			left = append(left, kind+" "+name)
		}
	}
	return left
}
