// devloop init: a first devloop.yaml, from the Dockerfiles and charts that are there.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
)

// schemaName is the file that tells editors of devloop.yaml's keys.
const schemaName = "devloop.schema.json"

// searchDepth is how many folders deep Dockerfiles and charts are looked for.
const searchDepth = 4

func newInitCommand() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a devloop.yaml from the Dockerfiles and charts of this folder",
		Long: `Writes devloop.yaml, and ` + schemaName + ` for your editor, from the Dockerfiles and Helm charts in this folder and below. Values
of a chart that name an image which is built here are set to it, and its services are forwarded. Look it over before you start
devloop: it says what was guessed.`,
		Example: "  devloop init",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			draft, err := survey(".")
			if err != nil {
				return err
			}
			if err := draft.write(force); err != nil {
				return err
			}
			for _, note := range append(draft.notes, "written: "+config.FileName+" and "+schemaName+"; start with: devloop") {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), note)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a "+config.FileName+" that is there")
	return cmd
}

// draft is a devloop.yaml in the making.
type draft struct {
	name     string
	images   []config.Image
	releases []config.Release
	forwards []config.Forward
	notes    []string
}

// survey looks for Dockerfiles and charts.
func survey(root string) (*draft, error) {
	folder, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	d := &draft{name: label(filepath.Base(folder), "app")}
	var charts []string
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil && path == root:
			return err
		case err != nil: // a folder that this user may not read has nothing for them
			return fs.SkipDir
		case !entry.IsDir():
			if image, ok := d.imageOf(path); ok {
				d.images = append(d.images, image)
			}
		case path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "vendor" || strings.Count(path, string(filepath.Separator)) >= searchDepth):
			return fs.SkipDir
		case isFile(filepath.Join(path, "Chart.yaml")):
			charts = append(charts, path)
			return fs.SkipDir // subcharts belong to it
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(d.images)+len(charts) == 0 {
		return nil, usageError{event.WithHint(fmt.Errorf("init: there is no Dockerfile and no Helm chart in %s", folder), "go to the folder of your project")}
	}
	for _, chart := range charts {
		d.addRelease(chart)
	}
	if len(charts) == 0 {
		d.note("there is no Helm chart here: add releases: to %s, or make a chart (helm create deploy/%s) and call devloop init --force", config.FileName, d.name)
	}
	return d, nil
}

func (d *draft) note(format string, args ...any) {
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
}

// imageOf tells a Dockerfile by its name: Dockerfile, Dockerfile.worker, worker.Dockerfile.
func (d *draft) imageOf(path string) (config.Image, bool) {
	folder, file := filepath.Split(path)
	folder = filepath.Clean(folder)
	name := ""
	switch lower := strings.ToLower(file); {
	case strings.HasSuffix(lower, ".dockerignore"):
		return config.Image{}, false
	case lower == "dockerfile" && folder == ".":
		name = d.name
	case lower == "dockerfile":
		name = filepath.Base(folder)
	case strings.HasPrefix(lower, "dockerfile."):
		name = file[len("dockerfile."):]
	case strings.HasSuffix(lower, ".dockerfile"):
		name = file[:len(file)-len(".dockerfile")]
	default:
		return config.Image{}, false
	}
	image := config.Image{Name: label(name, "image"), Context: folder, Dockerfile: path}
	taken := func(name string) bool {
		return slices.ContainsFunc(d.images, func(i config.Image) bool { return i.Name == name })
	}
	image.Name = unused(image.Name, taken)
	d.note("image %s: %s", image.Name, path)
	return image, true
}

// addRelease guesses how a chart is meant to be deployed.
func (d *draft) addRelease(folder string) {
	r := config.Release{Name: label(filepath.Base(folder), d.name), Chart: folder, Namespace: d.name, CreateNamespace: true, Set: map[string]any{}}
	if folder == "." {
		r.Name, r.Chart = d.name, "./"
	}
	r.Name = unused(r.Name, func(name string) bool {
		return slices.ContainsFunc(d.releases, func(r config.Release) bool { return r.Name == name })
	})
	info, err := deploy.Inspect(folder, r.Name, r.Namespace)
	switch {
	case err != nil:
		d.note("left out: %v", err)
		return
	case info.Library:
		return
	}
	d.setImages(info.Values, "", r.Set)
	d.note("release %s: %s, with %s set to images that are built here", r.Name, folder, count(len(r.Set), "value"))
	if info.Err != nil {
		d.note("  its services are not known, since it cannot do with its default values: %v", info.Err)
	}
	for _, service := range info.Services {
		local := service.Port
		if local < 1024 { // 80 would need root
			local += 8000
		}
		for slices.ContainsFunc(d.forwards, func(f config.Forward) bool { return f.Local == local }) {
			local++
		}
		d.forwards = append(d.forwards, config.Forward{Service: service.Name, Namespace: r.Namespace, Port: service.Port, Local: local})
		d.note("forward 127.0.0.1:%d: service %s, port %d", local, service.Name, service.Port)
	}
	d.releases = append(d.releases, r)
}

// setImages looks through a chart's values for those that name an image: "repository" and "tag" side by side, or "image" alone.
func (d *draft) setImages(values map[string]any, path string, set map[string]any) {
	if repository, ok := values["repository"].(string); ok && path != "" {
		if image := d.meant(repository, path); image != "" {
			set[path+".repository"] = fmt.Sprintf("{{ repository %q }}", image)
			set[path+".tag"] = fmt.Sprintf("{{ tag %q }}", image)
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at := strings.ReplaceAll(key, ".", `\.`)
		if path != "" {
			at = path + "." + at
		}
		switch value := values[key].(type) {
		case map[string]any:
			d.setImages(value, at, set)
		case string:
			if image := d.meant(value, at); image != "" && strings.HasSuffix(strings.ToLower(key), "image") {
				set[at] = fmt.Sprintf("{{ image %q }}", image)
			}
		}
	}
}

var tagOrDigest = regexp.MustCompile(`[:@][^/]*$`)

// meant returns the image that a chart's value asks for: the one of that name, the one that a part of the value's path is called
// after, or the only one where the value is the chart's main image.
func (d *draft) meant(reference, path string) string {
	called := filepath.Base(tagOrDigest.ReplaceAllString(reference, ""))
	for _, image := range d.images {
		if image.Name == called {
			return image.Name
		}
	}
	for part := range strings.SplitSeq(path, ".") {
		for _, image := range d.images {
			if strings.EqualFold(strings.TrimSuffix(part, "Image"), image.Name) {
				return image.Name
			}
		}
	}
	if len(d.images) == 1 && path == "image" {
		return d.images[0].Name
	}
	return ""
}

// write puts devloop.yaml and its schema into this folder, and makes sure that devloop can read it.
func (d *draft) write(force bool) error {
	mode := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if !force {
		mode |= os.O_EXCL
	}
	file, err := os.OpenFile(config.FileName, mode, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usageError{event.WithHint(fmt.Errorf("init: there is a %s already", config.FileName), "devloop init --force replaces it")}
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = file.WriteString(d.text())
	if err := errors.Join(err, file.Close(), os.WriteFile(schemaName, config.Schema(), 0o644)); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if _, err := config.Load(config.Source{Files: []string{config.FileName}}); err != nil {
		return fmt.Errorf("init: %s has to be corrected by hand:\n%w", config.FileName, err)
	}
	return nil
}

func (d *draft) text() string {
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	say("# yaml-language-server: $schema=%s", schemaName)
	say("apiVersion: %s\nname: %s", config.Version, d.name)
	if len(d.images) > 0 {
		say("images:")
	}
	for _, image := range d.images {
		folder := ""
		if image.Context != "." {
			folder = "context: " + scalar(image.Context) + ", "
		}
		say("  %s: { %sdockerfile: %s }", image.Name, folder, scalar(image.Dockerfile))
	}
	if len(d.releases) > 0 {
		say("releases:")
	}
	for _, r := range d.releases {
		say("  - name: %s\n    chart: %s\n    namespace: %s\n    createNamespace: true", r.Name, scalar(r.Chart), r.Namespace)
		if len(r.Set) > 0 {
			say("    set:")
		}
		for _, key := range slices.Sorted(maps.Keys(r.Set)) {
			say("      %s: '%s'", scalar(key), r.Set[key])
		}
	}
	if len(d.forwards) > 0 {
		say("forwards:")
	}
	for _, f := range d.forwards {
		say("  - { service: %s, namespace: %s, port: %d, local: %d }", f.Service, f.Namespace, f.Port, f.Local)
	}
	return out.String()
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_./][-A-Za-z0-9_./ ]*$`)

// scalar is text as YAML has it, in quotes where it needs them.
func scalar(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// label makes a name that Kubernetes takes out of a file's name.
func label(text, otherwise string) string {
	const longest = 40 // leaves room for what charts add
	made := strings.Trim(notLabel.ReplaceAllString(strings.ToLower(text), "-"), "-")
	return cmp.Or(strings.Trim(made[:min(len(made), longest)], "-"), otherwise)
}

// unused returns name, or name with the first number behind it that makes it new.
func unused(name string, taken func(string) bool) string {
	free := name
	for n := 2; taken(free); n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	return free
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
