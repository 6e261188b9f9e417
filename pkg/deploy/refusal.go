package deploy

// What the API server refuses is reported in a line: it prints whole Go structs.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// shownValue limits a value that is shown, in bytes. A longer one is not cut, since a part of a
// secret would not be recognized.
const shownValue = 80

const shownChanges = 3

// structValue is a Go struct, map or list that the API server prints as the value of a field.
var structValue = regexp.MustCompile(`(?s)Invalid value: [^\s"]*\{.*\}: `)

// briefly returns a refusal without what the API server prints of the values.
func briefly(err error, kind string) error {
	text := err.Error()
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Details != nil && len(status.Status().Details.Causes) > 0 {
		var parts []string
		for _, cause := range status.Status().Details.Causes {
			parts = append(parts, strings.TrimPrefix(cause.Field+": "+withoutValue(cause.Message, kind == "Secret"), "<nil>: "))
		}
		text = strings.Join(parts, "; ")
	}
	if text = withoutStructs(text); text == err.Error() {
		return err
	}
	return shortError{err, text}
}

// withoutStructs removes long values from what the API server, or Helm after it, says.
func withoutStructs(text string) string {
	return structValue.ReplaceAllStringFunc(text, func(value string) string {
		if len(value) <= shownValue {
			return value
		}
		return ""
	})
}

// printedDiff is how the API server prints what changed in a claim's spec, over many lines.
var printedDiff = regexp.MustCompile(`(?s)\n\s*(@@ |core\.).*`)

// withoutValue removes a value from the API server's words about a field if it is long, or hidden.
func withoutValue(message string, hidden bool) string {
	message = printedDiff.ReplaceAllString(message, "")
	kind, rest, found := strings.Cut(message, ": ")
	if !found || !slices.Contains([]string{"Invalid value", "Unsupported value", "Duplicate value"}, kind) {
		return message
	}
	value, err := strconv.QuotedPrefix(rest)
	if err != nil {
		if end := strings.LastIndex(rest, "}: "); end >= 0 {
			value = rest[:end+1]
		} else if value, _, found = strings.Cut(rest, ": "); !found {
			return message
		}
	}
	if !hidden && len(value) <= shownValue {
		return message
	}
	return strings.TrimPrefix(rest[len(value):], ": ")
}

type shortError struct {
	error
	text string
}

func (s shortError) Error() string { return s.text }
func (s shortError) Unwrap() error { return s.error }

// immutableChange is the error about an object that the API server would create, but not change.
type immutableChange struct {
	object
	cause   error
	changed []fieldChange
}

func (c immutableChange) Unwrap() error { return c.cause }

func (c immutableChange) Error() string {
	blamed := c.blamed()
	if len(blamed) == 0 && len(c.changed) == 1 {
		return fmt.Sprintf("%s cannot be changed in %s: %v", c.object, c.changed[0].path, briefly(c.cause, c.kind.Kind))
	}
	if len(blamed) == 0 {
		return fmt.Sprintf("%s cannot be changed so: %v", c.object, briefly(c.cause, c.kind.Kind))
	}
	var shown []string
	for _, change := range blamed {
		shown = append(shown, fmt.Sprintf("%s: %s → %s", change.path, c.show(change.path, change.old),
			c.show(change.path, change.now)))
	}
	if len(shown) > shownChanges {
		shown = append(shown[:shownChanges], fmt.Sprintf("and %d more", len(shown)-shownChanges))
	}
	text := fmt.Sprintf("%s is there, and cannot be changed in %s", c.object, strings.Join(shown, ", "))
	if strings.Contains(c.kind.Group, ".") && !strings.HasSuffix(c.kind.Group, ".k8s.io") { // by a rule of its CRD
		text += ": " + briefly(c.cause, c.kind.Kind).Error()
	}
	return text
}

// fields names what changed, for a log line: all of it if the API server does not say what is at
// fault.
func (c immutableChange) fields() string {
	changed := c.blamed()
	if len(changed) == 0 {
		changed = c.changed
	}
	var names []string
	for _, change := range changed {
		names = append(names, change.path)
	}
	return abbreviate(names)
}

// show returns a value as text, if it may be shown.
func (c immutableChange) show(path string, value any) string {
	if value == nil {
		return "none"
	}
	text, err := json.Marshal(value)
	switch {
	case err != nil:
		return "?"
	case c.kind.Kind == "Secret" && (strings.HasPrefix(path, "data") || strings.HasPrefix(path, "stringData")):
		return "(hidden)"
	case len(text) > shownValue:
		return fmt.Sprintf("(%d bytes)", len(text))
	}
	return string(text)
}

// blamed returns the changes of the fields that the API server names. Where it names the fields
// that may be changed, it is the others.
func (c immutableChange) blamed() []fieldChange {
	var status apierrors.APIStatus
	if !errors.As(c.cause, &status) || status.Status().Details == nil {
		return c.changed
	}
	var blamed []fieldChange
	for _, cause := range status.Status().Details.Causes {
		field := listIndex.ReplaceAllString(cause.Field, "")
		for _, change := range c.changed {
			inside, below := strings.CutPrefix(change.path, field)
			// Services have clusterIP and clusterIPs; errors about claims name no field below spec.
			if !below && !strings.HasPrefix(field, strings.TrimRight(change.path, "]0123456789[")) {
				continue
			}
			name := strings.FieldsFunc(inside, func(r rune) bool { return r == '.' || r == '[' })
			if len(name) > 0 && exceptSome.MatchString(cause.Message) && mentions(cause.Message, name[0]) {
				continue
			}
			if !slices.ContainsFunc(blamed, func(known fieldChange) bool { return known.path == change.path }) {
				blamed = append(blamed, change)
			}
		}
	}
	return blamed
}

var (
	listIndex  = regexp.MustCompile(`\[\d+\]$`)
	exceptSome = regexp.MustCompile(`\b(other than|except)\b`)
)

// mentions tells whether the first line of a message has a word.
func mentions(message, word string) bool {
	message, _, _ = strings.Cut(message, "\n")
	return regexp.MustCompile(`\b` + regexp.QuoteMeta(word) + `\b`).MatchString(message)
}

// hint is what to do: no command in it loses data that is not named.
func (c immutableChange) hint(namespaced bool) string {
	remove := kubectlDelete(c.object, namespaced, "")
	selector := slices.ContainsFunc(c.blamed(),
		func(change fieldChange) bool { return strings.HasPrefix(change.path, "spec.selector") })
	switch c.kind.GroupKind().String() {
	case "StatefulSet.apps":
		if selector {
			return "undo the change, give it another name, or recreate it: " + remove +
				" and save; its pods end, its claims and their data stay"
		}
		return "undo the change, or recreate it: " + kubectlDelete(c.object, namespaced, " --cascade=orphan") +
			" and save; its pods and claims stay, and claims that are there keep their size"
	case "Deployment.apps", "DaemonSet.apps", "ReplicaSet.apps":
		return "undo the change, give it another name, or recreate it: " + remove + " and save; its pods end meanwhile"
	case "PersistentVolumeClaim", "PersistentVolume":
		return "undo the change, or give it another name; its data does not move by itself, " +
			"and deleting it may delete the data"
	case "Service":
		return "undo the change, or recreate it: " + remove + " and save; it gets another address"
	case "ConfigMap", "Secret":
		return "give it another name, and use that name where it is used; or recreate it: " + remove + " and save"
	case "RoleBinding.rbac.authorization.k8s.io", "ClusterRoleBinding.rbac.authorization.k8s.io":
		return "give it another name, or recreate it: " + remove + " and save; its permissions are gone meanwhile"
	case "StorageClass.storage.k8s.io":
		return "give it another name, or recreate it: " + remove + " and save; volumes that it made stay"
	case "CustomResourceDefinition.apiextensions.k8s.io", "Namespace":
		return "undo the change, or give it another name: deleting it deletes all that is in it"
	}
	return "undo the change, give it another name, or, if it may go with all that depends on it, recreate it: " + remove +
		" and save"
}

// kubectlDelete is the command that deletes an object.
func kubectlDelete(o object, namespaced bool, options string) string {
	kind := strings.ToLower(o.kind.Kind)
	if strings.Contains(o.kind.Group, ".") { // another group may have a kind of that name
		kind += "." + o.kind.Group
	}
	if namespaced {
		options = " -n " + o.namespace + options
	}
	return "kubectl delete " + kind + "/" + o.name + options
}

// fieldChange is a field whose value changes, from or to nil if it is not there.
type fieldChange struct {
	path     string // spec.template.spec.containers[0].image
	old, now any
}

// changedFields returns the fields of target that differ from an object, and those that it had. If
// the object is a live one, it also has the fields that others have set.
func changedFields(before, target *unstructured.Unstructured) (changed []fieldChange) {
	live := before.GetResourceVersion() != ""
	var compare func(path string, old, now any)
	compare = func(path string, old, now any) {
		switch now := now.(type) {
		case map[string]any:
			old, isMap := old.(map[string]any)
			if !isMap {
				break
			}
			keys := slices.Collect(maps.Keys(now))
			for key := range old {
				if _, found := now[key]; !found && !live {
					keys = append(keys, key)
				}
			}
			slices.Sort(keys)
			for _, key := range keys {
				compare(strings.TrimPrefix(path+"."+key, "."), old[key], now[key])
			}
			return
		case []any:
			old, isList := old.([]any)
			if !isList || len(old) != len(now) {
				break
			}
			for i := range now {
				compare(path+"["+strconv.Itoa(i)+"]", old[i], now[i])
			}
			return
		}
		if !sameValue(old, now) {
			changed = append(changed, fieldChange{path, old, now})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(target.Object)) {
		if key != "metadata" && key != "status" {
			compare(key, before.Object[key], target.Object[key])
		}
	}
	if !live {
		for _, key := range slices.Sorted(maps.Keys(before.Object)) {
			if _, found := target.Object[key]; !found && key != "status" {
				changed = append(changed, fieldChange{key, before.Object[key], nil})
			}
		}
	}
	return changed
}
