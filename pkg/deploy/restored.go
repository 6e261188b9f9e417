package deploy

// What an object would be without the changes made to it by hand. A field of the release's manifest
// is restored whoever changed it; any other is removed only if a person's tool set it.

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// restoration compares a live object with its manifest.
type restoration struct {
	owners fieldOwners
	// stays tells whether a field stays as it is, though people or unknown programs have set it.
	stays func(path fieldpath.Path, set []fieldManager) bool
}

// restored returns the live object without the changes that are to be reverted.
func (r restoration) restored(live, manifest *unstructured.Unstructured) *unstructured.Unstructured {
	merged, _ := r.merge(nil, live.Object, manifest.Object).(map[string]any)
	merged = runtime.DeepCopyJSON(merged)
	for _, m := range r.owners.managers {
		if m.writer == person {
			m.fields.Iterate(func(path fieldpath.Path) { r.removeAddition(merged, manifest.Object, path.Copy()) })
		}
	}
	return &unstructured.Unstructured{Object: merged}
}

// merge returns live with what manifest has at that path. It changes neither of them.
func (r restoration) merge(path fieldpath.Path, live, manifest any) any {
	switch wanted := manifest.(type) {
	case map[string]any:
		there, ok := live.(map[string]any)
		if !ok || len(there) > 0 && r.owners.isAtomic(path) {
			break
		}
		merged := make(map[string]any, len(there))
		for name, value := range there {
			merged[name] = value
		}
		for name, value := range wanted {
			below := child(path, fieldpath.FieldNameElement(name))
			if isFixed(below) || value == nil { // nil stands for a field that is not there
				continue
			}
			if now, found := there[name]; found {
				merged[name] = r.merge(below, now, value)
			} else if !r.keepsLive(below) {
				merged[name] = value
			}
		}
		return merged
	case []any:
		if there, ok := live.([]any); ok && !r.owners.isAtomic(path) {
			if key, known := r.owners.keyOf(path, there, wanted); known {
				return r.mergeLists(path, there, wanted, key)
			}
		}
	}
	if sameValue(live, manifest) || r.keepsLive(path) {
		return live
	}
	return manifest
}

// mergeLists merges lists whose elements have that key. Elements that only live has stay; they go
// behind the others if these have to be reordered. A missing element gets its old place back:
// otherwise the next run would move it, and replace the pods once more.
func (r restoration) mergeLists(path fieldpath.Path, live, manifest []any, key elementKey) []any {
	at := make([]int, 0, len(manifest)) // of the manifest's elements in live
	merged := slices.Clone(live)
	for _, wanted := range manifest {
		if i := key.index(live, wanted); i >= 0 {
			merged[i] = r.merge(child(path, key.of(live[i])), live[i], wanted)
			at = append(at, i)
		}
	}
	if !slices.IsSorted(at) && !r.stays(path, nil) {
		ordered := make([]any, 0, len(merged))
		for _, i := range at {
			ordered = append(ordered, merged[i])
		}
		for i, element := range merged {
			if !slices.Contains(at, i) {
				ordered = append(ordered, element)
			}
		}
		merged = ordered
	}
	next := 0 // behind the manifest's element before
	for _, wanted := range manifest {
		i := key.index(merged, wanted)
		if i < 0 {
			if r.keepsLive(child(path, key.of(wanted))) {
				continue
			}
			merged, i = slices.Insert(merged, next, wanted), next
		}
		next = i + 1
	}
	return merged
}

// keepsLive tells whether a field that differs from the manifest keeps its live value. What the
// release's own writer set differs only in its form, or because admission changed it.
func (r restoration) keepsLive(path fieldpath.Path) bool {
	set := r.owners.of(path)
	onlyRelease := len(set) > 0 && !by(set, person) && !by(set, unknownWriter)
	return onlyRelease || by(set, controller) || isBookkeeping(path) || r.stays(path, set)
}

// removeAddition removes a field that a person's tool has set and the manifest does not have. An
// element of a list is removed as a whole, and only if the tool has added it.
func (r restoration) removeAddition(merged, manifest map[string]any, path fieldpath.Path) {
	known := 0 // how many steps of the path the manifest has
	for at := any(manifest); known < len(path); known++ {
		if at = r.owners.step(at, path[known]); at == nil {
			break
		}
	}
	if known == len(path) || isFixed(path) || isBookkeeping(path) {
		return
	}
	for i := known; i < len(path); i++ {
		if path[i].FieldName == nil {
			path = path[:i+1]
			break
		}
	}
	set := r.owners.of(path)
	if !by(set, person) || by(set, controller) || by(set, unknownWriter) || r.stays(path, set) {
		return
	}
	isField := path[len(path)-1].FieldName != nil
	if isField && r.owners.parents[path.String()] {
		return // those inside are removed one by one
	}
	for r.remove(merged, path) && len(path)-1 > known { // with what is empty then
		path = path[:len(path)-1]
		if !isEmpty(r.owners.walk(merged, path)) {
			break
		}
	}
}

// remove removes a field or an element.
func (r restoration) remove(merged map[string]any, path fieldpath.Path) bool {
	last := path[len(path)-1]
	switch parent := r.owners.walk(merged, path[:len(path)-1]).(type) {
	case map[string]any:
		if last.FieldName != nil {
			delete(parent, *last.FieldName)
			return true
		}
	case []any:
		i := slices.IndexFunc(parent, func(element any) bool { return matches(element, last) })
		if i >= 0 && len(path) > 1 {
			return r.replace(merged, path[:len(path)-1], slices.Delete(parent, i, i+1))
		}
	}
	return false
}

// replace sets the list at a path.
func (r restoration) replace(merged map[string]any, path fieldpath.Path, list []any) bool {
	parent, ok := r.owners.walk(merged, path[:len(path)-1]).(map[string]any)
	name := path[len(path)-1].FieldName
	if ok && name != nil {
		parent[*name] = list
	}
	return ok && name != nil
}

// walk returns what is at a path, nil if nothing is.
func (f fieldOwners) walk(from any, path fieldpath.Path) any {
	for _, step := range path {
		if from = f.step(from, step); from == nil {
			return nil
		}
	}
	return from
}

// step returns the field or element that a step of a path leads to, or nil.
func (f fieldOwners) step(from any, step fieldpath.PathElement) any {
	switch at := from.(type) {
	case map[string]any:
		if step.FieldName != nil {
			return at[*step.FieldName]
		}
	case []any:
		if i := slices.IndexFunc(at, func(element any) bool { return matches(element, step) }); i >= 0 {
			return at[i]
		}
	}
	return nil
}

// elementKey says what identifies the elements of a list: these fields, or, without any, their
// value.
type elementKey struct{ keys []string }

// keyOf returns what identifies the elements of lists at a path, if that is known and no list has
// two elements with the same key.
func (f fieldOwners) keyOf(path fieldpath.Path, lists ...[]any) (elementKey, bool) {
	at := path.String()
	id := elementKey{f.keys[at]}
	if id.keys == nil && !f.sets[at] {
		id.keys = []string{"name"} // of nearly all, where nobody owns the elements
	}
	for _, list := range lists {
		seen := map[string]bool{}
		for _, element := range list {
			fields, isMap := element.(map[string]any)
			hasKey := slices.ContainsFunc(id.keys, func(key string) bool { return fields[key] != nil })
			if isMap != (id.keys != nil) || isMap && !hasKey {
				return id, false
			}
			name := id.of(element).String()
			if seen[name] {
				return id, false
			}
			seen[name] = true
		}
	}
	return id, true
}

// of returns the step of a path that leads to an element.
func (id elementKey) of(element any) fieldpath.PathElement {
	fields, isMap := element.(map[string]any)
	if !isMap {
		return fieldpath.ValueElement(value.NewValueInterface(element))
	}
	var key value.FieldList
	for _, name := range id.keys {
		if v, found := fields[name]; found {
			key = append(key, value.Field{Name: name, Value: value.NewValueInterface(v)})
		}
	}
	return fieldpath.PathElement{Key: &key}
}

// index returns where a list has an element of a manifest, -1 if nowhere.
func (id elementKey) index(list []any, wanted any) int {
	step := id.of(wanted)
	return slices.IndexFunc(list, func(element any) bool {
		return sameValue(element, wanted) || step.Key != nil && matches(element, step)
	})
}

// keyDefaults are the defaults of fields that identify elements: a manifest may leave these out.
var keyDefaults = map[string]string{"protocol": "TCP"}

// matches tells whether a step of a path leads to an element.
func matches(element any, step fieldpath.PathElement) bool {
	if step.Value != nil {
		return sameValue(element, (*step.Value).Unstructured())
	}
	fields, ok := element.(map[string]any)
	if !ok || step.Key == nil {
		return false
	}
	for _, key := range *step.Key {
		there, found := fields[key.Name]
		if wanted := key.Value.Unstructured(); found && !sameValue(there, wanted) ||
			!found && keyDefaults[key.Name] != fmt.Sprint(wanted) {
			return false
		}
	}
	return true
}

// sameValue compares values. One reader makes int64 of a number, another float64: numbers are the
// same if JSON has the same text for them.
func sameValue(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	if !isNumber(a) || !isNumber(b) {
		return false
	}
	first, err1 := json.Marshal(a)
	second, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(first) == string(second)
}

func isNumber(v any) bool {
	switch v.(type) {
	case int64, float64:
		return true
	}
	return false
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

func child(path fieldpath.Path, step fieldpath.PathElement) fieldpath.Path {
	return append(slices.Clone(path), step)
}

// isFixed tells whether a field is the API server's or a controller's by its meaning.
func isFixed(path fieldpath.Path) bool {
	switch nameOf(path[0]) {
	case "", "status", "apiVersion", "kind":
		return true
	case "metadata":
		return len(path) > 1 && nameOf(path[1]) != "labels" && nameOf(path[1]) != "annotations"
	}
	return false
}

// nameOf returns the field that a step leads to, "" if it leads to an element.
func nameOf(step fieldpath.PathElement) string {
	if step.FieldName == nil {
		return ""
	}
	return *step.FieldName
}

// bookkeeping are the prefixes of annotations by which kubectl and controllers remember what they
// did. With one of them, kubectl rollout restart replaces the pods.
var bookkeeping = []string{"kubectl.kubernetes.io/", "deployment.kubernetes.io/", "kubernetes.io/change-cause"}

func isBookkeeping(path fieldpath.Path) bool {
	for i := 1; i < len(path); i++ {
		name := nameOf(path[i])
		if nameOf(path[i-1]) == "annotations" &&
			slices.ContainsFunc(bookkeeping, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			return true
		}
	}
	return false
}

// difference is a field that two versions of an object do not share. A nil stands for one that is
// not there.
type difference struct {
	path      fieldpath.Path
	live, was any
}

// differences compares a live object with what it was, or would be.
func (f fieldOwners) differences(path fieldpath.Path, live, was any) (found []difference) {
	if path != nil && isFixed(path) {
		return nil
	}
	switch was := was.(type) {
	case map[string]any:
		live, ok := live.(map[string]any)
		if !ok || len(live) > 0 && path != nil && f.isAtomic(path) {
			break
		}
		names := make([]string, 0, len(was))
		for name := range was {
			names = append(names, name)
		}
		for name := range live {
			if _, both := was[name]; !both {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			found = append(found, f.differences(child(path, fieldpath.FieldNameElement(name)), live[name], was[name])...)
		}
		return found
	case []any:
		live, ok := live.([]any)
		if !ok || f.isAtomic(path) {
			break
		}
		id, known := f.keyOf(path, live, was)
		if !known {
			break
		}
		for _, element := range live {
			var before any
			if i := id.index(was, element); i >= 0 {
				before = was[i]
			}
			found = append(found, f.differences(child(path, id.of(element)), element, before)...)
		}
		for _, element := range was {
			if id.index(live, element) < 0 {
				found = append(found, difference{child(path, id.of(element)), nil, element})
			}
		}
		if len(found) > 0 || reflect.DeepEqual(live, was) {
			return found
		}
		return []difference{{path, live, was}} // only their order differs
	}
	if sameValue(live, was) || isEmpty(live) && was == nil || live == nil && isEmpty(was) {
		return nil
	}
	return []difference{{path, live, was}}
}
