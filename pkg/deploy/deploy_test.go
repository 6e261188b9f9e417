package deploy

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

// silent is an API server that never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, event.Transient(r.Context().Err()) // as a cluster's transport
}

// An API server that hangs fails a run after AnswerTimeout: retries start half a minute apart.
func TestSilentAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://192.0.2.1", Transport: silent{}})
		if err != nil {
			t.Fatal(err)
		}
		d := New(&kube.Cluster{Context: "minikube", Server: "https://a", Client: client}, "demo", nil, Options{})
		releases := []Release{{Name: "web", Namespace: "demo", CreateNamespace: true}}
		sink := func(event.Event) {}

		begin := time.Now()
		if err := d.Validate(t.Context(), sink, releases); err != nil {
			t.Errorf("no mistake of a chart: %v", err)
		}
		if took := time.Since(begin); took != kube.AnswerTimeout {
			t.Errorf("validation took %s", took)
		}
		begin = time.Now()
		err = d.Apply(t.Context(), sink, releases, Around{}, time.Minute, func(context.Context) error { return nil })
		if took := time.Since(begin); took != kube.AnswerTimeout {
			t.Errorf("it took %s to give up", took)
		}
		const want = `kube context "minikube": its API server https://a does not answer`
		if !event.IsTransient(err) || event.Hint(err) == "" || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v", err)
		}
	})
}
