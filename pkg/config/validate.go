package config

import (
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/devloop/devloop/pkg/config/tree"
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
	if names := c.ReleaseNames(); c.Shell != "" && !slices.Contains(names, c.Shell) {
		v.Wrong(c.root.Get("shell"), "no release is called %q%s", c.Shell, tree.DidYouMean(c.Shell, names))
	}
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

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
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
