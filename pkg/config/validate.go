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
)

// validate checks c, which was decoded from c.root, and fills in what depends on other values. Values that are empty here
// are left out, or were reported when they were decoded.
func validate(report *report, c *Config) {
	r := validator{report}
	var images []string
	for i := range c.Images {
		images = append(images, c.Images[i].Name)
		r.checkImage(c.Dir, &c.Images[i], c.root.get("images").entries[i])
	}
	names := map[string]*node{}
	for i, release := range c.Releases {
		at := c.root.get("releases").items[i]
		r.unique(names, at.get("name"), release.Name)
		r.checkRelease(c.Dir, release, at, images)
	}
	if len(c.Releases) > 0 {
		r.checkOrder(c.Releases, c.root.get("releases").items)
	}
	for i, verify := range c.Verify {
		at := c.root.get("verify").items[i]
		r.isImage(at.get("image"), verify.Image, images)
		if len(verify.Command)+len(verify.Args) == 0 {
			r.wrong(at, `"command" is missing, or "args" for the image's entrypoint`)
		}
	}
	for i, image := range c.Local.Images {
		r.isImage(c.root.get("local").get("images").items[i], image, images)
	}
	if c.Local.Sync {
		r.checkSync(c)
	}
	for i, forward := range c.Forwards {
		r.checkForward(forward, c.root.get("forwards").items, c.Forwards[:i])
	}
}

// validator checks a configuration that was decoded.
type validator struct{ *report }

// isImage checks that a value names an image of the configuration.
func (r validator) isImage(at *node, name string, images []string) {
	if name != "" && !slices.Contains(images, name) {
		r.wrong(at, "no image is called %q%s", name, didYouMean(name, images))
	}
}

// checkSync checks that what is to be installed is there.
func (r validator) checkSync(c *Config) {
	at := c.root.get("local").get("requirements")
	if at == nil {
		at = c.root.get("local").get("sync")
	}
	r.named(at, r.file(c.Dir, c.Local.Requirements))
}

func (r validator) checkImage(dir string, image *Image, at entry) {
	if image.Context == "" {
		return
	}
	name := *at.key // where to tell of values that the file leaves out
	name.path = at.value.path
	context := r.folder(dir, image.Context)
	if n := at.value.get("context"); n != nil && context != "" {
		r.wrong(n, "%s", context)
	}
	given := at.value.get("dockerfile")
	switch {
	case given != nil && !given.isNull():
		message := r.file(dir, image.Dockerfile)
		inContext := filepath.Join(image.Context, image.Dockerfile)
		if info, err := os.Stat(abs(dir, inContext)); message != "" && err == nil && info.Mode().IsRegular() {
			message = fmt.Sprintf("there is no file %q; paths are relative to the folder of %s: did you mean %q?", image.Dockerfile, FileName, inContext)
		}
		r.named(given, message)
	case context == "":
		image.Dockerfile = filepath.Join(image.Context, "Dockerfile")
		r.named(&name, r.file(dir, image.Dockerfile))
	}
}

func (r validator) checkRelease(dir string, release Release, at *node, images []string) {
	r.checkChart(dir, release, at)
	for i, path := range release.Values {
		r.named(at.get("values").items[i], r.file(dir, path))
	}
	for _, key := range at.get("setString").keys() {
		_, isText := release.SetString[key]
		if _, isSet := release.Set[key]; isSet && isText {
			r.wrong(at.get("setString").get(key), "is in set, too")
		}
	}
	for _, n := range []*node{at.get("inlineValues"), flat(at.get("set")), flat(at.get("setString")), at.get("hooks")} {
		r.templates(n, images)
	}
}

// checkChart checks where the chart comes from.
func (r validator) checkChart(dir string, release Release, at *node) {
	chart, repo := release.Chart, at.get("repo")
	inRepo := repo != nil && !repo.isNull() // though it may be wrong
	switch {
	case chart == "":
		return
	case inRepo && strings.Contains(chart, "/"):
		r.wrong(at.get("chart"), "%q must be the name of a chart in the repo, not a path or a URL", chart)
	case !inRepo && release.ChartIsLocal():
		r.named(at.get("chart"), r.chart(dir, chart))
		if info, err := os.Stat(abs(dir, chart)); release.SHA256 != "" && err == nil && info.IsDir() {
			r.wrong(at.get("sha256"), "a checksum is for a chart's archive, but %s is a folder", chart)
		}
	}
	switch {
	case release.Version == "" || inRepo:
	case !isOCI(chart):
		r.wrong(at.get("version"), "a version is only for a chart from a repo or oci://")
	case tagColon(chart) < len(chart):
		r.wrong(at.get("version"), "the chart has a tag already, which is its version")
	}
}

// checkOrder checks what the releases, which stand at items, wait for.
func (r validator) checkOrder(releases []Release, items []*node) {
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
			at := items[i].get("dependsOn").items[j]
			next := slices.Index(names, name)
			start := slices.Index(way, next)
			switch {
			case name == "":
			case slices.Contains(releases[i].DependsOn[:j], name):
				r.wrong(at, "%q is here twice", name)
			case name == names[i]:
				r.wrong(at, "a release cannot depend on itself")
			case next < 0:
				r.wrong(at, "no release is called %q%s", name, didYouMean(name, names))
			case start >= 0:
				var round strings.Builder
				for _, passed := range way[start:] {
					round.WriteString(names[passed] + " → ")
				}
				r.wrong(at, "these releases wait for each other: %s%s", &round, name)
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
func (r validator) templates(n *node, images []string) {
	switch {
	case n == nil:
	case n.isScalar():
		if err := checkTemplate(n.Value, images); err != nil {
			r.wrong(n, "%v", err)
		}
	default:
		for _, e := range n.entries {
			r.templates(e.value, images)
		}
		for _, item := range n.items {
			r.templates(item, images)
		}
	}
}

// checkForward checks a forward that comes after others; all of them stand at items.
func (r validator) checkForward(forward Forward, items []*node, before []Forward) {
	at := items[len(before)]
	if kind, _ := forward.Target(); kind != "" && kind != "service" && forward.Port != "" {
		r.named(at.get("port"), rules["podPort"].breach(forward.Port))
	}
	for i, other := range before {
		if forward.Local > 0 && forward.Local == other.Local && overlap(forward.Addresses(), other.Addresses()) {
			r.taken(at.get("local"), strconv.Itoa(forward.Local), items[i].get("local"))
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
func (r validator) unique(first map[string]*node, n *node, name string) {
	other, taken := first[name]
	switch {
	case name == "":
	case !taken:
		first[name] = n
	default:
		r.taken(n, name, other)
	}
}

// named reports what is wrong with what n names, if anything is.
func (r validator) named(n *node, message string) {
	if message != "" {
		r.wrong(n, "%s", message)
	}
}

// chart passes folders with a Chart.yaml, and archives.
func (r validator) chart(dir, chart string) string {
	if info, err := os.Stat(abs(dir, chart)); err == nil && info.Mode().IsRegular() {
		return ""
	}
	if message := r.folder(dir, chart); message != "" {
		return message + " (a chart that is not on this machine starts with https:// or oci://, or has a repo)"
	}
	return r.file(dir, filepath.Join(chart, "Chart.yaml"))
}
