package deploy

import (
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

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
)

// hintFix says what to do about what a release is made of.
func (r Release) hintFix() string {
	if r.isPlain() {
		return "fix the manifest and save"
	}
	return "fix the chart or its values and save"
}

// rendered is the outcome of a chart and its values.
type rendered struct {
	chart     *chart.Chart      // without disabled dependencies
	values    map[string]any    // of the user
	revision  int               // for which it was rendered
	kinds     []string          // that the cluster had then
	files     map[string]string // output, by the names of the templates
	hooks     []*release.Hook
	manifests []releaseutil.Manifest // in Helm's order of installation
	objects   []manifestObject       // of the manifests, with their files; read only
	crds      []chart.CRD            // with the namespaces: Helm neither updates nor deletes them
	set       []SetImage             // that the templates give another tag
	images    []ContainerImage       // of all objects and hooks

	definitions []manifestObject // in crds, read only
}

// render does what Helm does before it writes the revision after last.
func (d *Deployer) render(ctx context.Context, want *desired, last revision) (rendered, error) {
	made, err := d.renderChart(ctx, want, last)
	if err != nil && ctx.Err() == nil && !errors.As(err, new(*ValueError)) { // which names the release
		err = fmt.Errorf("release %s: %w", want.ID(), err)
	}
	return made, err
}

// renderChart is render without the release's name in errors.
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
	options := chartutil.ReleaseOptions{Name: want.Name, Namespace: want.Namespace, Revision: 1, IsInstall: true}
	if last.exists() {
		options.Revision, options.IsInstall, options.IsUpgrade = last.version+1, false, true
	}
	values, all, err := want.valuesFor(loaded, options, capabilities)
	if err != nil {
		return rendered{}, event.WithHint(err, want.hintFix())
	}
	if err := d.hideValues(want.Release, all); err != nil {
		return rendered{}, err
	}
	config, err := d.cluster.ToRESTConfig()
	if err != nil {
		return rendered{}, err
	}
	made, err := want.renderWith(ctx, loaded, values, options, capabilities, config)
	if err != nil {
		return rendered{}, err
	}
	made.values, made.revision, made.kinds = values, options.Revision, capabilities.APIVersions
	d.setImages(want.Release, made.images)
	return made, nil
}

// renderWith renders the chart with the user's values, and takes the output apart. Without the
// config of a cluster, lookups find nothing.
func (want *desired) renderWith(ctx context.Context, loaded *chart.Chart, values map[string]any,
	options chartutil.ReleaseOptions, capabilities *chartutil.Capabilities, config *rest.Config) (rendered, error) {
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
		return rendered{}, event.WithHint(want.inTemplate(err), want.hintFix())
	}
	return want.sort(loaded, files)
}

// sort takes what the templates were rendered to apart into namespaces, hooks and manifests, and
// sets the images that were built.
func (want *desired) sort(loaded *chart.Chart, files map[string]string) (made rendered, err error) {
	made = rendered{chart: loaded, files: files, crds: loaded.CRDObjects()}
	if namespaces := takeNamespaces(files); len(namespaces) > 0 {
		made.crds = append(made.crds, namespaces...)
		loaded.Files = append(loaded.Files, namespacesFile(namespaces)) // for Helm's record
	}
	objects := maps.Clone(files)
	maps.DeleteFunc(objects, func(name, _ string) bool { return strings.HasSuffix(name, "NOTES.txt") })
	if made.set, err = want.Images.built.set(objects); err != nil {
		return rendered{}, err
	}
	maps.Copy(files, objects)
	if made.definitions, err = parseDefinitions(made.crds, want.file); err != nil {
		return rendered{}, event.WithHint(err, want.hintFix())
	}
	made.hooks, made.manifests, err = releaseutil.SortManifests(objects, nil, releaseutil.InstallOrder)
	if err != nil {
		return rendered{}, event.WithHint(want.inOutput(err, files), want.hintFix())
	}
	for _, m := range made.manifests {
		made.objects = append(made.objects, decodeObjects(want.file(m.Name), m.Content)...)
	}
	if err := want.checkNames(made); err != nil {
		return rendered{}, err
	}
	made.images = imagesIn(made.hooks, contentsOf(made.manifests)...)
	return made, nil
}

// checkNames returns an error if an object has no name of its own, or shares it with another one.
func (want *desired) checkNames(made rendered) error {
	all := slices.Clone(made.objects)
	for _, hook := range made.hooks {
		all = append(all, decodeObjects(want.file(hook.Path), hook.Manifest)...)
	}
	for _, o := range all {
		if o.GetName() == "" && o.GetGenerateName() != "" {
			return event.WithHint(fmt.Errorf("%s: %s has metadata.generateName %q and no name: without a name, a release "+
				"cannot find it again, to change or to delete it", o.file, o.GetKind(), o.GetGenerateName()),
				"give it metadata.name")
		}
	}
	return want.checkDuplicates(made.manifests)
}

// checkDuplicates returns an error if an object is rendered twice: which of the two the cluster
// gets would be chance. Helm fails over that when it installs, and not when it upgrades. Hooks may
// be repeated, since each run of one may delete what the last one made.
func (want *desired) checkDuplicates(manifests []releaseutil.Manifest) error {
	type identity struct {
		kind            schema.GroupKind
		namespace, name string
	}
	templates := map[identity]string{}
	var errs []error
	for _, manifest := range manifests {
		objects, err := parseObjects(manifest.Content, want.Namespace)
		if err != nil {
			continue // the API server says what is wrong with it
		}
		for _, o := range objects {
			id := identity{o.kind.GroupKind(), o.namespace, o.name}
			first, rendered := templates[id]
			if templates[id] = manifest.Name; !rendered {
				continue
			}
			in := "twice in " + want.file(first)
			if first != manifest.Name {
				in = fmt.Sprintf("both in %s and in %s", want.file(first), want.file(manifest.Name))
			}
			name := o.String()
			if o.namespace != want.Namespace {
				name += " in namespace " + o.namespace
			}
			errs = append(errs, fmt.Errorf("%s is %s", name, in))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	hint := "keep one of them; if a file is a copy, move it out of templates/ or name it in .helmignore"
	if want.isPlain() {
		hint = "keep one of them"
	}
	return event.WithHint(errors.Join(errs...), hint)
}

// valuesFor returns the user's values, and all that templates see, the chart's defaults included.
// It removes disabled dependencies from the chart, and fails if that cannot be installed.
func (want *desired) valuesFor(
	loaded *chart.Chart, options chartutil.ReleaseOptions, capabilities *chartutil.Capabilities,
) (values map[string]any, all chartutil.Values, err error) {
	if loaded.Metadata.Type == "library" {
		return nil, nil, errors.New("its chart is a library, which other charts use and cannot be installed")
	}
	version := capabilities.KubeVersion.String()
	if kube := loaded.Metadata.KubeVersion; kube != "" && !chartutil.IsCompatibleRange(kube, version) {
		return nil, nil, fmt.Errorf("its chart is for Kubernetes %s, the cluster is %s", kube, version)
	}
	if values, err = merge(want.Release); err != nil { // once more: Helm changes values
		return nil, nil, err
	}
	if err := chartutil.ProcessDependenciesWithMerge(loaded, values); err != nil {
		return nil, nil, err
	}
	top, err := chartutil.ToRenderValuesWithSchemaValidation(loaded, values, options, capabilities, true)
	if err != nil {
		return nil, nil, err
	}
	all, err = top.Table("Values")
	return values, all, err
}

// templatePlace is where a template fails: demo/templates/web.yaml:3:14.
var templatePlace = regexp.MustCompile(`([^\s()"]+/templates/[^\s():"]+):(\d+)(?::(\d+))?`)

// inTemplate makes the error name the place in the chart's own files: the last one in Helm's text;
// those before it are its callers.
func (want *desired) inTemplate(err error) error {
	text := err.Error()
	all := templatePlace.FindAllStringSubmatchIndex(text, -1)
	if len(all) == 0 {
		return err
	}
	at := all[len(all)-1]
	where := want.file(text[at[2]:at[3]]) + text[at[3]:at[1]]
	what := strings.TrimLeft(text[at[1]:], "): ")
	// executing "demo/templates/web.yaml" at <.Values.a.b>: nil pointer …
	if rest, ok := strings.CutPrefix(what, "executing "); ok {
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

// inOutput shows the line of a template's output that is not YAML.
func (want *desired) inOutput(err error, files map[string]string) error {
	parts := outputLine.FindStringSubmatch(err.Error())
	if parts == nil {
		return err
	}
	line, _ := strconv.Atoi(parts[2])
	// The parser counts the lines of one document, and does not say which: show the line only if
	// the file has one.
	lines := strings.Split(files[parts[1]], "\n")
	shown := ""
	if len(releaseutil.SplitManifests(files[parts[1]])) == 1 && line > 0 && line <= len(lines) {
		shown = fmt.Sprintf(" (%q)", strings.TrimSpace(lines[line-1]))
	}
	return fmt.Errorf("%s: its output is no YAML: line %d of it%s: %s", want.file(parts[1]), line, shown, parts[3])
}

// file returns the path of a chart's file that Helm calls demo/templates/web.yaml.
func (want *desired) file(name string) string {
	if want.isPlain() {
		return placeOf(name)
	}
	if strings.Contains(want.Chart, "://") || want.Repo != "" || path.Ext(want.Chart) == ".tgz" {
		return name
	}
	_, inside, _ := strings.Cut(name, "/")
	folder := want.Chart
	for {
		below, isBelow := strings.CutPrefix(inside, "charts/")
		dependency, rest, _ := strings.Cut(below, "/")
		if !isBelow || rest == "" {
			return filepath.Join(folder, filepath.FromSlash(inside))
		}
		folder, inside = dependencyFolder(folder, dependency), rest
	}
}
