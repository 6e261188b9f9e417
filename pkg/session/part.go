package session

// A part of the releases. Which images, forwards and health checks belong to it depends on what its
// releases are rendered to, so each run begins by rendering them.

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/portforward"
)

// narrow returns what of a configuration belongs to the releases of its part, all of it if it is no
// part. A mistake in a chart is no error here: the run reports it.
func (s *Session) narrow(ctx context.Context, c *config.Config) (*config.Config, error) {
	if !c.NeedsNarrowing() {
		return c, nil
	}
	list, err := ResolvedReleases(c, unhashed(c))
	if err != nil {
		return nil, err
	}
	made := partObjects{config: c, images: config.Release{Hooks: c.Hooks}.Images()}
	for i, r := range list {
		objects, err := s.deployer.Objects(ctx, s.options.Sink, r)
		switch {
		case err == nil:
			s.objects[r.ID()] = objects
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case event.IsTransient(err):
			return nil, err
		case s.objects[r.ID()] == nil:
			made.unsure = true
		}
		made.objects = append(made.objects, s.objects[r.ID()]...)
		made.images = append(made.images, imagesOf(c, s.deployer, c.Releases[i])...)
	}
	return c.Keep(config.Needs{Image: made.hasImage, Forward: made.hasForward, Health: made.hasHealth}), nil
}

// checkImages returns an error if a release names an image that it did not name at the start of the
// run: what it depends on may have brought what its chart asks for.
func (p platformStage) checkImages() error {
	for _, r := range p.config.Releases {
		for _, image := range p.config.OtherImages {
			if len(p.deployer.ImagesOf(r.ID(), repositories(p.config, image))) > 0 {
				return event.Transient(fmt.Errorf("release %s names image %s only now; the next run builds it", r.ID(), image.Name))
			}
		}
	}
	return nil
}

// unhashed returns a target without the hashes of its images. With these references, a release can
// be rendered to find out which images it names.
func unhashed(c *config.Config) *loop.Target {
	target := &loop.Target{}
	for _, image := range c.Images {
		target.Images = append(target.Images, &loop.Image{Name: image.Name, Ref: c.Repository(image.Name) + ":unhashed"})
	}
	return target
}

// partObjects are what the releases of a part are rendered to, and the images that they name.
type partObjects struct {
	config  *config.Config
	objects []*unstructured.Unstructured
	images  []string // their names in devloop.yaml
	unsure  bool     // one of them was never rendered: everything may belong to it
}

func (p partObjects) hasImage(name string) bool { return p.unsure || slices.Contains(p.images, name) }

// hasForward tells whether one of the releases makes the target of a forward, or whether it is that
// of no other release either, as the namespace tells: an operator may make it.
func (p partObjects) hasForward(f config.Forward) bool {
	kind, name := f.Target()
	selector, _ := labels.Parse(name) // of kind selector only, and checked
	return p.makes(f.Namespace, func(u *unstructured.Unstructured) bool {
		switch kind {
		case portforward.Selector:
			return selector.Matches(podLabels(u))
		case portforward.Pod:
			set := name[:max(0, strings.LastIndex(name, "-"))]
			return u.GetName() == name && u.GetKind() == "Pod" || u.GetName() == set && u.GetKind() == "StatefulSet"
		}
		return u.GetName() == name && strings.EqualFold(u.GetKind(), kind)
	})
}

func (p partObjects) hasHealth(h config.Health) bool {
	selector, err := labels.Parse(h.Deployment)
	return err == nil && p.makes(h.Namespace, func(u *unstructured.Unstructured) bool {
		return u.GetKind() == "Deployment" && selector.Matches(labels.Set(u.GetLabels()))
	})
}

// makes tells whether an object that matches belongs to the part.
func (p partObjects) makes(namespace string, matches func(*unstructured.Unstructured) bool) bool {
	isThere := func(r config.Release) bool { return r.Namespace == namespace }
	return slices.ContainsFunc(p.objects, func(u *unstructured.Unstructured) bool {
		return u.GetNamespace() == namespace && matches(u)
	}) || p.unsure && slices.ContainsFunc(p.config.Releases, isThere) || !slices.ContainsFunc(p.config.Others, isThere)
}

// podLabels returns the labels of the pods that an object is, or makes.
func podLabels(u *unstructured.Unstructured) labels.Set {
	if u.GetKind() == "Pod" {
		return u.GetLabels()
	}
	of, _, _ := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "labels")
	return of
}
