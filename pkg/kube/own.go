package kube

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// devloop writes to a cluster on the user's own machine, and to any other one only by the user's
// permission. Proof that a cluster is the user's own is one of these: minikube, kind or k3d serve
// its API server's address on this machine (pkg/node finds that), it belongs to a desktop
// application, or all its nodes run on this machine's kernel. A loopback address proves nothing,
// because tunnels to other clusters end there, and neither does the name of a context. An address
// behind a proxy belongs to the proxy's network, so nothing counts as proof there.

// NotLocalError is the error for a cluster that nothing proves to be on this machine.
type NotLocalError struct {
	Target Target
	Why    error // what was found instead of a proof
}

func (e *NotLocalError) Error() string {
	return fmt.Sprintf("kube context %q at %s is not known to be on this machine: %v",
		e.Target.Context, e.Target.Server, e.Why)
}

func (e *NotLocalError) Unwrap() error { return e.Why }

// mostNodes is how many nodes a cluster on one machine may have, and so bounds the answer.
const mostNodes = 100

// Target is where a kube context leads.
type Target struct {
	Context string // its name
	Server  string // URL of the API server, as the kubeconfig has it
	Proxy   string // URL of the proxy that requests go through, without its password; "" for none

	ProxyFrom string // what names the proxy: proxyURL, or a variable of the environment
}

// Basis is a kind of grounds.
type Basis string

// The first five prove that a cluster is on this machine, the others are the user's permission.
const (
	Minikube Basis = "minikube" // Name: of the profile
	Kind     Basis = "kind"     // Name: of the cluster
	K3d      Basis = "k3d"      // Name: of the cluster
	Desktop  Basis = "desktop"  // Name: of the application
	BootID   Basis = "boot ID"  // Name: of the node, or of all of them
	Flag     Basis = "flag"     // Name: of the flag, or of the environment variable
	Settings Basis = "settings" // Name: path of the user's settings
	Answer   Basis = "answer"   // Name: the day of the answer
)

// Grounds are why devloop may write to a cluster. The zero value stands for none.
type Grounds struct {
	Basis Basis
	Name  string
}

func (g Grounds) String() string {
	switch g.Basis {
	case Minikube:
		return "the minikube profile " + g.Name
	case Kind, K3d:
		return fmt.Sprintf("the %s cluster %s", g.Basis, g.Name)
	case Desktop:
		return "the cluster of " + g.Name
	case BootID:
		return "runs on this machine's kernel: " + g.Name
	case Flag, Settings:
		return "allowed by " + g.Name
	case Answer:
		return "allowed for this folder on " + g.Name
	}
	return string(g.Basis)
}

// NodeLister lists the nodes of a cluster, as client-go's CoreV1().Nodes() does.
type NodeLister interface {
	List(ctx context.Context, options metav1.ListOptions) (*corev1.NodeList, error)
}

// ProveOwn returns what proves that the target is a cluster on this machine. served says what is
// known to serve its address here. If that is nothing, the cluster is asked for its nodes, once.
// The error is a *NotLocalError.
func ProveOwn(ctx context.Context, t Target, served Grounds, nodes NodeLister) (Grounds, error) {
	if t.Proxy != "" {
		return Grounds{}, t.notLocal("requests to it go through the proxy %s", t.Proxy)
	}
	if served != (Grounds{}) {
		return served, nil
	}
	list, err := listNodes(ctx, nodes)
	const unproven = "neither minikube nor kind nor k3d serves this address here, and "
	switch {
	case err != nil:
		return Grounds{}, t.notLocal(unproven+"its nodes cannot be read: %w", err)
	case len(list.Items) == 0:
		return Grounds{}, t.notLocal(unproven + "it has no nodes")
	case list.Continue != "" || len(list.Items) > mostNodes:
		return Grounds{}, t.notLocal(unproven+"it has more than %d nodes", mostNodes)
	}
	if application := desktop(t, list.Items, runtime.GOOS); application != "" {
		return Grounds{Desktop, application}, nil
	}
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" { // set by the kubelet
		return Grounds{}, t.notLocal(unproven + "devloop runs in a pod, which shares its kernel")
	}
	here := bootID()
	for _, node := range list.Items {
		if here == "" || strings.TrimSpace(node.Status.NodeInfo.BootID) != here {
			return Grounds{}, t.notLocal(unproven+"its node %q does not run on this machine's kernel", node.Name)
		}
	}
	if len(list.Items) == 1 {
		return Grounds{BootID, "node " + list.Items[0].Name}, nil
	}
	return Grounds{BootID, fmt.Sprintf("all %d nodes", len(list.Items))}, nil
}

// BootIDs returns the IDs of the kernels that a cluster's nodes run on.
func BootIDs(ctx context.Context, nodes NodeLister) ([]string, error) {
	list, err := listNodes(ctx, nodes)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(list.Items))
	for i, node := range list.Items {
		ids[i] = strings.TrimSpace(node.Status.NodeInfo.BootID)
	}
	return ids, nil
}

func listNodes(ctx context.Context, nodes NodeLister) (*corev1.NodeList, error) {
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	return nodes.List(ctx, metav1.ListOptions{Limit: mostNodes})
}

func (t Target) notLocal(why string, args ...any) error {
	return &NotLocalError{t, fmt.Errorf(why, args...)}
}

// bootID is the kernel's random UUID of this boot, "" on systems other than Linux. A kubelet
// reports the same file's content as its node's status.nodeInfo.bootID.
func bootID() string {
	content, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

// application is a desktop application that runs a cluster in a virtual machine, whose kernel is
// not this machine's. Three things have to agree: the context's name and the address, which the
// application writes into the kubeconfig, and the names of all nodes, which the API server reports.
// A forward of this very port from the same application on another machine, used with that one's
// kubeconfig, would pass as local.
type application struct {
	name    string
	systems []string // values of runtime.GOOS
	context *regexp.Regexp
	server  *regexp.Regexp
	node    *regexp.Regexp // nil for the context's name
}

var applications = []application{
	// Its kubeadm cluster: docs.docker.com/desktop/features/kubernetes.
	{"Docker Desktop", []string{"darwin", "linux"}, fullMatch(`docker-desktop|docker-for-desktop`),
		fullMatch(`https://(kubernetes\.docker\.internal|127\.0\.0\.1|localhost):6443`), fullMatch(`docker-desktop`)},
	// Its kind cluster, since 4.38, with the nodes of a kind cluster named "desktop".
	{"Docker Desktop", []string{"darwin", "linux"}, fullMatch(`docker-desktop`),
		fullMatch(`https://127\.0\.0\.1:\d+`), fullMatch(`desktop-(control-plane|worker)\d*`)},
	// k3s in the Lima machine "rancher-desktop", at the port of its settings:
	// docs.rancherdesktop.io.
	{"Rancher Desktop", []string{"darwin", "linux"}, fullMatch(`rancher-desktop`),
		fullMatch(`https://127\.0\.0\.1:\d+`), fullMatch(`lima-rancher-desktop`)},
	// docs.orbstack.dev/kubernetes.
	{"OrbStack", []string{"darwin"}, fullMatch(`orbstack`),
		fullMatch(`https://127\.0\.0\.1:26443`), fullMatch(`orbstack`)},
	// k3s in a Lima machine; context and host have the profile's name:
	// github.com/abiosoft/colima, environment/container/kubernetes/kubeconfig.go.
	{"Colima", []string{"darwin", "linux"}, fullMatch(`colima(-.+)?`), fullMatch(`https://127\.0\.0\.1:\d+`), nil},
}

// fullMatch matches only whole texts.
func fullMatch(pattern string) *regexp.Regexp { return regexp.MustCompile(`^(` + pattern + `)$`) }

// matches reports whether context and address are as the application writes them.
func (a application) matches(t Target) bool {
	return a.context.MatchString(t.Context) && a.server.MatchString(strings.TrimSuffix(t.Server, "/"))
}

// desktop returns the name of the application whose cluster it is, "" for none.
func desktop(t Target, nodes []corev1.Node, system string) string {
	for _, a := range applications {
		if !slices.Contains(a.systems, system) || !a.matches(t) {
			continue
		}
		name := cmp.Or(a.node, fullMatch(regexp.QuoteMeta(t.Context)))
		if !slices.ContainsFunc(nodes, func(node corev1.Node) bool { return !name.MatchString(node.Name) }) {
			return a.name
		}
	}
	return ""
}
