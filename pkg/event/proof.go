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

	Container ContainerRef `json:"-"` // at a pod
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
	AtGateway  Place = "gateway"  // the reference that new Dask clusters get
)

// NotThere is what an image is in a place that does not have it.
const NotThere = "not there"

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
	}
	return fmt.Sprintf("%s, %s: %s", l.Image, at, l.Is)
}

// DaskCluster is a cluster that a user of a Dask Gateway started.
type DaskCluster struct {
	Namespace Name      `json:"namespace"`
	Name      Name      `json:"name"`
	Owner     string    `json:"owner,omitempty"`
	Image     string    `json:"image"` // that its pods run
	Since     time.Time `json:"since"`
	Workers   int       `json:"workers"` // pods
}

// FullName is the name that the cluster's user sees.
func (c DaskCluster) FullName() string { return string(c.Namespace + "." + c.Name) }

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
