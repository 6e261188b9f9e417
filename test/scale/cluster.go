// The cluster: etcd, API server and controller manager as they are, nodes that are data, and one
// loop in place of scheduler and kubelets, which binds pods and says that they run.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	namespace = "scale"
	// The users of the API server. Requests of devloop's are counted.
	devloopUser, labUser = "devloop", "lab"

	endTimeout = 10 * time.Second
	kubelets   = 8 // pods whose state is sent at the same time
)

// lab is what one size runs on.
type lab struct {
	etcd, kube, devloop, logs string // see run

	dir     string
	server  string // URL of the API server
	closers []func() error
}

func (l *lab) close() error {
	var errs []error
	for _, closer := range slices.Backward(l.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

// process is a program that was started.
type process struct {
	cmd    *exec.Cmd
	ended  <-chan struct{} // closed then
	output string          // path of what it prints
}

// start starts a program. Its output goes to NAME.log.
func (l *lab) start(ctx context.Context, dir string, env []string, program string, args ...string) (*process, error) {
	folder := l.dir
	if l.logs != "" {
		folder = l.logs
	}
	log, err := os.Create(filepath.Join(folder, filepath.Base(program)+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()                                       // the process has its own
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...) // ended in order, by close
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it was killed
		close(ended)
	}()
	l.closers = append(l.closers, func() error {
		_ = cmd.Process.Kill() // it may have ended
		select {
		case <-ended:
			return nil
		case <-time.After(endTimeout):
			return fmt.Errorf("%s does not end", program)
		}
	})
	return &process{cmd, ended, log.Name()}, nil
}

// startCluster returns once the nodes are there. Kubeconfigs of the users are in the lab's folder.
func (l *lab) startCluster(ctx context.Context, s size) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	store, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	l.server = "https://127.0.0.1:" + ports[2]
	if err := l.writeCredentials(); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(l.dir, name) }
	if _, err := l.start(ctx, l.dir, nil, l.etcd, "--data-dir", file("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", store, "--advertise-client-urls", store, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer); err != nil {
		return err
	}
	if _, err := l.start(ctx, l.dir, nil, filepath.Join(l.kube, "kube-apiserver"), "--etcd-servers", store,
		"--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", ports[2],
		"--cert-dir", file("certs"),
		"--service-cluster-ip-range", "10.97.0.0/16", "--authorization-mode", "AlwaysAllow",
		"--token-auth-file", file("tokens"),
		"--service-account-issuer", l.server, "--service-account-key-file", file("sa.key"),
		"--service-account-signing-key-file", file("sa.key"), "--disable-admission-plugins", "ServiceAccount",
		"--endpoint-reconciler-type", "none", "--audit-policy-file", file("audit.yaml"),
		"--audit-log-path", file("audit.log"),
		"--kubelet-preferred-address-types", "InternalIP", "--max-requests-inflight", "2000"); err != nil {
		return err
	}
	config := &rest.Config{Host: l.server, BearerToken: labUser, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS: 1000, Burst: 1000}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := await(ctx, func() error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	if err := l.writeKubeconfigs(); err != nil {
		return err
	}
	if _, err := l.start(ctx, l.dir, nil, filepath.Join(l.kube, "kube-controller-manager"),
		"--kubeconfig", file(labUser+".conf"),
		"--controllers", "deployment-controller,replicaset-controller,namespace-controller", "--leader-elect=false",
		"--secure-port", "0", "--kube-api-qps", "300", "--kube-api-burst", "600"); err != nil {
		return err
	}
	return l.startNodes(ctx, client, s.Nodes)
}

// writeCredentials writes what the API server starts with.
func (l *lab) writeCredentials() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	policy := "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\nrules:\n" +
		"- {level: Metadata, users: [" + devloopUser + "]}\n- {level: None}\n"
	return errors.Join(
		os.WriteFile(filepath.Join(l.dir, "sa.key"), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
		os.WriteFile(filepath.Join(l.dir, "tokens"), fmt.Appendf(nil, "%[1]s,%[1]s,1\n%[2]s,%[2]s,2\n", devloopUser, labUser),
			0o600),
		os.WriteFile(filepath.Join(l.dir, "audit.yaml"), []byte(policy), 0o600))
}

func (l *lab) writeKubeconfigs() error {
	for _, user := range []string{devloopUser, labUser} {
		text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: scale,
clusters: [{name: scale, cluster: {server: "%s", insecure-skip-tls-verify: true}}],
users: [{name: scale, user: {token: %s}}],
contexts: [{name: scale, context: {cluster: scale, user: scale}}]}
`, l.server, user)
		if err := os.WriteFile(filepath.Join(l.dir, user+".conf"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startNodes makes nodes on this machine's kernel, which is what tells devloop that the cluster is
// the user's own, and runs what is bound to them.
func (l *lab) startNodes(ctx context.Context, client kubernetes.Interface, count int) error {
	// Whoever reads a log waits for more of it.
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush() // a client that has gone
		<-r.Context().Done()
	}))
	l.closers = append(l.closers, func() error {
		kubelet.CloseClientConnections()
		kubelet.Close()
		return nil
	})
	listener := kubelet.Listener.Addr().(*net.TCPAddr) //nolint:forcetypeassert // of net/http/httptest
	endpoint := corev1.DaemonEndpoint{Port: int32(listener.Port)}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	for i := range count {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
		node, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		node.Status = corev1.NodeStatus{
			NodeInfo:        corev1.NodeSystemInfo{BootID: strings.TrimSpace(string(boot)), OperatingSystem: "linux"},
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: endpoint},
			Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
		if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	work := make(chan *corev1.Pod)
	for i := range kubelets {
		running.Go(func() {
			for at := i; ; at += kubelets {
				select {
				case <-ctx.Done():
					return
				case pod := <-work:
					if err := runPod(ctx, client, pod, nodeName(at%count)); err != nil && ctx.Err() == nil {
						fmt.Fprintf(os.Stderr, "scale: pod %s: %v\n", pod.Name, err)
					}
				}
			}
		})
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	seen := func(object any) {
		pod := object.(*corev1.Pod) //nolint:forcetypeassert // of an informer of pods
		if pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" {
			return
		}
		select {
		case work <- pod:
		case <-ctx.Done():
		}
	}
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, now any) { seen(now) }})
	factory.Start(ctx.Done())
	l.closers = append(l.closers, func() error {
		stop()
		factory.Shutdown()
		running.Wait()
		return nil
	})
	return err
}

func nodeName(i int) string { return fmt.Sprintf("node-%02d", i) }

// runPod does for a pod what scheduler and kubelet do: it is bound and runs, or ends.
func runPod(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, node string) error {
	pods := client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		err := pods.Delete(ctx, pod.Name, *metav1.NewDeleteOptions(0))
		return ignoreGone(err)
	}
	target := corev1.ObjectReference{Kind: "Node", Name: node}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}, Target: target}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		return ignoreGone(err)
	}
	pod = pod.DeepCopy()
	pod.ResourceVersion = ""
	pod.Status = statusOf(pod)
	_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return ignoreGone(err)
}

// statusOf is what a kubelet says of a pod that runs. The runtime's ID of an image is its digest.
func statusOf(pod *corev1.Pod) corev1.PodStatus {
	now := metav1.Now()
	status := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now}
	for _, condition := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady,
		corev1.PodReady} {
		status.Conditions = append(status.Conditions,
			corev1.PodCondition{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		id := hash(string(pod.UID), c.Name)
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image,
			ImageID: c.Image, ContainerID: "containerd://" + id, Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}})
	}
	return status
}

// startRegistry serves a registry that has every image, and returns its address.
func (l *lab) startRegistry() (address string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is a moment's work
	if err != nil {
		return "", err
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", "sha256:"+hash(r.URL.Path))
		w.Header().Set("Content-Length", "2")
		_, _ = w.Write([]byte("{}")) // a client that has gone
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(answer)}
	go func() { _ = server.Serve(listener) }() // ends by Close
	l.closers = append(l.closers, server.Close)
	return listener.Addr().String(), nil
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}

// freePorts returns ports of this machine that nothing listens on.
func freePorts(count int) (ports []string, err error) {
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is a moment's work
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// ignoreGone is for pods that others change or delete meanwhile: there is another event then.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// await calls try until it succeeds.
func await(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
