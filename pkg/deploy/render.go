// Rendering: what a release would be, without touching anything. It is how mistakes are found while the images are still being built,
// and what devloop render and devloop diff show.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"

	"github.com/devloop/devloop/pkg/event"
)

const hintChart = "mend the chart or its values and save; what ran keeps running"

// rendered is what a chart makes of its values.
type rendered struct {
	chart     *chart.Chart      // without the charts below it that are not wanted
	values    map[string]any    // that the user has given
	revision  int               // for which it was rendered
	files     map[string]string // output, by the names of the templates
	hooks     []*release.Hook
	manifests []releaseutil.Manifest // in the order in which Helm installs them
	crds      []chart.CRD
}

// render does what Helm does before it writes; last is the revision before.
func (d *Deployer) render(ctx context.Context, want *desired, last revision) (rendered, error) {
	made, err := d.renderChart(ctx, want, last)
	if err != nil && ctx.Err() == nil && !errors.As(err, new(*ValueError)) { // which names the release
		err = fmt.Errorf("release %s: %w", want.ID(), err)
	}
	return made, err
}

// renderChart is render for who names the release in errors.
func (d *Deployer) renderChart(ctx context.Context, want *desired, last revision) (rendered, error) {
	loaded, err := want.load(ctx)
	if err != nil {
		return rendered{}, err
	}
	want.name = loaded.Name()
	capabilities, err := d.cluster.Capabilities(ctx)
	if err != nil {
		return rendered{}, err
	}
	fail := func(err error) (rendered, error) { return rendered{}, event.WithHint(err, hintChart) }
	if loaded.Metadata.Type == "library" {
		return fail(errors.New("its chart is a library, which other charts use and nobody can install"))
	}
	if kube := loaded.Metadata.KubeVersion; kube != "" && !chartutil.IsCompatibleRange(kube, capabilities.KubeVersion.String()) {
		return fail(fmt.Errorf("its chart is for Kubernetes %s, the cluster is %s", kube, capabilities.KubeVersion.String()))
	}
	// Helm changes the values, too.
	values, err := merge(want.Release)
	if err != nil {
		return fail(err)
	}
	if err := chartutil.ProcessDependenciesWithMerge(loaded, values); err != nil {
		return fail(err)
	}
	options := chartutil.ReleaseOptions{Name: want.Name, Namespace: want.Namespace, Revision: 1, IsInstall: true}
	if last.exists() {
		options.Revision, options.IsInstall, options.IsUpgrade = last.version+1, false, true
	}
	all, err := chartutil.ToRenderValuesWithSchemaValidation(loaded, values, options, capabilities, true)
	if err != nil {
		return fail(err)
	}
	merged, ok := all["Values"].(chartutil.Values)
	if !ok {
		return fail(errors.New("its values are no mapping"))
	}
	if err := d.hideValues(want.Release, merged); err != nil {
		return rendered{}, err
	}
	config, err := d.cluster.ToRESTConfig()
	if err != nil {
		return rendered{}, err
	}
	files, err := renderTemplates(ctx, loaded, values, options, capabilities, config)
	var invalid schemaError
	switch {
	case errors.As(err, &invalid):
		return rendered{}, want.schemaErrors(fmt.Errorf("its values: %w", invalid.error))
	case ctx.Err() != nil:
		return rendered{}, context.Cause(ctx)
	case event.Hint(err) != "":
		return rendered{}, err
	case err != nil:
		return fail(want.inTemplate(err))
	}
	objects := maps.Clone(files)
	maps.DeleteFunc(objects, func(name, _ string) bool { return strings.HasSuffix(name, "NOTES.txt") })
	hooks, manifests, err := releaseutil.SortManifests(objects, nil, releaseutil.InstallOrder)
	if err != nil {
		return fail(want.inOutput(err, files))
	}
	return rendered{loaded, values, options.Revision, files, hooks, manifests, loaded.CRDObjects()}, nil
}

// templatePlace is where a template fails: demo/templates/web.yaml:3:14.
var templatePlace = regexp.MustCompile(`([^\s()"]+/templates/[^\s():"]+):(\d+)(?::(\d+))?`)

// inTemplate names the place in the chart's own files. The last one that is named is where it failed, the others are how it got there.
func (want *desired) inTemplate(err error) error {
	text := err.Error()
	all := templatePlace.FindAllStringSubmatchIndex(text, -1)
	if len(all) == 0 {
		return err
	}
	at := all[len(all)-1]
	where := want.file(text[at[2]:at[3]]) + text[at[3]:at[1]]
	what := strings.TrimLeft(text[at[1]:], "): ")
	if rest, ok := strings.CutPrefix(what, "executing "); ok { // "demo/templates/web.yaml" at <.Values.a.b>: nil pointer …
		if _, code, ok := strings.Cut(rest, " at "); ok {
			what = "at " + code
		}
	}
	if what == "" {
		what = text
	}
	return fmt.Errorf("%s: %s", where, what)
}

var outputLine = regexp.MustCompile(`YAML parse error on (\S+?): .*line (\d+): (.*)$`)

// inOutput shows the line of a template's output that is no YAML.
func (want *desired) inOutput(err error, files map[string]string) error {
	parts := outputLine.FindStringSubmatch(err.Error())
	if parts == nil {
		return err
	}
	line, _ := strconv.Atoi(parts[2])
	// The parser counts in one document of the file, which is not known: the line is shown if the file has one only.
	lines := strings.Split(files[parts[1]], "\n")
	shown := ""
	if len(releaseutil.SplitManifests(files[parts[1]])) == 1 && line > 0 && line <= len(lines) {
		shown = fmt.Sprintf(" (%q)", strings.TrimSpace(lines[line-1]))
	}
	return fmt.Errorf("%s: its output is no YAML: line %d of it%s: %s", want.file(parts[1]), line, shown, parts[3])
}

// file returns the path of a chart's file by the name that Helm gives it: demo/templates/web.yaml.
func (want *desired) file(name string) string {
	if strings.Contains(want.Chart, "://") || want.Repo != "" || path.Ext(want.Chart) == ".tgz" {
		return name
	}
	_, inside, _ := strings.Cut(name, "/")
	return filepath.Join(want.Chart, filepath.FromSlash(inside))
}
