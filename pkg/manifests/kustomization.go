package manifests

// What a kustomization refers to, read before kustomize runs: kustomize starts git for whatever
// looks like a repository, and its errors have no lines.

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// kustomizeGroup is the group of the apiVersion of kustomizations.
const kustomizeGroup = "kustomize.config.k8s.io"

// maxBases limits the kustomizations that one consists of.
const maxBases = 1_000

// KustomizationNames are the names that a kustomization may have.
var KustomizationNames = konfig.RecognizedKustomizationFileNames()

// scan is what a kustomization and its bases refer to.
type scan struct {
	Source
	canceled <-chan struct{}
	watched  []string        // files that are read, or would be if they existed
	bases    map[string]bool // real paths of the kustomizations that were looked at
	read     map[string]bool // files that were checked
	objects  []object        // of the files that are resources
	patches  []object        // of the files that are patches
	isRemote bool            // something comes from another machine
	problems problems
	hint     string // for the first problem
}

// scan reads a kustomization and its bases, until it is canceled.
func (s Source) scan(canceled <-chan struct{}) *scan {
	c := &scan{Source: s, canceled: canceled, bases: map[string]bool{}, read: map[string]bool{}}
	folder := s.abs(s.Kustomization)
	switch info, err := os.Stat(folder); {
	case err == nil && info.IsDir():
		c.kustomization(folder)
	case err == nil:
		c.problems.add(s.name(folder), 0, 0, "is no folder; kustomize: takes the folder of a kustomization")
		c.watched = append(c.watched, folder)
	default:
		c.problems.add(s.name(folder), 0, 0, "the folder of the kustomization cannot be read: %v", reason(err))
		c.watched = append(c.watched, folder)
	}
	return c
}

func (c *scan) isCanceled() bool {
	select {
	case <-c.canceled:
		return true
	default:
		return false
	}
}

func (c *scan) asError() error {
	err := c.problems.asError()
	if err != nil && c.hint != "" {
		return event.WithHint(err, c.hint)
	}
	return err
}

// load reads a file, once; nil if it was read before, or cannot be.
func (c *scan) load(path string, optional bool) []byte {
	c.watched = append(c.watched, path)
	if c.read[path] || c.isCanceled() {
		return nil
	}
	c.read[path] = true
	content, err := files.Read(path, maxFile)
	switch {
	case err == nil:
		return content
	case !optional || !errors.Is(err, fs.ErrNotExist):
		c.problems.add(c.name(path), 0, 0, "cannot be read: %v", reason(err))
	}
	return nil
}

// kustomization looks at the one in a folder.
func (c *scan) kustomization(folder string) {
	real, err := filepath.EvalSymlinks(folder)
	if err != nil || c.bases[real] || c.isCanceled() {
		return
	}
	c.bases[real] = true
	if len(c.bases) > maxBases {
		c.problems.add(c.name(folder), 0, 0, "the kustomization has more than %d bases", maxBases)
		return
	}
	var found []string
	for _, name := range KustomizationNames {
		path := filepath.Join(folder, name)
		content := c.load(path, true)
		if content == nil {
			continue
		}
		found = append(found, name)
		d := document{problems: &c.problems, Document: Document{File: c.name(path), Line: 1, Text: clean(content)}}
		if root, ok := d.parse(); ok {
			k := kustomization{scan: c, doc: d, folder: folder}
			k.root(root)
		}
	}
	switch {
	case len(found) == 0 && len(c.problems.lines) == 0:
		c.problems.add(c.name(folder), 0, 0, "has no %s", KustomizationNames[0])
		if names := manifestsIn(folder); len(names) > 0 {
			c.hint = c.name(folder) + " has " + strings.Join(names, ", ")
		}
	case len(found) > 1:
		c.problems.add(c.name(folder), 0, 0, "has %s; kustomize wants one of them", strings.Join(found, " and "))
	}
}

// kustomization is one kustomization.yaml.
type kustomization struct {
	*scan
	doc    document
	folder string
}

// keys of a kustomization, and where files stand in them.
var (
	knownKeys = jsonKeys(reflect.TypeFor[types.Kustomization]())
	// basesIn have folders, repositories and files.
	basesIn = []string{"resources", "bases", "components"}
	// pluginsIn have files, folders, and YAML in place.
	pluginsIn = []string{"generators", "transformers", "validators"}
	filesIn   = []string{"crds", "configurations", "patchesStrategicMerge"}
	// pathsIn have mappings with a path.
	pathsIn = []string{"patches", "patchesJson6902", "replacements"}
	// dataIn have mappings with files of data.
	dataIn = []string{"configMapGenerator", "secretGenerator"}
	// helmIn make objects of charts, for which kustomize runs helm.
	helmIn = []string{"helmCharts", "helmChartInflationGenerator"}
)

// jsonKeys returns the keys of a struct as encoding/json knows them.
func jsonKeys(of reflect.Type) (keys []string) {
	for i := range of.NumField() {
		field := of.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name != "":
			keys = append(keys, name)
		case field.Anonymous:
			keys = append(keys, jsonKeys(field.Type)...)
		}
	}
	return keys
}

func (k *kustomization) root(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		k.doc.wrong(n, "must be a mapping, but is %s", describe(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		known := func(name string) bool { return strings.EqualFold(name, key.Value) } // as kustomize has it
		if key.Kind == yaml.ScalarNode && key.Tag != "!!merge" && !slices.ContainsFunc(knownKeys, known) {
			k.doc.wrong(key, "a kustomization has no key %q", key.Value)
		}
	}
	for _, key := range helmIn {
		if charts := get(n, key); charts != nil && len(charts.Content) > 0 {
			k.doc.wrong(charts.Content[0], "%s: devloop does not run helm for a kustomization; "+
				"make the chart a release of its own, with chart: and values:", key)
		}
	}
	for _, key := range basesIn {
		for _, item := range list(n, key) {
			k.base(item, false)
		}
	}
	for _, key := range pluginsIn {
		for _, item := range list(n, key) {
			k.plugin(item)
		}
	}
	for _, key := range filesIn {
		for _, item := range list(n, key) {
			if !strings.Contains(item.Value, "\n") { // else a patch in place
				k.patch(item)
			}
		}
	}
	for _, key := range pathsIn {
		for _, item := range list(n, key) {
			k.patch(get(item, "path"))
		}
	}
	for _, key := range dataIn {
		for _, item := range list(n, key) {
			k.data(item)
		}
	}
	k.path(get(get(n, "openapi"), "path"))
	if err := new(types.Kustomization).Unmarshal([]byte(k.doc.Text)); err != nil && len(k.problems.lines) == 0 {
		_, message, _ := strings.Cut(err.Error(), "json: ")
		k.doc.wrong(field(n, message), "%s", cmp.Or(message, err.Error()))
	}
}

var goField = regexp.MustCompile(`Go struct field (\S+)`)

// field returns the value that an error of encoding/json is about, as far as it names that.
func field(n *yaml.Node, message string) *yaml.Node {
	if m := goField.FindStringSubmatch(message); m != nil {
		for _, key := range strings.Split(m[1], ".") {
			if value := get(n, key); value != nil {
				return value
			}
		}
	}
	return n
}

var (
	isURL = regexp.MustCompile(`(?i)^https?://`)
	// isRepository matches what kustomize takes for a git repository, if there is no such file.
	isRepository = regexp.MustCompile(`(?i)^(git::|https?://|ssh://|file://|github\.com[/:]|[a-z][a-z0-9-]*@[^/:]+[/:].)`)
)

// remote tells whether a value is on another machine, and reports it unless that is allowed.
func (k *kustomization) remote(n *yaml.Node, value string, pattern *regexp.Regexp) bool {
	if !pattern.MatchString(value) {
		return false
	}
	k.isRemote = true
	if !k.RemoteBases {
		k.doc.wrong(n, "%q is not on this machine; remoteBases: true lets the release load it", line(value))
	}
	return true
}

// abs returns a path of the kustomization.
func (k *kustomization) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(k.folder, path)
}

// base looks at what is a file with resources, or a folder or repository with a kustomization.
func (k *kustomization) base(n *yaml.Node, isPlugin bool) {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		k.doc.wrong(n, "must be the path of a file or a folder, but is %s", describe(n))
		return
	}
	path := k.abs(n.Value)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir() && !isRepository.MatchString(n.Value):
		k.kustomization(path)
	case err == nil && slices.Contains(KustomizationNames, filepath.Base(path)):
		k.doc.wrong(n, "%q is a kustomization; name its folder", n.Value)
	case err == nil && !info.IsDir() && !isURL.MatchString(n.Value):
		k.resources(path, isPlugin)
	case k.remote(n, n.Value, isRepository):
	default:
		k.missing(n, path, err)
	}
}

// resources checks a file of resources, or of a plugin's configuration.
func (k *kustomization) resources(path string, isPlugin bool) {
	content := k.load(path, false)
	if content == nil {
		return
	}
	for _, part := range split(content) {
		d := document{problems: &k.problems, Document: Document{File: k.name(path), Line: part.line, Text: part.text}}
		root, ok := d.parse()
		switch {
		case !ok:
		case isPlugin, text(root, "apiVersion") == konfig.BuiltinPluginApiVersion:
			k.builtin(d, root)
		default:
			k.objects = append(k.objects, d.object(root, d.Document, 0)...)
		}
	}
}

// plugin looks at the configuration of a generator, transformer or validator: a path, or in place.
func (k *kustomization) plugin(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode || !strings.ContainsAny(n.Value, "\n{") {
		k.base(n, true)
		return
	}
	inner, first := problems{}, n.Line
	if n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		first++
	}
	for _, part := range split([]byte(n.Value)) {
		d := document{problems: &inner, Document: Document{File: k.doc.File, Line: first + part.line - 1, Text: part.text}}
		if root, ok := d.parse(); ok && root.Kind == yaml.MappingNode {
			d.problems = &k.problems
			k.builtin(d, root)
		}
	}
}

// builtin looks at the configuration of a plugin, which may name files.
func (k *kustomization) builtin(d document, n *yaml.Node) {
	switch {
	case text(n, "apiVersion") != konfig.BuiltinPluginApiVersion:
		d.wrong(n, "%s %s is a program that kustomize would run as a plugin; devloop runs none",
			text(n, "apiVersion"), text(n, "kind"))
		return
	case text(n, "kind") == "HelmChartInflationGenerator":
		d.wrong(n, "devloop does not run helm for a kustomization; make the chart a release of its own, "+
			"with chart: and values:")
		return
	}
	inner := kustomization{k.scan, d, k.folder}
	inner.path(get(n, "path"))
	for _, path := range list(n, "paths") {
		inner.path(path)
	}
	for _, key := range pathsIn {
		for _, item := range list(n, key) {
			inner.path(get(item, "path"))
		}
	}
	inner.data(n)
}

// data looks at the files of a generator of ConfigMaps or Secrets.
func (k *kustomization) data(n *yaml.Node) {
	for _, item := range list(n, "files") {
		_, file, named := strings.Cut(item.Value, "=")
		if !named {
			file = item.Value
		}
		k.file(item, file)
	}
	for _, item := range append(list(n, "envs"), get(n, "env")) {
		k.path(item)
	}
}

func (k *kustomization) path(n *yaml.Node) {
	if n != nil && n.Kind == yaml.ScalarNode && n.Value != "" {
		k.file(n, n.Value)
	}
}

// patch looks at a file of YAML that is no resource.
func (k *kustomization) patch(n *yaml.Node) {
	if n == nil || !k.file(n, n.Value) {
		return
	}
	path := k.abs(n.Value)
	content := k.load(path, false)
	for _, part := range split(content) {
		d := document{problems: &k.problems, Document: Document{File: k.name(path), Line: part.line, Text: part.text}}
		if root, ok := d.parse(); ok {
			id := id{kind: text(root, "kind"), name: text(get(root, "metadata"), "name")}
			k.patches = append(k.patches, object{d.Document, id})
		}
	}
}

// file looks at a file that is no resource, and tells whether it can be read.
func (k *kustomization) file(n *yaml.Node, value string) bool {
	if n.Kind != yaml.ScalarNode || value == "" || k.remote(n, value, isURL) {
		return false
	}
	path := k.abs(value)
	k.watched = append(k.watched, path)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		k.missing(n, path, err)
	case !info.Mode().IsRegular():
		k.doc.wrong(n, "%q is no file", value)
	default:
		return true
	}
	return false
}

// missing reports what cannot be read.
func (k *kustomization) missing(n *yaml.Node, path string, err error) {
	k.watched = append(k.watched, path)
	switch {
	case strings.ContainsAny(n.Value, "*?[") && errors.Is(err, fs.ErrNotExist):
		k.doc.wrong(n, "there is no file %q; kustomize knows no patterns", n.Value)
	case errors.Is(err, fs.ErrNotExist):
		k.doc.wrong(n, "there is no file or folder %q in %s", n.Value, k.name(k.folder))
		if names := manifestsIn(filepath.Dir(path)); len(names) > 0 && k.hint == "" {
			k.hint = k.name(filepath.Dir(path)) + " has " + strings.Join(names, ", ")
		}
	default:
		k.doc.wrong(n, "%q cannot be read: %v", n.Value, reason(err))
	}
}
