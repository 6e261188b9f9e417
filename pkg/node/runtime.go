// Container runtimes, by the command that each brings along in a node: what images they hold, and how they get one.
package node

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/devloop/devloop/pkg/event"
)

// runtime is one container runtime, driven by commands.
type runtime interface {
	// name is the runtime's own, and dir where it keeps its images.
	name() string
	dir() string
	// names returns the full names, with registry and repository, of all images that have one.
	names(ctx context.Context, n *Node) ([]string, error)
	// digest returns that of the image with a full name, "" if there is none.
	digest(ctx context.Context, n *Node, name string) (string, error)
	// ids returns what the kubelet may call the image with a name and a digest, as in the status of pods: the likeliest first.
	ids(ctx context.Context, n *Node, name, digest string) ([]string, error)
	// find returns a name for an image that the node holds already, under whatever name; "" if there is none.
	find(ctx context.Context, n *Node, id identity) (string, error)
	// tag gives the image with the name source another one.
	tag(ctx context.Context, n *Node, source, target string) error
	// pull gets the image at source, a registry on the node's own loopback. If it fails, nothing or half of an image may be left under that name.
	pull(ctx context.Context, n *Node, source string) error
	// untag takes a name away. It is no error if the name is not there.
	untag(ctx context.Context, n *Node, name string) error
	// remove is untag, and returns when what nothing uses any more is gone.
	remove(ctx context.Context, n *Node, name string) error
}

func runtimeOf(name string) (runtime, error) {
	switch name {
	case "docker", "": // minikube's default before it began to write one down
		return dockerRuntime{}, nil
	case "containerd":
		return containerdRuntime{}, nil
	case "cri-o", "crio": // minikube takes both
		return crioRuntime{}, nil
	}
	return nil, event.WithHint(fmt.Errorf("container runtime %q is not supported", name),
		"minikube start --container-runtime=containerd (or docker, or cri-o)")
}

// fullName is the name under which Kubernetes asks a runtime for tag.
func fullName(tag name.Tag) (string, error) {
	parsed, err := reference.ParseNormalizedNamed(tag.String())
	if err != nil {
		return "", err
	}
	return parsed.String(), nil
}

type dockerRuntime struct{}

func (dockerRuntime) name() string { return "docker" }
func (dockerRuntime) dir() string  { return "/var/lib/docker" }

func (dockerRuntime) names(ctx context.Context, n *Node) ([]string, error) {
	out, err := n.run(ctx, "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		if parsed, err := reference.ParseNormalizedNamed(strings.TrimSpace(line)); err == nil { // "<none>:<none>" is no name
			names = append(names, parsed.String())
		}
	}
	return names, nil
}

func (dockerRuntime) digest(ctx context.Context, n *Node, name string) (string, error) {
	out, err := n.run(ctx, "docker", "image", "inspect", "--format", "{{.Id}}", name)
	return strings.TrimSpace(out), unless(err, "no such image")
}

// ids has those of registries, too, where the image was pulled from one.
func (dockerRuntime) ids(ctx context.Context, n *Node, name, digest string) ([]string, error) {
	out, err := n.run(ctx, "docker", "image", "inspect", "--format", "{{range .RepoDigests}}{{println .}}{{end}}", name)
	return append([]string{digest}, digests(out)...), unless(err, "no such image")
}

// digests are those of references with one, name@sha256:….
func digests(text string) (found []string) {
	for _, ref := range strings.Fields(text) {
		if _, digest, ok := strings.Cut(ref, "@"); ok {
			found = append(found, digest)
		}
	}
	return found
}

func (r dockerRuntime) find(ctx context.Context, n *Node, id identity) (string, error) {
	for _, digest := range id { // of its classic store a configuration's, of its containerd store a manifest's
		if held, err := r.digest(ctx, n, digest); held == digest || err != nil {
			return held, err
		}
	}
	return "", nil
}

func (dockerRuntime) tag(ctx context.Context, n *Node, source, target string) error {
	_, err := n.run(ctx, "docker", "tag", source, target)
	return err
}

func (dockerRuntime) pull(ctx context.Context, n *Node, source string) error {
	_, err := n.run(ctx, "docker", "pull", "--quiet", source)
	return err
}

func (dockerRuntime) untag(ctx context.Context, n *Node, name string) error {
	_, err := n.run(ctx, "docker", "image", "rm", name)
	return unless(err, "no such image")
}

func (r dockerRuntime) remove(ctx context.Context, n *Node, name string) error {
	return r.untag(ctx, n, name)
}

type containerdRuntime struct{}

func (containerdRuntime) name() string { return "containerd" }
func (containerdRuntime) dir() string  { return "/var/lib/containerd" }

// ctr works in the namespace in which the kubelet keeps its images.
func ctr(args ...string) []string {
	return append([]string{"ctr", "--namespace", "k8s.io", "images"}, args...)
}

// names asks for nothing else: what ctr tells of an image besides takes it some milliseconds each.
func (containerdRuntime) names(ctx context.Context, n *Node) ([]string, error) {
	out, err := n.run(ctx, ctr("ls", "--quiet")...)
	return strings.Fields(out), err
}

func (containerdRuntime) digest(ctx context.Context, n *Node, name string) (string, error) {
	_, digest, err := firstImage(ctx, n, fmt.Sprintf("name==%q", name))
	return digest, err
}

// ids begins with the digest of the image's configuration: the kubelet's side of containerd calls an image so.
func (containerdRuntime) ids(ctx context.Context, n *Node, _, digest string) ([]string, error) {
	configs, err := configsOf(ctx, n, digest)
	return append(configs, digest), err
}

// configsOf reads from containerd's content what the configurations of a manifest, or of the manifests of a list, are.
func configsOf(ctx context.Context, n *Node, digest string) ([]string, error) {
	out, err := n.run(ctx, "ctr", "--namespace", "k8s.io", "content", "get", digest)
	if err != nil {
		return nil, err
	}
	manifest, err := v1.ParseManifest(strings.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", digest, err)
	}
	if manifest.Config.Digest.Hex != "" {
		return []string{manifest.Config.Digest.String()}, nil
	}
	var configs []string
	children, err := images([]byte(out)) // a list need not say that it is one
	for _, child := range children {
		found, childErr := configsOf(ctx, n, child.String())
		if childErr == nil { // those for other platforms need not be there
			configs = append(configs, found...)
		}
	}
	return configs, err
}

// namesOf returns all names of the image with a digest.
func namesOf(ctx context.Context, n *Node, digest string) ([]string, error) {
	out, err := n.run(ctx, ctr("ls", "--quiet", "target.digest=="+digest)...)
	return strings.Fields(out), err
}

// isID tells a name that the kubelet's side of containerd gives by itself.
func isID(name string) bool { return strings.HasPrefix(name, "sha256:") }

func (containerdRuntime) find(ctx context.Context, n *Node, id identity) (string, error) {
	name, _, err := firstImage(ctx, n, "target.digest=="+id[0])
	return name, err
}

// firstImage returns name and digest of one that fits the filter, "" if there is none.
func firstImage(ctx context.Context, n *Node, filter string) (name, digest string, err error) {
	out, err := n.run(ctx, ctr("ls", filter)...)
	if err != nil {
		return "", "", err
	}
	_, out, _ = strings.Cut(out, "\n") // the names of the columns
	if columns := strings.Fields(out); len(columns) >= 3 {
		return columns[0], columns[2], nil // REF TYPE DIGEST …
	}
	return "", "", nil
}

func (containerdRuntime) tag(ctx context.Context, n *Node, source, target string) error {
	_, err := n.run(ctx, ctr("tag", "--force", source, target)...)
	return err
}

func (containerdRuntime) pull(ctx context.Context, n *Node, source string) error {
	_, err := n.run(ctx, ctr("pull", "--plain-http", source)...)
	return err
}

// load takes an image from an archive in the OCI layout, which need not hold layers that the node has unpacked.
func (r containerdRuntime) load(ctx context.Context, n *Node, archive io.Reader, target string) error {
	_, err := n.way.run(ctx, archive, ctr("import", "-")...)
	if err == nil {
		return nil
	}
	return withCleanup(ctx, err, func(ctx context.Context) error { return r.untag(ctx, n, target) })
}

// unpacked returns the chain IDs of the layers that the node has unpacked. Their blobs may be gone: containerd is often told to drop them
// (discard_unpacked_layers).
func (containerdRuntime) unpacked(ctx context.Context, n *Node) (map[string]bool, error) {
	out, err := n.run(ctx, "ctr", "--namespace", "k8s.io", "snapshots", "ls")
	chains := map[string]bool{}
	for line := range strings.Lines(out) {
		if columns := strings.Fields(line); len(columns) > 1 && columns[len(columns)-1] == "Committed" { // KEY PARENT KIND
			chains[columns[0]] = true
		}
	}
	return chains, err
}

func (containerdRuntime) untag(ctx context.Context, n *Node, name string) error {
	_, err := n.run(ctx, ctr("rm", name)...)
	return unless(err, "not found")
}

// remove takes away the name that the kubelet's side of containerd gives an image, too ("sha256:" and the digest of its configuration), where
// that is the last one: it would keep the layers.
func (r containerdRuntime) remove(ctx context.Context, n *Node, name string) error {
	digest, err := r.digest(ctx, n, name)
	if err != nil || digest == "" {
		return err
	}
	if _, err := n.run(ctx, ctr("rm", "--sync", name)...); err != nil {
		return unless(err, "not found")
	}
	others, err := namesOf(ctx, n, digest)
	if err != nil {
		return err
	}
	if len(others) == 0 || slices.ContainsFunc(others, func(other string) bool { return !isID(other) }) {
		return nil
	}
	_, err = n.run(ctx, ctr(append([]string{"rm", "--sync"}, others...)...)...)
	return unless(err, "not found")
}

// crioRuntime is CRI-O, which has no command of its own: it shares its images with podman, which minikube's nodes bring along for that.
type crioRuntime struct{}

func (crioRuntime) name() string { return "cri-o" }
func (crioRuntime) dir() string  { return "/var/lib/containers" }

func (crioRuntime) names(ctx context.Context, n *Node) ([]string, error) {
	out, err := n.run(ctx, "podman", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	return strings.Fields(out), err
}

func (crioRuntime) digest(ctx context.Context, n *Node, name string) (string, error) {
	out, err := n.run(ctx, "podman", "image", "inspect", "--format", "{{.Id}}", name)
	if id := strings.TrimSpace(out); id != "" && err == nil {
		return "sha256:" + strings.TrimPrefix(id, "sha256:"), nil
	}
	return "", unless(err, "image not known")
}

// ids has the digests of its manifests, too: CRI-O calls an image by one where it knows it from a registry.
func (crioRuntime) ids(ctx context.Context, n *Node, name, digest string) ([]string, error) {
	out, err := n.run(ctx, "podman", "image", "inspect", "--format", "@{{.Digest}}{{range .RepoDigests}} {{.}}{{end}}", name)
	return append([]string{digest}, digests(out)...), unless(err, "image not known")
}

func (r crioRuntime) find(ctx context.Context, n *Node, id identity) (string, error) {
	for _, digest := range id {
		if held, err := r.digest(ctx, n, strings.TrimPrefix(digest, "sha256:")); held == digest || err != nil {
			return strings.TrimPrefix(held, "sha256:"), err
		}
	}
	return "", nil
}

func (crioRuntime) tag(ctx context.Context, n *Node, source, target string) error {
	_, err := n.run(ctx, "podman", "tag", source, target)
	return err
}

func (crioRuntime) pull(ctx context.Context, n *Node, source string) error {
	_, err := n.run(ctx, "podman", "pull", "--quiet", "--tls-verify=false", source)
	return err
}

func (crioRuntime) untag(ctx context.Context, n *Node, name string) error {
	_, err := n.run(ctx, "podman", "rmi", name)
	return unless(err, "image not known")
}

func (r crioRuntime) remove(ctx context.Context, n *Node, name string) error {
	return r.untag(ctx, n, name)
}

// unless drops an error that only says what is true anyway.
func unless(err error, harmless string) error {
	if err == nil || strings.Contains(strings.ToLower(err.Error()), harmless) {
		return nil
	}
	return err
}
