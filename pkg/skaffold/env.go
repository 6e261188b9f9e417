package skaffold

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/skaffold/dotenv"
)

// envFile has variables that skaffold adds to its environment before it reads skaffold.yaml.
const envFile = "skaffold.env"

// otherFlags are variables for skaffold's flags that devloop has nothing for. Where it has the same
// flag, as for SKAFFOLD_PROFILE, the variable stands for that; flags without which the same is
// deployed are none of these.
var otherFlags = regexp.MustCompile(`^SKAFFOLD_(AUTO_(BUILD|DEPLOY|SYNC)|BUILD_IMAGE|CLEANUP|FORCE|LABEL|` +
	`MINIKUBE_PROFILE|MULTI_LEVEL_REPO|NO_PRUNE|PLATFORM|PORT_FORWARD|PUSH|RENDER_ONLY|SET|SET_VALUE_FILE|STATUS_CHECK|` +
	`TAG|TAIL|TOLERATE_FAILURES_UNTIL_DEADLINE|TRIGGER|WATCH_IMAGE)$`)

// withoutFlag says what happens in place of a variable that is a flag of skaffold, "" if nothing is
// lost.
func withoutFlag(name, value string) string {
	switch {
	case name == "SKAFFOLD_DEFAULT_REPO":
		return fmt.Sprintf("images are not called after %s: the nodes get them from devloop, and --set push=REGISTRY pushes "+
			"them", cmp.Or(value, `""`))
	case name == "SKAFFOLD_KUBECONFIG":
		return "export KUBECONFIG instead"
	case otherFlags.MatchString(name):
		return "without it"
	}
	return ""
}

// forTools are variables that skaffold reads, or passes on to what it calls, besides the templates.
var forTools = regexp.MustCompile(`^(KUBECONFIG|BUILDKIT_HOST|SSH_AUTH_SOCK|DOCKER_.*|HELM_.*|MINIKUBE_.*)$`)

// readVariables reads the skaffold.env of the current folder, and says which flags are not
// honoured. The file is watched even if it does not exist yet.
func (s *translation) readVariables(main *tree.Node) {
	s.files = append(s.files, filepath.Join(s.options.Dir, envFile))
	s.variables = map[string]string{}
	note := func(file string, line int, message string) {
		if s.isBase { // not again for each of several files
			s.notes = append(s.notes, tree.Note{
				Problem: tree.Problem{File: file, Line: line, Message: message, Order: main.Origin.Order},
			})
		}
	}
	noteFlag := func(file string, line int, name, value string) {
		if text := withoutFlag(name, value); text != "" {
			note(file, line, name+" is a flag of skaffold: "+text)
		}
	}
	for _, variable := range slices.Sorted(slices.Values(os.Environ())) {
		name, value, _ := strings.Cut(variable, "=")
		noteFlag("the environment", 0, name, value)
	}
	list, line, message := readEnv(s.options.Dir)
	if message != "" {
		note(envFile, line, message+": nothing of this file is used, as skaffold does")
	}
	for _, v := range list {
		s.variables[v.Name] = v.Value
		noteFlag(envFile, v.Line, v.Name, v.Value)
		if forTools.MatchString(v.Name) {
			note(envFile, v.Line, v.Name+" fills in templates alone: export it, and devloop itself goes by it")
		}
	}
}

// readEnv reads the skaffold.env in a folder. The message says why it cannot be read; that it is
// not there is no reason to say anything.
func readEnv(dir string) (list []dotenv.Variable, line int, message string) {
	text, err := files.Read(filepath.Join(dir, envFile), maxValue)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, files.ErrNotRegular), errors.Is(err, syscall.EISDIR):
		return nil, 0, ""
	case err != nil:
		return nil, 0, "it cannot be read: " + tree.Reason(err).Error()
	}
	return dotenv.Parse(string(text))
}

// FileIn returns the name of the skaffold.yaml in a folder, or of the file that SKAFFOLD_FILENAME
// says; "" if there is none.
func FileIn(dir string) string {
	named := os.Getenv("SKAFFOLD_FILENAME")
	list, _, _ := readEnv(dir) // what is wrong with it is said when the file is translated
	for _, v := range list {
		if v.Name == "SKAFFOLD_FILENAME" {
			named = cmp.Or(named, v.Value)
		}
	}
	for _, name := range FileNames {
		if named == "" && exists(filepath.Join(dir, name)) {
			named = name
		}
	}
	return named
}

// getenv returns a variable of the environment, or else of the skaffold.env.
func (s *translation) getenv(name string) string {
	value, _ := s.lookupVariable(name)
	return value
}

// chosenContext returns the kube context that the user chose, "" if that is left to the file.
func (s *translation) chosenContext() string {
	return cmp.Or(s.options.KubeContext, s.getenv("SKAFFOLD_KUBE_CONTEXT"))
}

// lookupVariable returns a variable of the environment, or else of the skaffold.env.
func (s *translation) lookupVariable(name string) (value string, found bool) {
	if value, found = os.LookupEnv(name); !found {
		value, found = s.variables[name]
	}
	return value, found
}
