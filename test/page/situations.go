package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/status"
)

// A situation is what has happened in a devloop when its page is looked at.
type situation struct {
	name   string
	past   bool // earlier devloops have run
	happen func(*devloop)
	move   func(context.Context, *devloop) // what goes on happening
	asked  func(*devloop)                  // what a run does that the page asks for
}

var situations = []situation{
	{name: "nothing", happen: func(d *devloop) { d.starts() }},
	{name: "first", happen: first},
	{name: "ready", past: true, happen: ready},
	{name: "one", happen: one},
	{name: "dozen", past: true, happen: dozen},
	{name: "many", past: true, happen: many},
	{name: "working", past: true, happen: working},
	{name: "failed", past: true, happen: failed},
	{name: "crash", past: true, happen: crash},
	{name: "broken", past: true, happen: broken},
	{name: "synced", past: true, happen: synced},
	{name: "other-files", past: true, happen: otherFiles},
	{name: "away", past: true, happen: away},
	{name: "hostile", happen: hostile},
	{name: "moving", past: true, happen: ready, move: move},
	{name: "mended", past: true, happen: ready, asked: failOrMend},
}

// first is a first start, which builds.
func first(d *devloop) {
	d.starts("gateway", "web")
	d.run = 1
	d.note("loop", event.RunStarts, event.RunStart{Why: "start"})
	d.step("build", event.InputsHashed, 80*time.Millisecond, nil)
	d.building("worker", 3, 7, "RUN pip install --no-cache-dir -r requirements.txt")
	d.pod("gateway-7d5c-x2x9p", "gateway", "", "Pending", "no image yet", 0)
	d.listens("service shop/traefik", "127.0.0.1:8001", "waiting", true)
}

func ready(d *devloop) {
	d.starts("gateway", "web", "client")
	d.deploys("requirements.txt", event.FileChanges{{File: "requirements.txt", Lines: []event.LineChange{
		{Name: "tabulate", After: "0.9.0", Change: event.Added},
		{Name: "pandas", Before: "2.2.2", After: "2.2.3", Change: event.Changed},
	}}}, "gateway", "web", "client")
	d.pod("api-gateway-6c9f7d5b8-4kzvn", "gateway", "", "Running", "", 0)
	d.pod("controller-gateway-79b5cdd6f4-h5xjc", "gateway", "", "Running", "", 0)
	d.pod("traefik-gateway-5f6c8c5f9b-q8mzl", "gateway", "", "Running", "", 2)
	d.pod("web-667d4b9c5d-9xkgf", "web", "", "Running", "", 0)
	d.pod("web-667d4b9c5d-tn2b7", "web", "", "Running", "", 0)
	d.pod("client-0", "client", "", "Running", "", 0)
	d.listens("service shop/traefik-gateway", "127.0.0.1:8001", "ready", true, "traefik-gateway-5f6c8c5f9b-q8mzl")
	d.listens("service shop/web", "127.0.0.1:8080", "ready", true, "web-667d4b9c5d-9xkgf")
	d.listens("service shop/postgres", "127.0.0.1:5432", "ready", false, "client-0")
	d.proves("")
	d.compares(0)
	d.pod("dask-scheduler-4b1f0e8c", "", "4b1f0e8c", "Running", "", 0)
	d.pod("dask-worker-4b1f0e8c-7tq2d", "", "4b1f0e8c", "Running", "", 0)
	d.pod("dask-worker-4b1f0e8c-zzk9p", "", "4b1f0e8c", "Pending",
		"0/1 nodes are available: 1 Insufficient cpu", 0)
	d.cluster("4b1f0e8c", "ada", 2, 4, "2 workers wait: 0/1 nodes: Insufficient cpu: 4 × 1.0 asked, 0.6 free",
		"cluster.scale(2), or worker_cores 0.2", false)
	d.cluster("9d3a77f1c20e4b5f8a6d1e2f3b4c5d6e", "grace", 3, 3, "", "", true)
	d.cluster("0ff1ce00", "edsger", 1, 1, "", "", false)
	d.gone("0ff1ce00", "distributed.scheduler - INFO - Receive client connection\n"+
		"distributed.core - ERROR - MemoryError: cannot allocate 4.2 GiB\nTraceback (most recent call last):\n"+
		"  File \"/usr/lib/python3.11/site-packages/distributed/core.py\", line 832, in wrapper")
}

func one(d *devloop) {
	d.starts("web")
	d.deploys("", nil, "web")
	d.pod("web-667d4b9c5d-9xkgf", "web", "", "Running", "", 0)
	d.listens("service shop/web", "127.0.0.1:8080", "ready", true, "web-667d4b9c5d-9xkgf")
	d.proves("")
}

func dozen(d *devloop) {
	ready(d)
	for i := range 6 {
		d.pod(fmt.Sprintf("web-667d4b9c5d-%05d", i), "web", "", "Running", "", 0)
	}
}

// many has 40 pods, 30 Dask clusters and a release with a long name.
func many(d *devloop) {
	const long = "quarterly-revenue-forecast-api-for-the-northern-region"
	d.starts("gateway", long, "web", "client", "postgres")
	d.deploys("charts/forecast/values.yaml", event.FileChanges{{File: "charts/forecast/values.yaml",
		Lines: []event.LineChange{{Name: "gateway.backend.scheduler.extraPodConfig.tolerations", Change: event.Changed},
			{Name: "replicas", Before: "3", After: "12", Change: event.Changed}}, More: 14}},
		"gateway", long, "web", "client", "postgres")
	for i := range 38 {
		release := []string{"gateway", long, "web", "client", "postgres"}[i%5]
		d.pod(fmt.Sprintf("%s-667d4b9c5d-%05d", release, 10007*i%99991), release, "", "Running", "", i%7/6)
	}
	d.pod("web-667d4b9c5d-broken", "web", "", "Running",
		"CrashLoopBackOff: ModuleNotFoundError: No module named 'tabulate'", 14)
	d.pod("notebook-of-ada", "", "", "Running", "", 0)
	d.listens("service shop/gateway", "127.0.0.1:8001", "ready", true, "gateway-667d4b9c5d-00000")
	d.listens("service shop/"+long, "127.0.0.1:8080", "ready", true)
	d.listens("service shop/postgres", "127.0.0.1:5432", "waiting", false)
	d.proves("")
	d.compares(3)
	for i := range 30 {
		reason, hint := "", ""
		if i%11 == 4 {
			reason, hint = "3 workers wait: 0/1 nodes: Insufficient memory", "stop a cluster, or worker_memory 1"
		}
		d.cluster(fmt.Sprintf("%08x", 2654435761*uint32(i+1)), []string{"ada", "grace", "edsger"}[i%3], i%5,
			max(i%5, i%11/4*3), reason, hint, i%6 == 0)
	}
}

func working(d *devloop) {
	ready(d)
	d.pass(40 * time.Second)
	d.run++
	d.note("loop", event.RunStarts, event.RunStart{Why: "change", Files: "requirements.txt", Since: d.now,
		Settled: 0.12, Changes: event.FileChanges{{File: "requirements.txt",
			Lines: []event.LineChange{{Name: "tabulate", Before: "0.9.0", Change: event.Removed}}}}})
	d.pass(120 * time.Millisecond)
	d.step("build", event.InputsHashed, 60*time.Millisecond, nil)
	d.building("worker", 3, 7, "RUN pip install --no-cache-dir -r requirements.txt")
}

func failed(d *devloop) {
	ready(d)
	d.pass(40 * time.Second)
	d.run++
	d.note(
		"loop",
		event.RunStarts,
		event.RunStart{Why: "change", Files: "requirements.txt", Since: d.now, Settled: 0.12,
			Changes: event.FileChanges{{File: "requirements.txt",
				Lines: []event.LineChange{{Name: "pandsa", After: "2.2.3", Change: event.Added}}}}},
	)
	d.building("worker", 3, 7, "RUN pip install --no-cache-dir -r requirements.txt")
	output := strings.Repeat("Collecting numpy>=1.26.0 (from dask->-r requirements.txt (line 3))\n  Using cached "+
		"numpy-2.1.3-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl.metadata (62 kB)\n", 8) +
		"ERROR: Could not find a version that satisfies the requirement pandsa==2.2.3 (from versions: none)\n" +
		"ERROR: No matching distribution found for pandsa==2.2.3"
	image := event.Image{Name: "worker", Tag: tag(9), Ref: "worker:" + tag(9)}
	d.note("build", event.BuildStepFailed, event.Instruction{Image: image, Output: output,
		Step: "RUN pip install --no-cache-dir -r requirements.txt"})
	d.fails("build", event.ImageBuilt, event.Build{Image: image},
		"build worker: RUN pip install --no-cache-dir -r requirements.txt: exit code 1",
		"see the last lines of its output; what ran keeps running")
	d.fails(
		"loop",
		event.RunComplete,
		nil,
		"build worker: RUN pip install --no-cache-dir -r requirements.txt: exit code 1\n"+
			"build client: cancelled, since another image cannot be built",
		"see the last lines of its output; what ran keeps running",
	)
}

// failOrMend is a run that fails, or one that succeeds after a failure.
func failOrMend(d *devloop) {
	d.now = time.Now()
	if d.board.State().Health == status.Failed {
		d.deploys("requirements.txt", nil, "gateway", "web", "client")
	} else {
		d.run++
		d.note("loop", event.RunStarts, event.RunStart{Why: "asked"})
		d.fails("loop", event.RunComplete, nil, "release web: pod web-667d4b9c5d-9xkgf: CrashLoopBackOff",
			"look at its log: kubectl logs -n shop web-667d4b9c5d-9xkgf")
	}
	d.now = time.Time{}
}

// crash is a release whose new pod does not start.
func crash(d *devloop) {
	ready(d)
	d.pass(time.Minute)
	d.pod("web-667d4b9c5d-9xkgf", "web", "", "Running",
		"CrashLoopBackOff: exit code 1: ModuleNotFoundError: No module named 'tabulate'", 4)
	d.listens("service shop/web", "127.0.0.1:8080", "waiting", true)
}

func broken(d *devloop) {
	ready(d)
	d.pass(time.Minute)
	d.proves(fmt.Sprintf("worker: pod shop/client-0 runs worker:%s, not worker:%s", tag(3), tag(2)))
}

// synced is a save whose files were written into what runs; the image that holds them is ready.
func synced(d *devloop) {
	ready(d)
	d.pass(40 * time.Second)
	d.run++
	d.note("loop", event.RunStarts, event.RunStart{Why: "change", Files: "analysis/model.py", Since: d.now, Settled: 0.1})
	d.pass(100 * time.Millisecond)
	d.step("build", event.InputsHashed, 12*time.Millisecond, nil)
	d.step("sync", event.FilesSynced, 110*time.Millisecond, event.SyncedFiles{Image: "worker", Written: 2, Deleted: 1,
		Bytes: 51_000, Containers: 3, Python: true})
	d.syncs(false)
	d.send(event.Event{Stage: "loop", Phase: event.Succeeded, Message: event.RunComplete})
	d.pass(11 * time.Second)
	d.note("sync", event.ImageRenewed, event.RenewedImage{Image: event.Image{Name: "worker", Tag: tag(4)}})
}

// otherFiles is a container whose files were then changed by hand.
func otherFiles(d *devloop) {
	synced(d)
	d.pass(20 * time.Second)
	d.syncs(true)
}

// syncs checks the chain of a run that has synced files.
func (d *devloop) syncs(changed bool) {
	links := links()
	links[0].Is, links[0].SyncedInto = string(tag(4)), tag(2)
	own := event.Links{{Image: "worker", Place: event.AtFiles, Is: id(7)}}
	for _, container := range []event.Name{"dask-scheduler-4b1f0e8c/main", "dask-worker-4b1f0e8c-7tq2d/main"} {
		own = append(own, event.Link{Image: "worker", Place: event.AtFiles, Name: "shop/" + container, Is: id(7)})
	}
	e := event.Event{Stage: "proof", Phase: event.Succeeded, Message: event.ChainChecked, Took: 200 * time.Millisecond}
	if changed {
		link := &own[2]
		link.Is, link.Want, link.More = id(8), id(7), 3
		link.Differ = []string{"/opt/platform/analysis/model.py changed", "/opt/platform/analysis/old.py left over"}
		e.Phase, e.Err = event.Failed, event.WithHint(errors.New("what runs is not what is on the disk: worker: container "+
			string(link.Name)+" holds other files than the disk: "+link.Differing()), "run again (r), which writes them again; "+
			"to look at them: kubectl exec -n shop dask-worker-4b1f0e8c-7tq2d -c main -- ls -l "+
			"'/opt/platform/analysis/model.py'")
	}
	e.Payload = event.Chain{Links: append(own, links...)}
	d.send(e)
}

func away(d *devloop) {
	ready(d)
	d.pass(time.Minute)
	d.send(event.Event{Stage: "devloop", Phase: event.Warned, Message: event.ClusterAway,
		Payload: event.Cluster{State: event.ClusterStopped},
		Err: event.WithHint(errors.New("the machine of minikube profile demo is not running"),
			"minikube start -p demo")})
}

// hostile has data that must stay text.
func hostile(d *devloop) {
	const bad = `<img src=x onerror=alert(1)>`
	d.starts("web")
	d.deploys(
		bad,
		event.FileChanges{{File: bad, Lines: []event.LineChange{{Name: bad, After: bad, Change: event.Added}}}},
		"web",
	)
	d.pod("web-1", "web", "", "Running", bad, 0)
	for i, url := range []event.Name{"javascript:alert(1)", "https://evil.example/", "http://localhost.evil.example:80/",
		"http://localhost@evil.example/", "data:text/html,x", "http://[::1]:8001/"} {
		address := event.Address{
			Target: "service shop/web",
			Local:  event.Name(fmt.Sprintf("127.0.0.1:%d", 9000+i)),
			URL:    url,
		}
		d.note("forward", event.ForwardListens, address)
		d.note("forward", event.ForwardReady, event.Forward{Address: address, State: "ready", Pods: event.Names{"web-1"}})
	}
	d.note("dask", event.ClusterSeen, event.DaskCluster{Namespace: "shop", Name: "1234", Owner: bad, Image: bad,
		Since: d.now, Reason: bad, Hint: bad, Dashboard: "javascript:alert(1)"})
}

// move lets pods restart, clusters scale and runs happen.
func move(ctx context.Context, d *devloop) {
	for n := 1; ; n++ {
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
		d.pod("web-667d4b9c5d-tn2b7", "web", "", "Running", []string{"", "ContainerCreating"}[n%2], n)
		d.cluster("9d3a77f1c20e4b5f8a6d1e2f3b4c5d6e", "grace", n%4, 3, "", "", true)
		if n%10 == 0 {
			d.deploys("values.yaml", nil, "web")
		}
	}
}

// devloop is one that is made up. Its clock stands, unless time passes, until the page is looked
// at.
type devloop struct {
	board *status.Board
	now   time.Time // zero: the time that it is
	run   int
}

func (d *devloop) send(e event.Event) {
	e.Run = d.run
	if e.Time = d.now; d.now.IsZero() {
		e.Time = time.Now()
	}
	d.board.Sink(e)
}

// pass lets time pass: at once while the page is not looked at.
func (d *devloop) pass(duration time.Duration) {
	if d.now.IsZero() {
		<-time.After(duration)
		return
	}
	d.now = d.now.Add(duration)
}

func (d *devloop) note(stage, message string, payload any) {
	d.send(event.Event{Stage: stage, Phase: event.Noted, Message: message, Payload: payload})
}

func (d *devloop) step(stage, message string, took time.Duration, payload any) {
	d.send(event.Event{Stage: stage, Phase: event.Started, Message: message, Payload: payload})
	d.pass(took)
	d.send(event.Event{Stage: stage, Phase: event.Succeeded, Message: message, Payload: payload, Took: took})
}

func (d *devloop) fails(stage, message string, payload any, text, hint string) {
	d.pass(3100 * time.Millisecond)
	d.send(event.Event{Stage: stage, Phase: event.Failed, Message: message, Payload: payload, Took: 3 * time.Second,
		Err: event.WithHint(errors.New(text), hint)})
}

func (d *devloop) starts(releases ...event.Name) {
	d.now = time.Now().Add(-3 * time.Minute)
	d.note(
		"devloop",
		event.DevloopStarted,
		event.DevloopStart{Project: "shop", Cluster: "minikube", Folder: "/home/ada/shop",
			Version: "v0.9.0", System: "linux/amd64", Tool: "minikube"},
	)
	config := event.Config{Project: "shop", File: "/home/ada/shop/devloop.yaml", Folder: "/home/ada/shop",
		Images: event.Names{"worker", "client"}}
	if len(releases) == 0 {
		config.Images = nil
	}
	for _, name := range releases {
		config.Releases = append(
			config.Releases,
			event.Release{Namespace: "shop", Name: name, Chart: "charts/" + string(name)},
		)
	}
	d.note("config", event.ConfigRead, config)
}

// tag returns a tag, another one for each n.
func tag(n int) event.Name { return event.Name(fmt.Sprintf("%016x", 0x9e3779b97f4a7c15/uint64(n))) }

func id(n int) string { return "sha256:" + strings.Repeat(string(tag(n)), 4) }

// deploys is a run that succeeds.
func (d *devloop) deploys(files string, changes event.FileChanges, releases ...event.Name) {
	d.run++
	start := event.RunStart{Why: "start", Files: files, Changes: changes}
	if files != "" {
		start = event.RunStart{Why: "change", Files: files, Changes: changes, Since: d.now, Settled: 0.2}
	}
	d.note("loop", event.RunStarts, start)
	d.pass(200 * time.Millisecond)
	d.step("build", event.InputsHashed, 80*time.Millisecond, nil)
	for i, name := range []event.Name{"worker", "client"} {
		image := event.Image{Name: name, Tag: tag(i + 2), Ref: name + ":" + tag(i+2)}
		d.startBuild(image)
		for n := range 4 {
			d.pass(700 * time.Millisecond)
			d.send(event.Event{Stage: "build", Phase: event.Detailed, Message: event.BuildStep, Took: 700 * time.Millisecond,
				Payload: event.Instruction{Image: image, Step: fmt.Sprintf("RUN step %d of the Dockerfile", n), Cached: n < 2}})
		}
		d.send(
			event.Event{Stage: "build", Phase: event.Succeeded, Message: event.ImageBuilt, Took: 2800 * time.Millisecond,
				Payload: event.Build{Image: image, ID: id(i + 2)}},
		)
		d.step("node", event.ImageLoaded, 600*time.Millisecond, event.Loaded{Image: image, Bytes: 11_500_000})
		d.note(
			"node",
			event.ImageOnNode,
			event.NodeImage{Image: image, Node: "minikube", Digest: id(i + 2), ID: id(i + 2)},
		)
	}
	for _, name := range releases {
		d.step(
			"deploy",
			event.ReleaseApplied,
			400*time.Millisecond,
			event.Release{Namespace: "shop", Name: name, Revision: d.run},
		)
	}
	d.step("deploy", event.RolloutComplete, 2200*time.Millisecond, event.Rollout{})
	d.step("loop", event.PlatformAnswers, 150*time.Millisecond, event.Answer{URL: "http://127.0.0.1:8001/health"})
	d.send(event.Event{Stage: "loop", Phase: event.Succeeded, Message: event.RunComplete})
}

func (d *devloop) startBuild(image event.Image) {
	for _, message := range []string{event.BuildingImage, event.ImageBuilt} {
		d.send(event.Event{Stage: "build", Phase: event.Started, Message: message, Payload: event.Build{Image: image}})
	}
}

func (d *devloop) building(name event.Name, done, total int, step string) {
	image := event.Image{Name: name, Tag: tag(9), Ref: name + ":" + tag(9)}
	d.startBuild(image)
	d.pass(4 * time.Second)
	d.send(event.Event{Stage: "build", Phase: event.Progress, Message: event.BuildingImage,
		Payload: event.Build{Image: image, Step: step, Done: done, Total: total, Since: d.now}})
}

func (d *devloop) pod(name, release, group, phase, reason string, restarts int) {
	image := event.Name("nginx:1.27")
	switch release {
	case "gateway":
		image = "daskgateway/dask-gateway-server:2024.1.0"
	case "client":
		image = "client:" + tag(3)
	}
	created := d.now
	if created.IsZero() {
		created = time.Now()
	}
	d.note(
		"pod",
		event.PodChanged,
		event.Pod{PodRef: event.PodRef{Namespace: "shop", Pod: event.Name(name)},
			Release: event.Name(release), Group: event.Name(group), Node: "minikube", Phase: event.Name(phase),
			Ready: reason == "", Reason: reason, Restarts: restarts, Created: created.Add(-time.Hour),
			Containers: event.Containers{{Name: "main", Image: image, ImageID: "sha256:1"}}},
	)
	d.note("pod", event.PodLog, event.LogLine{ContainerRef: event.ContainerRef{
		PodRef: event.PodRef{Namespace: "shop", Pod: event.Name(name)}, Container: "main"},
		Level: "info", Line: "INFO listening on 0.0.0.0:8000"})
}

func (d *devloop) listens(target, local, state string, http bool, pods ...event.Name) {
	var names event.Names
	for _, pod := range pods {
		names = append(names, string(pod))
	}
	address := event.Address{Target: event.Name(target), Local: event.Name(local)}
	if http {
		address.URL = event.Name("http://localhost" + strings.TrimPrefix(local, "127.0.0.1"))
	}
	d.note("forward", event.ForwardListens, address)
	f := event.Forward{Address: address, State: event.Name(state), Pods: names, Open: 1, Sent: 4200, Received: 981_000}
	if state != "ready" {
		f.Reason = "no pod of the service is ready"
	}
	d.note("forward", event.ForwardReady, f)
}

// links are those of a chain in which nothing is wrong.
func links() (links event.Links) {
	for i, name := range []event.Name{"worker", "client"} {
		hash, ref := string(tag(i+2)), string(name+":"+tag(i+2))
		links = append(
			links,
			event.Link{Image: name, Place: event.AtInputs, Is: hash},
			event.Link{Image: name, Place: event.AtBuild, Is: id(i + 2)},
			event.Link{Image: name, Place: event.AtNode, Name: "minikube", Is: id(i + 2)},
			event.Link{
				Image: name,
				Place: event.AtPod,
				Name:  "shop/" + []event.Name{"dask-worker-4b1f0e8c-7tq2d/main", "client-0/main"}[i],
				Is:    id(i + 2),
			},
		)
		if name == "worker" {
			links = append(links, event.Link{Image: name, Place: event.AtGateway, Name: "http://127.0.0.1:8001", Is: ref})
		}
	}
	return links
}

// proves checks the chain, which is broken at a pod if there is an error.
func (d *devloop) proves(broken string) {
	links := links()
	e := event.Event{Stage: "proof", Phase: event.Succeeded, Message: event.ChainChecked, Took: 300 * time.Millisecond}
	if broken != "" {
		links[8].Is, links[8].Want = id(3), id(2)
		e.Phase, e.Err = event.Failed, event.WithHint(errors.New(broken), "kubectl delete pod -n shop client-0")
	}
	e.Payload = event.Chain{Links: links}
	d.send(e)
}

func (d *devloop) compares(different int) {
	c := event.Comparison{Places: []string{"worker", "client", "this machine"}, Libraries: 44}
	for i := range different {
		c.Differences = append(c.Differences, event.Difference{Library: []string{"numpy", "pandas", "tabulate"}[i],
			Versions: []string{"2.1.3", "2.1.3", "2.1.2"}})
	}
	d.note("proof", map[bool]string{true: event.LibrariesDiffer, false: event.LibrariesSame}[different > 0], c)
}

func (d *devloop) cluster(name, owner string, running, wanted int, reason, hint string, old bool) {
	now := d.now
	if now.IsZero() {
		now = time.Now()
	}
	c := event.DaskCluster{
		Namespace: "shop",
		Name:      event.Name(name),
		Owner:     owner,
		Since:     now.Add(-25 * time.Minute),
		Image: "worker:" + string(
			tag(2),
		),
		Workers:   wanted,
		Phase:     "Running",
		Wanted:    wanted,
		Running:   running,
		Reason:    reason,
		Hint:      hint,
		Dashboard: event.Name("http://localhost:8001/clusters/shop." + name + "/status"),
	}
	if old {
		c.Image = "worker:" + string(tag(5))
	}
	d.note("dask", event.ClusterSeen, c)
	if old {
		clusters := append(event.DaskClusters{}, d.board.State().Old...)
		for _, other := range clusters {
			if other.Name == c.Name {
				return
			}
		}
		d.note("proof", event.ClustersOutdated, event.OutdatedClusters{Clusters: append(clusters, c)})
	}
}

func (d *devloop) gone(name event.Name, output string) {
	d.note("dask", event.ClusterGone, event.DaskClusterEnd{Namespace: "shop", Name: name, Output: output})
}

// past are runs of earlier devloops.
func past(now time.Time) []status.Run {
	var runs []status.Run
	for i := range 24 {
		took := 6 + 5*float64(i*i%7)/7
		run := status.Run{
			Number:  i + 1,
			Why:     "change",
			Files:   "requirements.txt",
			Outcome: status.Succeeded,
			Seconds: took,
			Started: now.Add(time.Duration(i-30) * 5 * time.Minute),
			Spans:   []status.Span{},
			Stages: []status.Stage{{Name: "settle", Seconds: 0.2}, {Name: "build", Seconds: took / 3},
				{Name: "load", Seconds: took / 6}, {Name: "helm", Seconds: 0.8}, {Name: "rollout", Seconds: took / 4}},
		}
		switch {
		case i == 0:
			run.Why, run.Files, run.Seconds = "start", "", 74
		case i%9 == 5:
			run.Outcome, run.Error = status.RunFailed, "build worker: RUN pip install: exit code 1"
		case i%7 == 3:
			run.Outcome = status.Superseded
		}
		runs = append(runs, run)
	}
	return runs
}
