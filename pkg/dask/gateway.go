package dask

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	optionsTimeout = 5 * time.Second // for a gateway's answer
	optionsLength  = 1 << 20         // of an answer, in bytes
)

// HealthPath is the path at which a gateway reports that it is up. What precedes it is the
// gateway's prefix.
const HealthPath = "/api/health"

// OptionsPath is the path of a gateway's cluster options.
const OptionsPath = "/api/v1/options"

// APIPorts are the ports of a gateway's services and pods that serve its API, by its chart.
var APIPorts = []string{"80", "8000", "web", APIPort, "http"}

// APIPort is the port of a gateway's own pods.
const APIPort = "api"

// DefaultImage asks the gateway at the URL of its options which image new clusters get by default;
// "" and why if the options do not say.
func DefaultImage(ctx context.Context, url string) (image, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, optionsTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			err = event.WithHint(fmt.Errorf("ask the gateway what it starts: %w", err),
				"look at the logs of the gateway's pods: devloop logs")
		}
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", err
	}
	request.SetBasicAuth("devloop", "") // its simple authenticator takes any name
	response, err := send(request)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = response.Body.Close() }() // only read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return "", "its gateway answers " + response.Status, nil
	default:
		return "", "", fmt.Errorf("%s answers %s", url, response.Status)
	}
	var answer struct {
		Options []struct {
			Field   string `json:"field"`
			Default any    `json:"default"`
			Spec    struct {
				Type string `json:"type"`
			} `json:"spec"`
		} `json:"cluster_options"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, optionsLength)).Decode(&answer); err != nil {
		return "", "", fmt.Errorf("%s: %w", url, err)
	}
	for _, o := range answer.Options {
		if text, ok := o.Default.(string); ok && o.Field == "image" && o.Spec.Type == "string" { // a list's is only a label
			return text, "", nil
		}
	}
	return "", "its gateway has no option image that is a text", nil
}

// send sends a request to what runs in the cluster, which must not redirect devloop anywhere else.
// The caller closes the body.
func send(request *http.Request) (*http.Response, error) {
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", request.URL, err)
	}
	return response, nil
}

// Gateway is a service or deployment of a Dask Gateway that a release made.
type Gateway struct {
	Kind, Namespace, Name string // "service", as in a forward
	Release               string // ID
	instance              string
}

// IsGateway tells by its labels whether an object is a part of a Dask Gateway, and not of a cluster
// that it has started.
func IsGateway(labels map[string]string) bool {
	return labels[labelGateway] != "" && labels[LabelCluster] == ""
}

// HasGateway reports whether a Dask Gateway is in one of the namespaces.
func HasGateway(ctx context.Context, c *kube.Cluster, namespaces []string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	for _, namespace := range namespaces {
		if found, err := gatewaysIn(ctx, c, namespace); err != nil || len(found) > 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// gatewaysIn returns what a forward to a gateway may lead to.
func gatewaysIn(ctx context.Context, c *kube.Cluster, namespace string) ([]Gateway, error) {
	options := metav1.ListOptions{LabelSelector: labelGateway}
	services, err := c.Client.CoreV1().Services(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	deployments, err := c.Client.AppsV1().Deployments(namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	var found []Gateway
	add := func(kind string, o metav1.Object) {
		if labels := o.GetLabels(); IsGateway(labels) {
			found = append(found, Gateway{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(),
				instance: labels[labelGateway], Release: releaseOf(o)})
		}
	}
	for i := range services.Items {
		add("service", &services.Items[i])
	}
	for i := range deployments.Items {
		add("deployment", &deployments.Items[i])
	}
	return found, nil
}

// APIPods are the gateway's own pods that serve its API at APIPort.
type APIPods struct {
	Ready    []string // names
	Starting bool     // another one is not ready yet
	Ending   bool     // another one is being deleted; until it is gone, it may answer in place of the others
}

// APIPods returns the gateway's own pods.
func (p *Platform) APIPods(g Gateway) (found APIPods) {
	for _, pod := range p.pods {
		if pod.Namespace != g.Namespace || pod.Labels[labelGateway] != g.instance ||
			pod.Labels[labelComponent] != componentGateway || kube.HasEnded(pod) || !servesAPI(pod) {
			continue
		}
		switch {
		case pod.DeletionTimestamp != nil:
			found.Ending = true
		case kube.IsReady(pod):
			found.Ready = append(found.Ready, pod.Name)
		default:
			found.Starting = true
		}
	}
	return found
}

func servesAPI(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == APIPort })
	})
}

func releaseOf(o metav1.Object) (id string) {
	annotations := o.GetAnnotations()
	return annotations[kube.AnnotationReleaseNamespace] + "/" + annotations[kube.AnnotationRelease]
}

// RestartOutdated restarts the gateway's own pods, as kubectl rollout restart does, if its
// ConfigMap contains has and not hasNot: then the pods run with an older ConfigMap.
func (g Gateway) RestartOutdated(ctx context.Context, c *kube.Cluster, has, hasNot string) (restarted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	text, err := g.configuration(ctx, c)
	if err != nil || !strings.Contains(text, has) || strings.Contains(text, hasNot) {
		return false, err
	}
	client := c.Client.AppsV1().Deployments(g.Namespace)
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: selectorOf(g)})
	if err != nil {
		return false, err
	}
	const restartedAt = `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`
	patch := fmt.Appendf(nil, restartedAt, time.Now().Format(time.RFC3339))
	for _, d := range list.Items {
		if d.Spec.Template.Labels[labelComponent] != componentGateway || releaseOf(&d) != g.Release {
			continue
		}
		if _, err := client.Patch(ctx, d.Name, types.StrategicMergePatchType, patch,
			metav1.PatchOptions{FieldManager: kube.FieldManager}); err != nil {
			return restarted, err
		}
		restarted = true
	}
	return restarted, nil
}

// configuration returns what the ConfigMaps of the gateway's release hold for it.
func (g Gateway) configuration(ctx context.Context, c *kube.Cluster) (text string, err error) {
	options := metav1.ListOptions{LabelSelector: selectorOf(g)}
	list, err := c.Client.CoreV1().ConfigMaps(g.Namespace).List(ctx, options)
	if err != nil {
		return "", err
	}
	for _, one := range list.Items {
		if releaseOf(&one) == g.Release {
			text += strings.Join(slices.Collect(maps.Values(one.Data)), "\n")
		}
	}
	return text, nil
}

// OperatorLabels returns the labels that the gateways of a namespace give to their users' objects,
// each with the ID of the gateway's release.
func OperatorLabels(ctx context.Context, c *kube.Cluster, namespace string) (map[kube.Label]string, error) {
	gateways, err := gatewaysIn(ctx, c, namespace)
	labels := map[kube.Label]string{}
	for _, g := range gateways {
		labels[kube.Label{Key: labelGateway, Value: g.instance}] = g.Release
	}
	return labels, err
}
