package event

import (
	"fmt"
	"strings"
	"time"
)

// Link is a place on the way of an image from its inputs to its users, and what the image is there.
type Link struct {
	Image       Name   `json:"image"` // in devloop.yaml
	Place       Place  `json:"place"`
	Name        Name   `json:"name,omitempty"`  // of the place: a node, namespace/pod/container, an address
	Is          string `json:"is"`              // the hash of the inputs, an ID, or a reference
	Want        string `json:"want,omitempty"`  // what it should be, "" where it is that
	NotReplaced bool   `json:"older,omitempty"` // it may stay: a pod that nothing replaces, as a user's own

	// SyncedInto is the tag of an older image, at the inputs: with their synced files written into it,
	// it is what they make.
	SyncedInto Name     `json:"syncedInto,omitempty"`
	Differ     []string `json:"differ,omitempty"` // the first synced files that differ: /app/a.py changed
	More       int      `json:"more,omitempty"`   // further ones

	Container ContainerRef `json:"-"` // at a pod, and of files
}

// Place is a kind of link.
type Place string

// The places, in the order of the chain.
const (
	AtInputs   Place = "inputs"   // a hash
	AtBuild    Place = "build"    // the ID of what was built
	AtRegistry Place = "registry" // that images are pushed to: a digest
	AtNode     Place = "node"     // an ID
	AtRelease  Place = "release"  // the reference that an object of a release names
	AtPod      Place = "pod"      // the ID that the runtime reports, or the reference if that differs
	AtFiles    Place = "files"    // a hash of the synced files that a container holds, or without a name, the disk
	AtGateway  Place = "gateway"  // the reference that new Dask clusters get
)

const (
	NotThere = "not there" // what an image is in a place that does not have it
	Unknown  = "unknown"   // what the files of a container are while nobody could look at them
)

// Broken reports whether the chain is broken here.
func (l Link) Broken() bool { return l.Want != "" && !l.NotReplaced }

// String returns the link for a line of text.
func (l Link) String() string {
	at := string(l.Place)
	if l.Name != "" {
		at += " " + string(l.Name)
	}
	switch {
	case l.Is == NotThere:
		return fmt.Sprintf("%s, %s: %s", l.Image, at, l.Is)
	case l.Broken():
		return fmt.Sprintf("%s, %s: %s, not %s", l.Image, at, l.Is, l.Want)
	case l.NotReplaced:
		return fmt.Sprintf("%s, %s: %s, older than %s", l.Image, at, l.Is, l.Want)
	case l.SyncedInto != "":
		return fmt.Sprintf("%s, %s: %s, which is %s with the synced files", l.Image, at, l.Is, l.SyncedInto)
	}
	return fmt.Sprintf("%s, %s: %s", l.Image, at, l.Is)
}

// namedDiffering is how many files Differing names.
const namedDiffering = 3

// Differing names the first files that differ: "/app/a.py changed, /app/b.py missing, … and 3 more"
func (l Link) Differing() string {
	named := min(len(l.Differ), namedDiffering)
	text := strings.Join(l.Differ[:named], ", ")
	if more := len(l.Differ) - named + l.More; more > 0 {
		text += fmt.Sprintf(", … and %d more", more)
	}
	return text
}

// DaskCluster is a cluster that a user of a Dask Gateway started.
type DaskCluster struct {
	Namespace Name      `json:"namespace"`
	Name      Name      `json:"name"`
	Owner     string    `json:"owner,omitzero"`
	Image     string    `json:"image"` // that its pods run
	Since     time.Time `json:"since"`
	Workers   int       `json:"workers"` // pods

	Phase   Name   `json:"phase,omitzero"`   // its gateway's own word: Pending, Running, Stopping
	Wanted  int    `json:"wanted,omitzero"`  // workers that its user asked for
	Running int    `json:"running,omitzero"` // workers that are ready
	Reason  string `json:"reason,omitzero"`  // why the scheduler or workers wait, "" if none does
	Hint    string `json:"hint,omitzero"`    // what the user can do about that
	// Dashboard is its URL through a forward, "" if no forward leads to its gateway, and while the
	// scheduler is not up.
	Dashboard Name `json:"dashboard,omitzero"`
}

// FullName is the name that the cluster's user sees.
func (c DaskCluster) FullName() string { return string(c.Namespace + "." + c.Name) }

// ShortName is FullName for people, to whom the first letters of the long names that gateways make
// say enough.
func (c DaskCluster) ShortName() string { return string(c.Namespace + "." + ShortName(c.Name)) }

// ShortName is the beginning of a name that a program made, and any other name.
func ShortName(name Name) Name {
	const long, short = 20, 8
	if len(name) > long {
		return name[:short]
	}
	return name
}

// String returns the cluster for a line of text.
func (c DaskCluster) String() string {
	return fmt.Sprintf("%s of %s: %s since %s", c.FullName(), c.Owner, c.Image, c.Since.Local().Format("15:04"))
}

// Difference is a library that is not the same everywhere.
type Difference struct {
	Library  string   `json:"library"`
	Versions []string `json:"versions"` // by place; "" where it is missing
}

// String returns the difference for a line of text.
func (d Difference) String() string {
	versions := make([]string, len(d.Versions))
	for i, version := range d.Versions {
		if versions[i] = version; version == "" {
			versions[i] = "missing"
		}
	}
	return d.Library + " " + strings.Join(versions, "/")
}

// FileChange is what changed in a file.
type FileChange struct {
	File Name `json:"file"` // as the log names it
	// Lines are what changed: the packages of a requirements file, the paths of values. Nil if devloop
	// does not know the format.
	Lines []LineChange `json:"lines,omitempty"`
	More  int          `json:"more,omitempty"` // further ones, which are left out
}

// LineChange is one package, or one path of values, that changed in a file.
type LineChange struct {
	Name   string `json:"name"`             // the package, or the path: gateway.backend.image
	Before string `json:"before,omitempty"` // of a package, its version or what stands for it; "" if it was not there
	After  string `json:"after,omitempty"`  // "" if it is gone
	Change Change `json:"change"`
}

// Change is what happened to something.
type Change string

// The changes.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// String returns the change for a line of text: "+ tabulate 0.9.0", "- tabulate 0.9.0",
// "~ pandas 2.2.2 → 2.2.3".
func (c LineChange) String() string {
	switch c.Change {
	case Added:
		return strings.TrimSpace("+ " + c.Name + " " + c.After)
	case Removed:
		return strings.TrimSpace("- " + c.Name + " " + c.Before)
	}
	if c.Before == "" && c.After == "" {
		return "~ " + c.Name
	}
	return "~ " + c.Name + " " + c.Before + " → " + c.After
}

// String returns the change for a line of text: "requirements.txt  + tabulate 0.9.0".
func (f FileChange) String() string {
	texts := make([]string, len(f.Lines), len(f.Lines)+1)
	for i, line := range f.Lines {
		texts[i] = line.String()
	}
	if f.More > 0 {
		texts = append(texts, fmt.Sprintf("… %d more", f.More))
	}
	return strings.TrimSpace(string(f.File) + "  " + strings.Join(texts, ", "))
}
