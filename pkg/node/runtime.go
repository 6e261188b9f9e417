package node

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/devloop/devloop/pkg/event"
)

// runtime is a container runtime, driven by a command on the node. Names of images are full: with
// registry, repository and tag.
type runtime interface {
	name() string
	// dir is where the runtime keeps its images.
	dir() string
	// names returns the names of all images that have one.
	names(ctx context.Context, n *node) ([]string, error)
	// digest returns the digest of an image, "" if there is none of that name.
	digest(ctx context.Context, n *node, name string) (string, error)
	// ids returns what the status of a pod may call the image with a name and a digest, the
	// likeliest first.
	ids(ctx context.Context, n *node, name, digest string) ([]string, error)
	// find returns a name, or an ID, of an image with one of these IDs, "" if there is none.
	find(ctx context.Context, n *node, ids []string) (string, error)
	// tag gives the image source another name.
	tag(ctx context.Context, n *node, source, target string) error
	// pull pulls source from a registry on the node's loopback. A failed pull may leave part of an
	// image under that name.
	pull(ctx context.Context, n *node, source string) error
	// untag removes a name. It is no error if the name is not there.
	untag(ctx context.Context, n *node, name string) error
	// remove is untag, but returns after the layers that nothing else uses were deleted.
	remove(ctx context.Context, n *node, name string) error
	// unpacked returns the chain IDs of layers that the node has, if not of all.
	unpacked(ctx context.Context, n *node) (map[string]bool, error)
	// processes returns lines with the ID of a container and the PID of its first process, of these
	// containers or of all. Those that do not exist have none.
	processes(ctx context.Context, n *node, ids []string) (string, error)
}

func runtimeOf(name string) (runtime, error) {
	switch name {
	case "docker", "": // minikube's default, which it did not always write down
		return dockerRuntime, nil
	case "containerd":
		return containerdRuntime{}, nil
	case "cri-o", "crio": // minikube accepts both
		return crioRuntime, nil
	}
	return nil, event.WithHint(fmt.Errorf("container runtime %q is not supported", name),
		"minikube start --container-runtime=containerd (or docker, or cri-o)")
}

// fullName is the name by which Kubernetes asks a runtime for tag.
func fullName(tag name.Tag) string {
	parsed, err := reference.ParseNormalizedNamed(tag.String())
	if err != nil {
		return tag.String() // no runtime has an image of such a name
	}
	return parsed.String()
}

// commandRuntime is Docker, or podman, whose command takes the same arguments.
type commandRuntime struct {
	runtime    string // its own name
	folder     string
	command    string
	pullFlags  []string
	digests    string   // template of references with a digest
	notFound   string   // in the error about an image that does not exist
	bareIDs    bool     // IDs have no "sha256:"
	containers []string // command that prints the ID and the PID of containers
	ended      string   // in the error about a container that does not exist
}

var (
	dockerRuntime = &commandRuntime{runtime: "docker", folder: "/var/lib/docker", command: "docker",
		digests:    "{{range .RepoDigests}}{{println .}}{{end}}",
		notFound:   "no such image",
		containers: []string{"docker", "inspect", "--type", "container", "--format", "{{.Id}} {{.State.Pid}}"},
		ended:      "no such container"}
	// CRI-O has no command of its own. It shares its images with podman, which minikube's nodes
	// have for that purpose.
	crioRuntime = &commandRuntime{runtime: "cri-o", folder: "/var/lib/containers", command: "podman",
		pullFlags: []string{"--tls-verify=false"},
		digests:   "@{{.Digest}}{{range .RepoDigests}} {{.}}{{end}}",
		notFound:  "image not known", bareIDs: true,
		containers: []string{"sh", "-c", `status=0
for id; do
  crictl inspect --output go-template --template '{{.status.id}} {{.info.pid}}{{"\n"}}' "$id" || status=$?
done
exit $status`, "sh"},
		ended: "could not find container"}
)

func (r *commandRuntime) name() string { return r.runtime }
func (r *commandRuntime) dir() string  { return r.folder }

func (r *commandRuntime) run(ctx context.Context, n *node, args ...string) (string, error) {
	return n.run(ctx, append([]string{r.command}, args...)...)
}

func (r *commandRuntime) names(ctx context.Context, n *node) ([]string, error) {
	out, err := r.run(ctx, n, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, text := range strings.Fields(out) {
		if parsed, err := reference.ParseNormalizedNamed(text); err == nil { // "<none>:<none>" is no name
			names = append(names, parsed.String())
		}
	}
	return names, nil
}

func (r *commandRuntime) inspect(ctx context.Context, n *node, name, format string) (string, error) {
	out, err := r.run(ctx, n, "image", "inspect", "--format", format, name)
	if err != nil {
		return "", unless(err, r.notFound)
	}
	return strings.TrimSpace(out), nil
}

func (r *commandRuntime) digest(ctx context.Context, n *node, name string) (string, error) {
	id, err := r.inspect(ctx, n, name, "{{.Id}}")
	if r.bareIDs && id != "" {
		id = "sha256:" + strings.TrimPrefix(id, "sha256:")
	}
	return id, err
}

// ids includes the digests of manifests: the kubelet uses them for an image that was pulled.
func (r *commandRuntime) ids(ctx context.Context, n *node, name, digest string) ([]string, error) {
	out, err := r.inspect(ctx, n, name, r.digests)
	ids := []string{digest}
	for _, ref := range strings.Fields(out) {
		if _, digest, ok := strings.Cut(ref, "@"); ok {
			ids = append(ids, digest)
		}
	}
	return ids, err
}

func (r *commandRuntime) find(ctx context.Context, n *node, ids []string) (string, error) {
	for _, id := range ids {
		ref := id
		if r.bareIDs {
			ref = strings.TrimPrefix(id, "sha256:")
		}
		found, err := r.digest(ctx, n, ref)
		if err != nil {
			return "", err
		}
		if found == id {
			return ref, nil
		}
	}
	return "", nil
}

func (r *commandRuntime) tag(ctx context.Context, n *node, source, target string) error {
	_, err := r.run(ctx, n, "tag", source, target)
	return err
}

func (r *commandRuntime) pull(ctx context.Context, n *node, source string) error {
	_, err := r.run(ctx, n, append(append([]string{"pull", "--quiet"}, r.pullFlags...), source)...)
	return err
}

func (r *commandRuntime) untag(ctx context.Context, n *node, name string) error {
	_, err := r.run(ctx, n, "image", "rm", name)
	return unless(err, r.notFound)
}

func (r *commandRuntime) remove(ctx context.Context, n *node, name string) error {
	return r.untag(ctx, n, name)
}

// unpacked asks for the layers of all images.
func (r *commandRuntime) unpacked(ctx context.Context, n *node) (map[string]bool, error) {
	chainIDs := map[string]bool{}
	out, err := r.run(ctx, n, "image", "ls", "--quiet", "--no-trunc")
	ids := strings.Fields(out)
	if err != nil || len(ids) == 0 {
		return chainIDs, err
	}
	out, err = r.run(ctx, n, append([]string{"image", "inspect", "--format",
		"{{range .RootFS.Layers}}{{.}} {{end}}"}, ids...)...)
	for line := range strings.Lines(out) {
		var diffIDs []digest.Digest
		for _, id := range strings.Fields(line) {
			diffIDs = append(diffIDs, digest.Digest(id))
		}
		for _, id := range identity.ChainIDs(diffIDs) {
			chainIDs[id.String()] = true
		}
	}
	return chainIDs, unless(err, r.notFound) // one that was removed meanwhile
}

func (r *commandRuntime) processes(ctx context.Context, n *node, ids []string) (string, error) {
	out, err := n.run(ctx, append(slices.Clone(r.containers), ids...)...)
	return out, unless(err, r.ended) // of one of them
}

// containerdRuntime uses ctr, in the namespace where the kubelet has its images.
type containerdRuntime struct{}

func (containerdRuntime) name() string { return "containerd" }
func (containerdRuntime) dir() string  { return "/var/lib/containerd" }

func ctr(ctx context.Context, n *node, args ...string) (string, error) {
	return n.run(ctx, append([]string{"ctr", "--namespace", "k8s.io"}, args...)...)
}

// names asks for names only: for anything else, ctr takes some milliseconds per image.
func (containerdRuntime) names(ctx context.Context, n *node) ([]string, error) {
	out, err := ctr(ctx, n, "images", "ls", "--quiet")
	return strings.Fields(out), err
}

func (containerdRuntime) digest(ctx context.Context, n *node, name string) (string, error) {
	_, digest, err := firstImage(ctx, n, fmt.Sprintf("name==%q", name))
	return digest, err
}

// ids begins with the digest of the configuration, which is what the kubelet uses.
func (containerdRuntime) ids(ctx context.Context, n *node, _, digest string) ([]string, error) {
	configs, err := configsOf(ctx, n, digest)
	return append(configs, digest), err
}

// configsOf returns the digests of the configurations of a manifest, or of the manifests in a list.
func configsOf(ctx context.Context, n *node, digest string) ([]string, error) {
	m, known := n.manifests.of(digest)
	if !known {
		raw, err := ctr(ctx, n, "content", "get", digest)
		if err != nil {
			return nil, err
		}
		if m, err = parseManifest([]byte(raw)); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", digest, err)
		}
		n.manifests.add(digest, m)
	}
	if m.Config != nil {
		return []string{m.Config.Digest.String()}, nil
	}
	var configs []string
	for _, child := range m.Manifests {
		if !child.MediaType.IsImage() || isAttestation(child) {
			continue
		}
		if found, err := configsOf(ctx, n, child.Digest.String()); err == nil { // other platforms may be missing
			configs = append(configs, found...)
		}
	}
	return configs, nil
}

// knownManifests are manifests that a node was asked for, by their digests: they never change.
type knownManifests struct {
	mu  sync.Mutex
	all map[string]manifest
}

// maxManifests is how many manifests are remembered, a few of which are of what is deployed.
const maxManifests = 64

func (k *knownManifests) of(digest string) (m manifest, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, known = k.all[digest]
	return m, known
}

func (k *knownManifests) add(digest string, m manifest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || len(k.all) >= maxManifests {
		k.all = map[string]manifest{}
	}
	k.all[digest] = m
}

func (containerdRuntime) find(ctx context.Context, n *node, ids []string) (string, error) {
	name, _, err := firstImage(ctx, n, "target.digest=="+ids[0])
	return name, err
}

// firstImage returns name and digest of an image that matches the filter, "" if there is none.
func firstImage(ctx context.Context, n *node, filter string) (name, digest string, err error) {
	out, err := ctr(ctx, n, "images", "ls", filter)
	if err != nil {
		return "", "", err
	}
	_, out, _ = strings.Cut(out, "\n") // the header
	if columns := strings.Fields(out); len(columns) >= 3 {
		return columns[0], columns[2], nil // REF TYPE DIGEST …
	}
	return "", "", nil
}

func (containerdRuntime) tag(ctx context.Context, n *node, source, target string) error {
	_, err := ctr(ctx, n, "images", "tag", "--force", source, target)
	return err
}

// rename is one command, for which a build waits. It is no error if the first name stays: the image
// has the other one, and a name that nobody knows keeps no more layers.
func (containerdRuntime) rename(ctx context.Context, n *node, from, to string) error {
	_, err := n.run(ctx, "sh", "-c", `ctr --namespace k8s.io images tag --force "$1" "$2" &&
{ ctr --namespace k8s.io images rm "$1" || true; }`, "sh", from, to)
	return err
}

func (containerdRuntime) pull(ctx context.Context, n *node, source string) error {
	_, err := ctr(ctx, n, "images", "pull", "--plain-http", source)
	return err
}

// importArchive imports an OCI layout in a tar. Layers that the node has unpacked may be missing.
func (r containerdRuntime) importArchive(ctx context.Context, n *node, archive io.Reader, target string) error {
	_, err := n.transport.run(ctx, archive, "ctr", "--namespace", "k8s.io", "images", "import", "-")
	if err == nil {
		return nil
	}
	return withCleanup(ctx, err, func(ctx context.Context) error { return r.untag(ctx, n, target) })
}

// unpacked returns the chain IDs of the layers that the node has unpacked. Their blobs may be gone:
// containerd is often configured to drop them (discard_unpacked_layers).
func (containerdRuntime) unpacked(ctx context.Context, n *node) (map[string]bool, error) {
	out, err := ctr(ctx, n, "snapshots", "ls")
	chainIDs := map[string]bool{}
	for line := range strings.Lines(out) {
		columns := strings.Fields(line) // KEY PARENT KIND
		if len(columns) > 1 && columns[len(columns)-1] == "Committed" {
			chainIDs[columns[0]] = true
		}
	}
	return chainIDs, err
}

func (containerdRuntime) untag(ctx context.Context, n *node, name string) error {
	_, err := ctr(ctx, n, "images", "rm", name)
	return unless(err, "not found")
}

func (containerdRuntime) processes(ctx context.Context, n *node, _ []string) (string, error) {
	return ctr(ctx, n, "tasks", "ls") // TASK PID STATUS
}

// remove also removes the name that the kubelet's side of containerd gave the image ("sha256:" and
// the digest of its configuration) if that is the only one left, since it would keep the layers.
func (r containerdRuntime) remove(ctx context.Context, n *node, name string) error {
	digest, err := r.digest(ctx, n, name)
	if err != nil || digest == "" {
		return err
	}
	if _, err := ctr(ctx, n, "images", "rm", "--sync", name); err != nil {
		return unless(err, "not found")
	}
	out, err := ctr(ctx, n, "images", "ls", "--quiet", "target.digest=="+digest)
	if err != nil {
		return err
	}
	others := strings.Fields(out)
	isUsed := func(name string) bool { return !strings.HasPrefix(name, "sha256:") }
	if len(others) == 0 || slices.ContainsFunc(others, isUsed) {
		return nil
	}
	_, err = ctr(ctx, n, append([]string{"images", "rm", "--sync"}, others...)...)
	return unless(err, "not found")
}

// unless drops an error whose text contains harmless.
func unless(err error, harmless string) error {
	if err == nil || strings.Contains(strings.ToLower(err.Error()), harmless) {
		return nil
	}
	return err
}
