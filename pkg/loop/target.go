package loop

import (
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
)

// Target is what a run takes the platform to. The run's first stage makes it.
type Target struct {
	Images []*Image // in the order of devloop.yaml, but each after those that it is built from
	Pushed bool     // to a registry: only then pods name the images by the digests that it knows
}

// copy returns a target whose images nobody else changes.
func (t *Target) copy() *Target {
	copied := &Target{Pushed: t.Pushed}
	for _, image := range t.Images {
		own := *image
		copied.Images = append(copied.Images, &own)
	}
	return copied
}

// Image is an image of a target.
type Image struct {
	Name  string   // in devloop.yaml
	Bases []string // names of the images that it is built from
	Tag   name.Tag // by the hash of its inputs
	Ref   string   // how pods name it; the nodes stage adds the digest where it knows one
	Input any      // what the images stage builds it from

	// Rest is the hash of the inputs without the files that are synced: images of the same Rest differ
	// by those alone. It is "" for an image of which nothing is synced.
	Rest string
}

// Event is the image as events name it.
func (i *Image) Event() event.Image {
	return event.Image{Name: event.Name(i.Name), Tag: event.Name(i.Tag.TagStr()), Ref: event.Name(i.Tag.String())}
}

// Tags returns the tags of images.
func Tags(images []*Image) []name.Tag {
	tags := make([]name.Tag, len(images))
	for i, image := range images {
		tags[i] = image.Tag
	}
	return tags
}

// Refs returns how pods name the images, by their names in devloop.yaml.
func (t *Target) Refs() map[string]string {
	refs := map[string]string{}
	for _, image := range t.Images {
		refs[image.Name] = image.Ref
	}
	return refs
}
