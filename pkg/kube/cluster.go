// Package deploy makes a cluster hold what devloop.yaml says: Helm releases applied where their inputs differ, rollouts watched
// until they end well or badly, and everything removed again.
package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sync/singleflight"
	"helm.sh/helm/v3/pkg/action"
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
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
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
	// maxSecretFile is the size of a token or key file, in bytes.
	maxSecretFile = 4 << 20
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

// ReadContext returns where the kube context to use leads, and asks nothing of the cluster. An
// empty wanted means the current context, or the one of MINIKUBE_PROFILE where none is current.
func ReadContext(wanted string) (Target, error) {
	_, target, err := loadKubeconfig(wanted)
	return target, err
}

// KubeconfigSecrets are the tokens, passwords and keys of the kubeconfig, and of the files that it names. What cannot be read is left out: it is of no
// use to anybody here.
func KubeconfigSecrets() []string {
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	if err != nil {
		return nil
	}
	var secrets []string
	for _, user := range config.AuthInfos {
		secrets = append(secrets, user.Token, user.Password)
		for _, data := range [][]byte{user.ClientKeyData, user.ClientCertificateData} {
			secrets = append(secrets, string(data), base64.StdEncoding.EncodeToString(data))
		}
		for _, file := range []string{user.TokenFile, user.ClientKey} {
			if content, err := files.Read(file, maxSecretFile); err == nil {
				secrets = append(secrets, string(content))
			}
		}
		if user.Exec != nil {
			for _, variable := range user.Exec.Env { // for which a user may have no better place
				secrets = append(secrets, secretOf(variable.Name, variable.Value))
			}
		}
		if user.AuthProvider != nil {
			for key, value := range user.AuthProvider.Config {
				secrets = append(secrets, secretOf(key, value))
			}
		}
	}
	for _, cluster := range config.Clusters {
		if proxy, err := url.Parse(cluster.ProxyURL); err == nil && proxy.User != nil {
			password, _ := proxy.User.Password()
			secrets = append(secrets, password)
		}
	}
	return secrets
}

// secretOf returns a value whose name says that it is secret, "" for others.
func secretOf(name, value string) string {
	for _, word := range []string{"token", "secret", "password", "key"} {
		if strings.Contains(strings.ToLower(name), word) {
			return value
		}
	}
	return ""
}

func loadKubeconfig(wanted string) (clientcmd.ClientConfig, Target, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{CurrentContext: wanted})
	config, err := loader.RawConfig()
	if err != nil {
		return nil, Target{}, fmt.Errorf("kubeconfig: %w", err)
	}
	if profile := os.Getenv("MINIKUBE_PROFILE"); wanted == "" && config.CurrentContext == "" && config.Contexts[profile] != nil {
		return loadKubeconfig(profile) // none is selected, but for minikube itself
	}
	if wanted == "" {
		wanted = config.CurrentContext
	}
	kubeContext := config.Contexts[wanted]
	if kubeContext == nil || config.Clusters[kubeContext.Cluster] == nil {
		return nil, Target{}, noContext(wanted, config, loader.ConfigAccess().GetLoadingPrecedence())
	}
	target := Target{Context: wanted, Server: config.Clusters[kubeContext.Cluster].Server}
	target.Proxy, err = proxyOf(config.Clusters[kubeContext.Cluster])
	if err != nil {
		return nil, Target{}, fmt.Errorf("kube context %q: %w", wanted, err)
	}
	return loader, target, nil
}

// proxyOf returns the proxy that client-go sends requests to a cluster through, without its
// password, "" for none: the cluster's proxy-url, or else that of the environment.
func proxyOf(cluster *clientcmdapi.Cluster) (string, error) {
	proxy, err := url.Parse(cluster.ProxyURL)
	if cluster.ProxyURL == "" {
		https := rest.TLSClientConfig{Insecure: true} // where the server's URL names no scheme
		server, _, serverErr := rest.DefaultServerUrlFor(&rest.Config{Host: cluster.Server, TLSClientConfig: https})
		if serverErr != nil {
			return "", fmt.Errorf("API server %q: %w", cluster.Server, serverErr)
		}
		proxy, err = http.ProxyFromEnvironment(&http.Request{URL: server})
	}
	if err != nil {
		return "", fmt.Errorf("proxy: %w", err)
	}
	if proxy == nil {
		return "", nil
	}
	return proxy.Redacted(), nil
}

// noContext says which contexts there are instead.
func noContext(wanted string, config clientcmdapi.Config, files []string) error {
	where := strings.Join(files, ", ")
	known := slices.Sorted(maps.Keys(config.Contexts))
	switch {
	case len(known) == 0:
		return event.WithHint(fmt.Errorf("there is no kube context in %s", where), "start a cluster (minikube start), or point KUBECONFIG at the file that has it")
	case wanted == "":
		return event.WithHint(fmt.Errorf("no kube context is selected in %s", where), "kubectl config use-context "+known[0])
	}
	return event.WithHint(fmt.Errorf("there is no kube context %q in %s", wanted, where), "take one of "+strings.Join(known, ", ")+", or start a cluster (minikube start)")
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

// ToRESTConfig returns a copy of the connection's configuration, with a deadline on every request.
func (c *Cluster) ToRESTConfig() (*rest.Config, error) {
	config := rest.CopyConfig(c.Config)
	config.Timeout = requestTimeout
	return config, nil
}

// ToDiscoveryClient returns the shared discovery cache.
func (c *Cluster) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return c.Discovery, nil
}

// ToRESTMapper returns the shared mapper.
func (c *Cluster) ToRESTMapper() (meta.RESTMapper, error) { return c.Mapper, nil }

// ToRawKubeConfigLoader returns the kubeconfig as it was when devloop started.
func (c *Cluster) ToRawKubeConfigLoader() clientcmd.ClientConfig { return c.loader }

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

// Capabilities is what charts are told of the cluster. Who asks while it is being asked waits for
// that answer; who gives up takes it from nobody.
func (c *Cluster) Capabilities(ctx context.Context) (*chartutil.Capabilities, error) {
	c.mu.Lock()
	able, writes := c.Known, c.writes
	c.mu.Unlock()
	if able != nil {
		return able.Copy(), nil
	}
	answered := c.asking.DoChan(strconv.Itoa(writes), func() (able any, err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), AnswerTimeout)
		defer cancel()
		err = event.Stage{}.Guard("discovery", func() error {
			able, err = c.discover(ctx, writes)
			return err
		})
		return able, err
	})
	select {
	case answer := <-answered:
		if able, ok := answer.Val.(*chartutil.Capabilities); ok && answer.Err == nil {
			return able.Copy(), nil
		}
		return nil, answer.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// discover asks for the version and the kinds, and keeps the answer if nothing was written since
// writes.
func (c *Cluster) discover(ctx context.Context, writes int) (*chartutil.Capabilities, error) {
	server := discovery.ToDiscoveryInterfaceWithContext(c.Discovery)
	version, err := server.ServerVersionWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster for its version: %w", err)
	}
	c.Mapper.Reset() // and the cache below it
	_, _, err = server.ServerGroupsAndResourcesWithContext(ctx)
	if discovery.IsGroupDiscoveryFailedError(err) { // one API service that is down must not keep all
		err = context.Cause(ctx)
	}
	var kinds chartutil.VersionSet
	if err == nil {
		kinds, err = action.GetVersionSet(c.Discovery) // of what has just been asked
	}
	if err != nil {
		c.Mapper.Reset() // what was not answered in time must not count as known
		return nil, fmt.Errorf("ask the cluster for its kinds: %w", err)
	}
	able := &chartutil.Capabilities{APIVersions: kinds, HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == writes {
		c.Version, c.asked, c.Known = version.GitVersion, time.Now(), able
	}
	return able, nil
}

// Refresh asks the cluster again where what it said may be old.
func (c *Cluster) Refresh(ctx context.Context) error {
	c.mu.Lock()
	if time.Since(c.asked) > fresh {
		c.Known = nil
	}
	c.mu.Unlock()
	_, err := c.Capabilities(ctx)
	return err
}

// Wrote says that the cluster may know other kinds than before.
func (c *Cluster) Wrote() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Known = nil
	c.writes++
}

// KubeVersion is that of the API server.
func (c *Cluster) KubeVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Version
}
