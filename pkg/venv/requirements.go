package venv

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/files"
)

const (
	// maxRequirementsFile is the largest requirements file that is read, in bytes.
	maxRequirementsFile = 4 << 20
	// maxIncludes is how many files one may include, with those that these include.
	maxIncludes = 100
)

// Requirements are a requirements file and what it includes.
type Requirements struct {
	Files []string // all of them, also those that cannot be read, the file itself first
	Hash  string   // of their contents
	// Options are lines that say where packages are found, and which files of them are taken.
	Options []string
	lines   []string
}

// ReadRequirements reads a requirements file. Only the file itself has to be there: pip, and the
// build of an image, complain about what it includes.
func ReadRequirements(file string) (Requirements, error) {
	r, sum := Requirements{Files: []string{file}}, sha256.New()
	constraints := map[string]bool{} // files that require nothing
	for i := 0; i < len(r.Files); i++ {
		content, err := files.Read(r.Files[i], maxRequirementsFile)
		if err != nil && i == 0 {
			return r, err
		}
		_, _ = fmt.Fprintf(sum, "%q %q %v\n", r.Files[i], content, err) // a hash takes everything
		for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
			line = strings.TrimSpace(comment.ReplaceAllString(line, ""))
			match := include.FindStringSubmatch(line)
			switch {
			case option.MatchString(line):
				r.Options = append(r.Options, absoluteLinks(line, filepath.Dir(r.Files[i])))
			case match == nil && !constraints[r.Files[i]]:
				r.lines = append(r.lines, line)
			case match == nil || strings.Contains(match[2], "://"):
			default:
				path := absolute(filepath.Dir(r.Files[i]), match[2])
				if !slices.Contains(r.Files, path) && len(r.Files) < maxIncludes {
					r.Files = append(r.Files, path)
					constraints[path] = constraints[r.Files[i]] || match[1] == "-c" || match[1] == "--constraint"
				}
			}
		}
	}
	r.Hash = hex.EncodeToString(sum.Sum(nil))
	return r, nil
}

var (
	comment = regexp.MustCompile(`(^|\s)#.*`)
	include = regexp.MustCompile(`^(-r|-c|--requirement|--constraint)[\s=]*(\S+)`)
	// required is a library, and its version where that is exact. A path or a URL is none.
	required = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*` +
		`(?:={2,3}\s*([^\s,*;]+)\s*$|$|[=<>!~@;(]|--)`)
	option = regexp.MustCompile(`^(-i|-f|--(index-url|extra-index-url|no-index|find-links|trusted-host|pre|` +
		`prefer-binary|only-binary|no-binary))\b`)
	findLinks = regexp.MustCompile(`^(-f|--find-links)[\s=]*(\S+)$`)
)

// absoluteLinks returns an option that does not depend on the folder of its file.
func absoluteLinks(line, folder string) string {
	if match := findLinks.FindStringSubmatch(line); match != nil {
		if path := absolute(folder, match[2]); isFolder(path) {
			return match[1] + " " + path
		}
	}
	return line
}

// Met reports whether an environment has what the requirements name, as far as that can be seen
// without an index: each library that every machine needs, and exact versions.
func (r Requirements) Met(versions map[string]string) bool {
	for _, line := range r.lines {
		match := required.FindStringSubmatch(line)
		if match == nil || strings.Contains(line, ";") {
			continue
		}
		version := versions[normalized(match[1])]
		if version == "" || match[2] != "" && version != match[2] {
			return false
		}
	}
	return true
}
