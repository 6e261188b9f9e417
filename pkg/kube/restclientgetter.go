// The cluster as Helm sees it from one namespace.
package kube

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// RESTClientGetter returns the cluster as Helm asks for it, with namespace for objects that name none.
func (c *Cluster) RESTClientGetter(namespace string) genericclioptions.RESTClientGetter {
	return namespaced{c, namespace}
}

// namespaced answers for Helm's question which namespace objects without one belong to.
type namespaced struct {
	*Cluster
	namespace string
}

// ToRawKubeConfigLoader returns the kubeconfig with the namespace replaced.
func (n namespaced) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return namespacedConfig{n.loader, n.namespace}
}

// kubeconfig is embedded under this name because clientcmd.ClientConfig has a method of its own name.
type kubeconfig = clientcmd.ClientConfig

type namespacedConfig struct {
	kubeconfig
	namespace string
}

// Namespace returns the release's namespace, as one that was asked for.
func (c namespacedConfig) Namespace() (string, bool, error) { return c.namespace, true, nil }

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
