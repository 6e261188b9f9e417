//go:build e2e

// That what runs is what is on the disk, and that it is said where it is not: canary pods, the chain, the libraries, clusters that are older
// than the last save.
package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func TestTruth(t *testing.T) {
	t.Run("platform", testTruth)
	t.Run("skaffold.yaml", testSkaffold)
}

const (
	wholeAgain = `what runs is what is on the disk`
	brokenRun  = runFailed + `.*what runs is not what is on the disk: `
)

func testTruth(t *testing.T) {
	cluster := kubernetesClient(t)
	p := newProject(t, platform)
	nonce := strconv.FormatInt(time.Now().UnixNano(), 36)
	python := laptop(t)
	venv := filepath.Dir(filepath.Dir(python))
	p.env = append(p.env, "VIRTUAL_ENV="+venv, "XDG_RUNTIME_DIR="+t.TempDir())
	d := p.start(t, "--verbose")
	removeImages(t, d)
	worker := d.says(t, 0, `image (?:built|found).* image=(worker:\w+) (?:id|on)`)[1]
	client := d.says(t, 0, `image (?:built|found).* image=(daskclient:\w+) (?:id|on)`)[1]
	d.await(t, 0, ready)

	t.Run("the chain", func(t *testing.T) {
		chain := p.chain(t)
		id := kubectl(t, "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=dask-session", "-o", "jsonpath={.items[0].status.containerStatuses[0].imageID}")
		pod := kubectl(t, "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=dask-session", "-o", "jsonpath={.items[0].metadata.name}")
		node := onlyNode(t)
		want := []event.Link{
			{Image: "worker", Place: event.AtInputs, Is: strings.TrimPrefix(worker, "worker:")},
			{Image: "worker", Place: event.AtBuild, Is: chain.id("worker")},
			{Image: "worker", Place: event.AtNode, Name: node, Is: chain.id("worker")},
			{Image: "worker", Place: event.AtGateway, Name: gateway, Is: worker},
			{Image: "daskclient", Place: event.AtInputs, Is: strings.TrimPrefix(client, "daskclient:")},
			{Image: "daskclient", Place: event.AtBuild, Is: id},
			{Image: "daskclient", Place: event.AtNode, Name: node, Is: id},
			{Image: "daskclient", Place: event.AtPod, Name: namespace + "/" + pod + "/session", Is: id},
		}
		if !reflect.DeepEqual(chain.Links, want) {
			t.Errorf("the chain is\n%v\nnot\n%v", event.Links(chain.Links), event.Links(want))
		}
		out, _ := p.call(t, 0, "status", "--chain")
		for _, want := range []string{"for new clusters of " + gateway + " ", "in pod " + namespace + "/" + pod + "/session", strings.TrimPrefix(id, "sha256:")[:12]} {
			if !strings.Contains(out, want) {
				t.Errorf("devloop status --chain does not say %q:\n%s", want, out)
			}
		}
	})

	t.Run("an image whose dask cannot be imported never reaches the platform", func(t *testing.T) {
		before, pods, mark := revisions(t, cluster), podNames(t, cluster), d.mark()
		p.edit(t, "Dockerfile.worker", "USER dask", `RUN rm -r "$(python -c 'import dask, os; print(os.path.dirname(dask.__file__))')"`+"\nUSER dask")
		d.await(t, mark, failed)
		d.says(t, mark, `verify: python -c import dask, distributed, dask_gateway in image worker:\w+ ended with exit code 1`)
		d.says(t, mark, `ModuleNotFoundError: No module named 'dask'`)
		untouched(t, cluster, before, pods)

		mark = d.mark()
		p.edit(t, "Dockerfile.worker", "RUN rm -r", `RUN rm "$(command -v python)" # rm -r`)
		d.wait(mark, runFailed+`.*verify: python -c .* cannot be started in image worker:\w+: .*executable file not found`, oneRun)
		untouched(t, cluster, before, pods)

		mark = d.mark()
		p.edit(t, "Dockerfile.worker", `RUN rm "$(command -v python)" # rm -r "$(python -c 'import dask, os; print(os.path.dirname(dask.__file__))')"`+"\n", "")
		d.await(t, mark, ready)
		untouched(t, cluster, before, pods)
	})

	t.Run("a pod is kept on an older image", func(t *testing.T) {
		mark := d.mark()
		p.edit(t, "Dockerfile.client", `CMD ["sleep", "infinity"]`, "ENV EDITED="+nonce+"\nCMD [\"sleep\", \"infinity\"]")
		now := d.says(t, mark, `image built.* image=(daskclient:\w+) id`)[1]
		d.wait(mark, wholeAgain, oneRun)
		d.await(t, mark, ready)

		mark = d.mark()
		kubectl(t, "set", "image", "-n", namespace, "deploy/dask-session", "session="+client)
		broken := regexp.QuoteMeta("runs " + client + ", not " + now)
		d.wait(mark, `ERRO proof: chain checked: failed .*daskclient: pod `+namespace+`/dask-session-\S+ `+broken, time.Minute)
		p.call(t, 0, "status", "--wait", "degraded")
		if out, log := p.call(t, 1, "status", "--chain"); !strings.Contains(out, client) || !strings.Contains(out, "BROKEN: it should be "+now) || !strings.Contains(log, client) {
			t.Errorf("devloop status --chain says\n%s%s", out, log)
		}

		mark = d.mark()
		kubectl(t, "set", "image", "-n", namespace, "deploy/dask-session", "session="+now)
		d.wait(mark, wholeAgain, time.Minute)
		p.call(t, 0, "status", "--wait", "healthy")
		p.chain(t)
		if n := d.count(mark, `ERRO`); n != 0 {
			t.Errorf("%d errors were told after it was mended", n)
		}
	})

	t.Run("a pod that somebody has started is kept on an older image", func(t *testing.T) {
		start := func(name, labels string) (mark int) {
			mark = d.mark()
			kubectl(t, "run", "-n", namespace, name, "--image="+client, "--image-pull-policy=Never", "--labels="+labels, "--", "sleep", "infinity")
			return mark
		}
		mark := start("of-a-hub", "app.kubernetes.io/managed-by=hub")
		d.wait(mark, `WARN proof: pods run an older image and nothing replaces them pods="`+namespace+`/of-a-hub \(`+client+`\)"`, time.Minute)
		if out, _ := p.call(t, 0, "status", "--chain"); !regexp.MustCompile(`of-a-hub/of-a-hub +` + client + ` +older than daskclient:\w+, nothing replaces it`).MatchString(out) {
			t.Errorf("devloop status --chain says\n%s", out)
		}
		p.call(t, 0, "status", "--wait", "healthy")

		mark = start("by-hand", "run=by-hand")
		d.wait(mark, `ERRO proof: chain checked: failed .*daskclient: pod `+namespace+`/by-hand/by-hand runs `+client+`, not daskclient:\w+`, time.Minute)
		mark = d.mark()
		kubectl(t, "delete", "pod", "-n", namespace, "by-hand", "of-a-hub", "--now")
		d.wait(mark, wholeAgain, time.Minute)
	})

	t.Run("a values file gives new clusters another image", func(t *testing.T) {
		mark := d.mark()
		const ours, pinned = `default=c.KubeClusterConfig.image`, `default="daskgateway/dask-worker:latest"`
		p.edit(t, "deploy/dask-gateway/values.yaml", ours, pinned)
		d.wait(mark, brokenRun+regexp.QuoteMeta("worker: the gateway at "+gateway+" gives new clusters daskgateway/dask-worker:latest, not "+worker), oneRun)
		p.call(t, 0, "status", "--wait", "failed") // between the tries that follow
		if _, log := p.call(t, 1, "status", "--chain"); !strings.Contains(log, "daskgateway/dask-worker:latest") {
			t.Errorf("devloop status --chain says %s", log)
		}
		mark = d.mark()
		p.edit(t, "deploy/dask-gateway/values.yaml", pinned, ours)
		d.await(t, mark, ready)
		p.chain(t)
	})

	t.Run("two clusters are older than the save", func(t *testing.T) {
		var users []*user
		for _, name := range []string{"ada", "grace"} {
			users = append(users, startClient(t, python, gateway, "--user", name, "--workers", "1"))
		}
		var names []string
		for _, u := range users {
			names = append(names, u.next("workers")["cluster"].(string))
		}
		if out, _ := p.call(t, 0, "clusters"); strings.Contains(out, "stale") || strings.Count(out, worker) != 2 {
			t.Errorf("before the save there are\n%s", out)
		}
		mark := d.mark()
		p.edit(t, "requirements.txt", "loguru==0.7.2", "loguru==0.7.2 # "+nonce)
		d.await(t, mark, ready)
		d.says(t, mark, `WARN proof: clusters run an older image`)
		for i, owner := range []string{"ada", "grace"} {
			d.wait(mark, regexp.QuoteMeta(names[i]+" of "+owner+": "+worker)+`, \d+[sm] old`, time.Second)
		}
		d.says(t, mark, `devloop clusters stop --stale`)
		p.chain(t)
		stale := regexp.MustCompile(`(?m)^(\S+) +(ada|grace) +` + worker + ` +1 +\d+[sm]`)
		for _, args := range [][]string{{"status"}, {"clusters"}} {
			if out, _ := p.call(t, 0, args...); len(stale.FindAllString(out, -1)) != 2 {
				t.Errorf("devloop %s says\n%s", args[0], out)
			}
		}
		if pods := daskPods(t, cluster, worker, 4); len(pods) != 4 { // nobody has touched them
			t.Errorf("%d pods of Dask clusters run", len(pods))
		}
		newer := startClient(t, python, gateway, "--user", "alan", "--workers", "1")
		third := newer.next("workers")["cluster"].(string)

		out, _ := p.call(t, 0, "clusters", "stop", "--stale")
		if strings.Count(out, "stopped: ") != 2 || strings.Contains(out, third) {
			t.Errorf("devloop clusters stop --stale says\n%s", out)
		}
		if out, _ := p.call(t, 0, "clusters"); !strings.Contains(out, third) || strings.Contains(out, names[0]) || strings.Contains(out, "stale") {
			t.Errorf("after that there are\n%s", out)
		}
		for _, u := range users {
			u.kill()
		}
		newer.finish()
		eventually(t, "devloop status names no stale cluster", func() bool {
			out, _ := p.call(t, 0, "status")
			return !strings.Contains(out, "STALE")
		})
		if out, _ := p.call(t, 0, "clusters", "stop", "--stale"); !strings.Contains(out, "no Dask cluster runs an older image") {
			t.Errorf("and once more: %s", out)
		}
	})

	t.Run("a library of the laptop has another version, and one save mends all three", func(t *testing.T) {
		d.says(t, 0, `INFO proof: libraries are the same places=worker,daskclient,\S+ libraries=\d+`)
		if out, _ := p.call(t, 0, "skew"); !regexp.MustCompile(`^the same \d+ libraries in worker, daskclient and \S+\n$`).MatchString(out) {
			t.Errorf("devloop skew says %q", out)
		}
		must(t, pip(t, python, "loguru==0.7.1", "toolz==0.12.0"))
		differ := `library +worker +daskclient +\S+\n(?:.*)toolz +0\.12\.1 +0\.12\.1 +0\.12\.0\n(?:.*)loguru +0\.7\.2 +0\.7\.2 +0\.7\.1\n`
		if out, _ := p.call(t, 1, "skew"); !regexp.MustCompile(`^` + differ + `$`).MatchString(out) {
			t.Errorf("devloop skew says\n%s", out)
		}
		mark := d.mark()
		must(t, d.cmd.Process.Signal(syscall.SIGHUP))
		d.says(t, mark, `WARN proof: libraries differ places=worker,daskclient,`)
		d.says(t, mark, `loguru +0\.7\.2 +0\.7\.2 +0\.7\.1`)
		if out, _ := p.call(t, 0, "status"); !regexp.MustCompile(`LIBRARY.*\ntoolz`).MatchString(out) {
			t.Errorf("devloop status says\n%s", out)
		}

		mark = d.mark()
		p.append(t, "devloop.yaml", "local: { sync: true }\n")
		d.says(t, mark, `INFO local: requirements installed .*installed="\S*(?:loguru-0\.7\.2|toolz-0\.12\.1)`)
		d.says(t, mark, `INFO proof: libraries are the same`)
		p.call(t, 0, "skew")

		mark = d.mark() // one save for all three
		p.edit(t, "requirements.txt", "loguru==0.7.2", "loguru==0.7.1")
		d.says(t, mark, `INFO local: requirements installed .*installed=loguru-0\.7\.1`)
		d.await(t, mark, ready)
		d.says(t, mark, `libraries are the same`)
		p.call(t, 0, "skew")
		mark = d.mark()
		p.edit(t, "requirements.txt", "loguru==0.7.1", "loguru==0.7.2")
		d.says(t, mark, `INFO local: requirements installed .*installed=loguru-0\.7\.2`)
		d.await(t, mark, ready)
	})

	d.stop(t)
	nothingLeft(t, cluster)
	noCanary(t, cluster)

	t.Run("without a devloop that runs", func(t *testing.T) {
		p.call(t, 0, "run")
		if out, _ := p.call(t, 0, "skew"); !strings.HasPrefix(out, "the same ") {
			t.Errorf("devloop skew says\n%s", out)
		}
		if out, _ := p.call(t, 0, "clusters"); out != "no Dask cluster runs\n" {
			t.Errorf("devloop clusters says\n%s", out)
		}
		p.call(t, 3, "status", "--chain")
		noCanary(t, cluster)
		p.call(t, 0, "delete")
		nothingLeft(t, cluster)
	})
}

// pip installs into the laptop's environment.
func pip(t *testing.T, python string, libraries ...string) error {
	t.Helper()
	_, err := command(t.Context(), os.Environ(), python, append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check"}, libraries...)...)
	return err
}

// chainSaid is the answer of devloop status --chain --json.
type chainSaid struct {
	Error string
	Links []event.Link
}

// chain asks a devloop for its chain, which is to be whole.
func (p *project) chain(t *testing.T) (chain chainSaid) {
	t.Helper()
	out, log := p.call(t, 0, "status", "--chain", "--json")
	if err := json.Unmarshal([]byte(out), &chain); err != nil {
		t.Fatalf("%v: %s%s", err, out, log)
	}
	return chain
}

// id is that of an image on a node.
func (c chainSaid) id(image string) string {
	for _, l := range c.Links {
		if l.Image == image && l.Place == event.AtNode {
			return l.Is
		}
	}
	return ""
}

// untouched checks that nothing was deployed, and that no canary is left.
func untouched(t *testing.T, cluster kubernetes.Interface, before map[string]int, pods []string) {
	t.Helper()
	if after := revisions(t, cluster); !reflect.DeepEqual(before, after) {
		t.Errorf("revisions went from %v to %v", before, after)
	}
	if after := podNames(t, cluster); !reflect.DeepEqual(pods, after) {
		t.Errorf("pods went from %v to %v", pods, after)
	}
	noCanary(t, cluster)
}

// testSkaffold is the platform of a repository that has a skaffold.yaml and no devloop.yaml.
func testSkaffold(t *testing.T) {
	p := newProject(t, platform)
	must(t, os.Remove(filepath.Join(p.dir, "devloop.yaml")))
	content, err := os.ReadFile(filepath.Join("testdata", "skaffold.yaml"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.dir, "skaffold.yaml"), content, 0o644))
	p.env = append(p.env, "DEVLOOP_SET=buildIn=host") // the node reaches no index of packages
	platformStory(t, p)
}
