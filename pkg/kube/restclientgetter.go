// The cluster as Helm sees it from one namespace.
package kube

import (
	"k8s.io/cli-runtime/pkg/genericclioptions"
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
