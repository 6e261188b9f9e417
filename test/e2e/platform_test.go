//go:build e2e

// The whole story on a real cluster, with a real Dask client: from nothing to healthy, saves of
// every kind, Ctrl+C.
package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

func TestPlatform(t *testing.T) {
	cluster := kubernetesClient(t)
	p := newProject(t, platform)
	python := laptop(t)
	nonce := unique() // so that an image of an earlier test run is not found in the place of what a test adds
	p.append(t, "devloop.yaml", "keepImages: 9 # the last step finds those of the first\n")
	p.edit(t, "devloop.yaml", "ready: /api/health }",
		"ready: /api/health, hold: 10m } # a busy machine is slow, not broken")
	d := p.start(t)
	removeImages(t, d)
	worker, client := d.image(t, 0, "worker"), d.image(t, 0, "daskclient")
	d.await(t, 0, ready)
	always := startLoad(t, 2, local(8001), "/api/health")

	step(t, "both images share the installation", func(t *testing.T) {
		a, b := layers(t, worker), layers(t, client)
		// Base, tools, twice the requirements and their packages.
		if len(a) < 6 || len(b) < 6 || !reflect.DeepEqual(a[:6], b[:6]) {
			t.Errorf("the layers up to the packages differ:\n%v\n%v", a, b)
		}
	})

	step(t, "a plain cluster runs the image just built", func(t *testing.T) {
		user := startClient(t, python, "--import", "pystac")
		same(t, "cluster options", map[string]any{"worker_cores_limit": 1.0, "worker_cores": 0.2, "worker_memory": "512 M",
			"image": worker}, user.next(t, "options")["options"])
		said := user.next(t, "answer")
		if said["answer"] != said["expected"] {
			t.Errorf("the computation gave %v, not %v", said["answer"], said["expected"])
		}
		user.next(t, "workers")
		daskPods(t, cluster, worker, 5) // a scheduler and four workers
		user.finish(t)
	})

	step(t, "what the documentation says to type beside it", func(t *testing.T) {
		bin := filepath.Dir(python)
		for _, block := range documented(t, "platform") {
			p.document(t, block, "VIRTUAL_ENV="+filepath.Dir(bin), "PATH="+bin+":"+os.Getenv("PATH"), "DEVLOOP_FOLLOW=false")
		}
	})

	step(t, "options set by hand", func(t *testing.T) {
		user := startClient(t, python, "--workers", "2",
			"--refused", "worker_cores=-1", "--refused", "worker_cores_limit=nan", "--refused", "worker_memory=2Gi",
			"--refused", "worker_memory=", "--refused", "image= ",
			"--set", "worker_cores=0.1", "--set", "worker_cores_limit=0.5", "--set", "worker_memory=400M")
		for _, why := range []string{
			"worker_cores must be a number above 0, got -1.0", "worker_cores_limit must be a number above 0, got nan",
			`worker_memory must be like "1 G" or "512 M", got '2Gi'`, `worker_memory must be like "1 G" or "512 M", got ''`,
			"image must be the name of an image, got ' '",
		} {
			same(t, "what the gateway refuses", why, user.next(t, "refused")["refused"])
		}
		user.next(t, "workers")
		for _, pod := range daskPods(t, cluster, worker, 3) {
			if pod.Labels["app.kubernetes.io/component"] != "dask-worker" {
				continue
			}
			asks, may := pod.Spec.Containers[0].Resources.Requests, pod.Spec.Containers[0].Resources.Limits
			same(t, "CPU of "+pod.Name, []int64{100, 500}, []int64{asks.Cpu().MilliValue(), may.Cpu().MilliValue()})
			same(t, "memory of "+pod.Name, []int64{400 << 20, 400 << 20}, []int64{asks.Memory().Value(), may.Memory().Value()})
		}
		user.finish(t)
	})

	step(t, "the client pod reaches the gateway from inside", func(t *testing.T) { reachesGateway(t, worker) })

	step(t, "the gateway gives a scheduler time to be reached", func(t *testing.T) {
		out := kubectl(t, "exec", "-n", namespace, "deploy/api-dask-gateway", "--", "python", "-c", `
from dask_gateway_server.app import DaskGateway
app = DaskGateway()
app.load_config_file("/etc/dask-gateway/dask_gateway_config.py")
print(app.backend_class(parent=app).scheduler_api_retries)`)
		same(t, "how often it tries", "8\n", out)
	})

	step(t, "a gateway goes on for two seconds after SIGTERM, and wakes clients that wait", func(t *testing.T) {
		out := kubectl(t, "exec", "-n", namespace, "deploy/api-dask-gateway", "--", "python", "-c", `
import asyncio, os, signal, time, types
from aiohttp.web import GracefulExit
from dask_gateway_server.app import DaskGateway
app = DaskGateway()
app.load_config_file("/etc/dask-gateway/dask_gateway_config.py")
app.log.disabled = True
waiting = asyncio.Event()
app.backend = types.SimpleNamespace(cluster_waiters={"cluster": waiting})

async def serve():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, app.handle_shutdown_signal, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)

began = time.monotonic()
try:
    asyncio.run(serve())
except GracefulExit:
    print(time.monotonic() - began >= 2, waiting.is_set())`)
		same(t, "whether it goes on and wakes them", "True True\n", out)
	})

	step(t, "a touch changes nothing", func(t *testing.T) {
		before, now := revisions(t, cluster), time.Now()
		must(t, os.Chtimes(filepath.Join(p.dir, "requirements.txt"), now, now))
		// Makes sure that the loop runs after the touch.
		c := d.replace(t, "deploy/dask-session/values.yaml", "cpu: 50m", "cpu: 51m")
		c.arrives(t)
		if n := c.counts(building); n != 0 {
			t.Errorf("%d images were built", n)
		}
		onlySession(t, before, revisions(t, cluster))
	})

	step(t, "only Dockerfile.client edited", func(t *testing.T) {
		before := revisions(t, cluster)
		c := d.replace(t, "Dockerfile.client", `CMD ["sleep"`, "ENV EDITED="+nonce+"\n"+`CMD ["sleep"`)
		c.arrives(t)
		if n := c.counts(on(event.ImageBuilt).with("image", "^worker:")); n != 0 {
			t.Error("the worker image was built again")
		}
		onlySession(t, before, revisions(t, cluster))
		edited := d.image(t, c.since, "daskclient")
		same(t, "the client pod's image", edited, kubectl(t, "get", "deploy", "-n", namespace, "dask-session",
			"-o", "jsonpath={.spec.template.spec.containers[0].image}"))
	})

	step(t, "a version that does not exist, then mended with a package of a private index", func(t *testing.T) {
		before, library := revisions(t, cluster), "team"+nonce
		index := startIndex(t, library)
		p.write(t, "ca.pem", index.ca)
		p.write(t, "pip.conf", "[global]\nindex-url = "+index.url+"\ncert = /run/secrets/ca.pem\n")
		// The stand-in for the base image has this machine's certificates in variables, which count
		// more than pip.conf.
		for _, dockerfile := range []string{"Dockerfile.worker", "Dockerfile.client"} {
			p.edit(t, dockerfile, "COPY requirements.txt /opt/platform/\nRUN --mount",
				"COPY requirements.txt /opt/platform/\nENV PIP_CERT= REQUESTS_CA_BUNDLE=\nRUN --mount")
		}
		c := d.replace(t, "requirements.txt", "loguru==0.7.2", "loguru==99.99.99")
		c.fails(t, `loguru==99\.99\.99`)
		c.happens(t, on(event.RunStarts).with("changes", `requirements\.txt  ~ loguru 0\.7\.2 → 99\.99\.99`))
		same(t, "revisions", before, revisions(t, cluster))

		c = d.replace(t, "requirements.txt", "loguru==99.99.99", "loguru==0.7.2\n"+library+"==1.0")
		c.happens(t, on(event.RunStarts).with("changes", `requirements\.txt  \+ `+library+` 1\.0`)) // since it was well
		c.arrives(t)
		worker, client = d.image(t, c.since, "worker"), d.image(t, c.since, "daskclient")
		user := startClient(t, python, "--import", library, "--workers", "2")
		same(t, "what the workers have", []any{"1.0"}, user.next(t, "versions")["versions"])
		user.next(t, "workers")
		daskPods(t, cluster, worker, 3)
		user.finish(t)

		const search = `set -o pipefail; docker save "$0" "$1" | grep -aoF -e "$2" -e "$3" | sort -u`
		out, err := command(t.Context(), os.Environ(), "bash", "-c", search, worker, client, library, index.password)
		must(t, err)
		same(t, "what the images hold of the library's name and the password", library+"\n", out)
		events, _ := p.call(t, 0, "events", "--log-format", "json", "--verbose", "--follow=false")
		for name, view := range map[string]string{"the log": d.text(), "devloop events": events} {
			if strings.Contains(view, index.password) {
				t.Errorf("%s shows the password:\n%s", name, view)
			}
		}
	})

	const values = "deploy/dask-gateway/values.yaml"
	step(t, "values that the chart does not take, then mended", func(t *testing.T) {
		before := revisions(t, cluster)
		const key = "completedClusterMaxAge: "
		c := d.replace(t, values, key+"600", key+"soon")
		c.happens(t, on(event.RunStarts).with("changes", `values\.yaml  ~ controller\.completedClusterMaxAge$`))
		c.fails(t, values+`:\d+:3: release dask-gateway: value controller.completedClusterMaxAge: got string, want number`)
		d.replace(t, values, key+"soon", key+"600").arrives(t)
		same(t, "revisions", before, revisions(t, cluster))
	})

	step(t, "values that the cluster does not take, then mended", func(t *testing.T) {
		before, pods := revisions(t, cluster), podNames(t, cluster)
		d.replace(t, values, "periodSeconds: 1", "periodSeconds: one").
			fails(t, `templates/gateway/deployment.yaml: Deployment .*periodSeconds`)
		same(t, "pods", pods, podNames(t, cluster))
		d.replace(t, values, "periodSeconds: one", "periodSeconds: 1").arrives(t)
		same(t, "revisions", before, revisions(t, cluster))
	})

	step(t, "Ctrl+C leaves nothing but images", func(t *testing.T) {
		user := startClient(t, python, "--workers", "1") // and the cluster is not shut down by its user
		user.next(t, "workers")
		user.kill()
		always.finish(t, replacing(d.log(0)))
		d.stop(t)
		nothingLeft(t, cluster)
	})

	// The same platform in another folder, with the skaffold.yaml that it had before. That this
	// says the same as devloop.yaml is tested in pkg/config.
	p = newProject(t, platform)
	must(t, os.Remove(filepath.Join(p.dir, "devloop.yaml")))
	skaffold, err := os.ReadFile(filepath.Join("testdata", "skaffold.yaml"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.dir, "skaffold.yaml"), skaffold, 0o644))
	p.env = append(p.env, "DEVLOOP_SET=buildIn=host", // the node reaches no index of packages
		"DEVLOOP_PROFILE=") // which the skaffold.yaml does not have
	var stays map[string]int

	step(t, "devloop run, by a skaffold.yaml, builds nothing again", func(t *testing.T) {
		once := p.start(t, "run")
		same(t, "exit code", 0, once.exit(t))
		for what, want := range map[string]int{event.ImageBuilt: 0, event.ImageLoaded: 0, event.ImageFound: 2} {
			if n := once.count(0, on(what)); n != want {
				t.Errorf("%d times %q, not %d", n, what, want)
			}
		}
		stays = revisions(t, cluster)
		worker = once.image(t, 0, "worker")
		reachesGateway(t, worker)
	})

	step(t, "without a devloop that runs", func(t *testing.T) {
		if out, _ := p.call(t, 0, "skew", "--images-only"); !strings.HasPrefix(out, "the same ") {
			t.Errorf("devloop skew says\n%s", out)
		}
		p.call(t, 3, "skew") // this machine has no environment
		if out, _ := p.call(t, 0, "clusters"); out != "no Dask cluster runs\n" {
			t.Errorf("devloop clusters says\n%s", out)
		}
		p.call(t, 3, "status", "--chain")
		noCanary(t, cluster)
	})

	step(t, "another folder does not take the platform over", func(t *testing.T) {
		_, log := newProject(t, platform).call(t, 1, "run")
		if !strings.Contains(log, "was not made by devloop for the project ") {
			t.Errorf("devloop run says\n%s", log)
		}
		same(t, "revisions", stays, revisions(t, cluster))
	})

	step(t, "--cleanup=false leaves the platform", func(t *testing.T) {
		d := p.start(t, "--cleanup=false")
		d.await(t, 0, ready)
		same(t, "revisions, though nothing has changed,", stays, revisions(t, cluster))
		step(t, "without the profile for small machines, a worker has a core and 1 G", func(t *testing.T) {
			same(t, "cluster options", []option{
				{"worker_cores_limit", "Worker Cores Limit", 1.0},
				{"worker_cores", "Worker Cores", 1.0},
				{"worker_memory", "Worker Memory", "1 G"},
				{"image", "Worker Image", worker},
			}, clusterOptions(t))
			for _, c := range []struct {
				set           []string
				cores, memory int64
			}{
				{nil, 1000, 1 << 30},
				{[]string{"--set", "worker_cores_limit=2", "--set", "worker_memory=2 G"}, 1000, 2 << 30},
			} {
				user := startClient(t, python, append([]string{"--workers", "1"}, c.set...)...)
				user.next(t, "workers")
				for _, pod := range daskPods(t, cluster, worker, 2) {
					if asks := pod.Spec.Containers[0].Resources.Requests; pod.Labels["app.kubernetes.io/component"] == "dask-worker" {
						same(t, "CPU and memory of "+pod.Name, []int64{c.cores, c.memory},
							[]int64{asks.Cpu().MilliValue(), asks.Memory().Value()})
					}
				}
				user.finish(t)
			}
		})
		d.replace(t, "deploy/dask-session/values.yaml", "cpu: 50m", "cpu: 51m").arrives(t)
		onlySession(t, stays, revisions(t, cluster))
		stays = revisions(t, cluster)
		d.stop(t)
		same(t, "revisions", stays, revisions(t, cluster))
	})

	step(t, "after kill -9 delete removes it", func(t *testing.T) {
		d := p.start(t)
		d.await(t, 0, ready)
		same(t, "revisions, though nothing has changed,", stays, revisions(t, cluster))
		p.call(t, 3, "delete") // another devloop runs for this project on this cluster
		d.kill(t)
		_, log := p.call(t, 0, "delete")
		if !strings.Contains(log, "left behind") { // nothing, or nothing but the CRDs if it was this project that made them
			t.Errorf("devloop delete says\n%s", log)
		}
		nothingLeft(t, cluster)
	})
}

// image returns the first that devloop has built or found since a mark, of a name.
func (d *devloop) image(t *testing.T, from int, name string) string {
	t.Helper()
	return d.find(t, from, "that it has an image "+name, func(l line) bool {
		return (on(event.ImageBuilt).met(l) || on(event.ImageFound).met(l)) && strings.HasPrefix(l.field("image"), name+":")
	}).field("image")
}

// same checks that something is as it should be.
func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}

// onlySession checks that of the platform's releases only the client pod's was upgraded, once.
func onlySession(t *testing.T, before, after map[string]int) {
	t.Helper()
	want := map[string]int{"dask-gateway": before["dask-gateway"], "dask-session": before["dask-session"] + 1}
	same(t, "revisions", want, after)
}

// reachesGateway checks that the client pod has a working address of the gateway, which gives new
// clusters that image.
func reachesGateway(t *testing.T, worker string) {
	t.Helper()
	out := kubectl(t, "exec", "-n", namespace, "deploy/dask-session", "--", "bash", "-c",
		`echo "$DASK_WORKER_IMAGE"; python -c "
import os
from dask_gateway import Gateway
print(Gateway(os.environ['DASK_GATEWAY_URL']).cluster_options().image)"; id -u`)
	same(t, "what the client pod says", worker+"\n"+worker+"\n1000\n", out)
}

// option is one of the gateway's cluster options, as its users see it.
type option struct {
	Field, Label string
	Default      any
}

// clusterOptions returns the gateway's options, in their order.
func clusterOptions(t *testing.T) []option {
	t.Helper()
	options, err := askOptions(t.Context())
	must(t, err)
	return options
}

// askOptions asks the gateway for its options. It may be away, and a proxy may answer in its place.
func askOptions(ctx context.Context) ([]option, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+"/api/v1/options", nil)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth("ada", "")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Options []option `json:"cluster_options"`
	}
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer.Options, err
}

// replacing excuses answers of traefik's own that came while the gateway's pod was replaced: from
// the write of the release until a moment after the run. That traefik knows the new pod is seen by
// the run; that it forgets the old one is not, and who is sent there waits for an address that is
// gone.
func replacing(lines []line) func(outcome) bool {
	type window struct {
		run      int
		from, to time.Time
	}
	var windows []window
	for _, l := range lines {
		switch {
		case on(event.ReleaseApplied, event.Started).with("release", "^dask-gateway$").met(l):
			windows = append(windows, window{run: l.Run, from: l.Time, to: l.Time.Add(longEnough)})
		case l.Message == event.RunComplete && l.Phase != event.Started:
			for i := range windows {
				if windows[i].run == l.Run {
					windows[i].to = l.Time.Add(10 * time.Second)
				}
			}
		}
	}
	return func(o outcome) bool {
		return o.fate == other && slices.ContainsFunc(windows, func(w window) bool {
			return o.end.After(w.from) && o.begin.Before(w.to)
		})
	}
}
