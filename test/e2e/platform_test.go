//go:build e2e

// The whole story on a real cluster, with a real Dask client: from nothing to healthy, saves of every kind, Ctrl+C.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"
)

func TestPlatform(t *testing.T) { platformStory(t, newProject(t, platform)) }

// platformStory is the whole life of the platform of a project, from nothing to nothing.
func platformStory(t *testing.T, p *project) {
	cluster := kubernetesClient(t)
	venv := laptop(t)

	// What a test adds is new each time, so that an image of an earlier test run is not found in its place.
	nonce := strconv.FormatInt(time.Now().UnixNano(), 36)

	d := p.start(t, "--verbose")
	removeImages(t, d)
	worker := d.says(t, 0, `image (?:built|found).* image=(worker:\w+) (?:id|on)`)[1]
	client := d.says(t, 0, `image (?:built|found).* image=(daskclient:\w+) (?:id|on)`)[1]
	d.await(t, 0, ready)
	always := startProbe(t, gateway+"/api/health")

	t.Run("both images share the installation", func(t *testing.T) {
		a, b := layers(t, worker), layers(t, client)
		if len(a) < 6 || len(b) < 6 || !reflect.DeepEqual(a[:6], b[:6]) { // base, tools, large.txt and its packages, requirements.txt and the rest
			t.Errorf("the layers up to the packages differ:\n%v\n%v", a, b)
		}
	})

	t.Run("a plain cluster runs the image just built", func(t *testing.T) {
		user := startClient(t, venv, gateway, "--import", "pystac")
		options := user.next("options")["options"].(map[string]any)
		for _, name := range []string{"image", "worker_cores", "worker_cores_limit", "worker_memory"} {
			if _, ok := options[name]; !ok {
				t.Errorf("cluster option %s is missing: %v", name, options)
			}
		}
		if options["image"] != worker {
			t.Errorf("the default image is %v, not %s", options["image"], worker)
		}
		said := user.next("answer")
		if said["answer"] != said["expected"] {
			t.Errorf("the computation gave %v, not %v", said["answer"], said["expected"])
		}
		user.next("workers")
		daskPods(t, cluster, worker, 5) // a scheduler and four workers
		user.finish()
	})

	t.Run("options set by hand", func(t *testing.T) {
		user := startClient(t, venv, gateway, "--workers", "2", "--set", "worker_cores=0.1", "--set", "worker_cores_limit=0.5", "--set", "worker_memory=400M")
		user.next("workers")
		for _, pod := range daskPods(t, cluster, worker, 3) {
			container := pod.Spec.Containers[0]
			if pod.Labels["app.kubernetes.io/component"] != "dask-worker" {
				continue
			}
			if cpu := container.Resources.Requests.Cpu().MilliValue(); cpu != 100 {
				t.Errorf("pod %s asks for %d m of CPU, not 100", pod.Name, cpu)
			}
			if cpu := container.Resources.Limits.Cpu().MilliValue(); cpu != 500 {
				t.Errorf("pod %s may use %d m of CPU, not 500", pod.Name, cpu)
			}
		}
		user.finish()
	})

	t.Run("the client pod reaches the gateway from inside", func(t *testing.T) {
		out := kubectl(t, "exec", "-n", namespace, "deploy/dask-session", "--", "bash", "-c",
			`echo "$DASK_WORKER_IMAGE"; python -c "
import os
from dask_gateway import Gateway
print(Gateway(os.environ['DASK_GATEWAY_URL']).cluster_options().image)"; id -u`)
		if want := worker + "\n" + worker + "\n1000\n"; out != want {
			t.Errorf("the client pod said %q, not %q", out, want)
		}
	})

	t.Run("a touch changes nothing", func(t *testing.T) {
		before, mark := revisions(t, cluster), d.mark()
		now := time.Now()
		if err := os.Chtimes(filepath.Join(p.dir, "requirements.txt"), now, now); err != nil {
			t.Fatal(err)
		}
		p.edit(t, "deploy/dask-session/values.yaml", "cpu: 50m", "cpu: 51m") // makes sure that the loop ran after the touch
		d.says(t, mark, `release applied.*release=dask-session`)
		d.await(t, mark, ready)
		if n := d.count(mark, `image built`); n != 0 {
			t.Errorf("%d images were built", n)
		}
		after := revisions(t, cluster)
		if after["dask-gateway"] != before["dask-gateway"] || after["dask-session"] != before["dask-session"]+1 {
			t.Errorf("revisions went from %v to %v", before, after)
		}
	})

	t.Run("only Dockerfile.client edited", func(t *testing.T) {
		before, mark := revisions(t, cluster), d.mark()
		p.edit(t, "Dockerfile.client", `CMD ["sleep", "infinity"]`, "ENV EDITED="+nonce+"\nCMD [\"sleep\", \"infinity\"]")
		edited := d.says(t, mark, `image built.* image=(daskclient:\w+) id`)[1]
		d.await(t, mark, ready)
		if n := d.count(mark, `image built.* image=worker:\w+ id`); n != 0 {
			t.Error("the worker image was built again")
		}
		after := revisions(t, cluster)
		if after["dask-gateway"] != before["dask-gateway"] || after["dask-session"] != before["dask-session"]+1 {
			t.Errorf("revisions went from %v to %v", before, after)
		}
		if out := kubectl(t, "get", "deploy", "-n", namespace, "dask-session", "-o", "jsonpath={.spec.template.spec.containers[0].image}"); out != edited {
			t.Errorf("the client pod runs %s, not %s", out, edited)
		}
	})

	t.Run("a version that does not exist, then mended with another package", func(t *testing.T) {
		before, mark := revisions(t, cluster), d.mark()
		p.edit(t, "requirements.txt", "loguru==0.7.2", "loguru==99.99.99")
		d.wait(mark, runFailed+`.*loguru==99\.99\.99`, oneRun)
		if after := revisions(t, cluster); !reflect.DeepEqual(before, after) {
			t.Errorf("revisions went from %v to %v", before, after)
		}
		mark = d.mark()
		p.edit(t, "requirements.txt", "loguru==99.99.99", "loguru==0.7.2\nhumanize==4.9.0 # "+nonce)
		worker = d.says(t, mark, `image built.* image=(worker:\w+) id`)[1]
		d.await(t, mark, ready)
		pip := exec.Command(venv, "-m", "pip", "install", "--quiet", "-r", filepath.Join(p.dir, "requirements.txt"))
		if out, err := pip.CombinedOutput(); err != nil {
			t.Fatalf("pip on the laptop: %v\n%s", err, out)
		}
		user := startClient(t, venv, gateway, "--import", "humanize", "--workers", "2")
		if got := user.next("versions")["versions"]; !reflect.DeepEqual(got, []any{"4.9.0"}) {
			t.Errorf("the workers have humanize %v", got)
		}
		user.next("workers")
		daskPods(t, cluster, worker, 3)
		user.finish()
	})

	t.Run("values that the chart does not take, then mended", func(t *testing.T) {
		before, mark := revisions(t, cluster), d.mark()
		p.edit(t, "deploy/dask-gateway/values.yaml", "completedClusterMaxAge: 600", "completedClusterMaxAge: soon")
		d.await(t, mark, failed)
		d.says(t, mark, `deploy/dask-gateway/values.yaml:\d+:3: release dask-gateway: value controller.completedClusterMaxAge: got string, want number`)
		mark = d.mark()
		p.edit(t, "deploy/dask-gateway/values.yaml", "completedClusterMaxAge: soon", "completedClusterMaxAge: 600")
		d.await(t, mark, ready)
		if after := revisions(t, cluster); !reflect.DeepEqual(before, after) {
			t.Errorf("revisions went from %v to %v", before, after)
		}
	})

	t.Run("values that the cluster does not take, then mended", func(t *testing.T) {
		before, pods, mark := revisions(t, cluster), podNames(t, cluster), d.mark()
		p.edit(t, "deploy/dask-gateway/values.yaml", "periodSeconds: 1", "periodSeconds: one")
		d.await(t, mark, failed)
		d.says(t, mark, `templates/gateway/deployment.yaml: Deployment .*periodSeconds`)
		if after := podNames(t, cluster); !reflect.DeepEqual(pods, after) {
			t.Errorf("pods went from %v to %v", pods, after)
		}
		mark = d.mark()
		p.edit(t, "deploy/dask-gateway/values.yaml", "periodSeconds: one", "periodSeconds: 1")
		d.await(t, mark, ready)
		if after := revisions(t, cluster); !reflect.DeepEqual(before, after) {
			t.Errorf("revisions went from %v to %v", before, after)
		}
	})

	t.Run("Ctrl+C leaves nothing but images", func(t *testing.T) {
		user := startClient(t, venv, gateway, "--workers", "1") // and the cluster is not shut down by its user
		user.next("workers")
		user.kill()
		always.stop()
		always.check(t, notOK)
		d.stop(t)
		nothingLeft(t, cluster)
	})

	t.Run("started again nothing is built", func(t *testing.T) {
		again := p.start(t)
		again.await(t, 0, ready)
		if n := again.count(0, `image (built|loaded)`); n != 0 {
			t.Errorf("%d images were built or loaded", n)
		}
		if n := again.count(0, `image found`); n != 2 {
			t.Errorf("%d images were found, not 2", n)
		}
		again.stop(t)
		nothingLeft(t, cluster)
	})

	t.Run("--cleanup=false leaves the platform, after kill -9 delete removes it", func(t *testing.T) {
		again := p.start(t, "--cleanup=false")
		again.await(t, 0, ready)
		again.stop(t)
		stayed := revisions(t, cluster)
		if len(stayed) != 2 {
			t.Errorf("releases that stay: %v", stayed)
		}
		again = p.start(t)
		again.await(t, 0, ready)
		if got := revisions(t, cluster); !reflect.DeepEqual(got, stayed) {
			t.Errorf("revisions went from %v to %v, and nothing had changed", stayed, got)
		}
		second := p.start(t, "delete") // of the same project on the same cluster
		<-second.done
		if code := second.cmd.ProcessState.ExitCode(); code != 3 {
			t.Errorf("with another devloop running the exit code is %d: %v", code, second.log(0))
		}
		if err := again.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-again.done
		remove := p.start(t, "delete")
		remove.wait(0, "nothing (?:else )?left behind", 3*time.Minute) // else: the CRDs, if it was this project that made them
		<-remove.done
		nothingLeft(t, cluster)
	})
}
