package skaffold

// The skaffold.env beside a skaffold.yaml: variables that skaffold adds to its environment before it reads anything else.

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
)

const skaffoldEnv = "skaffold.env"

// flagVariables are skaffold's own flags as variables; what is told of the others is the same for all.
var flagVariables = map[string]string{
	"SKAFFOLD_PROFILE":      "no profile is selected by it: devloop -p %s",
	"SKAFFOLD_NAMESPACE":    "what has no namespace is not deployed to %s: write namespace to the releases and forwards",
	"SKAFFOLD_DEFAULT_REPO": "images are not called after %s: the nodes get them from devloop, and --set push=REGISTRY pushes them",
	"SKAFFOLD_KUBE_CONTEXT": "no context is chosen by it: devloop --kube-context %s",
	"SKAFFOLD_FILENAME":     "no file is chosen by it: devloop -f %s",
}

// forTools are variables that skaffold hands on to what it calls, or reads itself, beside the templates.
var forTools = regexp.MustCompile(`^(KUBECONFIG|BUILDKIT_HOST|SSH_AUTH_SOCK|DOCKER_.*|HELM_.*|MINIKUBE_.*)$`)

// readVariables reads the skaffold.env. It is watched where it is not there, too.
func (s *translator) readVariables(root *tree.Node) {
	path := filepath.Join(s.dir, skaffoldEnv)
	s.files = append(s.files, path)
	s.variables = map[string]string{}
	text, err := files.Read(path, maxValue)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, files.ErrNotRegular) || errors.Is(err, syscall.EISDIR) {
		return
	}
	list, line, message := settings(string(text))
	if err != nil {
		line, message = 0, "it cannot be read: "+tree.Reason(err).Error()
	}
	from := &tree.Origin{Name: filepath.Join(filepath.Dir(root.Origin.Name), skaffoldEnv), Order: root.Origin.Order}
	say := func(line int, message string) {
		note := tree.Note{Problem: tree.Problem{File: from.Name, Line: line, Message: message, Order: from.Order}}
		if s.first { // of several files: said once
			s.notes = append(s.notes, note)
		}
	}
	if message != "" {
		say(line, message+": nothing of this file is used, as skaffold does")
		return
	}
	for _, v := range list {
		s.variables[v.name] = v.value
		switch {
		case strings.HasPrefix(v.name, "SKAFFOLD_"):
			told := fmt.Sprintf("%s is a flag of skaffold: without it", v.name)
			if text, isKnown := flagVariables[v.name]; isKnown {
				told = fmt.Sprintf("%s is a flag of skaffold: "+text, v.name, cmp.Or(v.value, `""`))
			}
			say(v.line, told)
		case forTools.MatchString(v.name):
			say(v.line, v.name+" fills in templates alone: export it, and devloop itself goes by it")
		}
	}
}

// lookupVariable returns a variable of the environment, or else of the skaffold.env.
func (s *translator) lookupVariable(name string) (value string, found bool) {
	if value, found = os.LookupEnv(name); !found {
		value, found = s.variables[name]
	}
	return value, found
}

// setting is one NAME=value.
type setting struct {
	name, value string
	line        int
}

// blanks are the spaces that may stand within a line.
const blanks = " \t\v\f\r\u0085\u00a0"

var (
	settingName = regexp.MustCompile(`^[\pL\pN_.` + blanks + `]*$`)
	exported    = regexp.MustCompile(`^export[` + blanks + `]+`)
	lastComment = regexp.MustCompile(`^(.*)[` + blanks + `]#`) // of several # in a line, what is before the last one counts
	lineBreak   = regexp.MustCompile(`\\[nr]|\\.`)
	backslash   = regexp.MustCompile(`\\([^$])`)
	reference   = regexp.MustCompile(`\\?\$\(?\{?([A-Z0-9_]*)\}?`)
)

// settings reads the text of a skaffold.env as github.com/joho/godotenv 1.5 does, by which skaffold reads it. The message says why
// it cannot be read.
func settings(text string) (list []setting, line int, message string) {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, 1, "this is no text"
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	known := map[string]string{}
	line = 1
	for rest, before := text, text; ; before = rest {
		rest = strings.TrimLeftFunc(rest, unicode.IsSpace)
		line += strings.Count(before[:len(before)-len(rest)], "\n")
		if rest == "" {
			return list, 0, ""
		}
		if rest[0] == '#' {
			rest = rest[upTo(rest, "\n"):]
			continue
		}
		start := rest
		rest = exported.ReplaceAllString(rest, "")
		end := upTo(rest, "=:\n")
		switch isName := settingName.MatchString(rest[:end]); {
		case isName && rest != "" && end == len(rest): // a name at the very end is nothing
			return list, 0, ""
		case !isName || end == len(rest) || rest[end] == '\n':
			return nil, line, "this is no NAME=value"
		}
		name := strings.TrimRightFunc(rest[:end], unicode.IsSpace)
		rest = strings.TrimLeft(rest[end+1:], blanks)
		value, isShort := "", true
		if strings.HasPrefix(rest, `"`) || strings.HasPrefix(rest, `'`) {
			end := closing(rest)
			if end < 0 {
				return nil, line, "the quote has no end"
			}
			quote := rest[:1]
			value, rest = strings.Trim(rest[:end], quote), rest[end+1:]
			if quote == `"` {
				value, isShort = filledIn(unescaped(value), known)
			}
		} else {
			end := upTo(rest, "\n\r")
			value, rest = rest[:end], rest[end:]
			if before := lastComment.FindStringSubmatch(value); before != nil {
				value = before[1]
			}
			value, isShort = filledIn(strings.Trim(value, blanks), known)
		}
		if !isShort {
			return nil, line, "the value has more than 1 MiB"
		}
		known[name] = value
		list = append(list, setting{name, value, line})
		line += strings.Count(start[:len(start)-len(rest)], "\n")
	}
}

// upTo returns where the first of some signs is, or the end.
func upTo(text, signs string) int {
	if i := strings.IndexAny(text, signs); i >= 0 {
		return i
	}
	return len(text)
}

// closing returns where the quote ends that text begins with, -1 if it does not: the one of \" is a part of the value.
func closing(text string) int {
	for i := 1; i < len(text); i++ {
		if text[i] == text[0] && text[i-1] != '\\' {
			return i
		}
	}
	return -1
}

// unescaped is what stands between double quotes without its backslashes. That of \$ stays until variables are filled in.
func unescaped(text string) string {
	text = lineBreak.ReplaceAllStringFunc(text, func(sign string) string {
		switch sign {
		case `\n`:
			return "\n"
		case `\r`:
			return "\r"
		}
		return sign
	})
	return backslash.ReplaceAllString(text, "$1")
}

// filledIn is a value with the variables that the file set before, $A or ${A}, and also $(A with what is behind it. Others are empty,
// those of the environment, too. A few lines of variables of variables would be endless otherwise: isShort is false.
func filledIn(text string, known map[string]string) (filled string, isShort bool) {
	left := maxValue
	filled = reference.ReplaceAllStringFunc(text, func(sign string) string {
		name := reference.FindStringSubmatch(sign)[1]
		switch {
		case sign[0] == '\\':
			return sign[1:]
		case name == "":
			return sign
		}
		if left -= len(known[name]); left < 0 {
			return ""
		}
		return known[name]
	})
	return filled, left >= 0
}
