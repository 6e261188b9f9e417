package event

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Image is an image of devloop.yaml, or one that it is built on.
type Image struct {
	Name Name // in devloop.yaml; of a base image, its repository
	Tag  Name // made from the hash of its inputs, "" while that is not known
	Ref  Name // as pods name it, with registry and tag, "" while that is not known
}

// String is the reference, or the name if there is none.
func (i Image) String() string { return string(cmp.Or(i.Ref, i.Name)) }

// MarshalText returns String.
func (i Image) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what MarshalText wrote: a reference.
func (i *Image) UnmarshalText(text []byte) error {
	*i = Image{Ref: Name(text)}
	return nil
}

// The payloads: what events are about, as data. Tags are the keys of the log, which has the fields
// in this order. Secrets are taken out of strings, but never out of Names. words.go says which
// message carries which payload.
type (
	// DevloopStart is the start of the process.
	DevloopStart struct {
		Project Name `json:"project"`
		Cluster Name `json:"cluster"` // kube context
		Folder  Name `json:"folder"`
		Version Name `json:"version,omitzero"` // of devloop
		System  Name `json:"system,omitzero"`  // of this machine: linux/amd64
		Tool    Name `json:"tool,omitzero"`    // that made the cluster: minikube, kind, k3d; "" if that is not proven
	}
	// Config is what devloop.yaml names.
	Config struct {
		Project  Name     `json:"project"`
		File     Name     `json:"file"` // its path, or that of a skaffold.yaml in its place
		Folder   Name     `json:"folder"`
		Images   Names    `json:"images"`
		Releases Releases `json:"releases"`
		Part     Names    `json:"part,omitzero"` // names of the releases that were asked for
	}
	// Page is where a browser finds the page.
	Page struct {
		URL Name `json:"url"` // with its token, which the user has to see
	}

	// Cluster is whether the cluster can be used, by what was looked at.
	Cluster struct {
		State  ClusterState `json:"state"`
		Reason string       `json:"reason,omitzero"` // how that is known
		Hint   string       `json:"hint,omitzero"`   // what the user can do about it
	}

	// RunStart is the start of a run.
	RunStart struct {
		Why     Name        `json:"why"`              // start, change, asked, retry
		Files   string      `json:"files"`            // that changed
		Changes FileChanges `json:"changes,omitzero"` // in these files, where devloop understands them
		Since   time.Time   `json:"since,omitzero"`   // of the first of these changes
		Settled float64     `json:"settled,omitzero"` // seconds that the burst of changes lasted
	}
	// RunScope is what a run deploys that is not one of all releases.
	RunScope struct {
		Releases Names `json:"releases"` // that were asked for; those that they depend on are deployed, too
	}
	// RunEnd is where the time of a run went.
	RunEnd struct {
		Total    float64 `json:"total"` // seconds since the first change that asked for the run
		Stages   Timings `json:"stages"`
		Releases Names   `json:"releases,omitzero"` // that the run was of, nil for all
	}

	// FoundImage is an image that need not be built.
	FoundImage struct {
		Image Image `json:"image"`
		On    Name  `json:"on"` // node, host
	}
	// Build is an image that is being built, or was; as progress, how far it is.
	Build struct {
		Image Image     `json:"image"`
		ID    string    `json:"id,omitzero"` // of what was built
		Step  string    `json:"step,omitzero"`
		Done  int       `json:"done,omitzero"`  // steps
		Total int       `json:"total,omitzero"` // steps
		Since time.Time `json:"since,omitzero"` // the step began
	}
	// Instruction is a step of a build.
	Instruction struct {
		Image  Image  `json:"image"`
		Step   string `json:"step"`
		Cached bool   `json:"cached,omitzero"`
		Failed bool   `json:"failed,omitzero"`
		Output string `json:"output,omitzero"` // the end of what a failed one printed
	}
	// Loading is an image on its way to the nodes.
	Loading struct {
		Image Image     `json:"image"`
		Bytes int64     `json:"bytes,omitzero"` // that have left this machine
		Since time.Time `json:"since,omitzero"`
	}
	// Loaded is an image that has arrived there.
	Loaded struct {
		Image Image `json:"image"`
		Bytes int64 `json:"bytes"` // that have left this machine
	}
	// NodeImage is an image as a node holds it.
	NodeImage struct {
		Image  Image  `json:"image"`
		Node   Name   `json:"node"`
		Digest string `json:"digest"` // as the builder calls what was built
		ID     string `json:"id"`     // as pods call it
	}
	// Verification is a command that is run in a new image.
	Verification struct {
		Image   Image  `json:"image"`
		Command string `json:"command"`
	}

	// Release is a Helm release.
	Release struct {
		Namespace Name   `json:"namespace"`
		Name      Name   `json:"release"`
		Chart     string `json:"chart,omitzero"`
		Revision  int    `json:"revision,omitzero"`
	}
	// Download is a chart that is downloaded.
	Download struct {
		URL   string `json:"url"`
		Bytes int64  `json:"bytes,omitzero"`
	}
	// Command is a command that is run before or after a release is applied.
	Command struct {
		Release Name   `json:"release,omitzero"` // "" for all of them
		When    string `json:"when"`             // before, after
		Command string `json:"command"`
	}
	// Rollout is the wait for the pods of one release, or of all of them.
	Rollout struct {
		Release Name `json:"release,omitzero"` // "" for all
	}

	// PodRef names a pod.
	PodRef struct {
		Pod       Name `json:"pod"`
		Namespace Name `json:"namespace"`
	}
	// Pod is a pod of a release, or one that users started and that devloop.yaml selects.
	Pod struct {
		PodRef
		Release    Name       `json:"release"` // "" for those that users started
		Group      Name       `json:"group"`   // what else belongs together: a Dask cluster's name
		Node       Name       `json:"node"`
		Phase      Name       `json:"phase"` // Kubernetes' own word, or Ending
		Ready      bool       `json:"ready"`
		Reason     string     `json:"reason"` // why it is not
		Restarts   int        `json:"restarts"`
		Created    time.Time  `json:"created"`
		Containers Containers `json:"containers"`
	}
	// ContainerRef names a container.
	ContainerRef struct {
		PodRef
		Container Name `json:"container"`
	}
	// LogLine is a line that a container printed.
	LogLine struct {
		ContainerRef
		Level Level  `json:"level"`
		Line  string `json:"line"`
	}
	// ContainerDeath is a container that did not end well.
	ContainerDeath struct {
		ContainerRef
		Reason   string `json:"reason"`
		Restarts int    `json:"restarts"`
		Output   string `json:"output,omitzero"` // the last lines
	}

	// Address is a local address and what it leads to.
	Address struct {
		Target  Name `json:"target"`
		Local   Name `json:"local"`
		URL     Name `json:"url,omitzero"`     // for a browser, "" where what answers is not known to speak HTTP
		Gateway bool `json:"gateway,omitzero"` // it leads to a Dask Gateway
	}
	// Forward is what a local address is doing.
	Forward struct {
		Address
		State    Name   `json:"state"`           // ready, waiting, unreachable
		Reason   string `json:"reason,omitzero"` // why no pod is ready
		Pods     Names  `json:"pods,omitzero"`   // that get new connections
		Open     int64  `json:"open"`            // connections that a pod has
		Waiting  int64  `json:"held"`            // that wait for one
		Sent     int64  `json:"sent"`            // bytes, to pods
		Received int64  `json:"received"`        // bytes, from pods
	}
	// Answer is an address that has to answer before the platform counts as ready.
	Answer struct {
		URL string `json:"url"`
	}

	// Chain is the proof that what runs is what is on the disk.
	Chain struct {
		Links Links `json:"links"`
	}
	// DaskClusterEnd is a Dask cluster that is gone.
	DaskClusterEnd struct {
		Namespace Name   `json:"namespace"`
		Name      Name   `json:"name"`
		Owner     string `json:"owner,omitzero"`
		Reason    string `json:"reason,omitzero"` // why it failed, "" if it was stopped
		Output    string `json:"output,omitzero"` // the last lines that its scheduler printed
	}
	// OutdatedClusters are Dask clusters that run an older image; none is reported, too.
	OutdatedClusters struct {
		Clusters DaskClusters `json:"clusters"`
	}
	// Comparison is one of the Python libraries of several places; none is left with less than two.
	Comparison struct {
		Places      []string    `json:"places"`    // images, and the environment on this machine
		Libraries   int         `json:"libraries"` // that were compared
		Differences Differences `json:"differences,omitzero"`
		Images      []Image     `json:"-"` // that ran when it was made: it says nothing of newer ones
	}
)

// ClusterState is a state of the whole cluster.
type ClusterState string

// The states of a cluster. Who looks at the machines only, and finds nothing wrong, has none.
const (
	ClusterRunning     ClusterState = "running"     // it answers, and it is the same cluster
	ClusterStopped     ClusterState = "stopped"     // its machine is there, and is not running
	ClusterPaused      ClusterState = "paused"      // its machine, or its API server, is frozen
	ClusterDeleted     ClusterState = "deleted"     // its machine is gone
	ClusterReplaced    ClusterState = "replaced"    // another cluster answers in its place
	ClusterUnreachable ClusterState = "unreachable" // it does not answer, and nothing shows that it is one of these
)

// Same reports whether nothing differs.
func (c Comparison) Same() bool { return len(c.Differences) == 0 }

// payloadField is a field of a payload.
type payloadField struct {
	key      string
	optional bool // left out of the log while it is zero
	value    reflect.Value
}

func fieldsOf(payload reflect.Value) []payloadField {
	var list []payloadField
	for _, field := range reflect.VisibleFields(payload.Type()) {
		if key, option, _ := strings.Cut(field.Tag.Get("json"), ","); !field.Anonymous && key != "-" {
			list = append(list, payloadField{key, option == "omitzero", payload.FieldByIndex(field.Index)})
		}
	}
	return list
}

// Details returns all that varies in the event as alternating keys and values: first the payload's.
func (e Event) Details() []any {
	if e.Payload == nil {
		return e.Fields
	}
	var details []any
	for _, field := range fieldsOf(reflect.ValueOf(e.Payload)) {
		if !field.optional || !field.value.IsZero() {
			details = append(details, field.key, field.value.Interface())
		}
	}
	return append(details, e.Fields...)
}

// Field returns the value of a detail, nil if there is none.
func (e Event) Field(key string) any {
	details := e.Details()
	for i := 0; i+1 < len(details); i += 2 {
		if details[i] == key {
			return details[i+1]
		}
	}
	return nil
}

// String returns the release's namespace and name.
func (r Release) String() string { return string(r.Namespace + "/" + r.Name) }

// FullName is namespace/pod.
func (p PodRef) FullName() Name { return p.Namespace + "/" + p.Pod }

// FullName is namespace/pod/container.
func (c ContainerRef) FullName() Name { return c.PodRef.FullName() + "/" + c.Container }

// Container is one of a pod's containers.
type Container struct {
	Name    Name `json:"name"`
	Image   Name `json:"image"`             // as the pod's spec names it
	ImageID Name `json:"imageID,omitempty"` // as the runtime does
}

// String returns the container for a line of text.
func (c Container) String() string {
	return strings.TrimSpace(string(c.Name + " " + c.Image + " " + c.ImageID))
}

// List is a list that a line of text shows by its elements.
type List[T fmt.Stringer] []T

// The lists in payloads.
type (
	Releases     = List[Release]
	Containers   = List[Container]
	Links        = List[Link]
	DaskClusters = List[DaskCluster]
	Differences  = List[Difference]
	FileChanges  = List[FileChange]
)

// String returns the list for a line of text.
func (l List[T]) String() string {
	texts := make([]string, len(l))
	for i, one := range l {
		texts[i] = one.String()
	}
	return strings.Join(texts, "; ")
}

// Timing is how long something of a stage of a run was under way.
type Timing struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Timings are those of a run, in order. In the log they are an object of seconds by name.
type Timings []Timing

// MarshalJSON keeps the order.
func (t Timings) MarshalJSON() ([]byte, error) {
	list := make(fields, 0, 2*len(t))
	for _, timing := range t {
		list = append(list, timing.Name, timing.Seconds)
	}
	return list.MarshalJSON()
}

// UnmarshalJSON keeps the order, too.
func (t *Timings) UnmarshalJSON(data []byte) error {
	keys, values, err := object(data)
	if err != nil {
		return err
	}
	*t = make(Timings, len(keys))
	for i, key := range keys {
		(*t)[i].Name = key
		if err := json.Unmarshal(values[i], &(*t)[i].Seconds); err != nil {
			return err
		}
	}
	return nil
}

// String returns the timings for a line of text.
func (t Timings) String() string {
	texts := make([]string, len(t))
	for i, timing := range t {
		texts[i] = fmt.Sprintf("%s=%g", timing.Name, timing.Seconds)
	}
	return strings.Join(texts, " ")
}

// shownTiming is from how many seconds on a stage is in a summary: less would be shown as 0.0.
const shownTiming = 0.05

// Summary returns where the time went: "7.4 s: build 5.1, load 0.4".
func (r RunEnd) Summary() string {
	summary := shortSeconds(r.Total) + " s"
	if r.Releases != nil {
		summary += ", only " + strings.Join(r.Releases, ", ")
	}
	separator := ": "
	for _, timing := range r.Stages {
		if timing.Seconds >= shownTiming {
			summary += separator + timing.Name + " " + shortSeconds(timing.Seconds)
			separator = ", "
		}
	}
	return summary
}

func shortSeconds(s float64) string {
	if s < shownTiming {
		return fmt.Sprintf("%.2f", s)
	}
	return fmt.Sprintf("%.1f", s)
}

// SyncedFiles are files of an image that were written into containers that run it.
type SyncedFiles struct {
	Image      Name  `json:"image"` // in devloop.yaml
	Written    int   `json:"written"`
	Deleted    int   `json:"deleted,omitzero"`
	Bytes      int64 `json:"bytes"`              // of the written files, once
	Containers int   `json:"containers"`         // that got them
	Started    Name  `json:"started,omitzero"`   // the one that got them, if it started meanwhile
	InTime     bool  `json:"inTime,omitzero"`    // that one got them before it was ready
	Python     bool  `json:"python,omitzero"`    // some of them are Python modules
	Restarted  int   `json:"restarted,omitzero"` // containers that were restarted for them
}

// UnsyncedContainer is a container that cannot get files.
type UnsyncedContainer struct {
	Image     Name   `json:"image"` // in devloop.yaml
	Container Name   `json:"container"`
	Reason    string `json:"reason"`
}

// RenewedImage is an image that holds files which were synced before it was built.
type RenewedImage struct {
	Image Image `json:"image"`
}
