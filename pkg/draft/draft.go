// Package draft writes a first devloop.yaml from what the current folder holds: Dockerfiles, Helm
// charts, manifests, kustomizations, and a chartpress.yaml.
package draft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/skaffold"
)

// ErrNothing means that there is nothing to build and nothing to deploy.
var ErrNothing = errors.New("there is no Dockerfile, no Helm chart and no Kubernetes manifest")

// draft is a devloop.yaml in the making.
type draft struct {
	name       string
	cache      string // folder of downloaded charts
	charts     int    // that are deployed
	images     []*image
	releases   []*release
	forwards   []config.Forward
	incomplete bool     // whether a release may name images that are not known
	notes      []string // for the user
}

// release is a release of the draft.
type release struct {
	config.Release
	comment      string            // above it
	reasons      map[string]string // comments beside values, by their paths in Set
	commentedOut bool
}

// Survey returns a devloop.yaml for the current folder, and notes for the user. Charts that a chart
// depends on are looked for in the folder cache, or downloaded.
func Survey(ctx context.Context, cache string) (text string, notes []string, err error) {
	folder, err := filepath.Abs(".")
	if err != nil {
		return "", nil, err
	}
	d := &draft{name: tree.Label(filepath.Base(folder), "app"), cache: cache}
	found, err := d.find(ctx)
	if err != nil {
		return "", nil, err
	}
	values := map[string]chartValues{} // by the charts' folders
	for _, file := range found.chartpress {
		d.addChartpress(file, values)
	}
	for _, file := range found.dockerfiles {
		d.addDockerfile(file)
	}
	d.linkBases()
	d.addStages()
	d.addCharts(ctx, found.charts, values)
	d.addManifests(ctx, folder, found.plain)
	for _, file := range skaffold.FileNames {
		if isFile(file) {
			d.note("there is a %s: devloop init --from %s writes what it says; "+
				"this here is made from the Dockerfiles and charts", file, file)
		}
	}
	if len(d.images)+len(d.releases) == 0 {
		return "", nil, ErrNothing
	}
	if len(d.releases) == 0 {
		d.note("there is no Helm chart and no Kubernetes manifest here: add releases: to %s, or make a chart "+
			"(helm create deploy/%s) and call devloop init --force", config.FileName, d.name)
	}
	d.images = slices.DeleteFunc(d.images, func(i *image) bool { return i.stage && !i.used })
	d.commentOutUnused()
	var imageNotes []string
	for _, i := range d.images {
		imageNotes = append(imageNotes, i.note())
	}
	return d.text(), append(imageNotes, d.notes...), ctx.Err()
}

func (d *draft) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// addForwards forwards a local port to each service.
func (d *draft) addForwards(services []deploy.ChartService) {
	for _, service := range services {
		local := service.Port
		if local < 1024 { // 80 would need root
			local += 8000
		}
		for slices.ContainsFunc(d.forwards, func(f config.Forward) bool { return f.Local == local }) {
			local = max((local+1)%65536, 1024)
		}
		if tree.Label(service.Name, "") != service.Name || tree.Label(service.Namespace, "") != service.Namespace {
			d.note("  left out: service %q, which is no name for Kubernetes", service.Name)
			continue
		}
		d.forwards = append(d.forwards, config.Forward{Service: service.Name, Namespace: service.Namespace,
			Port: strconv.Itoa(service.Port), Local: local})
		in := ""
		if service.Namespace != d.name {
			in = " in " + service.Namespace
		}
		d.note("forward localhost:%d: service %s%s, port %d", local, service.Name, in, service.Port)
	}
}

// text is the devloop.yaml.
func (d *draft) text() string {
	var out strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	line("apiVersion: %s\nname: %s", config.Version, scalar(d.name))
	if len(d.images) > 0 {
		line("%simages:", commentIf(!slices.ContainsFunc(d.images, func(i *image) bool { return !i.commentedOut })))
	}
	for _, i := range d.images {
		if i.commentedOut {
			line("  # Nothing deployed names this image. If it goes by another name, add aliases: [NAME] and remove the #.")
		}
		line("  %s%s", commentIf(i.commentedOut), i.text())
	}
	if len(d.releases) > 0 {
		line("%sreleases:", commentIf(!slices.ContainsFunc(d.releases, func(r *release) bool { return !r.commentedOut })))
	}
	for _, r := range d.releases {
		if r.comment != "" {
			line("  # %s", oneLine(r.comment))
		}
		for _, text := range r.lines() {
			line("  %s%s", commentIf(r.commentedOut), text)
		}
	}
	if len(d.forwards) > 0 {
		line("forwards:")
	}
	for _, f := range d.forwards {
		line("  - { service: %s, namespace: %s, port: %s, local: %d }", scalar(f.Service), scalar(f.Namespace), f.Port,
			f.Local)
	}
	return out.String()
}

func commentIf(off bool) string {
	if off {
		return "# "
	}
	return ""
}

// lines are the release in devloop.yaml.
func (r *release) lines() []string {
	lines := []string{"- name: " + scalar(r.Name)}
	switch {
	case r.Chart != "":
		lines = append(lines, "  chart: "+scalar(r.Chart))
	case r.Kustomize != "":
		lines = append(lines, "  kustomize: "+scalar(r.Kustomize))
	default:
		lines = append(lines, "  manifests: "+list(r.Manifests))
	}
	lines = append(lines, "  namespace: "+scalar(r.Namespace), "  createNamespace: true")
	if len(r.Set) > 0 {
		lines = append(lines, "  set:")
	}
	for _, path := range slices.Sorted(maps.Keys(r.Set)) {
		text := fmt.Sprintf("    %s: '%s'", scalar(path), r.Set[path])
		if why := r.reasons[path]; why != "" {
			text += " # " + oneLine(why)
		}
		lines = append(lines, text)
	}
	return lines
}

// list is a YAML list on one line.
func list(texts []string) string {
	items := make([]string, len(texts))
	for i, text := range texts {
		items[i] = scalar(text)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// scalar returns text for use within YAML's { }, in quotes only where it needs them. YAML reads
// them as Go does.
func scalar(text string) string {
	plain, err := yaml.Marshal(text)
	if err == nil && string(plain) == text+"\n" && !strings.ContainsAny(text, ",{}[]") {
		return text
	}
	return strconv.Quote(text)
}

// oneLine is text that cannot end a comment, and is not too long for one.
func oneLine(text string) string {
	const maxLength = 200 // characters
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text))
	if len(runes) > maxLength {
		return string(runes[:maxLength]) + "…"
	}
	return string(runes)
}

// unused returns name, or name with the first number behind it that makes it new.
func unused(name string, taken func(string) bool) string {
	free := name
	for n := 2; taken(free); n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	return free
}
