package manifests

// What kustomize says, in short. It repeats the way to a mistake, once for each base.

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	onTheWay = regexp.MustCompile(`^(accumulating (resources|components)|recursed (accumulation of|merging from) path|` +
		`couldn't make target for path|merging resources from|accumulating resources from)(?: '([^']*)')?: `)
	// Kustomize takes what is no file for a folder, and says both.
	noFile       = regexp.MustCompile(`(?s)^accumulation err='.*?(?:must resolve to a file|evalsymlink failure .*?)': `)
	noFolder     = regexp.MustCompile(`(?s)^accumulation err='(.*)': .*(?:file is not directory|must build at directory)`)
	asDirectory  = regexp.MustCompile(`^accumulateDirectory: (".*")$`)
	pluginConfig = regexp.MustCompile(
		"(?s)trouble configuring builtin (\\w+?)(?:Transformer|Generator)? with config: `.*?`: ")
	patched = regexp.MustCompile(`patch "(\w+)\.[^"/]*/([^"]+)\.[^".]*"`)
	noneOf  = strings.NewReplacer(".[noGrp]", "", ".[noNs]", "", ".[noVer]", "")
)

// shorten returns the end of what kustomize says, and the last folder or file on the way to it.
func shorten(message string) (short, place string) {
	for {
		if m := onTheWay.FindStringSubmatch(message); m != nil {
			message, place = message[len(m[0]):], cmp.Or(m[4], place)
			continue
		}
		if m := noFile.FindString(message); m != "" {
			message = message[len(m):]
			continue
		}
		if m := noFolder.FindStringSubmatch(message); m != nil {
			message = m[1]
			continue
		}
		if m := asDirectory.FindStringSubmatch(message); m != nil {
			if inner, err := strconv.Unquote(m[1]); err == nil {
				message = inner
				continue
			}
		}
		message = pluginConfig.ReplaceAllString(message, "$1: ")
		return strings.Join(strings.Fields(noneOf.Replace(message)), " "), place
	}
}

// explain returns an error of kustomize with its place in the files.
func (c *scan) explain(err error) error {
	folder := c.abs(c.Kustomization)
	short, place := shorten(err.Error())
	place = c.name(cmp.Or(place, folder))
	if m := patched.FindStringSubmatch(err.Error()); m != nil {
		for _, patch := range c.patches {
			if patch.id.kind == m[1] && patch.id.name == strings.TrimSuffix(m[2], ".[noNs]") {
				place = fmt.Sprintf("%s:%d", patch.File, patch.Line)
				break
			}
		}
	}
	short = strings.ReplaceAll(short, strings.TrimSuffix(c.Folder, "/")+"/", "")
	return explained{fmt.Sprintf("%s: %s", place, short), err}
}

// explained says the same as an error of kustomize.
type explained struct {
	text string
	err  error
}

func (e explained) Error() string { return e.text }
func (e explained) Unwrap() error { return e.err }
