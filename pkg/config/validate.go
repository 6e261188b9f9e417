package config

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

// validator checks what no value shows by itself: whether what it names exists, on the disk or
// elsewhere in the configuration, and whether its name is unique.
type validator struct {
	*tree.Report
	c      *Config
	images []string // their names
}

// validate checks c, which was decoded from c.root, and fills in what depends on other values.
// Values that are empty here are left out, or were reported by the decoder.
func validate(r *tree.Report, c *Config) {
	v := validator{Report: r, c: c}
	for i := range c.Images {
		v.images = append(v.images, c.Images[i].Name)
		v.image(&c.Images[i], c.root.Get("images").Entries[i])
	}
	v.bases()
	v.aliases()
	v.releases(c.root.Get("releases").List())
	v.templates(c.root.Get("hooks"))
	for i, verify := range c.Verify {
		n := c.root.Get("verify").Items[i]
		v.imageName(n.Get("image"), verify.Image)
		if len(verify.Command)+len(verify.Args) == 0 {
			v.Wrong(n, `"command" is missing, or "args" for the image's entrypoint`)
		}
	}
	local := c.root.Get("local")
	for i, image := range c.Local.Images {
		v.imageName(local.Get("images").Items[i], image)
	}
	if c.Local.Sync {
		n := local.Get("requirements")
		if n == nil {
			n = local.Get("sync")
		}
		v.wrongIf(n, v.CheckFile(c.Dir, c.Local.Requirements))
	}
	for i := range c.Forwards {
		v.forward(i, c.root.Get("forwards").Items)
	}
	c.Images = inBuildOrder(c.Images)
}

// wrongIf reports n unless the message is empty.
func (v validator) wrongIf(n *tree.Node, message string) {
	if message != "" {
		v.Wrong(n, "%s", message)
	}
}

// imageName checks a value that names an image of the configuration.
func (v validator) imageName(n *tree.Node, name string) {
	if name != "" && !slices.Contains(v.images, name) {
		v.Wrong(n, "no image is called %q%s", name, tree.DidYouMean(name, v.images))
	}
}

func (v validator) image(image *Image, entry tree.Entry) {
	if image.Context == "" {
		return
	}
	context := v.CheckFolder(v.c.Dir, image.Context)
	if n := entry.Value.Get("context"); n != nil {
		v.wrongIf(n, context)
	}
	given := entry.Value.Get("dockerfile")
	switch {
	case given != nil && !given.IsNull():
		message := v.CheckFile(v.c.Dir, image.Dockerfile)
		inContext := filepath.Join(image.Context, image.Dockerfile)
		if message != "" && isFile(v.c.Abs(inContext)) {
			message = fmt.Sprintf("there is no file %q; paths are relative to the folder of %s: did you mean %q?",
				image.Dockerfile, FileName, inContext)
		}
		v.wrongIf(given, message)
	case context == "":
		image.Dockerfile = filepath.Join(image.Context, "Dockerfile")
		name := *entry.Key
		name.Path = entry.Value.Path
		v.wrongIf(&name, v.CheckFile(v.c.Dir, image.Dockerfile))
	}
}

// bases checks the images that images are built from.
func (v validator) bases() {
	args, bases := make([]*tree.Node, len(v.images)), make([][]string, len(v.images))
	for i, image := range v.c.Images {
		args[i], bases[i] = v.c.root.Get("images").Entries[i].Value.Get("args"), image.Bases()
		v.templates(args[i])
	}
	cycles(v.images, bases, func(i, j int, cycle string) {
		for _, arg := range args[i].Entries {
			if !slices.Contains(imagesIn(arg.Value.Value), bases[i][j]) {
				continue
			}
			if bases[i][j] == v.images[i] {
				v.Wrong(arg.Value, "an image cannot be built from itself")
			} else {
				v.Wrong(arg.Value, "these images are built from each other: %s", cycle)
			}
			return
		}
	})
}

// inBuildOrder returns the images in their order, but each after those that it is built from.
func inBuildOrder(images []Image) []Image {
	var ordered []Image
	seen := map[string]bool{}
	var add func(image Image)
	add = func(image Image) {
		if seen[image.Name] {
			return
		}
		seen[image.Name] = true
		for _, base := range image.Bases() {
			if i := slices.IndexFunc(images, func(other Image) bool { return other.Name == base }); i >= 0 {
				add(images[i])
			}
		}
		ordered = append(ordered, image)
	}
	for _, image := range images {
		add(image)
	}
	return ordered
}

// aliases reports names that stand for two images.
func (v validator) aliases() {
	normalized := func(name string) string {
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			return named.Name()
		}
		return name
	}
	owners := map[string]string{}
	for _, image := range v.c.Images {
		owners[normalized(image.Name)] = image.Name
		owners[normalized(v.c.Repository(image.Name))] = image.Name
	}
	for i, image := range v.c.Images {
		for j, alias := range image.Aliases {
			name := normalized(alias)
			if owner, taken := owners[name]; taken && owner != image.Name {
				v.Wrong(v.c.root.Get("images").Entries[i].Value.Get("aliases").Items[j],
					"%q stands for the image %q already", alias, owner)
			}
			owners[name] = image.Name
		}
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// releases checks the releases, which stand at items.
func (v validator) releases(items []*tree.Node) {
	var names []string
	first := map[string]*tree.Node{} // that has a name
	for i, release := range v.c.Releases {
		n := items[i].Get("name")
		switch other, taken := first[release.Name]; {
		case taken && release.Name != "":
			v.Taken(n, release.Name, other)
		default:
			first[release.Name] = n
		}
		names = append(names, release.Name)
		v.release(release, items[i])
	}
	dependsOn := make([][]string, len(names))
	for i := range v.c.Releases {
		v.dependencies(i, names, items)
		dependsOn[i] = v.c.Releases[i].DependsOn
	}
	cycles(names, dependsOn, func(i, j int, cycle string) {
		if dependsOn[i][j] != names[i] { // which is reported
			v.Wrong(items[i].Get("dependsOn").Items[j], "these releases wait for each other: %s", cycle)
		}
	})
}

func (v validator) release(release Release, n *tree.Node) {
	v.chart(release, n)
	v.manifests(release, n)
	for i, path := range release.Values {
		v.wrongIf(n.Get("values").Items[i], v.CheckFile(v.c.Dir, path))
	}
	for _, key := range n.Get("setString").Keys() {
		_, isText := release.SetString[key]
		if _, isSet := release.Set[key]; isSet && isText {
			v.Wrong(n.Get("setString").Get(key), "is in set, too")
		}
	}
	for _, key := range []string{"inlineValues", "set", "setString", "hooks"} {
		v.templates(n.Get(key))
	}
}

// chart checks where a release's chart comes from.
func (v validator) chart(release Release, n *tree.Node) {
	chart, repo := release.Chart, n.Get("repo")
	inRepo := repo != nil && !repo.IsNull() // though it may be wrong
	switch {
	case chart == "":
		return
	case inRepo && strings.Contains(chart, "/"):
		v.Wrong(n.Get("chart"), "%q must be the name of a chart in the repo, not a path or a URL", chart)
	case inRepo || isURL(chart):
	case !isFile(v.c.Abs(chart)): // it must be a folder
		if message := v.CheckFolder(v.c.Dir, chart); message != "" {
			v.Wrong(n.Get("chart"),
				"%s (a chart that is not on this machine starts with https:// or oci://, or has a repo)", message)
			break
		}
		v.wrongIf(n.Get("chart"), v.CheckFile(v.c.Dir, filepath.Join(chart, "Chart.yaml")))
		if release.SHA256 != "" {
			v.Wrong(n.Get("sha256"), "a checksum is for a chart's archive, but %s is a folder", chart)
		}
	}
	switch {
	case release.Version == "" || inRepo:
	case !isOCI(chart):
		v.Wrong(n.Get("version"), "a version is only for a chart from a repo or oci://")
	case tagColon(chart) < len(chart):
		v.Wrong(n.Get("version"), "the chart has a tag already, which is its version")
	}
}

// onlyForCharts are the keys of a release that say something about a chart.
var onlyForCharts = []string{"repo", "version", "sha256", "values", "inlineValues", "set", "setString", "secretValues"}

// manifests checks where the manifests come from of a release that has no chart.
func (v validator) manifests(release Release, n *tree.Node) {
	if key := n.Get("remoteBases"); key != nil && !key.IsNull() && release.Kustomize == "" {
		v.Wrong(key, `is for releases with "kustomize"`)
	}
	if release.Chart == "" && len(release.Manifests)+len(release.Kustomize) > 0 {
		for _, key := range onlyForCharts {
			if value := n.Get(key); value != nil && !value.IsNull() {
				v.Wrong(value, "is for releases with a chart, but this one is made of %s",
					map[bool]string{true: "a kustomization", false: "manifests"}[release.Kustomize != ""])
			}
		}
	}
	for i, pattern := range release.Manifests {
		if pattern != "" {
			v.wrongIf(n.Get("manifests").Items[i], v.pattern(pattern))
		}
	}
	if release.Kustomize != "" {
		v.wrongIf(n.Get("kustomize"), v.kustomization(release.Kustomize))
	}
}

// pattern returns what is wrong with a pattern of manifests. That one matches nothing is an error
// of a run, as other mistakes in manifests are.
func (v validator) pattern(pattern string) string {
	switch folder, glob := files.SplitGlob(v.c.Abs(pattern)); {
	case isURL(pattern):
		return fmt.Sprintf("%q is not on this machine; download it, or use a kustomization with remoteBases: true", pattern)
	case glob != "":
		for _, part := range strings.Split(glob, "/") {
			if _, err := path.Match(part, ""); err != nil {
				return fmt.Sprintf("%q is not a pattern: %v", part, err)
			}
		}
		if name, err := filepath.Rel(v.c.Dir, folder); err == nil {
			folder = name
		}
		return v.CheckFolder(v.c.Dir, folder)
	case isFolder(v.c.Abs(pattern)):
		return ""
	}
	return v.CheckFile(v.c.Dir, pattern)
}

// kustomization returns what is wrong with the folder of a kustomization.
func (v validator) kustomization(folder string) string {
	if isURL(folder) {
		return fmt.Sprintf("%q is not on this machine; write a kustomization with it in its resources, and remoteBases: true",
			folder)
	}
	if message := v.CheckFolder(v.c.Dir, folder); message != "" {
		return message
	}
	for _, name := range []string{"kustomization.yml", "Kustomization"} {
		if isFile(v.c.Abs(filepath.Join(folder, name))) {
			return ""
		}
	}
	return v.CheckFile(v.c.Dir, filepath.Join(folder, "kustomization.yaml"))
}

// dependencies checks what a release depends on.
func (v validator) dependencies(i int, names []string, items []*tree.Node) {
	dependsOn := v.c.Releases[i].DependsOn
	for j, name := range dependsOn {
		n := items[i].Get("dependsOn").Items[j]
		switch {
		case name == "":
		case slices.Contains(dependsOn[:j], name):
			v.Wrong(n, "%q is here twice", name)
		case name == names[i]:
			v.Wrong(n, "a release cannot depend on itself")
		case !slices.Contains(names, name):
			v.Wrong(n, "no release is called %q%s", name, tree.DidYouMean(name, names))
		}
	}
}

// cycles finds names that depend on themselves. It calls report with the indexes of a name and of
// the dependency that closes a cycle.
func cycles(names []string, dependencies [][]string, report func(i, j int, cycle string)) {
	var path []int // of dependencies, from a name on
	done := make([]bool, len(names))
	var follow func(i int)
	follow = func(i int) {
		path = append(path, i)
		for j, name := range dependencies[i] {
			next := slices.Index(names, name)
			start := slices.Index(path, next)
			switch {
			case name == "" || next < 0:
			case start >= 0:
				var cycle strings.Builder
				for _, passed := range path[start:] {
					cycle.WriteString(names[passed] + " → ")
				}
				report(i, j, cycle.String()+name)
			case !done[next]:
				follow(next)
			}
		}
		path = path[:len(path)-1]
		done[i] = true
	}
	for i := range names {
		if !done[i] {
			follow(i)
		}
	}
}

// templates checks the templates in a value of any depth.
func (v validator) templates(n *tree.Node) {
	switch {
	case n == nil:
	case n.IsScalar():
		if err := checkTemplate(n.Value, v.images); err != nil {
			v.Wrong(n, "%v", err)
		}
	default:
		for _, e := range n.Entries {
			v.templates(e.Value)
		}
		for _, item := range n.Items {
			v.templates(item)
		}
	}
}

// forward checks the forward with this index against those before it. All of them stand at items.
func (v validator) forward(i int, items []*tree.Node) {
	forward := v.c.Forwards[i]
	if kind, _ := forward.Target(); kind != "" && kind != "service" && forward.Port != "" {
		v.wrongIf(items[i].Get("port"), rules["podPort"].violation(forward.Port))
	}
	for j, other := range v.c.Forwards[:i] {
		if forward.Local > 0 && forward.Local == other.Local && overlap(forward.Addresses(), other.Addresses()) {
			v.Taken(items[i].Get("local"), strconv.Itoa(forward.Local), items[j].Get("local"))
			return
		}
	}
}

// overlap tells whether a port that is open on some addresses is taken on one of the others.
func overlap(some, others []netip.Addr) bool {
	covers := func(a, b netip.Addr) bool {
		return a == b || a.IsUnspecified() && (a.Is6() || b.Is4()) // :: includes IPv4
	}
	for _, a := range some {
		for _, b := range others {
			if covers(a, b) || covers(b, a) {
				return true
			}
		}
	}
	return false
}
