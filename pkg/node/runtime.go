// Container runtimes, by the command that each brings along in a node: what images they hold, and how they pull one.
package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/event"
)

// runtime is one container runtime, driven over ssh.
type runtime interface {
	// name is the runtime's own, and that of its folder in /var/lib.
	name() string
	// names returns the full names, with registry and repository, of all images that have one.
	names(ctx context.Context, n *Node) ([]string, error)
	// digest returns that of the image with a full name, "" if there is none.
	digest(ctx context.Context, n *Node, name string) (string, error)
	// pull makes the image at source, a registry on the node's own loopback, available under the name target.
	pull(ctx context.Context, n *Node, source, target string) error
	// remove takes a name away. It is no error if the name is not there.
	remove(ctx context.Context, n *Node, target string) error
}

func runtimeOf(name string) (runtime, error) {
	switch name {
	case "docker", "": // minikube's default before it began to write one down
		return dockerRuntime{}, nil
	case "containerd":
		return containerdRuntime{}, nil
	}
	return nil, event.WithHint(fmt.Errorf("container runtime %q is not supported", name),
		"minikube start --container-runtime=containerd (or docker)")
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

func (dockerRuntime) names(ctx context.Context, n *Node) ([]string, error) {
	out, err := n.run(ctx, "sudo", "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
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
	out, err := n.run(ctx, "sudo", "docker", "image", "inspect", "--format", "{{.Id}}", name)
	return strings.TrimSpace(out), unless(err, "no such image")
}

func (r dockerRuntime) pull(ctx context.Context, n *Node, source, target string) error {
	_, err := n.run(ctx, "sudo", "docker", "pull", "--quiet", source)
	if err == nil {
		_, err = n.run(ctx, "sudo", "docker", "tag", source, target)
	}
	return withCleanup(ctx, err, func(ctx context.Context) error { return r.remove(ctx, n, source) })
}

func (dockerRuntime) remove(ctx context.Context, n *Node, target string) error {
	_, err := n.run(ctx, "sudo", "docker", "image", "rm", target)
	return unless(err, "no such image")
}

type containerdRuntime struct{}

func (containerdRuntime) name() string { return "containerd" }

// ctr works in the namespace in which the kubelet keeps its images.
func ctr(args ...string) []string {
	return append([]string{"sudo", "ctr", "--namespace", "k8s.io", "images"}, args...)
}

// names asks for nothing else: what ctr tells of an image besides takes it some milliseconds each.
func (containerdRuntime) names(ctx context.Context, n *Node) ([]string, error) {
	out, err := n.run(ctx, ctr("ls", "--quiet")...)
	return strings.Fields(out), err
}

func (containerdRuntime) digest(ctx context.Context, n *Node, name string) (string, error) {
	out, err := n.run(ctx, ctr("ls", fmt.Sprintf("name==%q", name))...)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if columns := strings.Fields(line); len(columns) >= 3 && columns[0] == name { // REF TYPE DIGEST …
			return columns[2], nil
		}
	}
	return "", nil
}

func (r containerdRuntime) pull(ctx context.Context, n *Node, source, target string) error {
	_, err := n.run(ctx, ctr("pull", "--plain-http", source)...)
	if err == nil {
		_, err = n.run(ctx, ctr("tag", "--force", source, target)...)
	}
	// A failed pull, too, can leave the name behind, with nothing or half of an image under it.
	return withCleanup(ctx, err, func(ctx context.Context) error { return r.remove(ctx, n, source) })
}

func (containerdRuntime) remove(ctx context.Context, n *Node, target string) error {
	_, err := n.run(ctx, ctr("rm", target)...)
	return unless(err, "not found")
}

// unless drops an error that only says what is true anyway.
func unless(err error, harmless string) error {
	if err == nil || strings.Contains(strings.ToLower(err.Error()), harmless) {
		return nil
	}
	return err
}
