// Package status folds the events of a devloop into one State. The terminal, the page, devloop
// status and the metrics show it. Nothing here starts any work.
//
// Where to look: state.go what there is to know, fold.go how an event changes it, board.go who may
// read it while events come, history.go which runs outlive the process. The JSON of a State is what
// devloop status --json prints: fields are added to it, never renamed.
package status

import (
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// State is what is known at a moment. It is a value: it never changes.
type State struct {
	Project string    `json:"project"`
	Cluster string    `json:"cluster"` // kube context
	File    string    `json:"file"`    // path of devloop.yaml, or of a skaffold.yaml in its place
	Folder  string    `json:"folder"`  // of that file
	Started time.Time `json:"started"`
	Version string    `json:"version,omitempty"` // of devloop
	System  string    `json:"system,omitempty"`  // of this machine: linux/amd64
	Tool    string    `json:"tool,omitempty"`    // that made the cluster: minikube, kind, k3d; "" if that is not proven
	// Part are the names of the releases that devloop was started for, nil for all.
	Part []string `json:"part,omitempty"`

	Health Health `json:"health"`
	Reason string `json:"reason,omitempty"` // why it is not healthy
	Paused bool   `json:"paused"`           // changes wait
	Page   string `json:"page,omitempty"`   // URL

	// Away is why the cluster cannot be used, nil while it can. All that is known of what is in it
	// is from before; its pods are Unknown.
	Away *Away `json:"away,omitempty"`

	Images   []Image   `json:"images"`
	Releases []Release `json:"releases"`
	Pods     []Pod     `json:"pods"`
	Forwards []Forward `json:"forwards"`

	Chain     *Chain             `json:"chain,omitempty"`     // as it was checked last
	Clusters  []DaskCluster      `json:"clusters"`            // those that run, and the last of those that are gone
	Old       event.DaskClusters `json:"oldClusters"`         // Dask clusters that run an older image
	Libraries *Libraries         `json:"libraries,omitempty"` // as they were compared last

	Run *Run `json:"run,omitempty"` // under way, else the last one
	// Runs that ended, also in earlier processes, the newest last; keptRuns at most.
	Runs []Run `json:"runs"`

	ending  bool
	changed bool  // since the last run started
	pods    []Pod // as they were reported last
}

// Away is a cluster that cannot be used.
type Away struct {
	State  event.ClusterState `json:"state"` // stopped, paused, deleted, replaced, unreachable
	Reason string             `json:"reason"`
	Hint   string             `json:"hint,omitempty"`
	Since  time.Time          `json:"since"` // when devloop saw it
}

// Health sums the state up in a word.
type Health string

// The healths.
const (
	Starting Health = "starting" // no run has ended yet
	Working  Health = "working"  // a run is under way
	Healthy  Health = "healthy"  // the last run succeeded, all pods of the releases are ready, all forwards lead to one
	Failed   Health = "failed"   // the last run failed
	Degraded Health = "degraded" // the last run succeeded, but a pod or a forward changed, or the cluster is away
	Ending   Health = "ending"   // what was deployed is being removed
)

// Image is one of devloop.yaml's images.
type Image struct {
	Name  string     `json:"name"`
	Tag   string     `json:"tag"` // the hash of its inputs
	State ImageState `json:"state"`
	On    string     `json:"on,omitempty"` // where it was found: node, host
	ID    string     `json:"id,omitempty"` // of what was built
	Error string     `json:"error,omitempty"`

	// While it is built: the step, how many are done, of how many.
	Step  string     `json:"step,omitempty"`
	Done  int        `json:"done,omitempty"`
	Total int        `json:"total,omitempty"`
	Since *time.Time `json:"since,omitempty"` // the step, or the load, began

	Bytes int64       `json:"bytes,omitempty"` // that went to the nodes for it
	Nodes []NodeImage `json:"nodes"`           // that hold it

	Synced *Synced `json:"synced,omitempty"` // what its containers got since, nil if they are as it is
}

// Synced are files that were written into containers of an image.
type Synced struct {
	Run        int       `json:"run"` // whose files they are
	At         time.Time `json:"at"`
	Containers int       `json:"containers"` // that got them
	// Renewed is the tag of the image that holds the files, once it is ready for new pods. Those that
	// run are replaced by the next run that does not only sync files.
	Renewed string `json:"renewed,omitempty"`
}

// Ref is how pods name the image.
func (i Image) Ref() string { return i.Name + ":" + i.Tag }

// ImageState is how far an image is.
type ImageState string

// The states of an image.
const (
	ImageBuilding ImageState = "building"
	ImageReady    ImageState = "ready" // built or found, but maybe not on the nodes
	ImageLoading  ImageState = "loading"
	ImageOnNode   ImageState = "on node"
	ImageFailed   ImageState = "failed"
)

// NodeImage is an image as a node holds it.
type NodeImage struct {
	Node   string `json:"node"`
	Digest string `json:"digest"` // as the builder calls it
	ID     string `json:"id"`     // as pods call it; in containerd that is another digest
}

// Release is a Helm release of devloop.yaml.
type Release struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Chart     string       `json:"chart,omitempty"`
	Revision  int          `json:"revision,omitempty"`
	State     ReleaseState `json:"state"`
	Changed   time.Time    `json:"changed"` // when State changed last
	Error     string       `json:"error,omitempty"`
}

// ReleaseState is how far a release is.
type ReleaseState string

// The states of a release.
const (
	ReleaseApplying ReleaseState = "applying"
	ReleaseDeployed ReleaseState = "deployed"
	ReleaseFailed   ReleaseState = "failed"
	ReleaseBack     ReleaseState = "rolled back"
	ReleaseGone     ReleaseState = "removed"
)

// Pod is a pod of a release, or one that users started and that devloop.yaml selects.
type Pod struct {
	Namespace  string      `json:"namespace"`
	Name       string      `json:"name"`
	Release    string      `json:"release,omitempty"` // "" for those that users started
	Group      string      `json:"group,omitempty"`   // what else belongs together: a Dask cluster's name
	Node       string      `json:"node,omitempty"`
	Phase      string      `json:"phase"` // Kubernetes' own word, or Ending; Unknown while the cluster is away
	Ready      bool        `json:"ready"`
	Reason     string      `json:"reason,omitempty"` // why it is not
	Restarts   int         `json:"restarts"`
	Created    time.Time   `json:"created"`
	Containers []Container `json:"containers"`
}

// Container is one of a pod's containers.
type Container = event.Container

// Forward is a local address.
type Forward = event.Forward

// Chain is the proof that what runs is what is on the disk.
type Chain struct {
	Checked time.Time `json:"checked"`
	// Outdated says that it is of before the newest change: a run is under way or failed, or the
	// cluster is away.
	Outdated bool        `json:"outdated"`
	Error    string      `json:"error,omitempty"` // where it is broken
	Hint     string      `json:"hint,omitempty"`
	Links    event.Links `json:"links"` // image by image, from the inputs to the pods
}

// DaskCluster is a cluster that a user of a Dask Gateway started.
type DaskCluster struct {
	event.DaskCluster
	Old    bool       `json:"old"`              // it runs an older image
	Ended  *time.Time `json:"ended,omitempty"`  // when it was gone
	Output string     `json:"output,omitempty"` // once it is gone: the last lines that its scheduler printed
}

// Libraries are the Python distributions of the images and of this machine's environment.
type Libraries struct {
	Compared    time.Time         `json:"compared"`
	Outdated    bool              `json:"outdated"` // an image has changed since
	Places      []string          `json:"places"`
	Libraries   int               `json:"libraries"` // that were compared
	Differences event.Differences `json:"differences"`

	images []event.Image // that ran then
}

// Run is one run of the loop.
type Run struct {
	Number int    `json:"number"` // in its process
	Why    string `json:"why"`    // start, change, asked, retry
	Files  string `json:"files,omitempty"`
	// Changes are what changed in these files, where devloop understands them.
	Changes event.FileChanges `json:"changes,omitempty"`
	// Releases are those that it was of, and that they depend on, nil for all.
	Releases []string  `json:"releases,omitempty"`
	Started  time.Time `json:"started"` // the first file event that asked for it
	Outcome  Outcome   `json:"outcome"`
	Seconds  float64   `json:"seconds"` // 0 while it is under way
	Error    string    `json:"error,omitempty"`
	Hint     string    `json:"hint,omitempty"`
	Output   string    `json:"output,omitempty"` // last lines of the build step that failed
	Bytes    int64     `json:"bytes,omitempty"`  // that went to the nodes
	Stages   []Stage   `json:"stages"`           // where the time went, in order
	Spans    []Span    `json:"spans"`            // the waterfall
}

// end is where the time of a run that ended went.
func (r Run) end() event.RunEnd {
	return event.RunEnd{Total: r.Seconds, Stages: r.Stages, Releases: r.Releases}
}

// Took is how long it took.
func (r Run) Took() time.Duration { return seconds(r.Seconds) }

// Ended returns when a run that ended did so.
func (r Run) Ended() time.Time { return r.Started.Add(r.Took()) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Outcome is how a run or a part of it ended.
type Outcome string

// The outcomes.
const (
	Running     Outcome = "running"
	Succeeded   Outcome = "succeeded"
	Superseded  Outcome = "superseded"
	Interrupted Outcome = "interrupted"
	RunFailed   Outcome = "failed"
)

// Stage is how long something of a stage was under way in a run. Stages overlap: they need not add
// up to the run.
type Stage = event.Timing

// Stages are the names of the stages in the order of a run.
var Stages = []string{"settle", "hash", "sync", "build", "load", "verify", "helm", "rollout", "answer", "proof"}

// Span is a bar of the waterfall.
type Span struct {
	Stage   string    `json:"stage"`           // one of Stages
	Name    string    `json:"name"`            // what is done: image built
	About   string    `json:"about,omitempty"` // to what: worker, a step's text, a pod
	Kind    string    `json:"kind,omitempty"`  // step, pod: a part of another span; else ""
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // 0 while it is under way
	Outcome Outcome   `json:"outcome"`
	Bytes   int64     `json:"bytes,omitempty"`
	Cached  bool      `json:"cached,omitempty"`
	Error   string    `json:"error,omitempty"`
}
