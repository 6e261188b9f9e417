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

// maxSecretFile is the size of a token or key file, in bytes.
const maxSecretFile = 4 << 20

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
