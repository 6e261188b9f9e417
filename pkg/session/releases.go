package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
)

// ReleaseFiles returns the files and folders that the releases are made from.
func ReleaseFiles(c *config.Config) []string {
	var files []string
	for _, r := range releases(c) {
		files = append(files, r.Files()...)
	}
	for _, command := range slices.Concat(commands(c, c.Hooks.Before), commands(c, c.Hooks.After)) {
		if command.Script != "" {
			files = append(files, command.Script)
		}
	}
	return files
}

// imagesOf returns the names of the images that a release names: in devloop.yaml, or in its
// objects.
func imagesOf(c *config.Config, d *deploy.Deployer, r config.Release) []string {
	names := r.Images()
	for _, image := range c.Images {
		if !slices.Contains(names, image.Name) && len(d.ImagesOf(r.ID(), repositories(c, image))) > 0 {
			names = append(names, image.Name)
		}
	}
	return names
}

// namespaceOf returns the namespace of the first release that names the image, or "".
func namespaceOf(c *config.Config, d *deploy.Deployer, image string) string {
	at := slices.IndexFunc(c.Images, func(i config.Image) bool { return i.Name == image })
	for _, r := range c.Releases {
		if slices.Contains(r.Images(), image) || at >= 0 && len(d.ImagesOf(r.ID(), repositories(c, c.Images[at]))) > 0 {
			return r.Namespace
		}
	}
	return ""
}

// repositories returns by which repositories objects may name an image.
func repositories(c *config.Config, image config.Image) []string {
	return append([]string{image.Name, c.Repository(image.Name)}, image.Aliases...)
}

// releases returns the releases of devloop.yaml. Their templates are not filled in.
func releases(c *config.Config) []deploy.Release {
	list := make([]deploy.Release, 0, len(c.Releases))
	for _, r := range c.Releases {
		list = append(list, ReleaseOf(c, r))
	}
	return list
}

// allReleases returns the releases of devloop.yaml, those outside of a part included.
func allReleases(c *config.Config) []deploy.Release {
	list := releases(c)
	for _, r := range c.Others {
		list = append(list, ReleaseOf(c, r))
	}
	return list
}

// ResolvedReleases returns the releases of devloop.yaml with the images of a target.
func ResolvedReleases(c *config.Config, target *loop.Target) ([]deploy.Release, error) {
	refs := target.Refs()
	named := map[string]string{}
	for _, image := range c.Images {
		for _, repository := range repositories(c, image) {
			if ref := refs[image.Name]; ref != "" {
				named[repository] = ref
			}
		}
	}
	images := deploy.NewImages(named)
	list := make([]deploy.Release, 0, len(c.Releases))
	for _, r := range c.Releases {
		filled, err := r.Resolve(refs)
		if err != nil {
			return nil, err
		}
		made := ReleaseOf(c, filled)
		made.Images = images
		list = append(list, made)
	}
	return list, nil
}

// ReleaseOf converts a release of devloop.yaml for the deployer.
func ReleaseOf(c *config.Config, r config.Release) deploy.Release {
	made := deploy.Release{
		Name: r.Name, Chart: r.Chart, Repo: r.Repo, Version: r.Version, SHA256: r.SHA256,
		Namespace: r.Namespace, CreateNamespace: r.CreateNamespace, DependsOn: r.DependsOn,
		InlineValues: r.InlineValues, Set: r.Set, SetString: r.SetString,
		Before: commands(c, r.Hooks.Before), After: commands(c, r.Hooks.After),
		SecretValues: r.SecretValues,
		Rollback:     r.OnFailure == "rollback",
	}
	switch {
	case r.Kustomize != "":
		made.Kustomize, made.RemoteBases = c.Abs(r.Kustomize), r.RemoteBases
	case r.ChartIsLocal():
		made.Chart = c.Abs(r.Chart)
	}
	for _, pattern := range r.Manifests {
		made.Manifests = append(made.Manifests, c.Abs(pattern))
	}
	for _, file := range r.Values {
		made.ValuesFiles = append(made.ValuesFiles, c.Abs(file))
	}
	return made
}

func commands(c *config.Config, hooks []config.Hook) []deploy.Command {
	list := make([]deploy.Command, len(hooks))
	for i, hook := range hooks {
		list[i] = deploy.NewCommand(c.Dir, hook.Command, hook.Timeout)
	}
	return list
}

// LocateError adds the place in devloop.yaml to errors about values that a chart rejects.
func LocateError(c *config.Config, err error) error {
	parts := event.Joined(err)
	if parts == nil {
		var wrong *deploy.ValueError
		if errors.As(err, &wrong) && wrong.In != "" {
			message := fmt.Sprintf("value %s: %s", strings.Join(wrong.Path, "."), wrong.Message)
			return c.WrongValue(wrong.Release, wrong.In, wrong.Key, message, event.Hint(err))
		}
		return err
	}
	for i := range parts {
		parts[i] = LocateError(c, parts[i])
	}
	return errors.Join(parts...)
}

// namespacesOf returns the namespaces of the releases.
func namespacesOf(c *config.Config) (namespaces []string) {
	for _, r := range c.Releases {
		if !slices.Contains(namespaces, r.Namespace) {
			namespaces = append(namespaces, r.Namespace)
		}
	}
	return namespaces
}
