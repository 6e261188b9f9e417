package venv

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/files"
)

const (
	// maxCondaRecord is the largest record of a package that is read, in bytes: it lists all of
	// the package's files.
	maxCondaRecord = 16 << 20
	// maxCondaRecords is how many are read.
	maxCondaRecords = 5000
)

// condaRecordName is NAME-VERSION-BUILD.json.
var condaRecordName = regexp.MustCompile(`^(.+)-([^-]+)-[^-]+\.json$`)

// addConda adds conda's packages that Python's own metadata does not know. Where it does, it is
// right: pip replaces a package of conda's, and its record stays.
func (r *reader) addConda() error {
	folder := filepath.Join(r.Path, "conda-meta")
	records, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range records[:min(len(records), maxCondaRecords)] {
		match := condaRecordName.FindStringSubmatch(entry.Name())
		if match == nil || !isName.MatchString(match[1]) || !isVersion.MatchString(match[2]) {
			continue
		}
		name := normalized(match[1])
		if _, known := r.Versions[name]; known || name == "python" {
			continue
		}
		importable, err := r.isImportable(filepath.Join(folder, entry.Name()))
		if err != nil {
			return err
		}
		if importable {
			r.Versions[name] = match[2]
		}
	}
	return nil
}

// isImportable reports whether a package of conda's is a Python library that is still there. Its
// record lists its files: a program has none in site-packages, and what had Python's metadata is
// gone without it.
func (r *reader) isImportable(record string) (bool, error) {
	content, err := files.Read(record, maxCondaRecord)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, files.ErrNotRegular), errors.Is(err, files.ErrTooLarge):
		return false, nil // it may be being removed
	case err != nil:
		return false, err
	}
	var p struct {
		Files []string `json:"files"`
	}
	if err := json.Unmarshal(content, &p); err != nil {
		return false, nil //nolint:nilerr // a record that is broken or half written says nothing
	}
	if p.Files == nil {
		return true, nil // nothing says that it is not a library
	}
	library := slices.DeleteFunc(p.Files, func(file string) bool { return !strings.Contains(file, "site-packages/") })
	hasMetadata := slices.ContainsFunc(library, func(file string) bool {
		return strings.Contains(file, ".dist-info/") || strings.Contains(file, ".egg-info")
	})
	if len(library) == 0 || hasMetadata || !filepath.IsLocal(library[0]) {
		return false, nil
	}
	_, err = os.Lstat(filepath.Join(r.Path, library[0]))
	return err == nil, nil
}
