package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sync/singleflight"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// requestTimeout bounds each request, and so each step of a Helm write, which has no context.
	requestTimeout = 60 * time.Second
	// AnswerTimeout is how long a cluster may take to answer the first request of a start or a
	// stage.
	AnswerTimeout = 10 * time.Second
	// EndingTimeout is how long to wait for the end of a namespace that is being deleted.
	EndingTimeout = 2 * time.Minute
	// queriesPerSecond replaces client-go's 5, meant for controllers on a shared API server.
	queriesPerSecond = 500
)

// Cluster is one cluster. It stays the same if another context is selected later. If it restarts
// with another port or certificates, the kubeconfig is followed.
type Cluster struct {
	Context string // name of the kube context
	Server  string // URL of the API server at the time of Connect
	UID     string // of the namespace kube-system: the cluster's identity

	Client    kubernetes.Interface // without a request timeout, for watches
	Dynamic   dynamic.Interface
	Metadata  metadata.Interface
	Discovery discovery.CachedDiscoveryInterface
	Mapper    meta.ResettableRESTMapper
	Config    *rest.Config // of all of them

	// Machines is asked why the cluster does not answer. May be nil.
	Machines Machines

	connection *connection
	loader     clientcmd.ClientConfig
	target     Target
	looking    singleflight.Group // at the machines

	discovering singleflight.Group
	mu          sync.Mutex
	Version     string
	Known       *chartutil.Capabilities // nil if the cluster has to be asked
	discovered  time.Time
	writes      int // that may have changed the cluster's kinds
}

// ConnectTo opens the cluster of a target that was read before, and asks for its identity and
// version. It fails if the context leads elsewhere by now. machines, which may be nil, says why the
// cluster does not answer.
func ConnectTo(ctx context.Context, target Target, machines Machines) (*Cluster, error) {
	c, err := OpenCluster(target.Context)
	if err != nil {
		return nil, err
	}
	if now, err := ReadContext(target.Context); err != nil || now != target {
		changes := fmt.Errorf("kube context %q changes while devloop starts: start it again", target.Context)
		return nil, errors.Join(changes, err)
	}
	c.Machines = machines
	asked, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	system, err := c.Client.CoreV1().Namespaces().Get(asked, metav1.NamespaceSystem, metav1.GetOptions{})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, c.WhyAway(ctx, err)
	}
	if system.UID == "" {
		return nil, fmt.Errorf("kube context %q: what answers at %s does not say which cluster it is: "+
			"its namespace %s has no UID", target.Context, target.Server, metav1.NamespaceSystem)
	}
	c.UID = string(system.UID)
	c.connection.pin(system.UID)
	version, err := c.Discovery.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("kube context %q: ask for its version: %w", target.Context, err)
	}
	c.Version = version.GitVersion
	return c, nil
}

// OpenCluster returns the cluster of a kube context without asking it anything.
func OpenCluster(kubeContext string) (*Cluster, error) {
	loader, target, err := loadKubeconfig(kubeContext)
	if err != nil {
		return nil, err
	}
	connection, err := newConnection(target.Context)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Context: target.Context, Server: target.Server, loader: loader, connection: connection,
		target: target}
	c.Config = &rest.Config{Host: connection.host(), Transport: connection, WarningHandler: rest.NoWarnings{},
		QPS: queriesPerSecond, Burst: 2 * queriesPerSecond}
	if err := c.makeClients(); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", target.Context, err)
	}
	return c, nil
}

func (c *Cluster) makeClients() (err error) {
	bounded, _ := c.ToRESTConfig()
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if c.Dynamic, err = dynamic.NewForConfig(bounded); err != nil {
		return err
	}
	if c.Metadata, err = metadata.NewForConfig(bounded); err != nil {
		return err
	}
	uncached, err := discovery.NewDiscoveryClientForConfig(bounded)
	if err != nil {
		return err
	}
	c.Discovery = memory.NewMemCacheClient(uncached)
	c.Mapper = restmapper.NewDeferredDiscoveryRESTMapper(c.Discovery)
	return nil
}

// CurrentConfig returns how to reach the API server now, for connections other than HTTP requests.
// The caller must not modify it.
func (c *Cluster) CurrentConfig(ctx context.Context) (*rest.Config, error) {
	e, err := c.connection.current(ctx)
	if err != nil {
		return nil, err
	}
	return e.config, nil
}

// ImagesInUse returns the images that pods of any namespace name, by the full name that name.Tag's
// Name returns.
func (c *Cluster) ImagesInUse(ctx context.Context) (map[string]bool, error) {
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	used := map[string]bool{}
	for _, pod := range pods.Items {
		for _, container := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			tag, _, _ := strings.Cut(container.Image, "@")
			if ref, err := name.ParseReference(tag); err == nil {
				used[ref.Name()] = true
			}
		}
	}
	return used, nil
}
