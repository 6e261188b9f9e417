package deploy

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/releaseutil"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/manifests"
)

// ChartInfo is what a chart tells before it is deployed, for devloop init.
type ChartInfo struct {
	Name     string
	Library  bool           // cannot be deployed by itself
	Values   map[string]any // defaults
	Services []ChartService // of a release with the default values
	Images   []string       // repositories that its containers name
	Err      error          // why Services and Images are unknown: the defaults are not enough
}

// ChartService is a service that a chart creates.
type ChartService struct {
	Name, Namespace string
	Port            int // the first for TCP
}

// Inspect reads the chart in a folder, and renders it for a release of that name and namespace.
func Inspect(ctx context.Context, folder, release, namespace string) (ChartInfo, error) {
	loaded, err := loadChart(ctx, folder)
	if err != nil {
		return ChartInfo{}, fmt.Errorf("chart %s: %w", folder, err)
	}
	info := ChartInfo{Name: loaded.Name(), Library: loaded.Metadata.Type == "library", Values: loaded.Values}
	if info.Library {
		return info, nil
	}
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, IsInstall: true}
	files, err := renderTemplates(ctx, loaded, nil, options, chartutil.DefaultCapabilities, nil)
	if err != nil {
		info.Err = err
		return info, nil
	}
	info.rendered(files, namespace)
	return info, nil
}

// InspectManifests is Inspect for manifests.
func InspectManifests(documents []manifests.Document, namespace string) (info ChartInfo) {
	files := map[string]string{}
	for i, document := range documents {
		files[fmt.Sprintf("%d.yaml", i)] = document.Text
	}
	info.rendered(files, namespace)
	return info
}

// rendered fills in what the templates' output tells.
func (info *ChartInfo) rendered(files map[string]string, namespace string) {
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		info.Err = err
		return
	}
	for _, image := range imagesIn(hooks, contentsOf(manifests)...) {
		if repository := repositoryOf(image.Image); repository != "" && !slices.Contains(info.Images, repository) {
			info.Images = append(info.Images, repository)
		}
	}
	for _, manifest := range manifests {
		var service corev1.Service
		if manifest.Head.Kind != "Service" || yaml.Unmarshal([]byte(manifest.Content), &service) != nil ||
			len(service.Spec.Selector) == 0 {
			continue
		}
		for _, port := range service.Spec.Ports {
			if tcp := port.Protocol == "" || port.Protocol == corev1.ProtocolTCP; tcp && port.Port > 0 {
				info.Services = append(info.Services, ChartService{service.Name, cmp.Or(service.Namespace, namespace),
					int(port.Port)})
				break
			}
		}
	}
}
