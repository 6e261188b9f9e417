package build

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/devloop/devloop/pkg/files"
)

// BaseImage is an image that a Dockerfile names: to build from it, or to copy from it.
type BaseImage struct {
	Reference string
	Arg       string // the build argument that is all of the reference, "" if it is no such
}

// Dockerfile is what a Dockerfile needs.
type Dockerfile struct {
	Bases   []BaseImage
	Stages  []string // their names, but for one that is called like the image that it is built from
	Sources []string // paths and patterns that it copies from its context, but those with variables
}

// ReadDockerfile reads the Dockerfile in a file. The error says why it is none.
func ReadDockerfile(file string) (read Dockerfile, err error) {
	text, err := files.Read(file, maxFrontendFile)
	if err != nil {
		return read, err
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return read, err
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return read, err
	}
	if len(stages) == 0 {
		return read, errors.New("it has no FROM")
	}
	defaults := []string{}
	for _, arg := range args {
		for _, one := range arg.Args {
			defaults = append(defaults, one.Key+"="+one.ValueString())
		}
	}
	lex := shell.NewLex(parsed.EscapeToken)
	add := func(name string) {
		reference, _, invalid := lex.ProcessWord(name, shell.EnvsFromSlice(defaults))
		if invalid != nil || strings.ContainsAny(reference, "{<%") { // it is a template of a Dockerfile
			err = fmt.Errorf("%q is no image", name)
		}
		base := BaseImage{Reference: reference}
		if match := variable.FindStringSubmatch(name); match != nil && isVariable(name, match[1]) {
			base.Arg = match[1]
		}
		isStage := slices.ContainsFunc(stages, func(s instructions.Stage) bool {
			return s.Name != "" && strings.EqualFold(s.Name, base.Reference)
		})
		if !isStage && base.Reference != "scratch" {
			read.Bases = append(read.Bases, base)
		}
	}
	for _, stage := range stages {
		add(stage.BaseName)
		if base, _, _ := strings.Cut(path.Base(stage.BaseName), ":"); stage.Name != "" && stage.Name != base {
			read.Stages = append(read.Stages, stage.Name)
		}
		for _, command := range stage.Commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				if c.From == "" {
					read.copies(c.SourcePaths)
				} else if !isNumber(c.From) {
					add(c.From)
				}
			case *instructions.AddCommand:
				read.copies(c.SourcePaths)
			case *instructions.RunCommand:
				read.copies(boundSources(c))
			}
		}
	}
	return read, err
}

// copies notes sources that are paths in the context.
func (d *Dockerfile) copies(sources []string) {
	for _, source := range sources {
		if !strings.Contains(source, "$") && !strings.Contains(source, "://") && !strings.HasPrefix(source, "git@") {
			d.Sources = append(d.Sources, inContext(source))
		}
	}
}

// isVariable tells whether a word is that variable alone: $X, ${X} or ${X:-default}.
func isVariable(word, name string) bool {
	return word == "$"+name || strings.HasPrefix(word, "${"+name) && strings.Index(word, "}") == len(word)-1
}

func isNumber(text string) bool { return strings.Trim(text, "0123456789") == "" }
