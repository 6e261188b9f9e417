package skaffold

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

// envFile has variables that skaffold adds to its environment before it reads skaffold.yaml.
const envFile = "skaffold.env"

// flagVariables are skaffold's own flags as variables, with a note on each.
var flagVariables = map[string]string{
	"SKAFFOLD_PROFILE":   "no profile is selected by it: devloop -p %s",
	"SKAFFOLD_NAMESPACE": "what has no namespace is not deployed to %s: write namespace to the releases and forwards",
	"SKAFFOLD_DEFAULT_REPO": "images are not called after %s: the nodes get them from devloop, " +
		"and --set push=REGISTRY pushes them",
	"SKAFFOLD_KUBE_CONTEXT": "no context is chosen by it: devloop --kube-context %s",
	"SKAFFOLD_FILENAME":     "no file is chosen by it: devloop -f %s",
}

// forTools are variables that skaffold reads, or passes on to what it calls, besides the templates.
var forTools = regexp.MustCompile(`^(KUBECONFIG|BUILDKIT_HOST|SSH_AUTH_SOCK|DOCKER_.*|HELM_.*|MINIKUBE_.*)$`)

// readVariables reads the skaffold.env. It is watched even if it does not exist yet.
func (s *translator) readVariables(root *tree.Node) {
	path := filepath.Join(s.dir, envFile)
	s.files = append(s.files, path)
	s.variables = map[string]string{}
	text, err := files.Read(path, maxValue)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, files.ErrNotRegular) || errors.Is(err, syscall.EISDIR) {
		return
	}
	note := func(line int, message string) {
		if s.isBase { // not again for each of several files
			name := filepath.Join(filepath.Dir(root.Origin.Name), envFile)
			s.notes = append(s.notes, tree.Note{
				Problem: tree.Problem{File: name, Line: line, Message: message, Order: root.Origin.Order},
			})
		}
	}
	list, line, message := parseEnv(string(text))
	if err != nil {
		line, message = 0, "it cannot be read: "+tree.Reason(err).Error()
	}
	if message != "" {
		note(line, message+": nothing of this file is used, as skaffold does")
		return
	}
	for _, v := range list {
		s.variables[v.name] = v.value
		text, isFlag := flagVariables[v.name]
		switch {
		case isFlag:
			note(v.line, v.name+" is a flag of skaffold: "+fmt.Sprintf(text, cmp.Or(v.value, `""`)))
		case strings.HasPrefix(v.name, "SKAFFOLD_"):
			note(v.line, v.name+" is a flag of skaffold: without it")
		case forTools.MatchString(v.name):
			note(v.line, v.name+" fills in templates alone: export it, and devloop itself goes by it")
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

const blanks = " \t\v\f\r\u0085\u00a0" // white space within a line

var (
	statement   = regexp.MustCompile(`^(?:export[` + blanks + `]+)?([\pL\pN_.` + blanks + `]*)[=:][` + blanks + `]*`)
	nameAtEnd   = regexp.MustCompile(`^[\pL\pN_.` + blanks + `]+$`)
	quoted      = regexp.MustCompile(`(?s)^(?:"(?:|.*?[^\\])"|'(?:|.*?[^\\])')`)
	unquoted    = regexp.MustCompile(`^[^\n\r]*`)
	lastComment = regexp.MustCompile(`^(.*)[` + blanks + `]#`) // of several # in a line, the last one counts
	lineBreak   = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\\`, `\\`)
	backslash   = regexp.MustCompile(`\\([^$])`)
	reference   = regexp.MustCompile(`\\?\$\(?\{?([A-Z0-9_]*)\}?`)
)

// parseEnv reads a skaffold.env as skaffold does, by github.com/joho/godotenv 1.5. The message says
// why the line cannot be read. (godotenv itself has no bound on what variables of variables make.)
func parseEnv(text string) (list []setting, line int, message string) {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, 1, "this is no text"
	}
	known := map[string]string{}
	rest := strings.ReplaceAll(text, "\r\n", "\n")
	line = 1
	skip := func(to string) {
		line += strings.Count(rest[:len(rest)-len(to)], "\n")
		rest = to
	}
	for {
		skip(strings.TrimLeftFunc(rest, unicode.IsSpace))
		if rest == "" || nameAtEnd.MatchString(rest) { // which godotenv ignores
			return list, 0, ""
		}
		if rest[0] == '#' {
			skip(rest[strings.IndexByte(rest+"\n", '\n'):])
			continue
		}
		m := statement.FindStringSubmatch(rest)
		if m == nil {
			return nil, line, "this is no NAME=value"
		}
		name, after := strings.TrimRightFunc(m[1], unicode.IsSpace), rest[len(m[0]):]
		value, isShort := "", true
		if strings.HasPrefix(after, `"`) || strings.HasPrefix(after, `'`) {
			value = quoted.FindString(after)
			if value == "" {
				return nil, line, "the quote has no end"
			}
			after = after[len(value):]
			quote := value[:1]
			value = strings.Trim(value[:len(value)-1], quote)
			if quote == `"` {
				value, isShort = fillIn(backslash.ReplaceAllString(lineBreak.Replace(value), "$1"), known)
			}
		} else {
			value = unquoted.FindString(after)
			after = after[len(value):]
			if before := lastComment.FindStringSubmatch(value); before != nil {
				value = before[1]
			}
			value, isShort = fillIn(strings.Trim(value, blanks), known)
		}
		if !isShort {
			return nil, line, "the value has more than 1 MiB"
		}
		known[name] = value
		list = append(list, setting{name, value, line})
		skip(after)
	}
}

// fillIn replaces the variables that the file set before, $A or ${A}, and also $(A without what
// follows; others are empty. isShort is false if the result would be too long.
func fillIn(text string, known map[string]string) (filled string, isShort bool) {
	left := maxValue
	filled = reference.ReplaceAllStringFunc(text, func(match string) string {
		name := reference.FindStringSubmatch(match)[1]
		switch {
		case match[0] == '\\':
			return match[1:]
		case name == "":
			return match
		}
		if left -= len(known[name]); left < 0 {
			return ""
		}
		return known[name]
	})
	return filled, left >= 0
}
