package proof

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// What the places below call the images: by the digest of a configuration, or of a manifest.
const (
	config, manifest   = "sha256:c0", "sha256:a0"
	config2, manifest2 = "sha256:c2", "sha256:a2"
)

// complete is a chain of two images in which nothing is wrong: worker is given to new Dask
// clusters, client runs in a pod.
func complete() ([]Image, []Container, []Answer) {
	return []Image{
			{Name: "worker", Ref: "worker:1", Hash: "1", Built: []string{config, manifest},
				Stores: []Store{{event.AtNode, "n", []string{config, manifest}}}},
			{Name: "client", Ref: "client:1", Hash: "1", Built: []string{config2},
				Stores: []Store{{event.AtNode, "n", []string{config2, manifest2}}}},
		}, []Container{
			{ContainerRef: mainOf("session"), Node: "n", Image: "docker.io/library/client:1", ID: config2},
			{ContainerRef: mainOf("other"), Node: "n", Image: "traefik:2", ID: "sha256:f"},
			{ContainerRef: mainOf("scheduler"), Node: "n", Image: "worker:1", ID: config, Cluster: "ada"},
		}, []Answer{{From: "http://localhost:8001", Image: "worker:1", Wants: []string{"worker"}}}
}

// mainOf is the container main of a pod.
func mainOf(pod event.Name) event.ContainerRef {
	return event.ContainerRef{PodRef: event.PodRef{Namespace: "ns", Pod: pod}, Container: "main"}
}

func TestChain(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(images []Image, containers []Container, answers []Answer) ([]Image, []Container, []Answer)
		broken []string // links
	}{
		{"complete", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) { return i, c, a }, nil},
		{"the node holds another image", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			i[1].Stores[0].IDs = []string{"sha256:b", "sha256:bb"}
			c[0].ID = "sha256:b"
			return i, c, a
		}, []string{"client, node n: sha256:b, not sha256:c2"}},
		{"the node holds none", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			i[0].Stores[0].IDs = nil
			return i, c, a
		}, []string{"worker, node n: not there"}},
		{"the node has removed one that only others are built from",
			func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
				base := Image{Name: "base", Ref: "base:1", Hash: "1", OnlyBase: true, Stores: []Store{{event.AtNode, "n", nil}}}
				return append(i, base), c, a
			}, nil},
		{"what was built is not known", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			i[0].Built, i[1].Built = nil, nil
			return i, c, a
		}, nil},
		{"one of two nodes holds another", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			i[1].Stores = append(i[1].Stores, Store{event.AtNode, "m", []string{"sha256:b"}})
			return i, append(c, Container{ContainerRef: mainOf("m"), Node: "m", Image: "client:1", ID: "sha256:b"}), a
		}, []string{"client, node m: sha256:b, not sha256:c2"}},
		{"a pod calls it by the manifest", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[0].ID = manifest2
			return i, c, a
		}, nil},
		{"a pod runs what had the tag before", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[0].ID = "sha256:b"
			return i, c, a
		}, []string{"client, pod ns/session/main: sha256:b, not sha256:c2"}},
		{"a pod is kept on an older tag", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[0].Image, c[0].ID = "client:0", "sha256:b"
			return i, c, a
		}, []string{"client, pod ns/session/main: client:0, not client:1"}},
		{"a pod has the same by another tag", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[0].Image = "client"
			return i, c, a
		}, nil},
		{"a pod has no ID yet", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[0].ID = ""
			return i, c, a
		}, nil},
		{"a Dask cluster is older", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[2].Image, c[2].ID = "worker:0", "sha256:b"
			return i, c, a
		}, nil},
		{"the gateway starts an older tag", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			a[0].Image = "worker:0"
			return i, c, a
		}, []string{"worker, gateway http://localhost:8001: worker:0, not worker:1"}},
		{"the gateway starts a foreign image", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			a[0].Image = "daskgateway/dask-worker:latest"
			return i, c, a
		}, []string{"worker, gateway http://localhost:8001: daskgateway/dask-worker:latest, not worker:1"}},
		{"and its release does not get ours", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			a[0] = Answer{From: "http://localhost:8001", Image: "daskgateway/dask-worker:latest"}
			return i, c, a
		}, nil},
		{"the gateway starts another one of ours", func(i []Image, c []Container, a []Answer) ([]Image, []Container,
			[]Answer) {
			a[0].Image = "client:1"
			return i, c, a
		}, []string{"worker, gateway http://localhost:8001: client:1, not worker:1"}},
		{"the gateway has a word for an image", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			a[0].Image = "default"
			return i, c, a
		}, nil},
		{"the gateway starts it without a tag", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			a[0].Image = "worker"
			return i, c, a
		}, []string{"worker, gateway http://localhost:8001: worker, not worker:1"}},
		{"the gateway says something odd", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			a[0].Image = "Not/An:Image"
			return i, c, a
		}, []string{"worker, gateway http://localhost:8001: Not/An:Image, not worker:1"}},
		{"a chart names a tag by itself", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			c[0].Image, c[0].ID = "client:v1", "sha256:b"
			return i, c, a
		}, []string{"client, pod ns/session/main: client:v1, not client:1"}},
		{"a pod has another name of the image", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			i[1].Names = []string{"client", "localhost:5000/team/client"}
			c[0].Image, c[0].ID = "localhost:5000/team/client:v1", "sha256:b"
			return i, c, a
		}, []string{"client, pod ns/session/main: localhost:5000/team/client:v1, not client:1"}},
		{"a foreign image of the same name beside ours",
			func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
				return i, append(c, Container{ContainerRef: mainOf("sidecar"), Node: "n", Image: "client:1.25-alpine",
					ID: "sha256:b"}), a
			}, nil},
		{"pushed, and named by digest", func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
			i[1].Ref, i[1].Stores = "r.example/t/client:1@sha256:"+strings.Repeat("a", 64),
				[]Store{{event.AtRegistry, "r.example", []string{manifest2, config2}}}
			c[0].Image, c[0].ID = i[1].Ref, manifest2
			return i, c, a
		}, nil},
		{"of another repository of the same last name",
			func(i []Image, c []Container, a []Answer) ([]Image, []Container, []Answer) {
				c[0].Image, c[0].ID = "r.example/client:0", "sha256:b"
				return i, c, a
			}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			images, containers, answers := test.change(complete())
			links := Chain(Findings{Images: images, Containers: containers, Answers: answers})
			var broken []string
			for _, link := range links {
				if link.Broken() {
					broken = append(broken, link.String())
				}
			}
			if !slices.Equal(broken, test.broken) {
				t.Errorf("broken: %q, not %q, of %s", broken, test.broken, links)
			}
			err := Broken(links)
			if (err != nil) != (len(broken) > 0) || err != nil && event.Hint(err) == "" {
				t.Errorf("the error is %v", err)
			}
			for _, link := range links {
				if link.Broken() && (link.Is != event.NotThere && !strings.Contains(err.Error(), link.Is) ||
					!strings.Contains(err.Error(), link.Want)) {
					t.Errorf("%v does not have both values of %s", err, link)
				}
			}
		})
	}
}

// One image is the same ID in all places, whatever each of them calls it, so that people can
// compare by eye.
func TestChainReadsTheSameEverywhere(t *testing.T) {
	images, containers, answers := complete()
	images[1].Built = []string{manifest2} // of a BuildKit in the node, which knows only that
	want := event.Links{
		{Image: "client", Place: event.AtInputs, Is: "1"},
		{Image: "client", Place: event.AtBuild, Is: config2},
		{Image: "client", Place: event.AtNode, Name: "n", Is: config2},
		{Image: "client", Place: event.AtRelease, Name: "ns/session deployment/session", Is: "client:1"},
		{Image: "client", Place: event.AtPod, Name: "ns/session/main", Is: config2,
			Container: mainOf("session")},
	}
	named := []Named{{"client", "ns/session deployment/session", "client:1"},
		{"client", "ns/session deployment/session", "client:1"}, // of an init container
		{"worker", "ns/session deployment/session", "worker:1"}}
	got := slices.DeleteFunc(Chain(Findings{images, named, containers, nil, answers}),
		func(l event.Link) bool { return l.Image != "client" })
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestOld(t *testing.T) {
	images, _, _ := complete()
	at := time.Unix(1000, 0)
	clusters := event.DaskClusters{
		{Name: "now", Image: "docker.io/library/worker:1", Since: at},
		{Name: "second", Image: "worker:0", Since: at.Add(time.Second)},
		{Name: "first", Image: "worker:a", Since: at},
		{Name: "of another tool", Image: "worker:v1-3-gabcdef", Since: at.Add(2 * time.Second)},
		{Name: "untagged", Image: "worker", Since: at.Add(3 * time.Second)},
		{Name: "by digest", Image: "worker@sha256:" + strings.Repeat("ab", 32), Since: at},
		{Name: "now, with its digest", Image: "worker:1@sha256:" + strings.Repeat("ab", 32), Since: at},
		{Name: "in another registry", Image: "registry.example/worker:1", Since: at},
		{Name: "chosen", Image: "daskgateway/dask-worker:latest", Since: at},
		{Name: "odd", Image: "", Since: at},
	}
	var names []string
	for _, c := range Old(Findings{Images: images}, clusters) {
		names = append(names, string(c.Name))
	}
	if !slices.Equal(names, []string{"first", "second", "of another tool", "untagged"}) {
		t.Errorf("old: %v", names)
	}
}

// TestGatewayHint: an older image of the same name need not come from a values file.
func TestGatewayHint(t *testing.T) {
	const want = "worker:aba617930b58739e"
	for is, says := range map[string]string{
		"worker:d961c7bdaa9e029d":       "devloop restarts the gateway",
		"daskgateway/dask-worker:2024":  "a values file names another image",
		"worker:v1":                     "a values file names another image",
		"registry.example/worker:00000": "a values file names another image",
	} {
		err := Broken(event.Links{{Image: "worker", Place: event.AtGateway, Name: "http://gateway", Is: is, Want: want}})
		if err == nil || !strings.Contains(event.Hint(err), says) {
			t.Errorf("%s: %v → %s", is, err, event.Hint(err))
		}
	}
}
