package deploy

// The charts that a chart depends on are those that helm dependency update would put into its
// charts folder, which stays as it is. So an edit of a folder beside it counts at once, whatever
// copy of it was packed before.

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// maxDepth limits the depth of dependencies, which may be cyclic.
const maxDepth = 10

// addDependencies gives the chart in file the dependencies that its Chart.yaml names. A chart in
// its charts folder of the same name that is not the dependency, such as an older version, is left
// out: Helm would render both. One that no dependency names stays. Without fetch, dependencies that
// are in no folder on this machine stay as they are.
func (c *charts) addDependencies(ctx context.Context, stage event.Stage, parent *chart.Chart, file string, fetch bool,
	depth int) error {
	packed := parent.Dependencies()
	all := slices.DeleteFunc(slices.Clone(packed), func(found *chart.Chart) bool {
		return slices.ContainsFunc(parent.Metadata.Dependencies, func(wanted *chart.Dependency) bool {
			return wanted != nil && wanted.Name == found.Name() && (fetch || isLocal(file, wanted))
		})
	})
	for _, wanted := range parent.Metadata.Dependencies {
		switch {
		case wanted == nil, !fetch && !isLocal(file, wanted):
			continue
		case slices.ContainsFunc(all, func(found *chart.Chart) bool { return satisfies(found, wanted) }):
			continue // the same chart may occur under two aliases
		case depth == maxDepth:
			return fmt.Errorf("its charts depend on each other more than %d deep", maxDepth)
		}
		found, err := c.loadDependency(ctx, stage, parent, wanted, packed, file, depth+1)
		if err != nil {
			return fmt.Errorf("its dependency %s: %w", wanted.Name, err)
		}
		all = append(all, found)
	}
	parent.SetDependencies(all...)
	for _, folder := range packedFolders(file) { // which helm dependency build leaves as they are
		metadata := metadataIn(folder)
		for _, inner := range packed {
			if inner.Name() != metadata.Name || inner.Metadata.Version != metadata.Version {
				continue
			}
			if err := c.addDependencies(ctx, stage, inner, folder, false, depth+1); err != nil {
				return fmt.Errorf("%s: %w", folder, err)
			}
		}
	}
	return nil
}

// loadDependency loads a dependency of the chart in file. packed are the charts in its charts
// folder: of them, a chart that lies in a folder elsewhere is an old copy.
func (c *charts) loadDependency(ctx context.Context, stage event.Stage, parent *chart.Chart, wanted *chart.Dependency,
	packed []*chart.Chart, file string, depth int) (*chart.Chart, error) {
	from := source{chart: localFolder(file, wanted)}
	if !isLocal(file, wanted) {
		version := lockedVersion(parent, wanted)
		if found := newest(packed, wanted.Name, version); found != nil {
			return found, nil
		}
		var err error
		if from, err = dependencySource(wanted, version); err != nil {
			return nil, err
		}
	}
	archive, err := c.locate(ctx, stage, from)
	if err != nil {
		return nil, err
	}
	brought, err := c.load(ctx, stage, archive, from, depth)
	if err == nil && !satisfies(brought, wanted) {
		err = event.WithHint(fmt.Errorf("what is there is %s %s, not %s %s", brought.Name(), brought.Metadata.Version,
			wanted.Name, wanted.Version),
			"correct its name or version in Chart.yaml")
	}
	return brought, err
}

// satisfies tells whether a chart is the dependency, by Helm's rule.
func satisfies(found *chart.Chart, wanted *chart.Dependency) bool {
	return found.Name() == wanted.Name && (wanted.Version == "" || chartutil.IsCompatibleRange(wanted.Version,
		found.Metadata.Version))
}

// newest returns the newest of the charts with this name and a version in the range, or nil.
func newest(charts []*chart.Chart, name, versions string) (best *chart.Chart) {
	for _, found := range charts {
		if !satisfies(found, &chart.Dependency{Name: name, Version: versions}) {
			continue
		}
		if best == nil || chartutil.IsCompatibleRange(">"+best.Metadata.Version, found.Metadata.Version) {
			best = found
		}
	}
	return best
}

// lockedVersion returns the version of a dependency in Chart.lock if Chart.yaml still allows it,
// else what Chart.yaml asks for.
func lockedVersion(parent *chart.Chart, wanted *chart.Dependency) string {
	if parent.Lock == nil || wanted.Repository == "" {
		return wanted.Version
	}
	for _, locked := range parent.Lock.Dependencies {
		if locked != nil && locked.Name == wanted.Name && locked.Repository == wanted.Repository &&
			chartutil.IsCompatibleRange(wanted.Version, locked.Version) {
			return locked.Version
		}
	}
	return wanted.Version
}

// localFolder returns the folder that a chart in a folder depends on by file://, else "".
func localFolder(parent string, wanted *chart.Dependency) string {
	rest, isFile := strings.CutPrefix(wanted.Repository, "file://")
	if !isFile {
		return ""
	}
	if folder := filepath.FromSlash(rest); filepath.IsAbs(folder) {
		return folder
	}
	return filepath.Join(parent, filepath.FromSlash(rest))
}

// isLocal tells whether a dependency of the chart in file is a folder on this machine. To whoever
// has only the archives that helm dependency build has made of them, it is none.
func isLocal(file string, wanted *chart.Dependency) bool {
	if !strings.HasPrefix(wanted.Repository, "file://") {
		return false
	}
	for _, folder := range []string{file, localFolder(file, wanted)} { // of an archive, there is no way to it
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// dependencyFolder returns the folder of a dependency, by its name in the chart in a folder.
func dependencyFolder(parent, name string) string {
	for _, wanted := range metadataIn(parent).Dependencies {
		if wanted != nil && cmp.Or(wanted.Alias, wanted.Name) == name && isLocal(parent, wanted) {
			return localFolder(parent, wanted)
		}
	}
	return filepath.Join(parent, "charts", name)
}

// packedFolders returns the folders of charts in the charts folder of the chart in file.
func packedFolders(file string) (folders []string) {
	entries, _ := os.ReadDir(filepath.Join(file, "charts")) // an archive has none
	for _, entry := range entries {
		folder := filepath.Join(file, "charts", entry.Name())
		if info, err := os.Stat(folder); err == nil && info.IsDir() && !files.IsToolFile(entry.Name()) {
			folders = append(folders, folder)
		}
	}
	return folders
}

// metadataIn reads what describes the chart in a folder, as far as it can be read.
func metadataIn(folder string) (metadata chart.Metadata) {
	for _, file := range []string{"Chart.yaml", "requirements.yaml"} { // the latter is for v1 charts
		if text, err := files.Read(filepath.Join(folder, file), maxText); err == nil {
			_ = yaml.Unmarshal(text, &metadata) // loading the chart reports invalid YAML
		}
	}
	return metadata
}

// dependencySource returns where a dependency is, of which the charts folder has no such version.
func dependencySource(wanted *chart.Dependency, version string) (source, error) {
	from := source{chart: wanted.Name, repo: wanted.Repository, version: version}
	kind, rest, isURL := strings.Cut(wanted.Repository, "://")
	switch {
	case wanted.Repository == "":
		return from, event.WithHint(fmt.Errorf("version %q is not in its charts folder, and it names no repository",
			wanted.Version), "put it into charts/, or give its repository in Chart.yaml")
	case kind == "file":
		return from, event.WithHint(fmt.Errorf("its charts folder has no version %q, and there is no folder %s", version,
			rest), "correct its repository in Chart.yaml")
	case kind == "oci":
		return source{chart: strings.TrimSuffix(wanted.Repository, "/") + "/" + wanted.Name, version: version}, nil
	case !isURL: // "@name" or "alias:name": of helm repo add
		entry, err := addedRepository(strings.TrimPrefix(strings.TrimPrefix(wanted.Repository, "alias:"), "@"))
		from.repo = entry
		return from, err
	}
	return from, nil
}

// inputsOf returns the files and folders outside of a chart's folder that it is made from: folders
// that it depends on by file://, transitively, and Helm's settings for the repositories that it
// names.
func inputsOf(folder string) []string {
	var inputs []string
	found := []string{folder}
	for i := 0; i < len(found) && len(found) < 100; i++ {
		for _, wanted := range metadataIn(found[i]).Dependencies {
			if wanted == nil || wanted.Repository == "" {
				continue
			}
			if other := localFolder(found[i], wanted); other == "" {
				inputs = append(inputs, helmSettings(wanted.Repository)...)
			} else if !slices.Contains(found, other) {
				found, inputs = append(found, other), append(inputs, other)
			}
		}
		found = append(found, packedFolders(found[i])...)
	}
	slices.Sort(inputs)
	return slices.Compact(inputs)
}
