package dask

import (
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"

	"github.com/devloop/devloop/pkg/kube"
)

const (
	// maxNodes and maxPods are how many are read. In a larger cluster nothing is said of its room.
	maxNodes = 500
	maxPods  = 10_000
	maxQuota = 50

	coresStep   = 50        // of worker_cores in a hint, in thousandths
	memoryStep  = 64 << 20  // of worker_memory, in bytes
	memoryLeast = 128 << 20 // with less, no worker starts
	notEnded    = "status.phase!=Succeeded,status.phase!=Failed"
)

// resources are what a pod asks for, or a node has.
type resources struct {
	cpu    int64 // thousandths of a core
	memory int64 // bytes
	pods   int64
}

func (r resources) plus(o resources) resources {
	return resources{r.cpu + o.cpu, r.memory + o.memory, r.pods + o.pods}
}

func (r resources) minus(o resources) resources {
	return resources{r.cpu - o.cpu, r.memory - o.memory, r.pods - o.pods}
}

// fits returns how many pods that ask for so much have room.
func (r resources) fits(pod resources) int64 {
	n := max(r.pods, 0)
	if pod.cpu > 0 {
		n = min(n, max(r.cpu, 0)/pod.cpu)
	}
	if pod.memory > 0 {
		n = min(n, max(r.memory, 0)/pod.memory)
	}
	return n
}

func read(list corev1.ResourceList) resources {
	return resources{list.Cpu().MilliValue(), list.Memory().Value(), list.Pods().Value()}
}

// requests are what the scheduler reserves for a pod.
func requests(pod *corev1.Pod) (sum resources) {
	for _, c := range pod.Spec.Containers {
		sum = sum.plus(read(c.Resources.Requests))
	}
	for _, c := range pod.Spec.InitContainers {
		asked := read(c.Resources.Requests)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways { // a sidecar
			sum = sum.plus(asked)
			continue
		}
		sum.cpu, sum.memory = max(sum.cpu, asked.cpu), max(sum.memory, asked.memory)
	}
	sum = sum.plus(read(pod.Spec.Overhead))
	sum.pods = 1
	return sum
}

// nodeRoom is what one node has left.
type nodeRoom struct {
	free resources
	own  resources // what the workers of the cluster have of it
}

// room returns what pods that cannot be scheduled ask for and what the nodes have left, as far as
// the scheduler says that this is why; and how many workers, or which, would have room.
func (e explainer) room(ctx context.Context, t *trouble, c owner, object *unstructured.Unstructured,
	pods []*corev1.Pod) (short, hint string, err error) {
	lacksCPU := strings.Contains(t.text, "Insufficient cpu")
	lacksMemory := strings.Contains(t.text, "Insufficient memory")
	if !onlyRoom(t.text) || t.pod.Spec.Affinity != nil || len(t.pod.Spec.TopologySpreadConstraints) > 0 {
		return "", "", nil
	}
	nodes, known, err := e.nodes(ctx, t.pod, object)
	if err != nil || !known {
		return "", "", err
	}
	asked := requests(t.pod)
	var parts []string
	count := max(t.count, 1)
	best := resources{}
	fits := int64(0)
	for _, n := range nodes {
		best.cpu, best.memory = max(best.cpu, n.free.cpu), max(best.memory, n.free.memory)
		fits += n.free.fits(asked)
	}
	where := " free"
	if len(nodes) > 1 {
		where = " free on the emptiest node"
	}
	if lacksCPU {
		parts = append(parts, fmt.Sprintf("%d × %s CPU asked, %s%s", count, cores(asked.cpu), cores(best.cpu), where))
	}
	if lacksMemory {
		parts = append(parts, fmt.Sprintf("%d × %s asked, %s%s", count, memory(asked.memory), memory(best.memory), where))
	}
	short = strings.Join(parts, "; ")
	if t.scheduler {
		return short, "stop clusters that nobody needs: devloop clusters; or give the scheduler less: scheduler_cores, " +
			"scheduler_memory in the gateway's values", nil
	}
	placed := 0
	for _, pod := range pods {
		if isPart(pod, object) && pod.Labels[labelComponent] == componentWorker && pod.Spec.NodeName != "" &&
			!kube.HasEnded(pod) {
			placed++
		}
	}
	var ways []string
	if n := placed + int(fits); n > 0 && n < c.Wanted {
		ways = append(ways, fmt.Sprintf("cluster.scale(%d)", n))
	}
	if smaller := smallerWorker(nodes, asked, int64(c.Wanted), lacksCPU, lacksMemory); smaller != "" {
		ways = append(ways, "a new cluster with "+smaller)
	}
	if len(ways) == 0 {
		return short, "stop clusters that nobody needs: devloop clusters; or give the nodes more", nil
	}
	return short, strings.Join(ways, ", or "), nil
}

// understood matches the reasons of the scheduler that nodes and resources tell, too
// (k8s.io/kubernetes/pkg/scheduler/framework/plugins).
var understood = regexp.MustCompile(`^\d+ (Insufficient (cpu|memory)|node\(s\) (had untolerated taint.*|` +
	`were unschedulable|didn't match Pod's node affinity/selector))$`)

// onlyRoom tells whether CPU or memory is short, and whatever else the scheduler says is
// understood: if a port or a GPU is missing, too, less CPU does not help.
func onlyRoom(text string) bool {
	_, reasons, _ := strings.Cut(text, " nodes are available: ")
	short := false
	for reason := range strings.SplitSeq(reasons, ", ") {
		if !understood.MatchString(reason) {
			return false
		}
		short = short || strings.Contains(reason, "Insufficient")
	}
	return short
}

// smallerWorker returns the options with which all workers have room once the cluster is replaced:
// less of what is short. It is "" if there are none.
func smallerWorker(nodes []nodeRoom, asked resources, wanted int64, lacksCPU, lacksMemory bool) string {
	all := func(pod resources) bool {
		n := int64(0)
		for _, node := range nodes {
			n += node.free.plus(node.own).fits(pod)
		}
		return n >= wanted
	}
	if lacksCPU && lacksMemory {
		return ""
	}
	pod := asked
	if lacksCPU {
		for pod.cpu = (asked.cpu - 1) / coresStep * coresStep; pod.cpu > 0; pod.cpu -= coresStep {
			if all(pod) {
				return "worker_cores " + cores(pod.cpu)
			}
		}
		return ""
	}
	for pod.memory = (asked.memory - 1) / memoryStep * memoryStep; pod.memory >= memoryLeast; pod.memory -= memoryStep {
		if all(pod) {
			return fmt.Sprintf(`worker_memory "%d M"`, pod.memory>>20)
		}
	}
	return ""
}

// nodes returns what the nodes that take a pod have left. They are not known if the cluster is too
// large to look at.
func (e explainer) nodes(ctx context.Context, pod *corev1.Pod, object *unstructured.Unstructured) (
	rooms []nodeRoom, known bool, err error) {
	nodes, err := e.cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: maxNodes})
	if err != nil || nodes.Continue != "" {
		return nil, false, err
	}
	pods, err := e.cluster.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx,
		metav1.ListOptions{FieldSelector: notEnded, Limit: maxPods})
	if err != nil || pods.Continue != "" {
		return nil, false, err
	}
	for _, node := range nodes.Items {
		if !takes(&node, pod) {
			continue
		}
		room := nodeRoom{free: read(node.Status.Allocatable)}
		for i := range pods.Items {
			other := &pods.Items[i]
			if other.Spec.NodeName != node.Name || kube.HasEnded(other) {
				continue
			}
			asked := requests(other)
			room.free = room.free.minus(asked)
			if isPart(other, object) && other.Labels[labelComponent] == componentWorker {
				room.own = room.own.plus(asked)
			}
		}
		rooms = append(rooms, room)
	}
	return rooms, len(rooms) > 0, nil
}

// takes tells whether a node takes a pod, as far as labels and taints say so.
func takes(node *corev1.Node, pod *corev1.Pod) bool {
	if node.Spec.Unschedulable {
		return false
	}
	for key, value := range pod.Spec.NodeSelector {
		if node.Labels[key] != value {
			return false
		}
	}
	return !slices.ContainsFunc(node.Spec.Taints, func(taint corev1.Taint) bool {
		return taint.Effect != corev1.TaintEffectPreferNoSchedule &&
			!slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
				return t.ToleratesTaint(klog.Logger{}, &taint, false)
			})
	})
}

// quota returns which quota of the namespace has no room for another pod of a cluster, "" if all
// have.
func (e explainer) quota(ctx context.Context, t *trouble, object *unstructured.Unstructured) (string, error) {
	list, err := e.cluster.Client.CoreV1().ResourceQuotas(object.GetNamespace()).List(ctx,
		metav1.ListOptions{Limit: maxQuota})
	if err != nil {
		return "", err
	}
	asked := configured(object, "worker")
	if t.scheduler {
		asked = configured(object, "scheduler")
	}
	for _, quota := range list.Items {
		if len(quota.Spec.Scopes) > 0 || quota.Spec.ScopeSelector != nil {
			continue // it may be about other pods
		}
		for _, name := range slices.Sorted(maps.Keys(quota.Status.Hard)) {
			need, counts := asked[name]
			hard, used := quota.Status.Hard[name], quota.Status.Used[name]
			if left := hard.MilliValue() - used.MilliValue(); counts && need > 0 && left < need {
				return fmt.Sprintf("quota %s has no room: %s %s of %s used", quota.Name, name, used.String(), hard.String()), nil
			}
		}
	}
	return "", nil
}

// configured returns what the scheduler or each worker of a cluster asks for, in thousandths, by
// the names that quotas have for it.
func configured(object *unstructured.Unstructured, part string) map[corev1.ResourceName]int64 {
	number := func(field string) int64 {
		value, _, _ := unstructured.NestedFieldNoCopy(object.Object, "spec", "config", part+"_"+field)
		switch v := value.(type) {
		case int64:
			return v * 1000
		case float64:
			return int64(v * 1000)
		}
		return 0
	}
	return map[corev1.ResourceName]int64{
		corev1.ResourcePods: 1000, "count/pods": 1000,
		corev1.ResourceCPU: number("cores"), corev1.ResourceRequestsCPU: number("cores"),
		corev1.ResourceLimitsCPU: number("cores_limit"),
		corev1.ResourceMemory:    number("memory"), corev1.ResourceRequestsMemory: number("memory"),
		corev1.ResourceLimitsMemory: number("memory_limit"),
	}
}

// cores writes thousandths of a core as Dask's options have them: "0.2".
func cores(thousandths int64) string {
	return strconv.FormatFloat(math.Floor(float64(max(thousandths, 0))/10)/100, 'f', -1, 64)
}

// memory writes bytes in Kubernetes' units: "512 Mi".
func memory(bytes int64) string {
	if bytes >= 1<<30 {
		return strconv.FormatFloat(math.Floor(float64(bytes)/(1<<30)*10)/10, 'f', -1, 64) + " Gi"
	}
	return strconv.FormatInt(max(bytes, 0)>>20, 10) + " Mi"
}
