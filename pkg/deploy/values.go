package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mitchellh/copystructure"
	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/strvals"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// merge merges a release's values: files, inline values, set, setString; the later ones win.
func merge(r Release) (map[string]any, error) {
	values := map[string]any{}
	for _, file := range r.ValuesFiles {
		text, err := files.Read(file, maxText)
		var read chartutil.Values
		if err == nil {
			read, err = chartutil.ReadValues(text)
		}
		if err != nil {
			if at := yamlLine.FindStringSubmatch(err.Error()); at != nil {
				err = fmt.Errorf("%s:%s: %s", file, at[1], at[2])
			} else {
				err = fmt.Errorf("values file %s: %w", file, err)
			}
			return nil, event.WithHint(err, "fix it and save")
		}
		values = chartutil.MergeTables(read, values)
	}
	inline, err := copystructure.Copy(r.InlineValues) // MergeTables and Helm change what they are given
	if err != nil {
		return nil, fmt.Errorf("inlineValues: %w", err)
	}
	if inline, ok := inline.(map[string]any); ok {
		values = chartutil.MergeTables(inline, values)
	}
	for _, path := range slices.Sorted(maps.Keys(r.Set)) {
		if err := set(values, path, r.Set[path]); err != nil {
			return nil, fmt.Errorf("set %s: %w", path, err)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(r.SetString)) {
		if err := set(values, path, r.SetString[path]); err != nil {
			return nil, fmt.Errorf("setString %s: %w", path, err)
		}
	}
	return values, nil
}

// yamlLine matches the position in an error of a YAML parser.
var yamlLine = regexp.MustCompile(`yaml: line (\d+): (.*)$`)

// set sets the value at a path: text, or what helm --set makes of text (int64, bool, nil).
func set(values map[string]any, path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if _, isText := value.(string); isText { // whatever it looks like, and with commas
		return strvals.ParseJSON(path+"="+string(text), values)
	}
	return strvals.ParseInto(path+"="+string(text), values)
}

// typed returns values whose JSON tells integers, which set makes, from the floats of files:
// templates print 1000680000 and 1.00068e+09.
func typed(value any) any {
	switch value := value.(type) {
	case map[string]any:
		all := make(map[string]any, len(value))
		for key, inner := range value {
			all[key] = typed(inner)
		}
		return all
	case []any:
		all := make([]any, len(value))
		for i, inner := range value {
			all[i] = typed(inner)
		}
		return all
	case int64:
		return map[string]any{"!!int": value}
	}
	return value
}

// SecretValues returns the values at the paths of r.SecretValues, as text, in the values that
// devloop.yaml gives the release.
func SecretValues(r Release) ([]string, error) {
	if len(r.SecretValues) == 0 {
		return nil, nil
	}
	merged, err := merge(r)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	var found []string
	for _, path := range r.SecretValues {
		value, _ := valueAt(merged, splitPath(path))
		found = append(found, leaves(value)...)
	}
	return found, nil
}

// hideValues reports the secrets in the merged values, the chart's defaults included. A path
// without a value is an error: it would hide nothing.
func (d *Deployer) hideValues(r Release, values map[string]any) error {
	for i, path := range r.SecretValues {
		value, _ := valueAt(values, splitPath(path))
		if value == nil {
			return event.WithHint(&ValueError{Release: r.Name, In: fmt.Sprintf("secretValues[%d]", i), Path: splitPath(path),
				Message: "it is nowhere in the values, and would hide nothing"},
				"it is a path like auth.password in the merged values: devloop render shows what they make")
		}
		if d.options.Secret != nil {
			d.options.Secret(leaves(value)...)
		}
	}
	return nil
}

// valueAt returns the value at a path, which may be nil.
func valueAt(values any, path []string) (value any, found bool) {
	found = values != nil
	for _, step := range path {
		switch inner := values.(type) {
		case chartutil.Values:
			values, found = inner[step]
		case map[string]any:
			values, found = inner[step]
		case []any:
			i, err := strconv.Atoi(step)
			if found = err == nil && i >= 0 && i < len(inner); found {
				values = inner[i]
			}
		default:
			found = false
		}
		if !found {
			return nil, false
		}
	}
	return values, found
}

// leaves returns the scalar values, as templates print them.
func leaves(values any) []string {
	var found []string
	switch value := values.(type) {
	case map[string]any:
		for _, inner := range value {
			found = append(found, leaves(inner)...)
		}
	case []any:
		for _, inner := range value {
			found = append(found, leaves(inner)...)
		}
	case nil, bool: // not secret
	case float64:
		found = append(found, fmt.Sprint(value), strconv.FormatFloat(value, 'f', -1, 64))
	default:
		found = append(found, fmt.Sprint(value))
	}
	return found
}

// ValueError is a value that the chart's schema forbids.
type ValueError struct {
	Release string   // its name
	In      string   // key of devloop.yaml: "set", "setString", "inlineValues"; "" for a file
	Key     string   // as written there, or a.b.c
	Path    []string // of the value
	Place   string   // file:line:column, "" if it is in devloop.yaml, or not known
	Message string
}

func (e *ValueError) Error() string {
	text := fmt.Sprintf("release %s: value %s: %s", e.Release, strings.Join(e.Path, "."), e.Message)
	if e.Place != "" { // first, where editors look for it
		text = e.Place + ": " + text
	}
	return text
}

func (e *ValueError) Hint() string {
	if e.In == "set" && notText.MatchString(e.Message) {
		return "set takes true, false, null and whole numbers as such and all else as text, like helm --set: " +
			"write this one under inlineValues, which are read like a values file"
	}
	return "the chart's values.schema.json says what it takes"
}

// notText matches a violation by a text that is to be something else.
var notText = regexp.MustCompile(`\bgot string, want (number|integer|boolean)\b`)

// maxProblems limits the reported schema violations.
const maxProblems = 50

// schemaErrors turns the validator's text into an error for each value, with the place where it was
// set.
func (want *desired) schemaErrors(failure error) error {
	var errs []error
	problems, chart := 0, ""
	for line := range strings.Lines(failure.Error()) {
		line = strings.TrimRight(line, "\n")
		if name, isName := strings.CutSuffix(line, ":"); isName && !strings.Contains(name, " ") {
			chart = name
			continue
		}
		parts := violation.FindStringSubmatch(line)
		if parts == nil {
			continue
		}
		var path []string
		if chart != "" && chart != want.name {
			path = append(path, chart)
		}
		for _, step := range strings.Split(strings.TrimPrefix(parts[1], "/"), "/") {
			if step != "" {
				path = append(path, strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
			}
		}
		if problems++; problems <= maxProblems {
			errs = append(errs, want.locateValue(path, parts[2]))
		}
	}
	if more := problems - maxProblems; more > 0 {
		errs = append(errs, fmt.Errorf("release %s: and %d more", want.Name, more))
	}
	if len(errs) == 0 {
		return failure
	}
	return errors.Join(errs...)
}

// violation is a line of the validator's text: - at '/replicas': got string, want integer.
var violation = regexp.MustCompile(`^\s*- at '([^']*)': (.*)$`)

// locateValue returns the error of a value, with the place that sets it: the last one wins, as in
// merge.
func (want *desired) locateValue(path []string, message string) error {
	wrong := &ValueError{Release: want.Name, Path: path, Message: message}
	for in, values := range map[string][]string{"setString": slices.Collect(maps.Keys(want.SetString)),
		"set": slices.Collect(maps.Keys(want.Set))} {
		for _, key := range values {
			if slices.Equal(splitPath(key), path) {
				wrong.In, wrong.Key = in, key
				return wrong
			}
		}
	}
	if _, found := valueAt(want.InlineValues, path); found {
		wrong.In, wrong.Key = "inlineValues", strings.Join(path, ".")
		return wrong
	}
	sources := slices.Clone(want.ValuesFiles)
	slices.Reverse(sources)
	if info, err := os.Stat(want.Chart); err == nil && info.IsDir() {
		sources = append(sources, filepath.Join(want.Chart, "values.yaml"))
	}
	for _, file := range sources {
		if line, column := position(file, path); line > 0 {
			wrong.Place = fmt.Sprintf("%s:%d:%d", file, line, column)
			return wrong
		}
	}
	return wrong
}

var pathStep = regexp.MustCompile(`(?:\\.|[^.\\\[\]])+`)

// splitPath splits a path of set: a.b\.c[0] is a, b.c, 0.
func splitPath(path string) []string {
	parts := pathStep.FindAllString(path, -1)
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(part, `\`, "")
	}
	return parts
}

// position finds a value in a YAML file; the line is 0 if there is none at that path.
func position(file string, path []string) (line, column int) {
	text, err := files.Read(file, maxText)
	if err != nil {
		return 0, 0
	}
	var document yaml.Node
	if yaml.Unmarshal(text, &document) != nil || len(document.Content) == 0 || len(path) == 0 {
		return 0, 0
	}
	at := document.Content[0]
	for _, key := range path {
		var below *yaml.Node
		switch at.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(at.Content); i += 2 {
				if at.Content[i].Value == key {
					line, column, below = at.Content[i].Line, at.Content[i].Column, at.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(at.Content) {
				below = at.Content[i]
				line, column = below.Line, below.Column
			}
		}
		if below == nil {
			return 0, 0
		}
		if at = below; at.Kind == yaml.AliasNode {
			at = at.Alias
		}
	}
	return line, column
}
