// What pods print, as it comes.
package deploy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

// LogStage is the stage of events that have a line of a pod's log in their fields: pod, container, line.
const LogStage = "pod"

const (
	// logLook is how often new containers are looked for: the first lines of one are not lost by it.
	logLook = time.Second
	// logBefore is how many lines are shown of a container that ran before.
	logBefore = 10
	// logLine is how much of a line is shown, in bytes.
	logLine = 8 << 10
)

// FollowLogs sends what the containers of namespaces print to sink, a line at a time, until ctx ends. It returns when nothing is followed
// any more.
func FollowLogs(ctx context.Context, client kubernetes.Interface, sink event.Sink, namespaces []string) {
	namespaces = slices.Compact(slices.Sorted(slices.Values(namespaces)))
	var following sync.WaitGroup
	defer following.Wait()
	var mu sync.Mutex
	known := map[string]bool{} // containers, by their IDs; true while they are followed, and when they were to their end
	for first := true; ; first = false {
		for _, namespace := range namespaces {
			pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				continue // asked again at the next look
			}
			for _, pod := range pods.Items {
				for _, status := range containers(&pod) {
					if status.State.Waiting != nil || status.ContainerID == "" {
						continue
					}
					mu.Lock()
					followed, again := known[status.ContainerID]
					known[status.ContainerID] = true
					mu.Unlock()
					if followed || first && status.State.Terminated != nil {
						continue
					}
					options := &corev1.PodLogOptions{Container: status.Name, Follow: true}
					if first || again {
						lines := int64(logBefore)
						options.TailLines = &lines
					}
					following.Go(func() {
						if followContainer(ctx, client, sink, namespace, pod.Name, options) {
							return
						}
						mu.Lock()
						known[status.ContainerID] = false // to be followed again
						mu.Unlock()
					})
				}
			}
		}
		if sleep(ctx, logLook) != nil {
			return
		}
	}
}

// followContainer reports whether it followed the container to its end.
func followContainer(ctx context.Context, client kubernetes.Interface, sink event.Sink, namespace, pod string, options *corev1.PodLogOptions) bool {
	stream, err := client.CoreV1().Pods(namespace).GetLogs(pod, options).Stream(ctx)
	if err != nil {
		return false // it has gone meanwhile, or the API server has
	}
	defer stream.Close()
	say := sink.For(LogStage)
	reader := bufio.NewReaderSize(stream, logLine)
	for cut := false; ; {
		line, err := reader.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); !cut && (text != "" || err == nil) {
			say.Note("log", "pod", pod, "container", options.Container, "line", text)
		}
		cut = errors.Is(err, bufio.ErrBufferFull) // the rest of the line is left out
		if err != nil && !cut {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				say.Detail("log ended", "pod", pod, "reason", err.Error())
			}
			return errors.Is(err, io.EOF)
		}
	}
}
