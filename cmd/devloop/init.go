// devloop init: a first devloop.yaml, from the Dockerfiles and charts that are there, or from a skaffold.yaml.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/skaffold"
)

// schemaName is the file that tells editors of devloop.yaml's keys.
const schemaName = "devloop.schema.json"

// searchDepth is how many folders deep Dockerfiles and charts are looked for.
const searchDepth = 4

func newInitCommand(o *options) *cobra.Command {
	force, from := false, ""
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a devloop.yaml from the Dockerfiles and charts of this folder",
		Long: `Writes devloop.yaml, and ` + schemaName + ` for your editor, from the Dockerfiles and Helm charts in this folder and below. Values
of a chart that name an image which is built here are set to it, and its services are forwarded. Look it over before you start
devloop: it says what was guessed. With --from, it says what a skaffold.yaml does, with these profiles, and in comments what of that
devloop does in another way or not at all.`,
		Example: `  devloop init
  devloop init --from skaffold.yaml --profile local`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, flag := range []string{"file", "profile", "set", "kube-context"} {
				if cmd.Flags().Changed(flag) && (flag != "profile" || from == "") {
					return console.UsageError{Err: event.WithHint(fmt.Errorf("init: --%s has no meaning here: a new %s is written into this folder", flag, config.FileName), "devloop init --help")}
				}
			}
			var draft *draft
			var err error
			if from != "" {
				draft, err = fromSkaffold(from, o.profiles)
			} else {
				draft, err = survey(cmd.Context(), ".")
			}
			if err != nil {
				return err
			}
			if err = draft.write(force); err == nil {
				draft.note("written: %s and %s; start with: devloop", config.FileName, schemaName)
			}
			for _, note := range draft.notes {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), note)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a "+config.FileName+" and a "+schemaName+" that are there")
	cmd.Flags().StringVar(&from, "from", "", "write what this skaffold.yaml says")
	completeFlag(cmd, "from", cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt))
	return cmd
}

// draft is a devloop.yaml in the making.
type draft struct {
	name     string
	images   []config.Image
	releases []config.Release
	forwards []config.Forward
	notes    []string
	whole    []byte // instead of all that
}

// fromSkaffold makes a draft that says what a skaffold.yaml of this folder does.
func fromSkaffold(from string, profiles []string) (*draft, error) {
	path, err := filepath.Abs(from)
	if err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	if here, err := os.Getwd(); err != nil || filepath.Dir(path) != here {
		return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("init: %s is in another folder, which its paths are relative to", from), "cd "+filepath.Dir(path))}
	}
	c, err := config.Load(config.Source{Files: []string{from}, Profiles: profiles, Translate: skaffold.Translate})
	switch {
	case err != nil:
		return nil, err
	case c.Format == "":
		return nil, console.UsageError{Err: fmt.Errorf("init: %s is a %s already", from, config.FileName)}
	}
	text, err := c.Text()
	if err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	d := &draft{whole: append([]byte("# yaml-language-server: $schema="+schemaName+"\n"), text...)}
	for _, note := range c.Notes {
		d.note("%s", note)
	}
	return d, nil
}

// survey looks for Dockerfiles and charts.
func survey(ctx context.Context, root string) (*draft, error) {
	folder, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	d := &draft{name: tree.Label(filepath.Base(folder), "app")}
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
		case path != root && (name == "charts" || name == "templates") && isFile(filepath.Join(filepath.Dir(path), "Chart.yaml")):
			return fs.SkipDir // subcharts belong to the chart
		case path != root && (strings.HasPrefix(name, ".") || name == "node_modules" || name == "vendor" || strings.Count(path, string(filepath.Separator)) >= searchDepth):
			return fs.SkipDir
		case isFile(filepath.Join(path, "Chart.yaml")):
			charts = append(charts, path)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, chart := range charts {
		d.addRelease(ctx, chart)
	}
	for _, file := range skaffold.FileNames {
		if isFile(file) {
			d.note("there is a %s: devloop init --from %s writes what it says; this here is made from the Dockerfiles and charts", file, file)
		}
	}
	if len(d.images)+len(d.releases) == 0 {
		return nil, console.UsageError{Err: event.WithHint(fmt.Errorf("init: there is no Dockerfile and no Helm chart in %s", folder), "go to the folder of your project")}
	}
	if len(d.releases) == 0 {
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
	if !isFile(path) {
		return config.Image{}, false
	}
	image := config.Image{Name: tree.Label(name, "image"), Context: folder, Dockerfile: path}
	taken := func(name string) bool {
		return slices.ContainsFunc(d.images, func(i config.Image) bool { return i.Name == name })
	}
	image.Name = unused(image.Name, taken)
	d.note("image %s: %s", image.Name, path)
	return image, true
}

// addRelease guesses how a chart is meant to be deployed.
func (d *draft) addRelease(ctx context.Context, folder string) {
	r := config.Release{Name: tree.Label(filepath.Base(folder), d.name), Chart: folder, Namespace: d.name, CreateNamespace: true, Set: map[string]any{}}
	if folder == "." {
		r.Name, r.Chart = d.name, "./"
	}
	r.Name = unused(r.Name, func(name string) bool {
		return slices.ContainsFunc(d.releases, func(r config.Release) bool { return r.Name == name })
	})
	info, err := deploy.Inspect(ctx, folder, r.Name, r.Namespace)
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
			local = max((local+1)%65536, 1024)
		}
		if tree.Label(service.Name, "") != service.Name || tree.Label(service.Namespace, "") != service.Namespace {
			d.note("  left out: service %q, which is no name for Kubernetes", service.Name)
			continue
		}
		d.forwards = append(d.forwards, config.Forward{Service: service.Name, Namespace: service.Namespace, Port: strconv.Itoa(service.Port), Local: local})
		d.note("forward localhost:%d: service %s, port %d", local, service.Name, service.Port)
	}
	d.releases = append(d.releases, r)
}

// setImages looks through a chart's values for those that name an image: "repository" and "tag" side by side, or "image" alone.
func (d *draft) setImages(values map[string]any, path string, set map[string]any) {
	if repository, ok := values["repository"].(string); ok && path != "" {
		if image := d.meant(repository, path); image != "" {
			set[path+".repository"] = fmt.Sprintf("{{ repository %q }}", image)
			set[path+".tag"] = fmt.Sprintf("{{ tag %q }}", image)
			for _, key := range []string{"registry", "digest"} { // either would make it another image
				if _, given := values[key]; given {
					set[path+"."+key] = ""
				}
			}
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !plainKey.MatchString(key) {
			continue // Helm's paths have meanings of their own for other signs
		}
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

var plainKey = regexp.MustCompile(`^[-\w.]+$`)

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

// write puts devloop.yaml and its schema into this folder, once it is sure that devloop can read
// them. What is there under one of the names, a link too, is replaced by force alone, and never
// written through.
func (d *draft) write(force bool) (err error) {
	for _, name := range []string{config.FileName, schemaName} {
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("init: %w", err)
		case info.IsDir():
			return console.UsageError{Err: event.WithHint(fmt.Errorf("init: %s is a folder", name), "move it away")}
		case !force:
			return console.UsageError{Err: event.WithHint(fmt.Errorf("init: there is a %s already", name),
				"devloop init --force replaces it")}
		}
	}
	schema, err := writeBeside(schemaName, config.Schema())
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer func() { _ = os.Remove(schema) }() // if it has not its name yet
	file, err := writeBeside(config.FileName, []byte(d.text()))
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer func() { _ = os.Remove(file) }() // the same
	if _, err := config.Load(config.Source{Files: []string{file}}); err != nil {
		return event.WithHint(fmt.Errorf("init: this folder gives no valid %s: %w", config.FileName, err), "this is a bug in devloop: please report it, and write the file by hand")
	}
	if err := errors.Join(os.Rename(schema, schemaName), os.Rename(file, config.FileName)); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// writeBeside writes a new file into this folder, which is to become name, and returns what it is
// called until then.
func writeBeside(name string, content []byte) (temporary string, err error) {
	file, err := os.CreateTemp(".", "."+name+"-*")
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}

func (d *draft) text() string {
	if d.whole != nil {
		return string(d.whole)
	}
	var out strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	say("# yaml-language-server: $schema=%s", schemaName)
	say("apiVersion: %s\nname: %s", config.Version, scalar(d.name))
	if len(d.images) > 0 {
		say("images:")
	}
	for _, image := range d.images {
		folder := ""
		if image.Context != "." {
			folder = "context: " + scalar(image.Context) + ", "
		}
		say("  %s: { %sdockerfile: %s }", scalar(image.Name), folder, scalar(image.Dockerfile))
	}
	if len(d.releases) > 0 {
		say("releases:")
	}
	for _, r := range d.releases {
		say("  - name: %s\n    chart: %s\n    namespace: %s\n    createNamespace: true", scalar(r.Name), scalar(r.Chart), scalar(r.Namespace))
		if len(r.Set) > 0 {
			say("    set:")
		}
		for _, key := range slices.Sorted(maps.Keys(r.Set)) {
			say("      %s: '%s'", scalar(key), r.Set[key]) // of our own making
		}
	}
	if len(d.forwards) > 0 {
		say("forwards:")
	}
	for _, f := range d.forwards {
		say("  - { service: %s, namespace: %s, port: %s, local: %d }", scalar(f.Service), scalar(f.Namespace), f.Port, f.Local)
	}
	return out.String()
}

// scalar is text as YAML has it within { }: in quotes, which YAML reads as Go does, where it would be something else without.
func scalar(text string) string {
	plain, err := yaml.Marshal(text)
	if err == nil && string(plain) == text+"\n" && !strings.ContainsAny(text, ",{}[]") {
		return text
	}
	return strconv.Quote(text)
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
