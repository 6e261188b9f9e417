//go:build e2e

// The platform for an hour: an edit every 20 s of every kind that there is, faults between, and a
// client that never stops asking. Now and then all rests: then devloop is ready, what runs is what
// is on the disk, and devloop takes no more of the machine and of the node than before.
package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

const (
	pace        = 20 * time.Second // from one edit to the next
	roundEdits  = 4                // from one rest to the next
	burstSaves  = 30
	branchFiles = 150 // that come and go with a branch
)

// soak is a platform that is edited, and what was measured of it.
type soak struct {
	*devloop
	cluster            kubernetes.Interface
	node               string
	page               string // its address
	state, cache, temp string // devloop's folders
	edits              deck[edit]
	mishaps            deck[mishap]
	measured           map[string][]float64
}

func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(setting(t, "SOAK_PLATFORM"))
	must(t, err)
	s := startSoak(t)
	always := startLoad(t, 1, local(8001), "/api/health")
	ends := time.Now().Add(length)
	for round := 1; time.Now().Before(ends); round++ {
		step(t, fmt.Sprintf("round %d", round), func(t *testing.T) {
			s.round(t)
			always.answer(t, 3)
		})
	}
	step(t, "nobody was refused", func(t *testing.T) {
		always.finish(t, func(o outcome) bool { return o.fate != refused })
	})
	step(t, "nothing has grown", s.flat)
	step(t, "Ctrl+C leaves nothing but images", func(t *testing.T) {
		s.stop(t)
		nothingLeft(t, s.cluster)
		noCanary(t, s.cluster)
	})
}

// startSoak has devloop run the platform, with a token in each file that will be edited.
func startSoak(t *testing.T) *soak {
	t.Helper()
	p := newProject(t, platform)
	p.edit(t, "devloop.yaml", "ready: /api/health }", "ready: /api/health, hold: 10m }")
	p.edit(t, "devloop.yaml", "dask_gateway'", "dask_gateway # soak-0'")
	p.edit(t, "Dockerfile.client", `CMD ["sleep"`, "ENV SOAK=soak-0\n"+`CMD ["sleep"`)
	p.append(t, "Dockerfile.worker", "ENV SOAK=soak-0\n")
	p.append(t, "requirements.txt", "# soak-0\n")
	p.edit(t, "deploy/dask-gateway/values.yaml", "  extraConfig:\n", "  extraConfig:\n    soak: '# soak-0'\n")
	p.edit(t, "deploy/dask-session/templates/deployment.yaml", "      labels: *labels\n    spec:",
		"      labels: *labels\n      annotations: { soak: soak-0 }\n    spec:")
	p.write(t, "analysis/soak.py", "# soak-0\n")
	p.git(t, "init", "--quiet", "--initial-branch", "few")
	p.commit(t)
	p.git(t, "checkout", "--quiet", "-b", "many")
	for i := range branchFiles {
		p.write(t, fmt.Sprintf("analysis/many_%d.py", i), fmt.Sprintf("# %d of %s\n", i, unique()))
	}
	p.commit(t)
	p.git(t, "checkout", "--quiet", "few")

	s := &soak{cluster: kubernetesClient(t), node: onlyNode(t), measured: map[string][]float64{},
		state: t.TempDir(), cache: setting(t, "DEVLOOP_TEST_CACHE_HOME"), temp: t.TempDir()}
	p.env = append(p.env, "XDG_STATE_HOME="+s.state, "TMPDIR="+s.temp)
	s.devloop = p.start(t)
	removeImages(t, s.devloop)
	s.edits.all, s.mishaps.all = s.kinds(), mishaps
	s.page = s.await(t, 0, on(event.PageServed)).field("url")
	s.await(t, 0, ready)
	return s
}

// round is some edits, one every 20 s, a fault between them, and a rest.
func (s *soak) round(t *testing.T) {
	mark, bad := s.mark(), s.mishaps.next()
	var mend func()
	for i := range roundEdits {
		next := time.Now().Add(pace)
		e := s.edits.next()
		t.Logf("%s edit: %s", time.Now().Format(time.TimeOnly), e.name)
		e.do(t)
		pass(t, time.Until(next.Add(-pace/2)))
		switch i {
		case 1:
			pass(t, rand.N(pace/2)) // it meets a build, a load, a release, a rollout
			t.Logf("%s fault: %s", time.Now().Format(time.TimeOnly), bad.name)
			mend = bad.begin(t, s.node)
		case 2:
			mend()
		}
		s.measureProcess(t)
		pass(t, time.Until(next))
	}
	rests := time.Now()
	s.call(t, 0, "status", "--wait", "healthy", "--timeout", longEnough.String())
	t.Logf("ready %s after the last edit; runs: %d succeeded, %d failed, %d superseded",
		(time.Since(rests) + pace).Round(time.Second), s.count(mark, ready), s.count(mark, failed), s.count(mark, superseded))
	s.isTrue(t)
	s.measureProcess(t)
	s.measurePlaces(t)
}

// deck gives out all of its cards, each time in another order.
type deck[T any] struct{ all, left []T }

func (d *deck[T]) next() T {
	if len(d.left) == 0 {
		d.left = slices.Clone(d.all)
		rand.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	card := d.left[0]
	d.left = d.left[1:]
	return card
}

// ---- edits and faults
// ------------------------------------------------------------------------------

type edit struct {
	name string
	do   func(t *testing.T)
}

// token is what an edit renews in a file. It is found again in what was made of the file.
var token = regexp.MustCompile(`soak-\w+`)

// renewed returns a file with another token.
func (s *soak) renewed(t *testing.T, file string) string {
	t.Helper()
	text := s.read(t, file)
	if !token.MatchString(text) {
		t.Fatalf("%s has no token:\n%s", file, text)
	}
	return token.ReplaceAllLiteralString(text, "soak-"+unique())
}

// kinds are the edits, each of another kind.
func (s *soak) kinds() []edit {
	renew := func(file string) func(*testing.T) {
		return func(t *testing.T) { s.write(t, file, s.renewed(t, file)) }
	}
	const list, library, more = "requirements.txt", "\nloguru==0.7.2", "\niniconfig==2.0.0"
	without := func(t *testing.T) string { return strings.Replace(s.renewed(t, list), more, "", 1) }
	return []edit{
		{"Dockerfile.client", renew("Dockerfile.client")},
		{"Dockerfile.worker", renew("Dockerfile.worker")},
		{"values", renew("deploy/dask-gateway/values.yaml")},
		{"a chart's template", renew("deploy/dask-session/templates/deployment.yaml")},
		{"a synced file", renew("analysis/soak.py")},
		{"a package more", func(t *testing.T) {
			s.write(t, list, strings.Replace(without(t), library, library+more, 1))
		}},
		{"a package less", func(t *testing.T) { s.write(t, list, without(t)) }},
		{"a version that does not exist, then mended", func(t *testing.T) {
			good := s.read(t, list)
			s.edit(t, list, library, "\nloguru==99.99.99")
			pass(t, pace/2)
			s.write(t, list, good)
		}},
		{"devloop.yaml", func(t *testing.T) { // a forward that is not what it was, and another check of the image
			hold := fmt.Sprintf("hold: %dm", 10+rand.IntN(50))
			s.write(t, "devloop.yaml", regexp.MustCompile(`hold: \d+m`).ReplaceAllString(s.renewed(t, "devloop.yaml"), hold))
		}},
		{"a burst of an editor's saves", func(t *testing.T) {
			for range burstSaves {
				s.write(t, "Dockerfile.client~", s.read(t, "Dockerfile.client"))
				s.write(t, "Dockerfile.client", s.renewed(t, "Dockerfile.client"))
				pass(t, look)
			}
		}},
		{"another branch", func(t *testing.T) {
			to := "many"
			if _, err := os.Stat(filepath.Join(s.dir, "analysis", "many_0.py")); err == nil {
				to = "few"
			}
			s.commit(t)
			s.git(t, "checkout", "--quiet", to)
		}},
	}
}

// git runs it in the project, as somebody.
func (p *project) git(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"-C", p.dir, "-c", "user.name=Ada", "-c", "user.email=ada@localhost"}, args...)
	_, err := command(t.Context(), os.Environ(), "git", args...)
	must(t, err)
}

// commit commits all that there is.
func (p *project) commit(t *testing.T) {
	t.Helper()
	p.git(t, "add", "--all")
	p.git(t, "commit", "--quiet", "--allow-empty", "--message", "edits")
}

// mishap is a fault; begin returns what mends it.
type mishap struct {
	name  string
	begin func(t *testing.T, node string) (mend func())
}

var mishaps = []mishap{
	ofNode("kill kube-apiserver"),
	ofNode("pause kube-apiserver"),
	ofNode("kill sshd"),
	ofNode("network off"),
	{"Docker away", func(t *testing.T, _ string) func() { return dockerFault(t) }},
}

func ofNode(what string) mishap {
	return mishap{what, func(t *testing.T, node string) func() { return fault(t, node, what) }}
}

// ---- what is so, asked without devloop
// -------------------------------------------------------------

// isTrue checks that what runs was made from the files as they are.
func (s *soak) isTrue(t *testing.T) {
	t.Helper()
	tokenOf := func(file string) string { return token.FindString(s.read(t, file)) }
	const show = `echo "$SOAK"; cat /opt/platform/requirements.txt; `

	var worker string
	for _, o := range clusterOptions(t) {
		if o.Field == "image" {
			worker = o.Default.(string)
		}
	}
	out, err := command(t.Context(), os.Environ(), "docker", "run", "--rm", "--network=none", worker, "sh", "-c", show)
	must(t, err)
	same(t, "what the image of new clusters holds", tokenOf("Dockerfile.worker")+"\n"+s.read(t, "requirements.txt"), out)
	out, err = command(t.Context(), os.Environ(), "docker", "image", "inspect", "--format", "{{.Id}}", worker)
	must(t, err)
	same(t, "the node's "+worker, strings.TrimSpace(out), idOnNode(t, s.node, worker))

	in := func(deployment, script string) string {
		return kubectl(t, "exec", "--namespace", namespace, "deploy/"+deployment, "--", "sh", "-c", script)
	}
	want := tokenOf("Dockerfile.client") + "\n" + s.read(t, "requirements.txt") + worker + "\n"
	code, err := filepath.Glob(filepath.Join(s.dir, "analysis", "*.py"))
	must(t, err)
	for _, file := range code {
		name := filepath.Base(file)
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(s.read(t, "analysis/"+name))), name)
	}
	same(t, "what the client pod holds", want,
		in("dask-session", show+`echo "$DASK_WORKER_IMAGE"; cd /opt/platform/analysis; LC_ALL=C sha256sum *.py`))
	same(t, "the client pod's annotation", tokenOf("deploy/dask-session/templates/deployment.yaml"),
		kubectl(t, "get", "deploy", "--namespace", namespace, "dask-session",
			"--output", "jsonpath={.spec.template.metadata.annotations.soak}"))
	same(t, "the gateway's configuration", "# "+tokenOf("deploy/dask-gateway/values.yaml"),
		strings.TrimSpace(in("api-dask-gateway", "grep -h '^ *# soak-' /etc/dask-gateway/*.py")))
	s.chain(t) // and devloop says so
}

// ---- figures
// ---------------------------------------------------------------------------------------

// figures are what is measured. Each grows by how much the median of the last third of its values
// is above that of the first third; or it has a bound of its own, which no value may exceed.
var figures = []struct {
	name          string
	grows, atMost float64
}{
	{name: "memory, MB", grows: 40},
	{name: "heap, MB", grows: 10},
	{name: "goroutines", grows: 40},
	{name: "descriptors", grows: 10},
	{name: "child processes", grows: 2},
	{name: "state, kB", grows: 500},
	{name: "temporary files, kB", grows: 100},
	{name: "cache, MB", grows: 100},
	{name: "Docker's images", grows: 3},
	{name: "node's images", atMost: 2 * (3 + 1)}, // keepImages, and one more while it is in use
	{name: "node's disk, MB", grows: 300},
	{name: "check pods", grows: 1},           // one may just be at work
	{name: "Helm revisions", atMost: 2 * 10}, // Helm's own bound for each release
}

// note adds a value to those of a figure.
func (s *soak) note(name string, value float64) { s.measured[name] = append(s.measured[name], value) }

// measureProcess measures what the process takes, at any time.
func (s *soak) measureProcess(t *testing.T) {
	t.Helper()
	metrics := askPage(t, s.page, "metrics")
	for _, m := range []struct {
		name, metric string
		unit         float64
	}{
		{"memory, MB", "process_resident_memory_bytes", 1e6},
		{"heap, MB", "go_memstats_next_gc_bytes", 2e6}, // the next collection is due when it has doubled
		{"goroutines", "go_goroutines", 1},
		{"descriptors", "process_open_fds", 1},
	} {
		found := regexp.MustCompile(`(?m)^` + m.metric + ` (\S+)$`).FindStringSubmatch(metrics)
		if found == nil {
			t.Fatalf("there is no %s in\n%s", m.metric, metrics)
		}
		value, err := strconv.ParseFloat(found[1], 64)
		must(t, err)
		s.note(m.name, value/m.unit)
	}
}

// measurePlaces measures what lies around, at rest.
func (s *soak) measurePlaces(t *testing.T) {
	t.Helper()
	children := 0
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	must(t, err)
	for _, list := range lists {
		pids, _ := os.ReadFile(list) // a thread may have ended
		children += len(strings.Fields(string(pids)))
	}
	s.note("child processes", float64(children))
	s.note("state, kB", size(t, s.state)/1e3)
	s.note("temporary files, kB", size(t, s.temp)/1e3)
	s.note("cache, MB", size(t, s.cache)/1e6)
	images, err := command(t.Context(), os.Environ(), "docker", "image", "ls", "--format", "{{.Repository}}")
	must(t, err)
	ours := slices.DeleteFunc(strings.Fields(images), func(name string) bool {
		return !slices.Contains([]string{"worker", "daskclient", "<none>"}, name)
	})
	s.note("Docker's images", float64(len(ours)))
	inNode := func(words ...string) []string {
		return strings.Fields(script(t, append([]string{"exec", s.node}, words...)...))
	}
	onNode := inNode("ctr", "--namespace", "k8s.io", "images", "list", "--quiet")
	onNode = slices.DeleteFunc(onNode, func(name string) bool {
		return !regexp.MustCompile(`^docker\.io/library/(worker|daskclient):\w+$`).MatchString(name)
	})
	if len(onNode) < 2 {
		t.Errorf("the node has no more than %v", onNode)
	}
	s.note("node's images", float64(len(onNode)))
	used := inNode("df", "--output=used", "--block-size=1M", "/mnt/vda1") // below a headline
	disk, err := strconv.ParseFloat(used[len(used)-1], 64)
	must(t, err)
	s.note("node's disk, MB", disk)
	pods, err := s.cluster.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: "devloop.trial"})
	must(t, err)
	s.note("check pods", float64(len(pods.Items)))
	revisions := 0
	for _, records := range helmRecords(t, s.cluster, namespace) {
		revisions += len(records)
	}
	s.note("Helm revisions", float64(revisions))
	for _, f := range figures {
		values := s.measured[f.name]
		t.Logf("%-20s %8.1f", f.name, values[len(values)-1])
	}
}

// size returns how many bytes the files of a folder have.
func size(t *testing.T, dir string) (bytes float64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // it may just have gone
		}
		if info, err := entry.Info(); err == nil {
			bytes += float64(info.Size())
		}
		return nil
	}))
	return bytes
}

// flat checks that no figure has grown. The first fifth of the values is from before it was warm.
func (s *soak) flat(t *testing.T) {
	median := func(values []float64) float64 {
		sorted := slices.Sorted(slices.Values(values))
		return sorted[len(sorted)/2]
	}
	t.Logf("%-20s %6s %10s %10s %10s %10s", "", "values", "least", "most", "at first", "at last")
	for _, f := range figures {
		values := s.measured[f.name]
		values = values[len(values)/5:]
		if len(values) < 2 {
			t.Fatal("one round is too little to tell: SOAK_PLATFORM has to be longer")
		}
		third := (len(values) + 2) / 3
		first, last := median(values[:third]), median(values[len(values)-third:])
		t.Logf("%-20s %6d %10.1f %10.1f %10.1f %10.1f", f.name, len(values),
			slices.Min(values), slices.Max(values), first, last)
		if f.atMost > 0 && slices.Max(values) > f.atMost {
			t.Errorf("%s: more than %.0f", f.name, f.atMost)
		}
		if f.atMost == 0 && last > first+f.grows {
			t.Errorf("%s: grown by more than %.0f", f.name, f.grows)
		}
	}
}
