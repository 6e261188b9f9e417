package build

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/devloop/devloop/pkg/files"
)

// included matches what a requirements file includes from its own folder, or one below or above.
var included = regexp.MustCompile(`(?m)^\s*(?:-r|-c|--requirement|--constraint)[ \t=]*([^\s#]+)`)

// missingInclude is a file that a requirements file includes, and that an image lacks where the
// requirements are installed.
type missingInclude struct {
	line          int // of the installation
	file, missing string
	inTheContext  bool
}

func (l missingInclude) finding() Finding {
	if !l.inTheContext {
		return Finding{l.line, fmt.Sprintf("%s includes %s, which is not in the build context", l.file, l.missing), "make it"}
	}
	return Finding{l.line, fmt.Sprintf("%s is copied, but not %s, which it includes", l.file, l.missing),
		"COPY " + l.missing + " as well"}
}

// missingIncludes finds requirements files that are copied into an image, and installed there,
// without the files that they include: pip does not find those.
func missingIncludes(dockerfile []byte, folder string) (found []missingInclude) {
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil // the linter reports it
	}
	stages, _, _ := instructions.Parse(parsed.AST, nil)
	copied := map[string][]string{} // from the context, by the stage, with what its base has
	for _, stage := range stages {
		sources := slices.Clone(copied[strings.ToLower(stage.BaseName)])
		for _, command := range stage.Commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				if c.From == "" {
					sources = append(sources, c.SourcePaths...)
				} else { // what that stage has is likely to come from the same files
					sources = append(sources, copied[strings.ToLower(c.From)]...)
				}
			case *instructions.AddCommand:
				sources = append(sources, c.SourcePaths...)
			case *instructions.RunCommand:
				for _, install := range pipInstall.FindAllStringSubmatch(script(c), -1) {
					if readsRequirements.MatchString(install[1]) {
						there := slices.Concat(sources, boundSources(c))
						found = append(found, missingFrom(there, folder, c.Location()[0].Start.Line)...)
					}
				}
			}
		}
		copied[strings.ToLower(stage.Name)] = sources
	}
	return found
}

// boundSources are paths of the context that a RUN sees by --mount=type=bind.
func boundSources(run *instructions.RunCommand) (sources []string) {
	asWritten := func(word string) (string, error) { return word, nil }
	if err := run.Expand(asWritten); err != nil {
		return nil // the linter reports it
	}
	for _, mount := range instructions.GetMounts(run) {
		if mount.Type == instructions.MountTypeBind && mount.From == "" {
			sources = append(sources, mount.Source)
		}
	}
	return sources
}

// inContext is a source as a path in the context, "" for all of it.
func inContext(source string) string { return strings.TrimPrefix(path.Clean("/"+source), "/") }

// missingFrom looks into those of the sources that are files.
func missingFrom(sources []string, folder string, line int) (found []missingInclude) {
	for _, source := range sources {
		source = inContext(source)
		if source == "" || path.Ext(source) != ".txt" && path.Ext(source) != ".in" {
			continue
		}
		content, err := files.Read(filepath.Join(folder, source), maxFrontendFile)
		if err != nil {
			continue // the build says what it lacks
		}
		for _, match := range included.FindAllSubmatch(content, -1) {
			name := string(match[1])
			wanted := path.Join(path.Dir(source), name)
			if strings.Contains(name, "://") || path.IsAbs(name) || isCopied(sources, wanted) {
				continue
			}
			_, err := os.Stat(filepath.Join(folder, wanted))
			found = append(found, missingInclude{line, source, wanted, err == nil})
		}
	}
	return found
}

// isCopied reports whether one of the sources may contain a file, or one of its name: a COPY can
// take files from several folders into one.
func isCopied(sources []string, file string) bool {
	return slices.ContainsFunc(sources, func(source string) bool {
		if strings.Contains(source, "$") {
			return true
		}
		source = inContext(source)
		if source == "" || path.Base(source) == path.Base(file) {
			return true
		}
		for at := file; at != "." && at != "/"; at = path.Dir(at) {
			if match, _ := path.Match(source, at); match {
				return true
			}
		}
		return false
	})
}
