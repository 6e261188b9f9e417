// Rendering: what a release would be, without touching anything. It is how mistakes are found while the images are still being built,
// and what devloop render and devloop diff show.
package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
)

const hintChart = "mend the chart or its values and save; what ran keeps running"

// rendered is what a chart makes of its values.
type rendered struct {
	chart     *chart.Chart      // without the charts below it that are not wanted
	values    map[string]any    // that the user has given
	files     map[string]string // output, by the names of the templates
	hooks     []*release.Hook
	manifests []releaseutil.Manifest // in the order in which Helm installs them
	crds      []chart.CRD
}

// Validate finds what is wrong with the releases before anything is written: charts that cannot be had, values that a schema forbids,
// templates that fail, output that is no YAML, objects that the API server does not take. Releases that the cluster holds already are not
// looked at, nor those whose dependencies it does not know yet, since their charts may ask for what these bring. An API server that is away
// is no mistake of theirs.
func (d *Deployer) Validate(ctx context.Context, sink event.Sink, releases []Release) error {
	say := sink.For("deploy")
	err := d.cluster.Answers(ctx)
	if err == nil {
		err = d.cluster.Refresh(ctx)
	}
	if err != nil {
		say.Detail("charts could not be validated yet", "reason", err.Error())
		return nil //nolint:nilerr // whoever writes will say so
	}
	errs := make([]error, len(releases))
	var group sync.WaitGroup
	for i, r := range releases {
		group.Go(func() {
			err := passing(say.Guard("validation of a chart", func() error { return d.validate(ctx, say, r, releases) }))
			if event.IsTransient(err) {
				say.Detail("chart could not be validated yet", "release", event.Name(r.Name), "reason", err.Error())
				return
			}
			errs[i] = err
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (d *Deployer) validate(ctx context.Context, say event.Stage, r Release, all []Release) error {
	want, err := d.read(ctx, say, r)
	if err != nil {
		return err
	}
	last, err := d.last(ctx, r)
	if err != nil || d.holds(last, want) {
		return err
	}
	if err := d.mayWrite(r, last); err != nil {
		return err
	}
	for _, other := range all {
		if !slices.Contains(r.DependsOn, other.Name) {
			continue
		}
		if there, err := d.last(ctx, other); err != nil || !there.exists() {
			return err
		}
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return err
	}
	return d.tryOut(ctx, say, &want, made)
}

// tryOut asks the API server whether it would take the objects of a release, without making them: what it refuses in the middle
// of a Helm write leaves half of a revision. Each object is tried as a new one, so only what is wrong with the object itself counts.
func (d *Deployer) tryOut(ctx context.Context, say event.Stage, want *desired, made rendered) error {
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(atOnce)
	for _, m := range made.manifests {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(m.Content), &u.Object); err != nil || u.GetKind() == "" || u.IsList() {
			continue // Helm reads it its own way
		}
		o := object{kind: u.GroupVersionKind(), namespace: cmp.Or(u.GetNamespace(), want.Namespace), name: u.GetName()}
		api, err := d.resource(o)
		if err != nil {
			continue // of a kind that comes with the release
		}
		group.Go(func() error {
			options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
			_, err := api.Create(ctx, u, options)
			if err != nil && strings.Contains(err.Error(), "strict decoding error") { // Helm lets it pass; most often it is a typo
				_, unknown, _ := strings.Cut(err.Error(), "strict decoding error: ")
				say.Warn("the API server will leave something out", errors.New(unknown),
					"release", event.Name(want.Name), "template", want.file(m.Name), "object", o.String())
				options.FieldValidation = metav1.FieldValidationIgnore
				_, err = api.Create(ctx, u, options)
			}
			if err == nil || !isMistake(err, o) {
				return nil
			}
			return event.WithHint(fmt.Errorf("release %s: %s: %s %s: the API server does not take it: %w", want.ID(), want.file(m.Name), o.kind.Kind, o.name, err),
				hintChart)
		})
	}
	return group.Wait()
}

// isMistake tells whether an object was refused for what it holds. It may exist already; a service's ports and addresses may be taken by
// itself; webhooks and policies of admission judge more than the object; not every API can do without doing.
func isMistake(err error, o object) bool {
	text := strings.ToLower(err.Error())
	if strings.Contains(text, "admission") || strings.Contains(text, "webhook") || strings.Contains(text, "dry run") || strings.Contains(text, "dryrun") {
		return false
	}
	return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) && o.kind.Kind != "Service"
}

// render does what Helm does before it writes; last is the revision before.
func (d *Deployer) render(ctx context.Context, want *desired, last revision) (rendered, error) {
	made, err := d.renderAfter(ctx, want, last)
	if err != nil && ctx.Err() == nil && !errors.As(err, new(*ValueError)) { // which names the release
		err = fmt.Errorf("release %s: %w", want.ID(), err)
	}
	return made, err
}

// renderAfter is render for who names the release in errors.
func (d *Deployer) renderAfter(ctx context.Context, want *desired, last revision) (rendered, error) {
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
	var invalid errInvalid
	switch {
	case errors.As(err, &invalid):
		return rendered{}, want.against(fmt.Errorf("its values: %w", invalid.error))
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
	return rendered{loaded, values, files, hooks, manifests, loaded.CRDObjects()}, nil
}

// place is where a template fails: demo/templates/web.yaml:3:14.
var place = regexp.MustCompile(`([^\s()"]+/templates/[^\s():"]+):(\d+)(?::(\d+))?`)

// inTemplate names the place in the chart's own files. The last one that is named is where it failed, the others are how it got there.
func (want *desired) inTemplate(err error) error {
	text := err.Error()
	all := place.FindAllStringSubmatchIndex(text, -1)
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
