package deploy

// What charts and manifests would deploy, as far as it can be known without a cluster, for devloop
// init.

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/manifests"
)

// dependenciesTimeout is how long the charts that a chart depends on may take to be downloaded.
const dependenciesTimeout = 10 * time.Second

// newKubernetes is a recent version, where no cluster says its own: Helm would take one that many
// charts refuse.
var newKubernetes = chartutil.KubeVersion{Version: "v1.34.0", Major: "1", Minor: "34"}

// LocalChart is the chart in a folder.
type LocalChart struct {
	Name              string
	Library           bool     // cannot be deployed by itself
	LocalDependencies []string // folders of charts that it depends on
	Missing           error    // why charts that it depends on could not be had; it is rendered without them

	folder string
	load   func(context.Context) (*chart.Chart, error) // a new one at each call, since Helm changes charts
}

// OpenChart reads the chart in a folder. Charts that it depends on are taken from the cache in dir,
// or downloaded.
func OpenChart(ctx context.Context, dir, folder string) (*LocalChart, error) {
	c := charts{dir: dir}
	opened := &LocalChart{folder: folder}
	load := func(ctx context.Context, fetch bool) (*chart.Chart, error) {
		loaded, err := loadChart(ctx, folder)
		if err == nil {
			ctx, cancel := context.WithTimeoutCause(ctx, dependenciesTimeout,
				fmt.Errorf("there was no answer within %s", dependenciesTimeout))
			defer cancel()
			err = c.addDependencies(ctx, event.Stage{}, loaded, folder, fetch, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", folder, err)
		}
		return loaded, nil
	}
	loaded, err := load(ctx, true)
	if err != nil && ctx.Err() == nil {
		opened.Missing = err
		loaded, err = load(ctx, false)
	}
	if err != nil {
		return nil, err
	}
	opened.Name, opened.Library = loaded.Name(), loaded.Metadata.Type == "library"
	opened.load = func(ctx context.Context) (*chart.Chart, error) { return load(ctx, opened.Missing == nil) }
	for _, wanted := range loaded.Metadata.Dependencies {
		if wanted != nil && isLocal(folder, wanted) {
			opened.LocalDependencies = append(opened.LocalDependencies, filepath.Clean(localFolder(folder, wanted)))
		}
	}
	return opened, nil
}

// Inspection is what a release would deploy.
type Inspection struct {
	Values   map[string]any // that templates see, those of the charts that it depends on included
	Services []ChartService
	Images   []string // repositories that its objects name, normalized
	// Namespaces that objects say they are in, but those that are among the objects.
	Namespaces []string
	Err        error // why it cannot be deployed with these values
	Unknown    bool  // Services and Images are not known therefore

	rest string // the objects without their images
}

// ChartService is a service that a release creates.
type ChartService struct {
	Name, Namespace string
	Port            int // the first for TCP
}

// HasImage tells whether the release runs an image, whatever its tag.
func (i Inspection) HasImage(image string) bool {
	return slices.Contains(i.Images, repositoryOf(image))
}

// HasElsewhere tells whether text stands anywhere in the objects but in the name of an image that
// they run: in an environment variable, or in the configuration of a program.
func (i Inspection) HasElsewhere(text string) bool { return strings.Contains(i.rest, text) }

// Inspect renders the chart for a release with these values, as for a new cluster.
func (c *LocalChart) Inspect(ctx context.Context, r Release) (found Inspection) {
	loaded, err := c.load(ctx)
	if err != nil {
		return Inspection{Err: err, Unknown: true}
	}
	r.Chart = c.folder
	want := &desired{Release: r}
	options := chartutil.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = newKubernetes
	values, all, err := want.valuesFor(loaded, options, capabilities)
	if err != nil {
		return Inspection{Values: loaded.Values, Err: err, Unknown: true}
	}
	found.Values = all
	made, err := want.renderWith(ctx, loaded, values, options, capabilities, nil)
	if err != nil {
		found.Err = err
		var files map[string]string
		if files, err = renderLeniently(ctx, loaded, values, options, capabilities); err == nil {
			made, err = want.sort(loaded, files)
		}
		if err != nil {
			found.Unknown = true
			return found
		}
	}
	texts := contentsOf(made.manifests)
	for _, hook := range made.hooks {
		texts = append(texts, hook.Manifest)
	}
	found.add(texts, r.Namespace)
	return found
}

// InspectManifests is Inspect for manifests.
func InspectManifests(documents []manifests.Document, namespace string) (found Inspection) {
	var texts []string
	for _, document := range documents {
		texts = append(texts, document.Text)
	}
	found.add(texts, namespace)
	return found
}

// add adds what manifests hold.
func (i *Inspection) add(texts []string, namespace string) {
	var rest strings.Builder
	headless := map[string]ChartService{} // by what they select
	selected := map[string]bool{}
	var made []string // namespaces
	for _, text := range texts {
		for _, document := range splitManifest(text) {
			content, err := decodeDocument(document)
			if err != nil {
				continue // Helm, or the API server, says what is wrong with it
			}
			eachImage(content, func(at ContainerImage) string {
				if repository := repositoryOf(at.Image); repository != "" && !slices.Contains(i.Images, repository) {
					i.Images = append(i.Images, repository)
				}
				return ""
			})
			fields, _ := content.(map[string]any)
			object := unstructured.Unstructured{Object: fields}
			if object.GetKind() == namespaceKind.Kind {
				made = append(made, object.GetName())
			} else if namespace := object.GetNamespace(); namespace != "" && !slices.Contains(i.Namespaces, namespace) {
				i.Namespaces = append(i.Namespaces, namespace)
			}
			decodeSecret(content)
			if without, err := yaml.Marshal(content); err == nil {
				rest.Write(without)
			}
			service, selector, ok := serviceIn(document, namespace)
			switch {
			case !ok:
			case selector.headless:
				headless[selector.text] = service
			default:
				selected[selector.text] = true
				i.Services = append(i.Services, service)
			}
		}
	}
	for _, selector := range slices.Sorted(maps.Keys(headless)) {
		if !selected[selector] { // else the other service leads to the same pods
			i.Services = append(i.Services, headless[selector])
		}
	}
	i.Namespaces = slices.DeleteFunc(i.Namespaces, func(name string) bool { return slices.Contains(made, name) })
	i.rest = rest.String()
}

// selection says which pods a service leads to.
type selection struct {
	text     string
	headless bool
}

// serviceIn returns the service that a document holds, if it leads to pods by TCP.
func serviceIn(document, namespace string) (found ChartService, to selection, ok bool) {
	var service corev1.Service
	if yaml.Unmarshal([]byte(document), &service) != nil || service.Kind != "Service" || service.APIVersion != "v1" ||
		len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return found, to, false
	}
	found = ChartService{Name: service.Name, Namespace: cmp.Or(service.Namespace, namespace)}
	to = selection{fmt.Sprint(found.Namespace, service.Spec.Selector), service.Spec.ClusterIP == corev1.ClusterIPNone}
	for _, port := range service.Spec.Ports {
		if tcp := port.Protocol == "" || port.Protocol == corev1.ProtocolTCP; tcp && port.Port > 0 && port.Port < 1<<16 {
			found.Port = int(port.Port)
			return found, to, true
		}
	}
	return found, to, false
}

// decodeSecret decodes the data of a Secret in place.
func decodeSecret(content any) {
	object, _ := content.(map[string]any)
	data, _ := object["data"].(map[string]any)
	if object["kind"] != "Secret" {
		return
	}
	for key, value := range data {
		if text, isText := value.(string); isText {
			if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
				data[key] = string(decoded)
			}
		}
	}
}
