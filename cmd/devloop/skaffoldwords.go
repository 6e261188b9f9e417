package main

// What skaffold calls its commands and flags. Those that devloop does not have say how it does the
// same.

import "fmt"

// skaffoldCommands are commands of skaffold that devloop does not have.
var skaffoldCommands = map[string]string{
	"apply":    "devloop run renders and deploys in one; kubectl apply -f takes manifests that are rendered already",
	"config":   "devloop needs no settings; ~/.config/devloop/config.yaml allows contexts, see devloop --help",
	"credits":  "licenses are in the folder of each Go module that devloop is built from",
	"debug":    "start the debugger in the image, and forward its port: forwards in the configuration",
	"diagnose": "devloop doctor checks the configuration and the machine",
	"exec":     "run the command by itself, or name it in hooks in the configuration",
	"filter":   "devloop render prints the manifests with the images that were built",
	"fix":      "older schemas are read as they are; devloop init --from skaffold.yaml writes a devloop.yaml",
	"inspect":  "devloop init --from skaffold.yaml says what is taken; devloop status --json is what runs",
	"lint":     "devloop doctor checks the configuration and the Dockerfiles",
	"lsp":      "devloop schema prints the JSON schema for editors",
	"survey":   "there is no survey",
	"test":     "verify in the configuration tries each new image before it is deployed, in every run: devloop run",
	"verify":   "verify in the configuration tries each new image before it is deployed, in every run: devloop run",
}

const (
	alwaysSo  = "leave it out: devloop always does so"
	notNeeded = "leave it out: devloop has no such step"
	toNodes   = "leave it out: the nodes get images directly; where they cannot: --set push=registry.example/team"
)

// skaffoldFlags are flags of skaffold that devloop does not have, by their long and short names.
var skaffoldFlags = map[string]string{
	"assume-yes":                       "leave it out: --allow-context answers the one question that devloop asks",
	"auto-build":                       "leave it out; the key p pauses watching, r runs now; devloop run runs once",
	"auto-create-config":               notNeeded,
	"auto-deploy":                      "leave it out; the key p pauses watching, r runs now; devloop run runs once",
	"auto-sync":                        "leave it out: an image is built again, its files are not copied",
	"build-artifacts":                  "leave it out: no image is built twice",
	"build-concurrency":                "leave it out: images are built side by side",
	"build-image":                      "name releases: devloop run web builds the images that it needs",
	"cache-artifacts":                  alwaysSo + ", by a hash of all inputs of an image",
	"cache-file":                       "leave it out: the nodes and Docker are asked for the images that they have",
	"check-cluster-node-platforms":     alwaysSo,
	"color":                            "leave it out; NO_COLOR=1 in the environment leaves colors out",
	"config":                           "leave it out: devloop has no such file",
	"default-repo":                     toNodes,
	"detect-minikube":                  alwaysSo,
	"digest-source":                    "leave it out: images that are pushed are deployed by their digest",
	"disable-multi-platform-build":     alwaysSo,
	"dry-run":                          "devloop diff; and each run tries its writes on the API server first",
	"enable-gke-arm-node-toleration":   notNeeded,
	"enable-platform-node-affinity":    notNeeded,
	"event-log-file":                   "--log-file with --log-format json",
	"file-output":                      "devloop build --json",
	"filename":                         "-f, --file",
	"force":                            "leave it out: what cannot be changed in place is reported, with what to do",
	"hydration-dir":                    notNeeded,
	"insecure-registry":                "write http:// before the registry: --set push=http://...",
	"iterative-status-check":           "leave it out: a release is awaited where another one, or a hook, needs it",
	"keep-running-on-failure":          alwaysSo + ": the loop goes on after a failed run",
	"kubeconfig":                       "KUBECONFIG in the environment",
	"label":                            "leave it out: a label belongs into the chart or the manifests",
	"load-images":                      alwaysSo,
	"cloud-run-location":               "leave it out: devloop deploys to Kubernetes only",
	"cloud-run-project":                "leave it out: devloop deploys to Kubernetes only",
	"env-file":                         "the environment, or a skaffold.env beside the skaffold.yaml",
	"interactive":                      "leave it out: devloop asks only in a terminal",
	"minikube-profile":                 "--kube-context with the name of the profile",
	"mute-logs":                        "-q logs less",
	"namespace":                        "each release has its own: --set 'releases[web].namespace=demo'",
	"no-prune":                         "leave it out: --set keepImages=20 keeps more old images",
	"no-prune-children":                "leave it out: --set keepImages=20 keeps more old images",
	"offline":                          "leave it out: without network, what is known already is used",
	"output":                           "devloop build --json; devloop render > file",
	"platform":                         "images have it: --set images.web.platform=linux/arm64",
	"port-forward":                     "leave it out: what forwards in the configuration names is always open",
	"profile-auto-activation":          "leave it out; -p -name leaves out a profile",
	"propagate-profiles":               "leave it out",
	"protocols":                        notNeeded,
	"push":                             toNodes,
	"remote-cache-dir":                 notNeeded,
	"render-only":                      "devloop render",
	"render-output":                    "devloop render > file",
	"resource-selector-rules-file":     "leave it out: images in custom resources are found",
	"rpc-http-port":                    "--page-port: the page, and its metrics; devloop events follows the log",
	"rpc-port":                         "--page-port: the page, and its metrics; devloop events follows the log",
	"set-value-file":                   "further files are merged over the first one: -f devloop.yaml -f mine.yaml",
	"skip-render":                      notNeeded,
	"skip-tests":                       "leave verify out: --set verify=null",
	"status-check":                     alwaysSo + "; timeouts.rollout bounds it: --set timeouts.rollout=10m",
	"sync-remote-cache":                notNeeded,
	"tag":                              "leave it out: a tag is a hash of all inputs of the image",
	"tail":                             "--logs, or the key l while devloop runs",
	"timestamps":                       alwaysSo,
	"tolerate-failures-until-deadline": "leave it out: devloop waits while a failure may pass by itself",
	"toot":                             "leave it out: devloop makes no sound",
	"trigger":                          "--watch poll, or --watch events; the key p pauses watching, and r runs now",
	"update-check":                     notNeeded,
	"verbosity":                        "-v logs more, -q less",
	"wait-for-connection":              notNeeded,
	"wait-for-deletions":               alwaysSo,
	"wait-for-deletions-delay":         alwaysSo,
	"wait-for-deletions-max":           alwaysSo,
	"watch-image":                      "name releases, and the images that they need are watched: devloop web",
	"watch-poll-interval":              "leave it out: --watch poll polls as often as the machine allows",

	"a": "build-artifacts", "b": "build-image", "c": "config", "d": "default-repo", "i": "watch-poll-interval",
	"l": "label", "n": "namespace", "o": "output", "t": "tag", "w": "watch-image",
}

// skaffoldFlagHint says how devloop does what a flag of skaffold does, "" if it has no such flag.
func skaffoldFlagHint(name string) string {
	hint := skaffoldFlags[name]
	if long, isShort := skaffoldFlags[hint]; isShort {
		return fmt.Sprintf("skaffold's --%s: %s", hint, long)
	}
	return hint
}
