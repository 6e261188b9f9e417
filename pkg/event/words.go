package event

// Messages that more than their sender understands: pkg/status does, or the console. All others
// stand where they are sent, for people alone.
const (
	DevloopStarted = "devloop started"
	ClusterChosen  = "cluster"
	ClusterAway    = "cluster cannot be used"
	ClusterBack    = "cluster answers again"
	CleanupStarts  = "removing what was deployed"
	Paused         = "paused, changes wait"
	Resumed        = "resumed"
	PageServed     = "page"
	ConfigRead     = "devloop.yaml read"

	ChangeSeen      = "change seen"
	RunStarts       = "run starts"
	RunNarrowed     = "run of some releases"
	RunComplete     = "run complete"
	InputsHashed    = "inputs hashed"
	NodesAsked      = "nodes asked"
	PlatformAnswers = "platform answers"

	ImageFound      = "image found, tagging"
	BuildingImage   = "building image"
	ImageBuilt      = "image built"
	BuildStep       = "build step"
	BuildStepFailed = "build step failed"
	LoadingImage    = "loading image"
	ImageLoaded     = "image loaded"
	ImageOnNode     = "image on the node"
	ImageVerified   = "image verified"

	FilesSynced  = "files synced"                               // into the containers of an image
	SyncRefused  = "files cannot be synced, the image is built" // some containers cannot get them
	ImageRenewed = "image of the synced files is ready"         // for pods that start later

	ReleaseApplied     = "release applied"
	ReleaseUnchanged   = "release unchanged"
	ReleaseRolledBack  = "release rolled back"
	ReleaseUninstalled = "release uninstalled"
	ChartDownloaded    = "chart downloaded"
	CommandRun         = "command run"
	RolloutComplete    = "rollout complete"

	ChainChecked     = "chain checked"
	ChainIntact      = "what runs is what is on the disk"
	ClustersOutdated = "clusters run an older image"

	ClusterSeen  = "Dask cluster"       // whenever anything about it changed
	ClusterUp    = "Dask cluster is up" // its scheduler can be reached
	ClusterWaits = "Dask cluster waits" // its scheduler or its workers do, with the reason
	ClusterGone  = "Dask cluster gone"  // stopped, failed or deleted

	PodsOutdated    = "pods run an older image and nothing replaces them"
	LibrariesSame   = "libraries are the same"
	LibrariesDiffer = "libraries differ"
	VenvSynced      = "requirements installed"
	LocalPython     = "Python environment of this machine"
	CRDsApplied     = "CRDs applied"

	PodChanged    = "pod changed"
	PodGone       = "pod gone"
	PodLog        = "log"
	ContainerDied = "container died"

	ForwardListens = "listening"
	ForwardCloses  = "no longer listening"
	ForwardCounts  = "connections"
	ForwardReady   = "forward ready"
	ForwardWaits   = "no ready pod, new connections wait"
	ForwardFails   = "ready pod cannot be reached, new connections wait"
	ForwardLeaves  = "pod gets no new connections"

	InternalError = "internal error" // of any stage
)

// Stages that more than their package knows.
const (
	ConfigStage = "config" // about devloop.yaml; messages but ConfigRead may quote a skaffold.yaml
	PodStage    = "pod"    // about pods and what they print
)

// vocabulary has the stage that sends a message, and its payload. Where a step has another payload
// until it succeeds, that is start.
var vocabulary = map[string]struct {
	stage          string
	payload, start any
}{
	DevloopStarted: {"loop", DevloopStart{}, nil},
	ClusterChosen:  {"devloop", nil, nil},
	ClusterAway:    {"devloop", Cluster{}, nil},
	ClusterBack:    {"devloop", Cluster{}, nil},
	CleanupStarts:  {"cleanup", nil, nil},
	Paused:         {"devloop", nil, nil},
	Resumed:        {"devloop", nil, nil},
	PageServed:     {"devloop", Page{}, nil},
	ConfigRead:     {ConfigStage, Config{}, nil},

	ChangeSeen:      {"loop", nil, nil},
	RunStarts:       {"loop", RunStart{}, nil},
	RunNarrowed:     {"loop", RunScope{}, nil},
	RunComplete:     {"loop", RunEnd{}, nil},
	InputsHashed:    {"build", nil, nil},
	NodesAsked:      {"node", nil, nil},
	PlatformAnswers: {"forward", Answer{}, nil},

	ImageFound:      {"build", FoundImage{}, nil},
	BuildingImage:   {"build", Build{}, nil},
	ImageBuilt:      {"build", Build{}, nil},
	BuildStep:       {"build", Instruction{}, nil},
	BuildStepFailed: {"build", Instruction{}, nil},
	LoadingImage:    {"node", Loading{}, nil},
	ImageLoaded:     {"node", Loaded{}, Loading{}},
	ImageOnNode:     {"node", NodeImage{}, nil},
	ImageVerified:   {"verify", Verification{}, nil},

	FilesSynced:  {"sync", SyncedFiles{}, nil},
	SyncRefused:  {"sync", UnsyncedContainer{}, nil},
	ImageRenewed: {"sync", RenewedImage{}, nil},

	ReleaseApplied:     {"deploy", Release{}, nil},
	ReleaseUnchanged:   {"deploy", Release{}, nil},
	ReleaseRolledBack:  {"deploy", Release{}, nil},
	ReleaseUninstalled: {"cleanup", Release{}, nil},
	ChartDownloaded:    {"deploy", Download{}, nil},
	CommandRun:         {"deploy", Command{}, nil},
	RolloutComplete:    {"deploy", Rollout{}, nil},

	ChainChecked:     {"proof", Chain{}, nil},
	ChainIntact:      {"proof", nil, nil},
	ClustersOutdated: {"proof", OutdatedClusters{}, nil},
	PodsOutdated:     {"proof", nil, nil},

	ClusterSeen:  {"dask", DaskCluster{}, nil},
	ClusterUp:    {"dask", DaskCluster{}, nil},
	ClusterWaits: {"dask", DaskCluster{}, nil},
	ClusterGone:  {"dask", DaskClusterEnd{}, nil},

	LibrariesSame:   {"proof", Comparison{}, nil},
	LibrariesDiffer: {"proof", Comparison{}, nil},
	VenvSynced:      {"local", nil, nil},

	PodChanged:    {PodStage, Pod{}, nil},
	PodGone:       {PodStage, PodRef{}, nil},
	PodLog:        {PodStage, LogLine{}, nil},
	ContainerDied: {PodStage, ContainerDeath{}, nil},

	ForwardListens: {"forward", Address{}, nil},
	ForwardCloses:  {"forward", Address{}, nil},
	ForwardCounts:  {"forward", Forward{}, nil},
	ForwardReady:   {"forward", Forward{}, nil},
	ForwardWaits:   {"forward", Forward{}, nil},
	ForwardFails:   {"forward", Forward{}, nil},
	ForwardLeaves:  {"forward", Forward{}, nil},
}

// payloadOf returns a value of the type of such an event's payload, nil if it has none.
func payloadOf(message string, phase Phase) any {
	word := vocabulary[message]
	if phase != Succeeded && word.start != nil {
		return word.start
	}
	return word.payload
}
