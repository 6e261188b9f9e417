package config

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/distribution/reference"

	"github.com/devloop/devloop/pkg/config/tree"
)

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
