//go:build e2e

// A cluster that comes back elsewhere: another port of its API server, other credentials, all
// written to the kubeconfig while devloop runs. That is what a restarted minikube does where its
// node is a container behind a published port.
package e2e

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/devloop/devloop/pkg/event"
)

// published is a local port of the API server.
type published struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu        sync.Mutex
	open      []net.Conn
	withdrawn bool
}

func publish(t *testing.T, server string) *published {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &published{listener: listener}
	p.serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { p.carry(client, server) })
		}
	})
	t.Cleanup(p.withdraw)
	return p
}

func (p *published) carry(client net.Conn, server string) {
	defer client.Close()
	behind, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer behind.Close()
	p.mu.Lock()
	late := p.withdrawn
	p.open = append(p.open, client, behind)
	p.mu.Unlock()
	if late {
		return
	}
	p.serving.Go(func() {
		_, _ = io.Copy(behind, client)
		_ = behind.Close()
	})
	_, _ = io.Copy(client, behind)
}

// withdraw closes the port and all that goes through it.
func (p *published) withdraw() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.withdrawn = true
	for _, conn := range p.open {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.serving.Wait()
}

// administrator makes an account that may do everything, and returns its token. Remove makes the
// token worthless.
func administrator(t *testing.T, cluster kubernetes.Interface, name string) (token string, remove func()) {
	t.Helper()
	accounts, bindings := cluster.CoreV1().ServiceAccounts("default"), cluster.RbacV1().ClusterRoleBindings()
	remove = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = bindings.Delete(ctx, name, metav1.DeleteOptions{})
		if err := accounts.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := accounts.Create(t.Context(), account, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(remove)
	_, err = bindings.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: "default"}},
	}, metav1.CreateOptions{})
	must(t, err)
	request, err := accounts.CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	return request.Status.Token, remove
}

// restartedElsewhere runs a devloop of its own, whose kubeconfig is rewritten under load.
func restartedElsewhere(t *testing.T, w *web) {
	real, err := clientcmd.LoadFromFile(setting(t, "KUBECONFIG"))
	must(t, err)
	current := real.Contexts[real.CurrentContext]
	server := real.Clusters[current.Cluster]
	address := server.Server[len("https://"):]
	kubeconfig := filepath.Join(t.TempDir(), "config")
	write := func(p *published, token string) {
		t.Helper()
		server.Server = "https://" + p.listener.Addr().String()
		real.AuthInfos[current.AuthInfo] = &clientcmdapi.AuthInfo{Token: token}
		must(t, clientcmd.WriteToFile(*real, kubeconfig))
	}

	p := newProject(t, "forward/restart")
	p.fill(t, "$WEB", w.name)
	p.env = append(p.env, "KUBECONFIG="+kubeconfig)
	first, second := publish(t, address), publish(t, address)
	oldToken, removeOld := administrator(t, w.cluster, p.name+"-before")
	newToken, _ := administrator(t, w.cluster, p.name+"-after")
	write(first, oldToken)
	d := p.start(t)
	d.await(t, 0, on(event.ClusterChosen).with("why", "this machine's kernel")) // no address of the profile
	d.await(t, 0, ready)

	l := startLoad(t, clients, local(p.port), "/")
	l.answer(t, clients)
	mark := d.mark()
	first.withdraw()
	withdrawn := time.Now()
	removeOld()
	d.await(t, mark, onForward(p.port, isUnreachable))
	write(second, newToken)
	w.rollout(t) // which only the watches tell devloop of
	w.alone(t, 1)
	l.answer(t, 2*clients)
	l.finish(t, inFlight(withdrawn))

	// What devloop does in the cluster goes the new way, too.
	c := d.replace(t, "devloop.yaml", "forwards:", "health: [{ deployment: app=web, namespace: "+w.name+" }]\nforwards:")
	c.arrives(t)
	d.stop(t)
}
