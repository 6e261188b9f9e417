package session

import (
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
)

// maxPackages is how many packages of an image are looked for: they are arguments of a command.
const maxPackages = 100

// syncedPackages returns the top-level Python packages among the synced files of an image. Whether
// a file outside of a package is a module that somebody imports, nobody can say.
func syncedPackages(image *loop.Image) (list []proof.Package) {
	input, _ := image.Input.(build.Input)
	if input.Synced == nil {
		return nil
	}
	known := map[string]bool{} // folders of modules
	for _, file := range input.Synced.Files {
		folder := path.Dir(file.Path)
		if path.Ext(file.Path) != ".py" || known[folder] || len(list) == maxPackages {
			continue
		}
		known[folder] = true
		p, ok := packageOf(folder, filepath.Dir(file.Source))
		if ok && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// packageOf returns the top-level package that a folder belongs to, by its names in the image and
// on this machine.
func packageOf(folder, source string) (p proof.Package, ok bool) {
	for folder != "/" && isPackage(source) {
		p, ok = proof.Package{Name: path.Base(folder), Folder: folder}, true
		if filepath.Base(source) == p.Name {
			p.Source = source
		}
		folder, source = path.Dir(folder), filepath.Dir(source)
	}
	return p, ok
}

func isPackage(folder string) bool {
	info, err := os.Stat(filepath.Join(folder, "__init__.py"))
	return err == nil && info.Mode().IsRegular()
}
