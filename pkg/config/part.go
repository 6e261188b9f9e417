package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config/tree"
)

// Only returns the part of c that consists of the named releases and those that they depend on. It
// has all images, forwards and health checks still: Keep drops those of other releases.
func (c *Config) Only(names []string) (*Config, error) {
	known := c.ReleaseNames()
	wanted := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if !wanted[name] {
			wanted[name] = true
			for _, other := range c.Releases[slices.Index(known, name)].DependsOn {
				add(other)
			}
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			message := fmt.Sprintf("no release is called %q%s", name, tree.DidYouMean(name, known))
			return nil, c.Wrong("releases", message, c.ReleasesHint())
		}
		add(name)
	}
	part := *c
	part.Part, part.narrowed = slices.Clone(names), false
	part.root, part.Releases = keep(c.root, "releases", c.Releases, func(r Release) bool { return wanted[r.Name] })
	part.Others = slices.DeleteFunc(slices.Concat(c.Releases, c.Others), func(r Release) bool { return wanted[r.Name] })
	part.root, part.Logs = keep(part.root, "logs", c.Logs, func(l PodLogs) bool {
		return slices.ContainsFunc(part.Releases, func(r Release) bool { return r.Namespace == l.Namespace })
	})
	return &part, nil
}

// asPart makes c, which is some modules of a file, the part that consists of their releases. If the
// file is not valid as a whole, the other releases are not known; they stay as they are all the
// same.
func (c *Config) asPart(source Source) {
	source.Only, source.whole = nil, true
	all, err := Load(source)
	if err == nil {
		known := c.ReleaseNames()
		c.Others = slices.DeleteFunc(all.Releases, func(r Release) bool { return slices.Contains(known, r.Name) })
		if len(c.Others) == 0 {
			return
		}
	}
	c.Part, c.narrowed = c.ReleaseNames(), true
}

// NeedsNarrowing tells whether c is a part that has the images, forwards and health checks of other
// releases still, see Keep. Modules have their own alone.
func (c *Config) NeedsNarrowing() bool { return c.Part != nil && !c.narrowed }

// ReleaseNames returns the names of the releases.
func (c *Config) ReleaseNames() []string {
	names := make([]string, len(c.Releases))
	for i, r := range c.Releases {
		names[i] = r.Name
	}
	return names
}

// ReleasesHint says which releases there are.
func (c *Config) ReleasesHint() string {
	if len(c.Releases) == 0 {
		return "there are no releases"
	}
	return "there are: " + strings.Join(c.ReleaseNames(), ", ")
}

// Needs tells what the releases of a part need.
type Needs struct {
	Image   func(name string) bool
	Forward func(Forward) bool
	Health  func(Health) bool
}

// Keep returns c without the images, forwards and health checks that are not needed, and without
// what is only about these images. An image that a needed one is built from is needed, too.
func (c *Config) Keep(needs Needs) *Config {
	images := map[string]bool{}
	for _, image := range slices.Backward(c.Images) { // each stands behind those that it is built from
		if images[image.Name] = images[image.Name] || needs.Image(image.Name); images[image.Name] {
			for _, base := range image.Bases() {
				images[base] = true
			}
		}
	}
	kept := *c
	kept.narrowed = true
	kept.Images = slices.DeleteFunc(slices.Clone(c.Images), func(i Image) bool { return !images[i.Name] })
	kept.OtherImages = slices.DeleteFunc(slices.Clone(c.Images), func(i Image) bool { return images[i.Name] })
	kept.root, kept.Verify = keep(c.root, "verify", c.Verify, func(v Verify) bool { return images[v.Image] })
	kept.root, kept.Forwards = keep(kept.root, "forwards", c.Forwards, needs.Forward)
	kept.root, kept.Health = keep(kept.root, "health", c.Health, needs.Health)
	if len(c.Local.Images) > 0 {
		kept.Local.Images = slices.DeleteFunc(slices.Clone(c.Local.Images), func(name string) bool { return !images[name] })
		if len(kept.Local.Images) == 0 { // which would stand for all images
			kept.Local = Local{}
		}
	}
	return &kept
}

// keep returns the wanted items of a list, and a root whose list has the same ones: positions in
// the file are found by their index. The root may be nil.
func keep[T any](root *tree.Node, key string, list []T, wanted func(T) bool) (*tree.Node, []T) {
	var kept []T
	var nodes []*tree.Node
	all := root.Get(key)
	for i, item := range list {
		if !wanted(item) {
			continue
		}
		kept = append(kept, item)
		if all != nil {
			nodes = append(nodes, all.Items[i])
		}
	}
	if all != nil {
		narrowed := all.Clone()
		narrowed.Items = nodes
		root = root.Clone()
		root.Put(tree.NewKey(key), narrowed)
	}
	return root, kept
}
