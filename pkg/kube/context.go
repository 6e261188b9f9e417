package kube

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// maxSecretFile is the size limit of a token or key file, in bytes.
const maxSecretFile = 4 << 20

// ReadContext returns where a kube context leads, without asking the cluster. If wanted is empty it
// is the current context, or the one of MINIKUBE_PROFILE if none is current.
func ReadContext(wanted string) (Target, error) {
	_, target, err := loadKubeconfig(wanted)
	return target, err
}

func loadKubeconfig(wanted string) (clientcmd.ClientConfig, Target, error) {
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{CurrentContext: wanted})
	config, err := loader.RawConfig()
	if err != nil {
		return nil, Target{}, fmt.Errorf("kubeconfig: %w", err)
	}
	profile := os.Getenv("MINIKUBE_PROFILE")
	if wanted == "" && config.CurrentContext == "" && config.Contexts[profile] != nil {
		return loadKubeconfig(profile)
	}
	if wanted == "" {
		wanted = config.CurrentContext
	}
	kubeContext := config.Contexts[wanted]
	if kubeContext == nil || config.Clusters[kubeContext.Cluster] == nil {
		return nil, Target{}, noContext(wanted, config, loader.ConfigAccess().GetLoadingPrecedence())
	}
	target := Target{Context: wanted, Server: config.Clusters[kubeContext.Cluster].Server}
	target.Proxy, target.ProxyFrom, err = proxyOf(config.Clusters[kubeContext.Cluster])
	if err != nil {
		return nil, Target{}, fmt.Errorf("kube context %q: %w", wanted, err)
	}
	return loader, target, nil
}

// ContextNames returns the contexts of the kubeconfig, for shell completion.
func ContextNames() []string {
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(config.Contexts))
}

// proxyURL is the kubeconfig's key for a proxy.
const proxyURL = "proxy-url in the kubeconfig"

// proxyOf returns the URL of the proxy that client-go uses for a cluster, without its password, and
// what names it: the cluster's proxy-url, or else the environment. It is "" for none.
func proxyOf(cluster *clientcmdapi.Cluster) (used, from string, err error) {
	proxy, err := url.Parse(cluster.ProxyURL)
	from = proxyURL
	if cluster.ProxyURL == "" {
		https := rest.TLSClientConfig{Insecure: true} // for a server without a scheme
		server, _, serverErr := rest.DefaultServerUrlFor(&rest.Config{Host: cluster.Server, TLSClientConfig: https})
		if serverErr != nil {
			return "", "", fmt.Errorf("API server %q: %w", cluster.Server, serverErr)
		}
		proxy, err = http.ProxyFromEnvironment(&http.Request{URL: server})
		if from = strings.ToUpper(server.Scheme) + "_PROXY"; os.Getenv(from) == "" {
			from = strings.ToLower(from)
		}
	}
	if err != nil {
		return "", "", fmt.Errorf("proxy: %w", err)
	}
	if proxy == nil {
		return "", "", nil
	}
	return proxy.Redacted(), from, nil
}

// NoContextError is why a kube context cannot be used that the kubeconfig does not have.
type NoContextError struct {
	Context string // "" if none is selected
	error
}

func (e *NoContextError) Unwrap() error { return e.error }

// noContext is the error for a missing context, with those that exist as a hint.
func noContext(wanted string, config clientcmdapi.Config, files []string) error {
	return &NoContextError{wanted, missingContext(wanted, config, files)}
}

func missingContext(wanted string, config clientcmdapi.Config, files []string) error {
	where := strings.Join(files, ", ")
	known := slices.Sorted(maps.Keys(config.Contexts))
	if broken := config.Contexts[wanted]; broken != nil {
		return event.WithHint(fmt.Errorf("kube context %q: its cluster %q is not in %s", wanted, broken.Cluster, where),
			"have the cluster's tool write the kubeconfig again, or choose another context: --kube-context")
	}
	switch {
	case len(known) == 0:
		return event.WithHint(fmt.Errorf("there is no kube context in %s", where),
			"start a cluster (minikube start), or point KUBECONFIG at the file that has it")
	case wanted == "":
		return event.WithHint(fmt.Errorf("no kube context is selected in %s", where),
			"kubectl config use-context "+known[0]+", or minikube start, which selects its own")
	}
	return event.WithHint(fmt.Errorf("there is no kube context %q in %s", wanted, where),
		"use one of "+strings.Join(known, ", ")+", or have the tool of that cluster write the kubeconfig")
}

// KubeconfigSecrets returns the tokens, passwords and keys in the kubeconfig and in the files that
// it names. Files that cannot be read are skipped.
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
			for _, variable := range user.Exec.Env {
				if isSecretName(variable.Name) {
					secrets = append(secrets, variable.Value)
				}
			}
		}
		if user.AuthProvider != nil {
			for key, value := range user.AuthProvider.Config {
				if isSecretName(key) {
					secrets = append(secrets, value)
				}
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

// isSecretName reports whether a name stands for a secret value.
func isSecretName(name string) bool {
	return slices.ContainsFunc([]string{"token", "secret", "password", "key"}, func(word string) bool {
		return strings.Contains(strings.ToLower(name), word)
	})
}
