// Package deploy makes a cluster hold what devloop.yaml says: Helm releases applied where their inputs differ, rollouts watched
// until they end well or badly, and everything removed again.
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

	"github.com/devloop/devloop/pkg/event"
)

const (
	// requestTimeout bounds each request to the API server, and so each step of a Helm write, which has no context.
	requestTimeout = 60 * time.Second
	// AnswerTimeout is how long a cluster may take to be reached, and to answer the first question of a start or of a stage.
	AnswerTimeout = 10 * time.Second
	// queriesPerSecond replaces client-go's 5, which is meant for controllers that must spare a shared API server.
	queriesPerSecond = 500
	// EndingTimeout is how long a namespace that is being deleted is waited for.
	EndingTimeout = 2 * time.Minute
	// fresh is for how long what the API server said of its kinds is taken for true. After devloop's own writes it is asked at once.
	fresh = 5 * time.Second
)

const HintCluster = "minikube status; minikube start"

// Cluster is one cluster, fixed when it is connected to: another context that is selected later changes nothing. The cluster itself
// may be restarted, with another port or other certificates: what its kube context says now is followed.
type Cluster struct {
	Context string // name of the kube context
	Server  string // URL of the API server, when the cluster was connected to
	UID     string // of the namespace kube-system: the cluster's identity
	Client  kubernetes.Interface

	connection *connection
	Config     *rest.Config // whose requests all go through connection
	Dynamic    dynamic.Interface
	Metadata   metadata.Interface
	Discovery  discovery.CachedDiscoveryInterface
	Mapper     meta.ResettableRESTMapper
	loader     clientcmd.ClientConfig
	Version    string

	asking singleflight.Group // what it is capable of
	mu     sync.Mutex
	Known  *chartutil.Capabilities // what charts are told of the cluster, nil if it has to be asked
	asked  time.Time               // when it was
	writes int                     // after which it may know other kinds than before
}

// Connect opens the cluster of a kube context. It asks the cluster who it is, and for its version.
func Connect(ctx context.Context, kubeContext string) (*Cluster, error) {
	target, err := ReadContext(kubeContext)
	if err != nil {
		return nil, err
	}
	return ConnectTo(ctx, target)
}

// OpenCluster returns the cluster of a kube context as the kubeconfig names it. It asks the cluster
// nothing.
func OpenCluster(kubeContext string) (*Cluster, error) {
	loader, target, err := loadKubeconfig(kubeContext)
	if err != nil {
		return nil, err
	}
	way, err := newConnection(target.Context)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Context: target.Context, Server: target.Server, loader: loader, connection: way}
	c.Config = &rest.Config{Host: way.host(), Transport: way, WarningHandler: rest.NoWarnings{},
		QPS: queriesPerSecond, Burst: 2 * queriesPerSecond}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", target.Context, err)
	}
	bounded, err := c.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	if c.Dynamic, err = dynamic.NewForConfig(bounded); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", target.Context, err)
	}
	if c.Metadata, err = metadata.NewForConfig(bounded); err != nil {
		return nil, fmt.Errorf("kube context %q: %w", target.Context, err)
	}
	plain, err := discovery.NewDiscoveryClientForConfig(bounded)
	if err != nil {
		return nil, fmt.Errorf("kube context %q: %w", target.Context, err)
	}
	c.Discovery = memory.NewMemCacheClient(plain)
	c.Mapper = restmapper.NewDeferredDiscoveryRESTMapper(c.Discovery)
	return c, nil
}

// ConnectTo is Connect for a target that was looked at before. It is an error if the context leads
// somewhere else by now.
func ConnectTo(ctx context.Context, target Target) (*Cluster, error) {
	c, err := OpenCluster(target.Context)
	if err != nil {
		return nil, err
	}
	if now, err := ReadContext(target.Context); err != nil || now != target {
		changes := fmt.Errorf("kube context %q changes while devloop starts: start it again", target.Context)
		return nil, errors.Join(changes, err)
	}
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	system, err := c.Client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("kube context %q: its API server %s does not answer: %w",
			target.Context, target.Server, err), HintCluster)
	}
	if system.UID == "" {
		return nil, fmt.Errorf("kube context %q: what answers at %s does not say which cluster it is: "+
			"its namespace %s has no UID",
			target.Context, target.Server, metav1.NamespaceSystem)
	}
	c.UID = string(system.UID)
	c.connection.is(system.UID)
	version, err := c.Discovery.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("kube context %q: ask for its version: %w", target.Context, err)
	}
	c.Version = version.GitVersion
	return c, nil
}

// Answers returns why the API server cannot be used now. A stage asks this before anything else: a
// request to a server that hangs may take a minute, and tries of a run are to be half a minute
// apart. The question is one that the server needs etcd for.
func (c *Cluster) Answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	_, err := c.Client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil
	case errors.Is(err, ErrOtherCluster): // which says what to do
		return err
	}
	return event.WithHint(fmt.Errorf("kube context %q: its API server does not answer: %w", c.Context, err), HintCluster)
}

// Direct returns how the API server is reached now, for connections that are no HTTP requests. It is not to be changed.
func (c *Cluster) Direct(ctx context.Context) (*rest.Config, error) {
	way, err := c.connection.current(ctx)
	if err != nil {
		return nil, err
	}
	return way.config, nil
}

// The methods that Helm and cli-runtime ask for (genericclioptions.RESTClientGetter): discovery and the mapper are shared
// by all releases and runs.

// ImagesInUse returns the images that pods of any namespace name, each by its full name (name.Tag's Name).
func (c *Cluster) ImagesInUse(ctx context.Context) (map[string]bool, error) {
	pods, err := c.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	used := map[string]bool{}
	for _, pod := range pods.Items {
		for _, container := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			tag, _, _ := strings.Cut(container.Image, "@") // with one, the digest says the same
			if ref, err := name.ParseReference(tag); err == nil {
				used[ref.Name()] = true
			}
		}
	}
	return used, nil
}
