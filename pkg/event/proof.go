package event

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file is what is told of the proof that what runs is what is on the disk: values of fields that have parts of their own.

// Link is a place that an image passes on its way from the inputs to who uses it, and what it is there.
type Link struct {
	Image string `json:"image"` // its name in devloop.yaml
	Place Place  `json:"place"`
	Name  string `json:"name,omitempty"`  // which of these places: a node, namespace/pod/container, an address
	Is    string `json:"is"`              // the hash of the inputs, an ID, or a reference
	Want  string `json:"want,omitempty"`  // what it would be if the chain were whole, "" where it is that
	Older bool   `json:"older,omitempty"` // it need not be that: a pod that nothing replaces, such as one that a user has started
}

// Place is a kind of link.
type Place string

// The places, in the order of the chain.
const (
	AtInputs   Place = "inputs"   // a hash
	AtBuild    Place = "build"    // the ID of what was built
	AtRegistry Place = "registry" // that images are pushed to: a digest
	AtNode     Place = "node"     // an ID
	AtPod      Place = "pod"      // the ID that the runtime tells, or the reference if that is another one
	AtGateway  Place = "gateway"  // the reference that new Dask clusters get
)

// Broken tells whether the chain is broken here.
func (l Link) Broken() bool { return l.Want != "" && !l.Older }

// String returns the link for a line of text.
func (l Link) String() string {
	at := string(l.Place)
	if l.Name != "" {
		at += " " + l.Name
	}
	switch {
	case l.Broken():
		return fmt.Sprintf("%s, %s: %s, not %s", l.Image, at, l.Is, l.Want)
	case l.Older:
		return fmt.Sprintf("%s, %s: %s, older than %s", l.Image, at, l.Is, l.Want)
	}
	return fmt.Sprintf("%s, %s: %s", l.Image, at, l.Is)
}

// Links are a chain, or several.
type Links []Link

// String returns the links for a line of text.
func (l Links) String() string { return joined(l) }

// withTexts returns the links with change made to what is said of them: their names stay.
func (l Links) withTexts(change func(string) string) any {
	changed := slices.Clone(l)
	for i := range changed {
		changed[i].Is, changed[i].Want = change(l[i].Is), change(l[i].Want)
	}
	return changed
}

// DaskCluster is a cluster that a user of a Dask Gateway started.
type DaskCluster struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Owner     string    `json:"owner,omitempty"`
	Image     string    `json:"image"` // that its pods run
	Since     time.Time `json:"since"`
	Workers   int       `json:"workers"` // pods
}

// FullName is the cluster's as its user sees it.
func (c DaskCluster) FullName() string { return c.Namespace + "." + c.Name }

// String returns the cluster for a line of text.
func (c DaskCluster) String() string {
	return fmt.Sprintf("%s of %s: %s since %s", c.FullName(), c.Owner, c.Image, c.Since.Local().Format("15:04"))
}

// DaskClusters are some.
type DaskClusters []DaskCluster

// String returns the clusters for a line of text.
func (c DaskClusters) String() string { return joined(c) }

// withTexts returns the clusters with change made to what is said of them: their names stay.
func (c DaskClusters) withTexts(change func(string) string) any {
	changed := slices.Clone(c)
	for i := range changed {
		changed[i].Owner, changed[i].Image = change(c[i].Owner), change(c[i].Image)
	}
	return changed
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

// Differences are some.
type Differences []Difference

// String returns the differences for a line of text.
func (d Differences) String() string { return joined(d) }

// withTexts returns the differences with change made to what is said of them.
func (d Differences) withTexts(change func(string) string) any {
	changed := slices.Clone(d)
	for i := range changed {
		changed[i].Library, changed[i].Versions = change(d[i].Library), slices.Clone(d[i].Versions)
		for j := range changed[i].Versions {
			changed[i].Versions[j] = change(changed[i].Versions[j])
		}
	}
	return changed
}

func joined[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, one := range list {
		texts[i] = one.String()
	}
	return strings.Join(texts, "; ")
}

// ofProof returns what a field of these types was before it became JSON, nil if it is none.
func ofProof(key any, text []byte) any {
	switch key {
	case "links":
		return read[Links](text)
	case "clusters":
		return read[DaskClusters](text)
	case "differences":
		return read[Differences](text)
	case "places":
		return read[[]string](text)
	}
	return nil
}

func read[T any](text []byte) any {
	var value T
	if json.Unmarshal(text, &value) != nil {
		return nil
	}
	return value
}
