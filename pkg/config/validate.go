package config

// What no value shows by itself: whether what it names is there, on the disk or elsewhere in the configuration, and
// whether it is the only one of its kind.

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// validate checks c, which was decoded from c.root, and fills in what depends on other values. Values that are empty here
// are left out, or were reported when they were decoded.
func validate(report *tree.Report, c *Config) {
	r := validator{report}
	var images []string
	for i := range c.Images {
		images = append(images, c.Images[i].Name)
		r.checkImage(c.Dir, &c.Images[i], c.root.Get("images").Entries[i])
	}
	names := map[string]*tree.Node{}
	for i, release := range c.Releases {
		at := c.root.Get("releases").Items[i]
		r.unique(names, at.Get("name"), release.Name)
		r.checkRelease(c.Dir, release, at, images)
	}
	if len(c.Releases) > 0 {
		r.checkOrder(c.Releases, c.root.Get("releases").Items)
	}
	for i, verify := range c.Verify {
		at := c.root.Get("verify").Items[i]
		r.isImage(at.Get("image"), verify.Image, images)
		if len(verify.Command)+len(verify.Args) == 0 {
			r.Wrong(at, `"command" is missing, or "args" for the image's entrypoint`)
		}
	}
	for i, image := range c.Local.Images {
		r.isImage(c.root.Get("local").Get("images").Items[i], image, images)
	}
	if c.Local.Sync {
		r.checkSync(c)
	}
	for i, forward := range c.Forwards {
		r.checkForward(forward, c.root.Get("forwards").Items, c.Forwards[:i])
	}
}

// validator checks a configuration that was decoded.
type validator struct{ *tree.Report }

// isImage checks that a value names an image of the configuration.
func (r validator) isImage(at *tree.Node, name string, images []string) {
	if name != "" && !slices.Contains(images, name) {
		r.Wrong(at, "no image is called %q%s", name, tree.DidYouMean(name, images))
	}
}

// checkSync checks that what is to be installed is there.
func (r validator) checkSync(c *Config) {
	at := c.root.Get("local").Get("requirements")
	if at == nil {
		at = c.root.Get("local").Get("sync")
	}
	r.named(at, r.CheckFile(c.Dir, c.Local.Requirements))
}

func (r validator) checkImage(dir string, image *Image, at tree.Entry) {
	if image.Context == "" {
		return
	}
	name := *at.Key // where to tell of values that the file leaves out
	name.Path = at.Value.Path
	context := r.CheckFolder(dir, image.Context)
	if n := at.Value.Get("context"); n != nil && context != "" {
		r.Wrong(n, "%s", context)
	}
	given := at.Value.Get("dockerfile")
	switch {
	case given != nil && !given.IsNull():
		message := r.CheckFile(dir, image.Dockerfile)
		inContext := filepath.Join(image.Context, image.Dockerfile)
		if info, err := os.Stat(tree.Abs(dir, inContext)); message != "" && err == nil && info.Mode().IsRegular() {
			message = fmt.Sprintf("there is no file %q; paths are relative to the folder of %s: did you mean %q?", image.Dockerfile, FileName, inContext)
		}
		r.named(given, message)
	case context == "":
		image.Dockerfile = filepath.Join(image.Context, "Dockerfile")
		r.named(&name, r.CheckFile(dir, image.Dockerfile))
	}
}

func (r validator) checkRelease(dir string, release Release, at *tree.Node, images []string) {
	r.checkChart(dir, release, at)
	for i, path := range release.Values {
		r.named(at.Get("values").Items[i], r.CheckFile(dir, path))
	}
	for _, key := range at.Get("setString").Keys() {
		_, isText := release.SetString[key]
		if _, isSet := release.Set[key]; isSet && isText {
			r.Wrong(at.Get("setString").Get(key), "is in set, too")
		}
	}
	for _, n := range []*tree.Node{at.Get("inlineValues"), flat(at.Get("set")), flat(at.Get("setString")), at.Get("hooks")} {
		r.templates(n, images)
	}
}

// checkChart checks where the chart comes from.
func (r validator) checkChart(dir string, release Release, at *tree.Node) {
	chart, repo := release.Chart, at.Get("repo")
	inRepo := repo != nil && !repo.IsNull() // though it may be wrong
	switch {
	case chart == "":
		return
	case inRepo && strings.Contains(chart, "/"):
		r.Wrong(at.Get("chart"), "%q must be the name of a chart in the repo, not a path or a URL", chart)
	case !inRepo && release.ChartIsLocal():
		r.named(at.Get("chart"), r.chart(dir, chart))
		if info, err := os.Stat(tree.Abs(dir, chart)); release.SHA256 != "" && err == nil && info.IsDir() {
			r.Wrong(at.Get("sha256"), "a checksum is for a chart's archive, but %s is a folder", chart)
		}
	}
	switch {
	case release.Version == "" || inRepo:
	case !isOCI(chart):
		r.Wrong(at.Get("version"), "a version is only for a chart from a repo or oci://")
	case tagColon(chart) < len(chart):
		r.Wrong(at.Get("version"), "the chart has a tag already, which is its version")
	}
}

// checkOrder checks what the releases, which stand at items, wait for.
func (r validator) checkOrder(releases []Release, items []*tree.Node) {
	names := make([]string, len(releases))
	for i, release := range releases {
		names[i] = release.Name
	}
	var way []int // from a release to one that it waits for, and so on
	done := make([]bool, len(releases))
	var follow func(i int)
	follow = func(i int) {
		way = append(way, i)
		for j, name := range releases[i].DependsOn {
			at := items[i].Get("dependsOn").Items[j]
			next := slices.Index(names, name)
			start := slices.Index(way, next)
			switch {
			case name == "":
			case slices.Contains(releases[i].DependsOn[:j], name):
				r.Wrong(at, "%q is here twice", name)
			case name == names[i]:
				r.Wrong(at, "a release cannot depend on itself")
			case next < 0:
				r.Wrong(at, "no release is called %q%s", name, tree.DidYouMean(name, names))
			case start >= 0:
				var round strings.Builder
				for _, passed := range way[start:] {
					round.WriteString(names[passed] + " → ")
				}
				r.Wrong(at, "these releases wait for each other: %s%s", &round, name)
			case !done[next]:
				follow(next)
			}
		}
		way = way[:len(way)-1]
		done[i] = true
	}
	for i := range releases {
		if !done[i] {
			follow(i)
		}
	}
}

// templates checks those of a value, and of the values in it.
func (r validator) templates(n *tree.Node, images []string) {
	switch {
	case n == nil:
	case n.IsScalar():
		if err := checkTemplate(n.Value, images); err != nil {
			r.Wrong(n, "%v", err)
		}
	default:
		for _, e := range n.Entries {
			r.templates(e.Value, images)
		}
		for _, item := range n.Items {
			r.templates(item, images)
		}
	}
}

// checkForward checks a forward that comes after others; all of them stand at items.
func (r validator) checkForward(forward Forward, items []*tree.Node, before []Forward) {
	at := items[len(before)]
	if kind, _ := forward.Target(); kind != "" && kind != "service" && forward.Port != "" {
		r.named(at.Get("port"), rules["podPort"].breach(forward.Port))
	}
	for i, other := range before {
		if forward.Local > 0 && forward.Local == other.Local && overlap(forward.Addresses(), other.Addresses()) {
			r.Taken(at.Get("local"), strconv.Itoa(forward.Local), items[i].Get("local"))
			return
		}
	}
}

// overlap tells whether a port that is open on some addresses is taken on one of the others.
func overlap(some, others []netip.Addr) bool {
	covers := func(a, b netip.Addr) bool {
		return a == b || a.IsUnspecified() && (a.Is6() || b.Is4()) // :: takes IPv4 in, too
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

// unique reports n if another one has that name.
func (r validator) unique(first map[string]*tree.Node, n *tree.Node, name string) {
	other, taken := first[name]
	switch {
	case name == "":
	case !taken:
		first[name] = n
	default:
		r.Taken(n, name, other)
	}
}

// named reports what is wrong with what n names, if anything is.
func (r validator) named(n *tree.Node, message string) {
	if message != "" {
		r.Wrong(n, "%s", message)
	}
}

// chart passes folders with a Chart.yaml, and archives.
func (r validator) chart(dir, chart string) string {
	if info, err := os.Stat(tree.Abs(dir, chart)); err == nil && info.Mode().IsRegular() {
		return ""
	}
	if message := r.CheckFolder(dir, chart); message != "" {
		return message + " (a chart that is not on this machine starts with https:// or oci://, or has a repo)"
	}
	return r.CheckFile(dir, filepath.Join(chart, "Chart.yaml"))
}
