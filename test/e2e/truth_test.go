//go:build e2e

// That what runs is what is on the disk, and that it is said where it is not: the chain, the
// libraries, clusters that are older than the last save.
package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestTruth(t *testing.T) {
	cluster := kubernetesClient(t)
	p := newProject(t, platform)
	nonce := unique()
	python := laptop(t)
	p.env = append(p.env, "VIRTUAL_ENV="+filepath.Dir(filepath.Dir(python)))
	d := p.start(t)
	removeImages(t, d)
	worker, client := d.image(t, 0, "worker"), d.image(t, 0, "daskclient")
	d.await(t, 0, ready)

	step(t, "the chain", func(t *testing.T) {
		chain := p.chain(t)
		session := func(path string) string {
			return kubectl(t, "get", "pods", "-n", namespace, "-l", "app.kubernetes.io/name=dask-session",
				"-o", "jsonpath={.items[0]"+path+"}")
		}
		pod, id := session(".metadata.name"), session(".status.containerStatuses[0].imageID")
		node := onlyNode(t)
		workerID := idOnNode(t, node, worker)
		hash := ""
		for _, link := range chain {
			if link.Place == event.AtFiles {
				hash = link.Is
			}
		}
		want := []event.Link{
			{Image: "worker", Place: event.AtInputs, Is: strings.TrimPrefix(worker, "worker:")},
			{Image: "worker", Place: event.AtBuild, Is: workerID},
			{Image: "worker", Place: event.AtNode, Name: event.Name(node), Is: workerID},
			{Image: "worker", Place: event.AtGateway, Name: gateway, Is: worker},
			{Image: "daskclient", Place: event.AtInputs, Is: strings.TrimPrefix(client, "daskclient:")},
			{Image: "daskclient", Place: event.AtBuild, Is: id},
			{Image: "daskclient", Place: event.AtNode, Name: event.Name(node), Is: id},
			{Image: "daskclient", Place: event.AtRelease, Name: namespace + "/dask-session deployment/dask-session", Is: client},
			{Image: "daskclient", Place: event.AtPod, Name: event.Name(namespace + "/" + pod + "/session"), Is: id},
		}
		files := []event.Link{ // those of the worker are in no container yet
			{Image: "daskclient", Place: event.AtFiles},
			{Image: "daskclient", Place: event.AtFiles, Name: event.Name(namespace + "/" + pod + "/session")},
		}
		var others, synced []event.Link
		for _, link := range chain {
			if link.Place == event.AtFiles {
				link.Is = strings.TrimPrefix(link.Is, hash)
				synced = append(synced, link)
			} else {
				others = append(others, link)
			}
		}
		if !reflect.DeepEqual(others, want) || !reflect.DeepEqual(synced, files) {
			t.Errorf("the chain is\n%v\nnot\n%v\nand %v of %s", event.Links(chain), event.Links(want), event.Links(files), hash)
		}
		p.prints(t, 0, "status --chain", "named by "+namespace+"/dask-session deployment/dask-session +"+client,
			"for new clusters of "+gateway+" ",
			"in pod "+namespace+"/"+pod+"/session +"+strings.TrimPrefix(id, "sha256:")[:12])
	})

	step(t, "an image whose dask cannot be imported never reaches the platform", func(t *testing.T) {
		before, pods := revisions(t, cluster), podNames(t, cluster)
		untouched := func(t *testing.T) {
			t.Helper()
			same(t, "revisions", before, revisions(t, cluster))
			same(t, "pods", pods, podNames(t, cluster))
			noCanary(t, cluster)
		}
		const argument = ` "$(python -c 'import dask, os; print(os.path.dirname(dask.__file__))')"` + "\n"
		c := d.replace(t, "Dockerfile.worker", "USER dask", "RUN rm -r"+argument+"USER dask")
		c.fails(t, `(?s)verify: python -c import dask, distributed, dask_gateway in image worker:\w+ ended with exit code 1`+
			`.*ModuleNotFoundError: No module named 'dask'`)
		untouched(t)

		c = d.replace(t, "Dockerfile.worker", "RUN rm -r", `RUN rm "$(command -v python)" # rm -r`)
		c.fails(t, `verify: python -c .* cannot be started in image worker:\w+: .*executable file not found`)
		untouched(t)

		d.replace(t, "Dockerfile.worker", `RUN rm "$(command -v python)" # rm -r`+argument, "").arrives(t)
		untouched(t)
	})

	broken := on(event.ChainChecked, event.Failed)
	whole := on(event.ChainIntact)

	step(t, "a pod is kept on an older image", func(t *testing.T) {
		c := d.replace(t, "Dockerfile.client", `CMD ["sleep"`, "ENV EDITED="+nonce+"\n"+`CMD ["sleep"`)
		c.arrives(t)
		c.happens(t, whole)
		now := d.image(t, c.since, "daskclient")

		mark := d.mark()
		kubectl(t, "set", "image", "-n", namespace, "deploy/dask-session", "session="+client)
		d.await(t, mark, broken.because(`daskclient: pod `+namespace+`/dask-session-\S+ runs `+client+`, not `+now))
		p.call(t, 0, "status", "--wait", "degraded", "--timeout", longEnough.String())
		p.prints(t, 1, "status --chain", client+" +BROKEN: it should be "+now, "runs "+client+", not "+now)

		c = d.again(t) // which puts it back
		c.arrives(t)
		c.happens(t, on(reverted).with("object", "^deployment/dask-session$").with("changes", regexp.QuoteMeta(client)+"$"))
		c.happens(t, whole)
		p.chain(t)
		for _, l := range d.log(c.since) {
			if l.Level() == event.Error {
				t.Errorf("after it was mended it was told: %s", l)
			}
		}
	})

	step(t, "a pod that somebody has started is kept on an older image", func(t *testing.T) {
		start := func(name, labels string) (mark int) {
			mark = d.mark()
			kubectl(t, "run", "-n", namespace, name, "--image="+client, "--image-pull-policy=Never", "--labels="+labels,
				"--", "sleep", "infinity")
			return mark
		}
		mark := start("of-a-hub", "app.kubernetes.io/managed-by=hub")
		d.await(t, mark, on(event.PodsOutdated).with("pods", regexp.QuoteMeta(namespace+"/of-a-hub ("+client+")")))
		p.prints(t, 0, "status --chain", `of-a-hub/of-a-hub +`+client+` +older than daskclient:\w+, nothing replaces it`)
		p.call(t, 0, "status", "--wait", "healthy", "--timeout", longEnough.String())

		mark = start("by-hand", "run=by-hand")
		d.await(t, mark, broken.because(`daskclient: pod `+namespace+`/by-hand/by-hand runs `+client+`, not daskclient:\w+`))
		mark = d.mark()
		kubectl(t, "delete", "pod", "-n", namespace, "by-hand", "of-a-hub", "--now")
		d.await(t, mark, whole)
	})

	step(t, "a values file gives new clusters another image", func(t *testing.T) {
		const ours, pinned = `default=c.KubeClusterConfig.image`, `default="daskgateway/dask-worker:latest"`
		wrong := `worker: the gateway at ` + gateway + ` gives new clusters daskgateway/dask-worker:latest, not ` + worker
		d.replace(t, "deploy/dask-gateway/values.yaml", ours, pinned).fails(t, `what runs is not what is on the disk: `+wrong)
		p.call(t, 0, "status", "--wait", "failed", "--timeout", longEnough.String()) // between the tries that follow
		p.prints(t, 1, "status --chain", wrong)
		d.replace(t, "deploy/dask-gateway/values.yaml", pinned, ours).arrives(t)
		p.chain(t)
	})

	step(t, "the gateway's pod has started with an old configuration", func(t *testing.T) {
		configuration := func(t *testing.T) (file string) { // without its version, so that replace takes it
			t.Helper()
			var object map[string]any
			out := kubectl(t, "get", "-n", namespace, "configmap/api-dask-gateway", "-o", "json")
			must(t, json.Unmarshal([]byte(out), &object))
			delete(object["metadata"].(map[string]any), "resourceVersion")
			text, err := json.Marshal(object)
			must(t, err)
			file = filepath.Join(t.TempDir(), "configmap.json")
			must(t, os.WriteFile(file, text, 0o600))
			return file
		}
		old := configuration(t)
		c := d.replace(t, "Dockerfile.worker", "USER dask", "ENV EDITED="+nonce+"\nUSER dask")
		c.arrives(t)
		p.chain(t)
		now, older := configuration(t), worker
		worker = d.image(t, c.since, "worker")
		gives := func(image string) func() bool {
			return func() bool {
				options, _ := askOptions(t.Context()) // it is away for a moment
				return slices.ContainsFunc(options, func(o option) bool { return o.Field == "image" && o.Default == image })
			}
		}
		mark := d.mark()
		kubectl(t, "replace", "-f", old)
		kubectl(t, "delete", "pod", "-n", namespace, "-l", "app.kubernetes.io/component=gateway")
		kubectl(t, "rollout", "status", "-n", namespace, "deploy/api-dask-gateway")
		eventually(t, "the gateway gives the old image", gives(older))
		kubectl(t, "replace", "-f", now)
		restarted := on("restarting a gateway that started with an old configuration")
		d.await(t, mark, restarted)
		since := d.mark()
		eventually(t, "the gateway gives the right image", gives(worker))
		d.find(t, since, "the chain is complete", func(l line) bool {
			return l.Err == nil && on(event.ChainChecked, event.Detailed).met(l)
		})
		p.chain(t)
		if n := d.count(mark, restarted); n > 2 {
			t.Errorf("it was restarted %d times", n)
		}
	})

	step(t, "two clusters are older than the save", func(t *testing.T) {
		var users []*user
		for _, name := range []string{"ada", "grace"} {
			users = append(users, startClient(t, python, "--user", name, "--workers", "1"))
		}
		var names []string
		for _, u := range users {
			names = append(names, u.next(t, "workers")["cluster"].(string))
		}
		if out, _ := p.call(t, 0, "clusters"); strings.Contains(out, "stale") || strings.Count(out, worker) != 2 {
			t.Errorf("before the save there are\n%s", out)
		}
		c := d.replace(t, "requirements.txt", "loguru==0.7.2", "loguru==0.7.2 # "+nonce)
		c.arrives(t)
		told := c.happens(t, on(event.ClustersOutdated, event.Warned).with("stop with", "devloop clusters stop --stale"))
		for i, owner := range []string{"ada", "grace"} {
			if !strings.Contains(told.field("clusters"), names[i]+" of "+owner+": "+worker+" since ") {
				t.Errorf("it does not tell %s of %s: %s", names[i], owner, told)
			}
		}
		p.chain(t)
		stale := regexp.MustCompile(`(?m)^(\S+) +(ada|grace) +` + worker + ` stale +1/1 +` +
			regexp.QuoteMeta("http://localhost:8001/clusters/") + `\S+ +\d+[sm]`)
		for _, args := range [][]string{{"status"}, {"clusters"}} {
			if out, _ := p.call(t, 0, args...); len(stale.FindAllString(out, -1)) != 2 {
				t.Errorf("devloop %s says\n%s", args[0], out)
			}
		}
		daskPods(t, cluster, worker, 4) // nobody has touched them
		newer := startClient(t, python, "--user", "alan", "--workers", "1")
		third := newer.next(t, "workers")["cluster"].(string)

		out, _ := p.call(t, 0, "clusters", "stop", "--stale")
		if strings.Count(out, "stopped: ") != 2 || strings.Contains(out, third) {
			t.Errorf("devloop clusters stop --stale says\n%s", out)
		}
		out, _ = p.call(t, 0, "clusters")
		if !strings.Contains(out, third) || strings.Contains(out, names[0]) || strings.Contains(out, "stale") {
			t.Errorf("after that there are\n%s", out)
		}
		for _, u := range users {
			u.kill()
		}
		newer.finish(t)
		eventually(t, "devloop status names no stale cluster", func() bool {
			out, _ := p.call(t, 0, "status")
			return !strings.Contains(out, "stale")
		})
		p.prints(t, 0, "clusters stop --stale", "no Dask cluster runs an older image")
	})

	step(t, "a library of the laptop has another version, and one save mends all three", func(t *testing.T) {
		alike, places := on(event.LibrariesSame), `worker daskclient \S+`
		d.await(t, 0, alike.with("places", places).with("libraries", `^\d+$`))
		p.prints(t, 0, "skew", `^this machine: \S+ \(venv, Python 3\.\d+\.\d+\), by VIRTUAL_ENV\n`+
			`the same \d+ libraries in worker, daskclient and \S+\n$`)
		p.prints(t, 0, "skew --images-only", `^the same \d+ libraries in worker and daskclient\n$`)
		elsewhere := *p
		elsewhere.env = append(slices.Clone(p.env), "VIRTUAL_ENV=")
		if out, log := elsewhere.call(t, 3, "skew"); out != "" ||
			!strings.Contains(log, "nothing on this machine is compared") {
			t.Errorf("without an environment, devloop skew says\n%s%s", out, log)
		}

		// The requirements do not name locket, so that another resolution would leave it as it is.
		older := func() { must(t, pip(t, python, "loguru==0.7.1", "toolz==0.12.0", "locket==0.2.1")) }
		older()
		differ := `library +worker +daskclient +\S+\n.*toolz +0\.12\.1 +0\.12\.1 +0\.12\.0\n` +
			`.*locket +1\.0\.0 +1\.0\.0 +0\.2\.1\n.*loguru +0\.7\.2 +0\.7\.2 +0\.7\.1\n$`
		if out, _ := p.call(t, 1, "skew"); !regexp.MustCompile(differ).MatchString(out) {
			t.Errorf("devloop skew says\n%s", out)
		}
		p.prints(t, 0, "skew --fix", `(?m)^the same \d+ libraries in worker, daskclient and \S+$`)
		p.call(t, 0, "skew")
		older()
		differences := on(event.LibrariesDiffer, event.Warned).with("differences", `loguru 0\.7\.2/0\.7\.2/0\.7\.1`)
		d.again(t).happens(t, differences.with("places", places))
		p.prints(t, 0, "status", `LIBRARY.*\ntoolz`)

		synced := on(event.VenvSynced)
		c := d.next()
		p.append(t, "devloop.yaml", "local: { sync: true }\n")
		c.happens(t, synced.with("installed", `loguru-0\.7\.2|toolz-0\.12\.1`))
		c.happens(t, alike)
		p.call(t, 0, "skew")

		c = d.replace(t, "requirements.txt", "loguru==0.7.2", "loguru==0.7.1") // one save for all three
		c.happens(t, synced.with("installed", `loguru-0\.7\.1`))
		c.arrives(t)
		c.happens(t, alike)
		p.call(t, 0, "skew")
		c = d.replace(t, "requirements.txt", "loguru==0.7.1", "loguru==0.7.2")
		c.happens(t, synced.with("installed", `loguru-0\.7\.2`))
		c.arrives(t)
	})

	d.stop(t)
	nothingLeft(t, cluster)
	noCanary(t, cluster)
}

// pip installs into the laptop's environment.
func pip(t *testing.T, python string, args ...string) error {
	t.Helper()
	install := []string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check"}
	_, err := command(t.Context(), os.Environ(), python, append(install, args...)...)
	return err
}

// prints calls devloop, and checks that what it prints matches patterns.
func (p *project) prints(t *testing.T, code int, args string, patterns ...string) {
	t.Helper()
	out, log := p.call(t, code, strings.Fields(args)...)
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(out + log) {
			t.Errorf("devloop %s does not say %q:\n%s%s", args, pattern, out, log)
		}
	}
}

// chain asks a devloop for its chain, which is to be whole.
func (p *project) chain(t *testing.T) []event.Link {
	t.Helper()
	// A save that a retry has just read starts one more run, in which nothing differs.
	p.call(t, 0, "status", "--wait", "healthy", "--timeout", longEnough.String())
	out, log := p.call(t, 0, "status", "--chain", "--json")
	var chain struct{ Links []event.Link }
	if err := json.Unmarshal([]byte(out), &chain); err != nil {
		t.Fatalf("%v: %s%s", err, out, log)
	}
	return chain.Links
}

// idOnNode is what containerd on a node calls an image, as its pods tell it: the digest of its
// configuration.
func idOnNode(t *testing.T, node, image string) string {
	t.Helper()
	const ctr = "ctr --namespace k8s.io "
	in := func(command string) string {
		return script(t, append([]string{"exec", node}, strings.Fields(command)...)...)
	}
	row := strings.Fields(in(ctr + "images list name==docker.io/library/" + image))
	at := slices.IndexFunc(row, func(word string) bool { return strings.HasPrefix(word, "sha256:") })
	if at < 0 {
		t.Fatalf("node %s has no %s: %v", node, image, row)
	}
	var manifest struct{ Config struct{ Digest string } }
	must(t, json.Unmarshal([]byte(in(ctr+"content get "+row[at])), &manifest))
	return manifest.Config.Digest
}
