package draft

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

const maxChartpress = 1 << 20 // bytes

// chartpress is what a chartpress.yaml says about images. Paths are relative to its folder.
type chartpress struct {
	Charts []struct {
		Name        string
		ChartPath   string                     `yaml:"chartPath"`
		ImagePrefix string                     `yaml:"imagePrefix"`
		Images      map[string]chartpressImage `yaml:"images"`
	}
}

type chartpressImage struct {
	ImageName      string         `yaml:"imageName"`
	ContextPath    string         `yaml:"contextPath"`
	DockerfilePath string         `yaml:"dockerfilePath"`
	ValuesPath     any            `yaml:"valuesPath"` // one, or a list
	BuildArgs      map[string]any `yaml:"buildArgs"`
	Options        []any          `yaml:"extraBuildCommandOptions"`
}

// addChartpress adds the images of a chartpress.yaml, and the values of charts that name them.
func (d *draft) addChartpress(file string, values map[string]chartValues) {
	var read chartpress
	text, err := files.Read(file, maxChartpress)
	if err == nil {
		err = yaml.Unmarshal(text, &read)
	}
	if err != nil {
		d.note("left out: %s: %v", file, err)
		return
	}
	folder := filepath.Dir(file)
	for _, chart := range read.Charts {
		at := filepath.Join(folder, cmp.Or(chart.ChartPath, chart.Name))
		for _, name := range slices.Sorted(maps.Keys(chart.Images)) {
			made := chart.Images[name]
			i, err := made.image(folder, name)
			if err != nil {
				d.note("left out: %s: image %s: %v", file, name, err)
				continue
			}
			if same := d.sameImage(i); same != nil {
				i = same
			} else {
				d.addImage(i)
			}
			if alias := cmp.Or(made.ImageName, chart.ImagePrefix+name); d.imageNamed(alias) == nil && isName(alias) {
				i.Aliases = append(i.Aliases, alias)
			}
			if left := made.options(i); len(left) > 0 {
				d.note("%s: image %s: without %s", file, name, strings.Join(left, ", "))
			}
			for _, path := range made.valuesPaths() {
				if values[at] == nil {
					values[at] = chartValues{}
				}
				values[at][path] = i
			}
		}
	}
}

// sameImage returns the image that is built in the same way, nil for none.
func (d *draft) sameImage(i *image) *image {
	for _, other := range d.images {
		if other.Dockerfile == i.Dockerfile && other.Context == i.Context && other.Name == i.Name {
			return other
		}
	}
	return nil
}

// image is what is built, as chartpress finds it.
func (c chartpressImage) image(folder, name string) (*image, error) {
	context := cmp.Or(c.ContextPath, filepath.Join("images", name))
	dockerfile := filepath.Join(folder, cmp.Or(c.DockerfilePath, filepath.Join(context, "Dockerfile")))
	read, err := build.ReadDockerfile(dockerfile)
	if err != nil {
		return nil, err
	}
	if !isDir(filepath.Join(folder, context)) {
		return nil, fmt.Errorf("there is no folder %s", filepath.Join(folder, context))
	}
	return &image{bases: read.Bases, Image: config.Image{Name: tree.Label(name, "image"),
		Context: filepath.Join(folder, context), Dockerfile: dockerfile}}, nil
}

func (c chartpressImage) valuesPaths() (paths []string) {
	switch value := c.ValuesPath.(type) {
	case string:
		return []string{value}
	case []any:
		for _, item := range value {
			if path, isText := item.(string); isText {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// fromGit matches what chartpress fills in from git, so that each commit would be another image.
var fromGit = regexp.MustCompile(`\{(TAG|LAST_COMMIT|BRANCH)\}`)

// options gives an image its build arguments and its target. It returns what was left out, and why.
func (c chartpressImage) options(i *image) (left []string) {
	arg := func(key, value string) {
		switch {
		case fromGit.MatchString(value):
			left = append(left, fmt.Sprintf("the build argument %s, which changes with each commit", key))
		case strings.Contains(value, "{{"):
			left = append(left, fmt.Sprintf("the build argument %s: %q", key, value))
		default:
			if i.Args == nil {
				i.Args = map[string]string{}
			}
			i.Args[key] = value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.BuildArgs)) {
		arg(key, fmt.Sprint(c.BuildArgs[key]))
	}
	for n := 0; n < len(c.Options); n++ {
		option := fmt.Sprint(c.Options[n])
		flag, value, isWhole := strings.Cut(option, "=")
		if !isWhole && n+1 < len(c.Options) && !strings.HasPrefix(fmt.Sprint(c.Options[n+1]), "-") {
			n++ // the value is an item of its own
			value = fmt.Sprint(c.Options[n])
			option += " " + value
		}
		if flag != "--target" && flag != "--build-arg" {
			left = append(left, option)
			continue
		}
		if key, text, isArg := strings.Cut(value, "="); flag == "--target" {
			i.Target = value
		} else if isArg {
			arg(key, text)
		}
	}
	return left
}

// isName tells whether text can be an alias.
func isName(text string) bool {
	named, err := reference.ParseNormalizedNamed(text)
	return err == nil && reference.IsNameOnly(named)
}
