package event

// What is said in more than one place: by the stage that does it, and by whoever understands it (pkg/status, the log). Other messages are
// said where they happen and understood by nobody but people. Behind each stand the stage that says it and the fields that come with it.
const (
	DevloopStarted = "devloop started" // loop: project, cluster, folder
	ClusterChosen  = "cluster"         // devloop: context, server, why (it may be written to)
	DevloopEnds    = "removing what was deployed"
	Paused         = "paused, changes wait" // devloop
	Resumed        = "resumed"              // devloop

	ChangeSeen      = "change seen"       // loop: files
	ConfigRead      = "devloop.yaml read" // config: project, file, folder, images (names), releases (namespace/name), charts
	PageOpens       = "page"              // devloop: url
	RunStarts       = "run starts"        // loop: why (start, change, asked, retry), files; since the first of them changed, settled (for how long)
	RunComplete     = "run complete"      // loop, a step
	InputsHashed    = "inputs hashed"     // build, a step
	NodesAsked      = "nodes asked"       // node, a step: what they lack
	PlatformAnswers = "platform answers"  // forward, a step: url

	ImageFound      = "image found, tagging" // build: image, on
	BuildingImage   = "building image"       // build: image; as progress: step, done, total, since
	ImageBuilt      = "image built"          // build, a step: image; id
	BuildStep       = "build step"           // build: image, step; cached, failed; took
	BuildStepFailed = "build step failed"    // build: image, step, output
	LoadingImage    = "loading image"        // node: image; as progress: bytes, since
	ImageLoaded     = "image loaded"         // node, a step: image; bytes
	ImageHeld       = "image on the node"    // node: image, node, digest (as what was built is called), id (as pods call it)

	ReleaseApplied    = "release applied"     // deploy, a step: release, namespace, chart; revision
	ReleaseUnchanged  = "release unchanged"   // deploy: release, namespace, chart, revision
	ReleaseRolledBack = "release rolled back" // deploy, a step: release
	ReleaseRemoved    = "release uninstalled" // cleanup, a step: release, namespace
	ChartDownloaded   = "chart downloaded"    // deploy, a step: url; bytes
	CommandRun        = "command run"         // deploy, a step: release, when, command
	RolloutComplete   = "rollout complete"    // deploy, a step

	ImageVerified   = "image verified"                                    // verify, a step: image, command
	ChainChecked    = "chain checked"                                     // proof, a step: links (Links)
	ChainWhole      = "what runs is what is on the disk"                  // proof: images
	ClustersOld     = "clusters run an older image"                       // proof: clusters (DaskClusters); none is told, too
	PodsOld         = "pods run an older image and nothing replaces them" // proof: pods
	LibrariesSame   = "libraries are the same"                            // proof: places (of the images, and of the environment on this machine), libraries (how many)
	LibrariesDiffer = "libraries differ"                                  // proof: places, libraries, differences (Differences)
	VenvSynced      = "requirements installed"                            // local, a step: venv, file

	PodChanged = "pod changed"    // pod: pod, namespace, and what Pod of pkg/status has
	PodGone    = "pod gone"       // pod: pod, namespace
	PodLog     = "log"            // pod: pod, namespace, container, level, line
	PodDied    = "container died" // pod: pod, namespace, container, reason, output

	InternalError = "internal error" // by any stage: step; as a detail: stack

	ForwardListens = "listening"           // forward: target, local
	ForwardCloses  = "no longer listening" // forward: target, local
	ForwardCounts  = "connections"         // forward, as progress: target, local, open, held, sent, received
)

// ConfigStage is the stage of events that are about devloop.yaml. Messages but ConfigRead may quote
// a skaffold.yaml.
const ConfigStage = "config"

// PodStage is the stage of events that are about pods and what they print.
const PodStage = "pod"
