package deploy

// The API server records who set each field of an object (metadata.managedFields), and with that
// what identifies the elements of each list.

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/devloop/devloop/pkg/kube"
)

// writer is what kind of program sets a field.
type writer int

const (
	unknownWriter writer = iota
	releaseWriter        // Helm, devloop, and what they run
	person               // by a tool that people use
	controller
)

// fieldManager is one that has set fields of an object.
type fieldManager struct {
	name   string
	writer writer
	time   time.Time
	fields *fieldpath.Set
}

// fieldOwners says who set the fields of an object.
type fieldOwners struct {
	managers []fieldManager
	keys     map[string][]string // the fields that identify the elements of a list, by its path
	sets     map[string]bool     // lists whose elements are their own identity
	parents  map[string]bool     // fields with fields inside that have owners
}

// ownersOf reads the managed fields of an object. What people's tools set before the time released
// is part of the release: its hooks and commands use such tools, too.
func ownersOf(u *unstructured.Unstructured, released time.Time) fieldOwners {
	owners := fieldOwners{keys: map[string][]string{}, sets: map[string]bool{}, parents: map[string]bool{}}
	for _, entry := range u.GetManagedFields() {
		fields := &fieldpath.Set{}
		if entry.FieldsV1 == nil || entry.Subresource == "status" ||
			fields.FromJSON(entry.FieldsV1.GetRawReader()) != nil {
			continue
		}
		manager := fieldManager{name: entry.Manager, writer: writerOf(entry.Manager), fields: fields}
		if entry.Time != nil { // it is nil for kubectl scale
			manager.time = entry.Time.Time
			if manager.writer == person && !manager.time.After(released) {
				manager.writer = releaseWriter
			}
		}
		owners.managers = append(owners.managers, manager)
		fields.Iterate(owners.noteLists)
	}
	return owners
}

// noteLists remembers what identifies the elements of the lists above a field.
func (f fieldOwners) noteLists(path fieldpath.Path) {
	for i, step := range path {
		at := path[:i].String()
		f.parents[at] = true
		switch {
		case step.Key != nil && f.keys[at] == nil:
			for _, field := range *step.Key {
				f.keys[at] = append(f.keys[at], field.Name)
			}
		case step.Value != nil:
			f.sets[at] = true
		}
	}
}

// isAtomic tells whether the API server treats a map or list as one value, set by one manager.
func (f fieldOwners) isAtomic(path fieldpath.Path) bool {
	return !f.parents[path.String()] &&
		slices.ContainsFunc(f.managers, func(m fieldManager) bool { return m.fields.Has(path) })
}

// of returns who set a field: itself, or the whole that it is a part of.
func (f fieldOwners) of(path fieldpath.Path) (found []fieldManager) {
	for n := len(path); n > 0 && len(found) == 0; n-- {
		if n < len(path) && !f.isAtomic(path[:n]) {
			continue
		}
		for _, m := range f.managers {
			if m.fields.Has(path[:n]) {
				found = append(found, m)
			}
		}
	}
	return found
}

// by tells whether a writer of that kind is among the managers.
func by(managers []fieldManager, kind writer) bool {
	return slices.ContainsFunc(managers, func(m fieldManager) bool { return m.writer == kind })
}

// peoplesTools are the names under which the tools that people use set fields, up to what follows:
// kubectl-edit, kubernetes-dashboard-api, Mozilla/5.0. Lens calls itself node-fetch, and what runs
// in a browser is Mozilla.
var peoplesTools = []string{"kubectl", "oc", "k9s", "node-fetch", "Lens", "OpenLens", "freelens", "Freelens",
	"kubernetes-dashboard", "dashboard", "headlamp", "Headlamp", "Mozilla", "curl", "octant"}

// writerOf tells from the name of a manager what it is. A controller's default is the name of its
// program.
func writerOf(manager string) writer {
	switch manager {
	case kube.FieldManager, "helm", filepath.Base(os.Args[0]): // Helm takes the name of the program that it is in
		return releaseWriter
	case "manager":
		return controller
	}
	name := strings.ToLower(manager)
	for _, word := range []string{"controller", "operator", "injector", "webhook", "scaler", "kubelet", "scheduler"} {
		if strings.Contains(name, word) {
			return controller
		}
	}
	for _, tool := range peoplesTools {
		rest, found := strings.CutPrefix(manager, tool)
		if found && (rest == "" || rest[0] == '-' || rest[0] == '/') {
			return person
		}
	}
	return unknownWriter
}
