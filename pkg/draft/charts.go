package draft

import (
	"context"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/deploy"
)

// addCharts adds a release of each chart that is no part of another one.
func (d *draft) addCharts(ctx context.Context, folders []string, values map[string]chartValues) {
	opened := map[string]*deploy.LocalChart{}
	isDependency, names := map[string]bool{}, map[string]int{}
	for _, folder := range folders {
		chart, err := deploy.OpenChart(ctx, d.cache, folder)
		if err != nil {
			d.note("left out: %v", err)
			continue
		}
		for _, dependency := range chart.LocalDependencies {
			isDependency[dependency] = true
		}
		if !chart.Library {
			opened[folder] = chart
		}
	}
	maps.DeleteFunc(opened, func(folder string, _ *deploy.LocalChart) bool { return isDependency[folder] })
	for _, chart := range opened {
		names[tree.Label(chart.Name, "")]++
	}
	d.charts = len(opened)
	for _, folder := range folders {
		chart := opened[folder]
		if chart == nil {
			continue
		}
		name := tree.Label(chart.Name, d.name)
		if names[name] > 1 || name == "chart" {
			name = tree.Label(innermost(folder, d.name), d.name)
		}
		d.addChart(ctx, chart, folder, d.unusedRelease(name), values[folder])
	}
}

func (d *draft) unusedRelease(name string) string {
	return unused(name, func(name string) bool {
		return slices.ContainsFunc(d.releases, func(r *release) bool { return r.Name == name })
	})
}

// addChart adds the release of a chart: its images are set, and its services forwarded.
func (d *draft) addChart(ctx context.Context, chart *deploy.LocalChart, folder, name string, known chartValues) {
	r := &release{Release: config.Release{Name: name, Chart: folder, Namespace: d.name, CreateNamespace: true,
		Set: map[string]any{}}, reasons: map[string]string{}}
	if folder == "." {
		r.Chart = "./"
	}
	defaults := chart.Inspect(ctx, deploy.Release{Name: name, Namespace: d.name})
	d.note("release %s: %s", name, folder)
	if chart.Missing != nil {
		d.note("  without charts that it depends on: %v", chart.Missing)
	}
	found := d.setImages(ctx, r, chart, defaults, known)
	d.markUsed(found.Images)
	if len(r.Set) > 0 {
		d.note("  values set to images that are built here: %s", strings.Join(slices.Sorted(maps.Keys(r.Set)), ", "))
	}
	if found.Err != nil {
		d.note("  its default values do not suffice: %v", found.Err)
		r.comment = "The chart's default values do not suffice; set what it asks for: " + found.Err.Error()
	}
	d.incomplete = d.incomplete || found.Unknown || chart.Missing != nil
	d.seeNamespaces(r, found)
	d.addForwards(found.Services)
	d.releases = append(d.releases, r)
}

// candidate is a value of a chart that may be set to an image.
type candidate struct {
	imageValue
	image *image
	guess bool
	probe string // a name that stands nowhere else
}

const probePrefix = "devloop-probe-"

// setImages sets the values that name an image, unless containers alone get it: these are set to
// what was built anyway. Probes in the values tell where they go. defaults is what the release
// deploys with the chart's default values; setImages returns what it deploys.
func (d *draft) setImages(ctx context.Context, r *release, chart *deploy.LocalChart, defaults deploy.Inspection,
	known chartValues) deploy.Inspection {
	var candidates []candidate
	probes := map[string]any{}
	main := d.mainImage(chart.Name, r.Chart)
	values := imageValues(defaults.Values)
	for _, path := range slices.Sorted(maps.Keys(known)) {
		value, is := valueAt(defaults.Values, path)
		if is && !slices.ContainsFunc(values, func(v imageValue) bool { return v.path == path }) {
			values = append(values, value)
		}
	}
	for n, value := range values {
		i, guess := d.imageFor(value, known, main)
		if i == nil || guess && value.set == nil {
			continue
		}
		c := candidate{value, i, guess, fmt.Sprintf("%s%d-image", probePrefix, n)}
		candidates = append(candidates, c)
		i.used = true
		if value.set != nil {
			probes[value.repository] = c.probe
		}
	}
	probed := defaults
	if len(probes) > 0 {
		probed = chart.Inspect(ctx, deploy.Release{Name: r.Name, Namespace: r.Namespace, Set: probes})
	}
	for _, c := range candidates {
		d.setImage(r, c, defaults, probed)
	}
	if defaults.Err == nil {
		return defaults
	}
	for n, image := range probed.Images { // an image may be what the chart asked for
		if strings.HasPrefix(path.Base(image), probePrefix) {
			probed.Images[n] = ""
		}
	}
	return probed
}

// setImage sets the value that names an image, or makes what the containers run an alias of it.
func (d *draft) setImage(r *release, c candidate, defaults, probed deploy.Inspection) {
	repository := imageEnding(probed, c.probe)
	onlyContainers := repository != "" && !probed.HasElsewhere(c.probe)
	switch {
	case c.set == nil && !defaults.HasImage(c.full()):
		d.note("  %s is in a list: write the list to inlineValues with {{ image %q }}", c.path, c.image.Name)
		return
	case c.set == nil, onlyContainers && !c.guess && !defaults.Unknown && d.isFound(c.image, c.full(), defaults):
		d.addAliasOf(c.image, c.full())
		return
	case onlyContainers: // with the registry that the chart puts before it, which some need
		delete(c.set, c.registryPath)
		d.addAlias(c.image, strings.TrimSuffix(repository, c.probe)+c.image.Name)
	}
	for at, function := range c.set {
		r.Set[at] = ""
		if function != "" {
			r.Set[at] = fmt.Sprintf("{{ %s %q }}", function, c.image.Name)
		}
	}
	if c.guess && c.reference != "" {
		r.reasons[c.repository] = "a guess, instead of " + c.reference
	}
}

// isFound tells whether the image is found in what is deployed by its name, or by the value's.
func (d *draft) isFound(i *image, full string, defaults deploy.Inspection) bool {
	return defaults.HasImage(full) || slices.ContainsFunc(defaults.Images, func(repository string) bool {
		return d.imageOf(repository) == i
	})
}

// addAliasOf has the image that a value names stand for an image, if it can.
func (d *draft) addAliasOf(i *image, full string) {
	if d.imageOf(untagged(full)) != i || strings.Contains(full, "/") {
		d.addAlias(i, untagged(full))
	}
}

// imageEnding returns the repository that containers run and whose last part is name, "" for none.
func imageEnding(found deploy.Inspection, name string) string {
	for _, repository := range found.Images {
		if path.Base(repository) == name {
			return repository
		}
	}
	return ""
}

// mainImage returns the image that a chart is most likely made for, nil if there is none: the one
// with its name, or the only one in the nearest folder around the chart. If there are several
// charts, the project's own folder does not count.
func (d *draft) mainImage(chart, folder string) *image {
	for _, i := range d.images {
		if !i.stage && normalized(i.Name) == normalized(chart) {
			return i
		}
	}
	for at := filepath.Clean(folder); ; at = filepath.Dir(at) {
		if at == "." && d.charts > 1 {
			return nil
		}
		var below, here []*image
		for _, i := range d.images {
			if i.stage {
				continue
			}
			if at == "." || strings.HasPrefix(i.Dockerfile, at+string(filepath.Separator)) {
				below = append(below, i)
			}
			if filepath.Dir(i.Dockerfile) == at {
				here = append(here, i)
			}
		}
		switch {
		case len(below) == 1:
			return below[0]
		case len(here) == 1:
			return here[0]
		case len(below) > 0 || at == ".":
			return nil
		}
	}
}
