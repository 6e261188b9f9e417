package draft

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/devloop/devloop/pkg/files"
)

const (
	maxDepth   = 6      // folders in folders that are looked into
	maxEntries = 50_000 // files and folders that are looked at
	gitTimeout = 5 * time.Second
)

// projectFiles are files and folders that may become images and releases.
type projectFiles struct {
	dockerfiles []string
	charts      []string // folders
	chartpress  []string
	plain       plainManifests
}

// find walks the current folder. It follows no links.
func (d *draft) find(ctx context.Context) (all projectFiles, err error) {
	left := maxEntries
	err = filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		left--
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && path == ".":
			return err
		case err != nil: // a folder that this user may not read has nothing for them
			return fs.SkipDir
		case left == 0:
			d.note("only the first %d files and folders were looked at", maxEntries)
			return fs.SkipAll
		case !utf8.ValidString(path): // no configuration can name it
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			if path != "." && (all.isOfChart(path) || isForeign(path)) {
				return fs.SkipDir
			}
			if isFile(filepath.Join(path, "Chart.yaml")) {
				all.charts = append(all.charts, path)
			}
		default:
			all.classify(path)
		}
		return nil
	})
	if err == nil {
		all.dropIgnored(ctx)
	}
	return all, err
}

// classify notes a file by its name.
func (all *projectFiles) classify(file string) {
	name := filepath.Base(file)
	switch {
	case files.IsToolFile(name) || !isFile(file):
	case dockerfileName.MatchString(name):
		all.dockerfiles = append(all.dockerfiles, file)
	case name == "chartpress.yaml" || name == "chartpress.yml":
		all.chartpress = append(all.chartpress, file)
	case !all.inChart(filepath.Dir(file)):
		all.plain.classify(file)
	}
}

// isOfChart tells whether a folder holds the templates of a chart, or charts in it.
func (all *projectFiles) isOfChart(folder string) bool {
	return slices.Contains([]string{"charts", "templates", "crds"}, filepath.Base(folder)) &&
		slices.Contains(all.charts, filepath.Dir(folder))
}

// inChart tells whether the files of a folder are those of a chart. The project's own folder may be
// one, beside which other folders are.
func (all *projectFiles) inChart(folder string) bool {
	return slices.ContainsFunc(all.charts, func(chart string) bool {
		return folder == chart || chart != "." && strings.HasPrefix(folder, chart+string(filepath.Separator))
	})
}

// dockerfileName matches the names of Dockerfiles: Dockerfile, Dockerfile.worker,
// worker.Dockerfile. What they hold decides.
var dockerfileName = regexp.MustCompile(`(?i)^((docker|container)file([.-].+)?|.+\.(docker|container)file)$`)

// isForeign tells whether what a folder holds was made by others, or by a tool.
func isForeign(folder string) bool {
	name := filepath.Base(folder)
	return strings.HasPrefix(name, ".") || files.IsToolFile(name) ||
		strings.Count(folder, string(filepath.Separator)) >= maxDepth ||
		slices.Contains([]string{"node_modules", "bower_components", "vendor", "third_party", "site-packages",
			"__pycache__", "testdata"}, name) ||
		isFile(filepath.Join(folder, "pyvenv.cfg")) || isDir(filepath.Join(folder, "conda-meta")) ||
		exists(filepath.Join(folder, ".git")) // a submodule, or another repository
}

// dropIgnored leaves out what git ignores: copies that a build has made. Without git, nothing is.
func (all *projectFiles) dropIgnored(ctx context.Context) {
	var paths []string
	for _, list := range all.lists() {
		paths = append(paths, *list...)
	}
	if len(paths) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	git := exec.CommandContext(ctx, "git", "-c", "core.fsmonitor=false", "check-ignore", "-z", "--stdin")
	git.Stdin = strings.NewReader(strings.Join(paths, "\x00"))
	output, err := git.Output()
	if err != nil {
		return // none is ignored, this is no repository, or there is no git
	}
	ignored := map[string]bool{}
	for path := range bytes.SplitSeq(output, []byte{0}) {
		ignored[string(path)] = true
	}
	if !slices.ContainsFunc(paths, func(path string) bool { return !ignored[path] }) {
		return // the folder itself is ignored
	}
	for _, list := range all.lists() {
		*list = slices.DeleteFunc(*list, func(path string) bool { return ignored[path] })
	}
}

func (all *projectFiles) lists() []*[]string {
	return []*[]string{&all.dockerfiles, &all.charts, &all.chartpress, &all.plain.kustomizations, &all.plain.files}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
