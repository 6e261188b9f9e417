package build

import (
	"bytes"
	"cmp"
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/devloop/devloop/pkg/files"
)

// Finding is what is wrong with a line of a Dockerfile, or makes it slow to rebuild.
type Finding struct {
	Line          int // 0 for the whole file
	Message, Hint string
}

// Lint returns what BuildKit's linter finds in an image's Dockerfile, and the pip installations
// that do more than they have to. Base images are not looked up. The error is that of reading the
// file.
func Lint(ctx context.Context, image Image) ([]Finding, error) {
	dockerfile, err := files.Read(image.Dockerfile, maxFrontendFile)
	if err != nil {
		return nil, err
	}
	options, err := image.convertOptions(image.Args, emptyBases{})
	if err != nil {
		return nil, err
	}
	options.SourceMap = &llb.SourceMap{Definition: &llb.Definition{}}
	results, err := dockerfile2llb.DockerfileLint(ctx, dockerfile, options)
	if err != nil {
		return nil, err
	}
	found := lintPip(dockerfile)
	for _, include := range missingIncludes(dockerfile, image.Context) {
		found = append(found, include.finding())
	}
	for _, w := range results.Warnings {
		switch {
		case w.RuleName == linter.RuleUndefinedVar.Name: // the base image may define it
		case w.RuleName == linter.RuleInvalidDefaultArgInFrom.Name && image.givesArgIn(w.Detail):
		default:
			found = append(found, Finding{firstLine(w.Location), w.RuleName + ": " + w.Detail, w.URL})
		}
	}
	if broken := results.Error; broken != nil {
		found = append(found, Finding{firstLine(&broken.Location), broken.Message, ""})
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return a.Line - b.Line })
	return slices.Compact(found), nil
}

// givesArgIn tells whether text names a variable, $BASE or ${BASE}, that is a build argument: its
// default does not count then.
func (i Image) givesArgIn(text string) bool {
	return slices.ContainsFunc(variable.FindAllStringSubmatch(text, -1), func(match []string) bool {
		_, given := i.Args[match[1]]
		return given
	})
}

var variable = regexp.MustCompile(`\$\{?(\w+)`)

func firstLine(at *pb.Location) int {
	if len(at.Ranges) == 0 {
		return 0
	}
	return int(at.Ranges[0].Start.Line)
}

// emptyBases is an llb.ImageMetaResolver that looks nothing up.
type emptyBases struct{}

func (emptyBases) ResolveImageConfig(
	_ context.Context, ref string, _ sourceresolver.Opt,
) (string, digest.Digest, []byte, error) {
	return ref, "", []byte("{}"), nil
}

// pipInstall matches a command of a shell script. Its groups are the part from "pip" or "uv" on,
// and "uv".
var pipInstall = regexp.MustCompile(`(?m)(?:^|[;&|(])\s*(?:\w+=\S* +)*(?:\S*/)?(?:python[\d.]* +-m +)?` +
	`((?:(uv) +)?pip[\d.]*(?: +-\S+)* +(?:install|sync)\b[^;&|\n]*)`)

var (
	readsRequirements = regexp.MustCompile(` (?:-\w*r|--requirement|sync\b)`)
	cacheMount        = regexp.MustCompile(`--mount=(?:\S*,)?type=cache\b`)
)

// lintPip finds installations that repeat when any file changes, or download everything each time.
func lintPip(dockerfile []byte) (found []Finding) {
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return nil // the linter reports it
	}
	stages, _, _ := instructions.Parse(parsed.AST, nil)
	for _, stage := range stages {
		var copyAll []Finding // reported if an installation follows
		for _, command := range stage.Commands {
			switch c := command.(type) {
			case *instructions.CopyCommand:
				all := slices.ContainsFunc(c.SourcePaths, func(source string) bool { return path.Clean(source) == "." })
				if all && c.From == "" {
					copyAll = []Finding{{c.Location()[0].Start.Line,
						c.String() + " comes before pip install: any changed file installs everything again",
						"copy just the requirements and install them, then copy the rest"}}
				}
			case *instructions.RunCommand:
				for _, install := range pipInstall.FindAllStringSubmatch(script(c), -1) {
					if readsRequirements.MatchString(install[1]) {
						found = append(found, copyAll...)
					}
					cached := cacheMount.MatchString(c.String()) && !strings.Contains(install[1], "--no-cache")
					if !cached && !strings.Contains(install[1], "--no-index") {
						found = append(found, Finding{c.Location()[0].Start.Line,
							"pip install without a cache downloads and compiles everything again",
							"write RUN --mount=type=cache,target=/root/.cache/" + cmp.Or(install[2], "pip") +
								" and leave out --no-cache-dir: the mount is no part of the image"})
					}
				}
			}
		}
	}
	return found
}

func script(run *instructions.RunCommand) string {
	command := strings.Join(run.CmdLine, " ")
	if strings.HasPrefix(command, "<<") && len(run.Files) > 0 {
		return strings.ReplaceAll(run.Files[0].Data, "\\\n", " ")
	}
	return command
}
