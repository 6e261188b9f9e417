package config

// The file's keys, section by section. A new section is a field in config() and a reader below it.

import (
	"math"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
)

func (d *decoder) config(root value, c *Config) {
	if v := versionOf(root.node); v != nil && v.Value != Version {
		// The other keys would all be wrong in their own way: that is no help.
		d.wrong(value{v, "apiVersion"}, "this devloop reads %q, not %q", Version, v.Value)
		return
	}
	var version string
	c.Timeouts.Rollout = DefaultRollout
	d.fields(root,
		need("apiVersion", d.text(&version)),
		need("name", d.text(&c.Name, isLabel)),
		may("kubeContext", d.text(&c.KubeContext)),
		may("allowContexts", d.texts(&c.AllowContexts)),
		may("images", func(v value) { d.images(v, c) }),
		may("releases", d.releases(c)),
		may("health", d.list(func(v value) { d.health(v, c) })),
		may("cleanup", func(v value) {
			d.fields(v, may("before", d.texts(&c.Cleanup.Before, isResource)))
		}),
		may("forwards", d.forwards(c)),
		may("timeouts", func(v value) {
			d.fields(v, may("rollout", d.duration(&c.Timeouts.Rollout, time.Second)))
		}),
	)
}

func versionOf(root *yaml.Node) *yaml.Node {
	for i := 0; root.Kind == yaml.MappingNode && i+1 < len(root.Content); i += 2 {
		if v := deref(root.Content[i+1]); root.Content[i].Value == "apiVersion" && v.Kind == yaml.ScalarNode && !isNull(v) {
			return v
		}
	}
	return nil
}

func (d *decoder) images(v value, c *Config) {
	for _, p := range d.pairs(v) {
		image := Image{Name: p.key.Value, Context: "."}
		d.check(value{p.key, v.path}, image.Name, []rule{isRepository})
		if !isNull(p.node) { // "worker:" alone takes all defaults
			d.fields(p.value,
				may("context", d.text(&image.Context, d.isFolder)),
				may("dockerfile", d.text(&image.Dockerfile, d.isFile)),
				may("target", d.text(&image.Target)),
				may("args", func(v value) { image.Args = d.args(v) }),
				may("platform", d.text(&image.Platform, isPlatform)),
			)
		}
		if image.Dockerfile == "" {
			image.Dockerfile = filepath.Join(image.Context, "Dockerfile")
			if d.isFolder(p.value, image.Context) == "" { // else that was said already
				d.check(value{p.key, p.path}, image.Dockerfile, []rule{d.isFile})
			}
		}
		c.Images = append(c.Images, image)
	}
}

// args reads build arguments: all of them are text for a Dockerfile, so numbers need no quotes.
func (d *decoder) args(v value) map[string]string {
	args := map[string]string{}
	for _, p := range d.pairs(v) {
		if d.is(p.value, yaml.ScalarNode) {
			args[p.key.Value] = p.node.Value
		}
	}
	return args
}

func (d *decoder) releases(c *Config) func(value) {
	once := isUnique()
	return d.list(func(v value) {
		var r Release
		d.fields(v,
			need("name", d.text(&r.Name, isReleaseName, once)),
			need("chart", d.text(&r.Chart, d.isChart)),
			need("namespace", d.text(&r.Namespace, isLabel)),
			may("createNamespace", d.boolean(&r.CreateNamespace)),
			may("values", d.texts(&r.Values, d.isFile)),
			may("set", func(v value) { r.Set = d.set(v, c.Images) }),
			may("sha256", d.text(&r.SHA256, isSHA256, d.isOfArchive(&r))),
		)
		c.Releases = append(c.Releases, r)
	})
}

func (d *decoder) set(v value, images []Image) map[string]any {
	set := map[string]any{}
	for _, p := range d.pairs(v) {
		d.check(value{p.key, v.path}, p.key.Value, []rule{isSetPath})
		at := value{p.node, v.path} // dots in the key would read as more of the path
		switch p.node.Kind {
		case yaml.ScalarNode:
			set[p.key.Value] = d.scalar(at)
			if s, ok := set[p.key.Value].(string); ok {
				d.check(at, s, []rule{isTemplate(images)})
			}
		default:
			d.wrong(at, "%s must be a single value, but is %s; write one line per value, with dots in the key (a.b.c), "+
				"or use a values file", p.key.Value, found(p.node))
		}
	}
	return set
}

// scalar returns a scalar with the type that it has in YAML. Dates are text, as for helm --set.
func (d *decoder) scalar(v value) any {
	var typed any
	switch v.node.Tag {
	case "!!str", "!!timestamp":
		return v.node.Value
	case "!!null", "!!bool", "!!int", "!!float":
		if err := v.node.Decode(&typed); err != nil {
			d.wrong(v, "%q does not fit its tag %s", v.node.Value, v.node.Tag)
		}
	default:
		d.wrong(v, "has a tag that is not known: %s", v.node.Tag)
	}
	if f, ok := typed.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		d.wrong(v, "%s cannot be a Helm value; put it in quotes if it is text", v.node.Value)
	}
	return typed
}

func (d *decoder) health(v value, c *Config) {
	var h Health
	d.fields(v,
		need("deployment", d.text(&h.Deployment)),
		need("namespace", d.text(&h.Namespace, isLabel)),
	)
	c.Health = append(c.Health, h)
}

func (d *decoder) forwards(c *Config) func(value) {
	once := isUnique()
	return d.list(func(v value) {
		f := Forward{Hold: DefaultHold}
		d.fields(v,
			need("service", d.text(&f.Service, isLabel)),
			need("namespace", d.text(&f.Namespace, isLabel)),
			need("port", d.port(&f.Port)),
			need("local", d.port(&f.Local, once)),
			may("ready", d.text(&f.Ready, matches(httpPath, `must be an HTTP path like /healthz`))),
			may("hold", d.duration(&f.Hold, 0)),
		)
		c.Forwards = append(c.Forwards, f)
	})
}
