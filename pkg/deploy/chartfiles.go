package deploy

// A chart's files are read as Helm does, but only regular files, within limits, and cancelably: a
// folder may hold pipes, circular links, and gigabytes that .helmignore leaves out; a small archive
// may unpack to gigabytes.

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/ignore"

	"github.com/devloop/devloop/pkg/files"
)

const (
	// maxText is the size of a values file, or of one that describes a chart, in bytes.
	maxText = 4 << 20
	// maxChartFiles limits the files and folders of a chart.
	maxChartFiles = 20_000
	// maxFolders limits their depth.
	maxFolders = 50
	// maxUnpacked is what an archive may unpack to, in bytes: Helm's limit for its files, and as much
	// for what tar adds.
	maxUnpacked = 2 * maxChart
)

// loadChart reads the chart in a folder or an archive.
func loadChart(ctx context.Context, file string) (*chart.Chart, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	room := int64(maxUnpacked)
	if !info.IsDir() {
		archive, err := files.Read(file, maxChart)
		if err != nil {
			return nil, err
		}
		return loadArchive(ctx, archive, &room)
	}
	found, err := chartFiles(ctx, file)
	if err != nil {
		return nil, err
	}
	if err := checkArchives(ctx, found, &room, 0); err != nil {
		return nil, err
	}
	return loader.LoadFiles(found)
}

// loadArchive reads the chart in an archive, and subtracts its unpacked size from room.
func loadArchive(ctx context.Context, archive []byte, room *int64) (*chart.Chart, error) {
	found, err := unpacked(ctx, archive, room)
	if err != nil {
		return nil, err
	}
	if err := checkArchives(ctx, found, room, 0); err != nil {
		return nil, err
	}
	return loader.LoadFiles(found)
}

// unpacked returns the files in an archive. Helm limits the size of each, but not their number.
func unpacked(ctx context.Context, archive []byte, room *int64) ([]*loader.BufferedFile, error) {
	tarball, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	size, err := io.Copy(io.Discard, io.LimitReader(files.UntilDone(ctx, tarball), *room+1))
	if err != nil {
		return nil, err
	}
	if *room -= size; *room < 0 {
		return nil, fmt.Errorf("it unpacks to more than %d MiB", maxUnpacked>>20)
	}
	return loader.LoadArchiveFiles(bytes.NewReader(archive))
}

// checkArchives checks the archives of charts within a chart: Helm unpacks these without any
// overall limit, and recursive ones endlessly.
func checkArchives(ctx context.Context, found []*loader.BufferedFile, room *int64, depth int) error {
	for _, f := range found {
		if folder, name := path.Split(f.Name); path.Base(folder) != "charts" || path.Ext(name) != ".tgz" {
			continue
		}
		if depth == maxDepth {
			return fmt.Errorf("%s: its charts hold each other more than %d deep", f.Name, maxDepth)
		}
		inside, err := unpacked(ctx, f.Data, room)
		if err == nil {
			err = checkArchives(ctx, inside, room, depth+1)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

// chartFiles reads the files of a chart's folder that .helmignore does not exclude, without those
// of editors and other tools: a backup of a template would be rendered, too. It follows links, as
// Helm does.
func chartFiles(ctx context.Context, folder string) ([]*loader.BufferedFile, error) {
	rules := ignore.Empty()
	text, err := files.Read(filepath.Join(folder, ignore.HelmIgnore), maxText)
	switch {
	case err == nil:
		if rules, err = ignore.Parse(bytes.NewReader(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", ignore.HelmIgnore, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	rules.AddDefaults()
	w := &chartWalk{ctx: ctx, rules: rules, room: maxChart, left: maxChartFiles}
	err = w.folder(folder, "", nil)
	return w.found, err
}

// chartWalk walks the folder of a chart.
type chartWalk struct {
	ctx   context.Context //nolint:containedctx // of one call
	rules *ignore.Rules
	found []*loader.BufferedFile
	room  int64 // remaining bytes
	left  int   // remaining files and folders
}

// folder reads a folder; name is its name in the chart, above are its parents, with links resolved.
func (w *chartWalk) folder(at, name string, above []fs.FileInfo) error {
	here, err := os.Stat(at)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(above, func(other fs.FileInfo) bool { return os.SameFile(here, other) }) {
		return fmt.Errorf("%s is a link to a folder that it is in", at)
	}
	if len(above) == maxFolders {
		return fmt.Errorf("%s: its folders are more than %d deep", at, maxFolders)
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if files.IsToolFile(entry.Name()) {
			continue
		}
		if w.left--; w.left < 0 {
			return fmt.Errorf("%s: the chart has more than %d files and folders; %s can leave some out",
				at, maxChartFiles, ignore.HelmIgnore)
		}
		err := w.entry(filepath.Join(at, entry.Name()), path.Join(name, entry.Name()), append(above, here))
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *chartWalk) entry(at, name string, above []fs.FileInfo) error {
	info, err := os.Stat(at)
	if err != nil {
		link, linkErr := os.Lstat(at)
		switch {
		case linkErr != nil || link.Mode()&fs.ModeSymlink == 0:
			return err
		case w.rules.Ignore(name, link):
			return nil
		}
		to, _ := os.Readlink(at)
		return fmt.Errorf("%s is a link to %s, which cannot be read: %w", at, to, errors.Unwrap(err))
	}
	switch {
	case w.rules.Ignore(name, info):
		return nil
	case info.IsDir():
		return w.folder(at, name, above)
	case info.Size() > loader.MaxDecompressedFileSize && info.Mode().IsRegular():
		return fmt.Errorf("%s has %d MiB, and a file of a chart may have %d; %s can leave it out",
			at, info.Size()>>20, loader.MaxDecompressedFileSize>>20, ignore.HelmIgnore)
	}
	data, err := files.Read(at, loader.MaxDecompressedFileSize)
	if err != nil {
		return err
	}
	if w.room -= int64(len(data)); w.room < 0 {
		return fmt.Errorf("%s: the chart has more than %d MiB; %s can leave files out",
			at, maxChart>>20, ignore.HelmIgnore)
	}
	w.found = append(w.found, &loader.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, []byte("\ufeff"))})
	return nil
}
