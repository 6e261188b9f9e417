package kube

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster implements genericclioptions.RESTClientGetter for Helm and cli-runtime. All releases and
// runs share its discovery cache and mapper.

// ToRESTConfig returns a copy of the cluster's configuration, with a timeout for every request. It
// never fails.
func (c *Cluster) ToRESTConfig() (*rest.Config, error) {
	config := rest.CopyConfig(c.Config)
	config.Wrap(newBounded)
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

// RESTClientGetter returns the cluster with a default namespace, for objects that name none.
func (c *Cluster) RESTClientGetter(namespace string) genericclioptions.RESTClientGetter {
	return namespaced{c, namespace}
}

type namespaced struct {
	*Cluster
	namespace string
}

// ToRawKubeConfigLoader returns the kubeconfig with the default namespace.
func (n namespaced) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return namespacedConfig{n.loader, n.namespace}
}

// kubeconfig is an alias because an embedded ClientConfig would hide the method of that name.
type kubeconfig = clientcmd.ClientConfig

type namespacedConfig struct {
	kubeconfig
	namespace string
}

// Namespace returns the default namespace as one that was asked for explicitly.
func (c namespacedConfig) Namespace() (string, bool, error) { return c.namespace, true, nil }
