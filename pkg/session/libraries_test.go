package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
)

// eventLog records the events of a test.
type eventLog struct {
	mu     sync.Mutex
	events []event.Event
}

func (h *eventLog) sink(e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// take returns the events since the last call, each as "phase stage: message", and the last one.
func (h *eventLog) take() (said []string, last event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		said, last = append(said, fmt.Sprintf("%s %s: %s", e.Phase, e.Stage, e.Message)), e
	}
	h.events = nil
	return said, last
}

// listings stand in for images: the libraries that pods list, by the image's reference.
type listings struct {
	mu    sync.Mutex
	lists map[string]string
	asked []string
}

func (p *listings) run(ctx context.Context, t deploy.CheckPod) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, t.Image+" "+t.Command[0])
	list, known := p.lists[t.Image]
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case !known:
		return "", event.Transient(errors.New("the API server is away"))
	case list == "": // no Python
		return "", &deploy.CheckPodError{Code: 128, NotStarted: true}
	case list == "broken":
		return "", &deploy.CheckPodError{Code: 1}
	case strings.HasPrefix(list, "python3 ") && t.Command[0] != "python3":
		return "", &deploy.CheckPodError{Code: 127}
	}
	lines := strings.Fields(strings.TrimPrefix(list, "python3 "))
	return fmt.Sprintf("python 3.11.2\n%s\nlibraries %d\n", strings.Join(lines, "\n"), len(lines)), nil
}

func (p *listings) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.asked)
	asked := strings.Join(p.asked, ", ")
	p.asked = nil
	return asked
}

// targetOf has images that are named as their repositories.
func targetOf(t *testing.T, refs ...string) *loop.Target {
	t.Helper()
	target := &loop.Target{}
	for _, ref := range refs {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		image, _, _ := strings.Cut(ref, ":")
		target.Images = append(target.Images, &loop.Image{Name: image, Tag: tag, Ref: ref})
	}
	return target
}

// writeVenv writes an environment of this machine.
func writeVenv(t *testing.T, dir string, libraries ...string) {
	t.Helper()
	site := filepath.Join(dir, "lib", "python3.11", "site-packages")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(site, 0o755),
		os.WriteFile(filepath.Join(dir, "pyvenv.cfg"), []byte("version = 3.11.9\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, library := range libraries {
		name, version, _ := strings.Cut(library, "==")
		info := filepath.Join(site, name+"-"+version+".dist-info")
		if err := errors.Join(os.Mkdir(info, 0o755),
			os.WriteFile(filepath.Join(info, "METADATA"),
				[]byte("Name: "+name+"\nVersion: "+version+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// noEnvironment takes away those of whoever runs the test.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, variable := range []string{"VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT", "PYENV_VERSION"} {
		t.Setenv(variable, "")
	}
}

// comparing returns libraries of images that listings stand in for.
func comparing(t *testing.T) (*libraries, *listings, *eventLog) {
	t.Helper()
	noEnvironment(t)
	h, p := &eventLog{}, &listings{lists: map[string]string{}}
	l := newLibraries(h.sink, newSyncer(h.sink), deploy.New(nil, "demo", nil, deploy.Options{}), nil)
	l.runPod = p.run
	l.hasGateway = func(context.Context, *config.Config) (bool, error) { return true, nil }
	return l, p, h
}

func TestLibrariesAreCompared(t *testing.T) {
	c := &config.Config{Dir: t.TempDir(), Images: []config.Image{{Name: "worker"}, {Name: "client"}, {Name: "proxy"}}}
	l, p, h := comparing(t)
	p.lists = map[string]string{"worker:1": "dask==1 numpy==2 pip==23", "client:1": "python3 dask==1 numpy==2",
		"proxy:1": "", "client:2": "dask==2 numpy==2 bokeh==3"}
	first, second := &target{targetOf(t, "worker:1", "client:1", "proxy:1"), c},
		&target{targetOf(t, "worker:1", "client:2", "proxy:1"), c}
	expect := func(what string, now *target, asked string, want ...string) event.Event {
		t.Helper()
		_ = l.compare(t.Context(), now) // it is reported
		said, last := h.take()
		if got := p.take(); got != asked || !slices.Equal(said, want) {
			t.Errorf("%s: asked %q, said %q", what, got, said)
		}
		return last
	}
	const none, local, nothing = "noted proof: nothing on this machine is compared",
		"noted proof: Python environment of this machine", "detailed proof: an image holds no Python"
	e := expect("images alone", first, "client:1 python, client:1 python3, proxy:1 python, proxy:1 python3, "+
		"worker:1 python", nothing, none, "noted proof: "+event.LibrariesSame)
	if places := e.Field("places"); !slices.Equal(places.([]string), []string{"worker", "client"}) ||
		e.Field("libraries") != 2 {
		t.Errorf("%+v", e.Details())
	}
	expect("again", first, "", "detailed proof: "+event.LibrariesSame)
	writeVenv(t, filepath.Join(c.Dir, ".venv"), "dask==1", "numpy==2", "ipython==8")
	e = expect("with this machine", first, "", local, "noted proof: "+event.LibrariesSame)
	if places := e.Field("places"); !slices.Equal(places.([]string), []string{"worker", "client", ".venv"}) {
		t.Errorf("%+v", e.Details())
	}
	e = expect("another image", second, "client:2 python", "warned proof: "+event.LibrariesDiffer)
	if d := e.Field("differences").(event.Differences); d.String() != "dask 1/2/1; bokeh missing/3/missing" {
		t.Errorf("%s", d)
	}
	expect("the same differs", second, "", "detailed proof: "+event.LibrariesDiffer)
	expect("undone", first, "", "noted proof: "+event.LibrariesSame)

	// What cannot be read is reported once, and the images are compared without it.
	if err := os.Remove(filepath.Join(c.Dir, ".venv", "pyvenv.cfg")); err != nil {
		t.Fatal(err)
	}
	const unreadable = " proof: Python environment of this machine could not be read"
	expect("a broken environment", first, "", "warned"+unreadable, "noted proof: "+event.LibrariesSame)
	expect("still broken", first, "", "detailed"+unreadable, "detailed proof: "+event.LibrariesSame)
	if err := os.RemoveAll(filepath.Join(c.Dir, ".venv")); err != nil {
		t.Fatal(err)
	}
	expect("a removed one", first, "", none, "detailed proof: "+event.LibrariesSame)

	// An error that may pass is a detail, as is an image that does not list, unless named.
	third := &target{targetOf(t, "worker:9", "client:1", "proxy:1"), c}
	expect("no answer", third, "worker:9 python", "detailed proof: libraries of the images could not be read")
	p.lists["worker:9"] = "broken"
	expect("a broken image", third, "worker:9 python", "detailed proof: libraries of an image could not be read",
		"detailed proof: "+event.LibrariesSame) // it was reported as different before
	named := *c
	named.Local.Images = []string{"proxy", "client"}
	e = expect("one that was named", &target{first.Target, &named}, "proxy:1 python, proxy:1 python3",
		"warned proof: libraries of the images could not be read")
	if e.Err.Error() != "image proxy holds no Python (3.8 or newer)" ||
		!strings.Contains(event.Hint(e.Err), "local.images") {
		t.Errorf("%v", e.Err)
	}

	// Without Dask or a gateway, libraries are compared only if configured.
	l.hasGateway = func(context.Context, *config.Config) (bool, error) { return false, nil }
	expect("no gateway", &target{targetOf(t, "worker:7", "client:7", "proxy:7"), c}, "")
	configured := *c
	configured.Local.Venv = "nowhere"
	expect("no gateway, but an environment", &target{first.Target, &configured}, "",
		"warned proof: Python environment of this machine could not be read", "noted proof: "+event.LibrariesSame)
	l.hasGateway = func(context.Context, *config.Config) (bool, error) { return true, nil }
	p.lists["client:3"], p.lists["worker:3"] = "flask==1", "flask==2"
	expect("no Dask", &target{targetOf(t, "worker:3", "client:3", "proxy:1"), c}, "client:3 python, worker:3 python",
		"detailed proof: "+event.LibrariesSame)
	named.Local.Images = []string{"worker", "client"}
	expect("no Dask, but named", &target{targetOf(t, "worker:3", "client:3", "proxy:1"), &named}, "",
		"warned proof: "+event.LibrariesDiffer)

	for i := range 2 * keptListings {
		l.listings.Add(fmt.Sprint(i), nil)
	}
	if _, known := l.listings.Get("0"); known || l.listings.Len() != keptListings {
		t.Errorf("%d are kept", l.listings.Len())
	}
}

// An image that is only there for others to be built from may have other libraries, unless named.
func TestLibrariesOfBases(t *testing.T) {
	c := &config.Config{Dir: t.TempDir(), Images: []config.Image{{Name: "base"},
		{Name: "worker", Args: map[string]string{"BASE": `{{ image "base" }}`}}}}
	now := targetOf(t, "base:1", "worker:1")
	const all = "base:1 python, worker:1 python"
	for says, test := range map[string]struct {
		change func(*config.Config)
		asked  string
	}{
		"not deployed": {func(*config.Config) {}, "worker:1 python"},
		"named":        {func(c *config.Config) { c.Local.Images = []string{"base", "worker"} }, all},
		"deployed": {func(c *config.Config) {
			c.Releases = []config.Release{{Name: "r", Namespace: "n", Set: config.SetValues{"image": `{{ image "base" }}`}}}
		}, all},
	} {
		l, p, _ := comparing(t)
		p.lists = map[string]string{"base:1": "dask==1", "worker:1": "dask==1 numpy==2"}
		changed := *c
		test.change(&changed)
		_ = l.compare(t.Context(), &target{now, &changed}) // it is reported
		if got := p.take(); got != test.asked {
			t.Errorf("%s: asked %q, not %q", says, got, test.asked)
		}
	}
}

// New images cancel the reading of older ones. A comparison waits for pip.
func TestLibrariesFollow(t *testing.T) {
	c := &config.Config{Dir: t.TempDir(), Images: []config.Image{{Name: "worker"}, {Name: "client"}}}
	synctest.Test(t, func(t *testing.T) {
		l, p, h := comparing(t)
		begun := make(chan string, 10)
		l.runPod = func(ctx context.Context, check deploy.CheckPod) (string, error) {
			begun <- check.Image
			if strings.HasSuffix(check.Image, ":1") {
				<-ctx.Done() // it hangs
			}
			return p.run(ctx, check)
		}
		p.lists = map[string]string{"worker:2": "dask==1", "client:2": "dask==1"}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { l.run(ctx) })
		l.follow(target{targetOf(t, "worker:1", "client:1"), c})
		for range 2 {
			<-begun
		}
		l.syncer.idle = make(chan struct{}) // something is being installed
		l.follow(target{targetOf(t, "worker:2", "client:2"), c})
		synctest.Wait()
		if said, _ := h.take(); len(said) > 0 || len(begun) > 0 {
			t.Errorf("said %q, begun %d", said, len(begun))
		}
		close(l.syncer.idle)
		synctest.Wait()
		want := []string{"noted proof: nothing on this machine is compared",
			"noted proof: " + event.LibrariesSame}
		if said, _ := h.take(); !slices.Equal(said, want) {
			t.Errorf("said %q", said)
		}
		l.follow(target{targetOf(t, "worker:1", "client:1"), c})
		<-begun
		cancel()
		running.Wait()
		if said, _ := h.take(); len(said) > 0 {
			t.Errorf("at the end: %q", said)
		}
	})
}

func TestPlaceName(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	c := &config.Config{Dir: "/home/me/project"}
	for path, want := range map[string]string{"/home/me/project/.venv": ".venv", "/home/me/envs/dask": "~/envs/dask",
		"/opt/env": "/opt/env", "/home/me/project-2/.venv": "~/project-2/.venv"} {
		if got := placeName(c, path); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// Another devloop gets the libraries of the last successful run.
func TestLibrariesForAnotherDevloop(t *testing.T) {
	c := &config.Config{Images: []config.Image{{Name: "worker"}, {Name: "client"}}}
	l, p, _ := comparing(t)
	p.lists = map[string]string{"worker:1": "dask==1 numpy==2", "client:1": "dask==1", "client:2": "dask==2"}
	s := &Session{libraries: l, options: Options{Secrets: &event.Secrets{}}}
	ask := func() ([]proof.Libraries, error) {
		answer, err := s.Answers()["libraries"](t.Context())
		list, _ := answer.([]proof.Libraries)
		return list, err
	}
	if _, err := ask(); err == nil || err.Error() != "no run of that devloop has ended well yet" {
		t.Errorf("before a run: %v", err)
	}
	for tag, want := range map[string]string{"client:1": "1", "client:2": "2"} {
		l.follow(target{targetOf(t, "worker:1", tag), c})
		list, err := ask()
		if err != nil || len(list) != 2 || list[0].Place != "worker" || list[1].Versions["dask"] != want {
			t.Errorf("%s: %+v, %v", tag, list, err)
		}
	}
	if got := p.take(); got != "client:1 python, client:2 python, worker:1 python" {
		t.Errorf("asked %s", got)
	}
	c.Images = nil
	l.follow(target{targetOf(t), c})
	if list, err := ask(); err != nil || list == nil || len(list) > 0 {
		t.Errorf("no images: %+v, %v", list, err)
	}
}

// nodesWith hold these images, and no others.
type nodesWith struct {
	imageStore
	tags []name.Tag
}

func (n nodesWith) Missing(_ context.Context, tags []name.Tag) ([]name.Tag, error) {
	return slices.DeleteFunc(slices.Clone(tags), func(tag name.Tag) bool { return slices.Contains(n.tags, tag) }), nil
}

// Where no devloop runs, the cluster must have the images that the files describe.
func TestSkewAsksImages(t *testing.T) {
	l, p, _ := comparing(t)
	s := &Session{libraries: l}
	s.config.Store(&config.Config{Dir: t.TempDir(), Images: []config.Image{{Name: "worker"}, {Name: "client"}}})
	p.lists = map[string]string{"worker:1": "dask==1", "client:1": "dask==1"}
	s.images = &images{store: nodesWith{tags: loop.Tags(targetOf(t, "worker:1", "client:1").Images)}}
	if list, err := s.AskImages(t.Context(), targetOf(t, "worker:1", "client:1")); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	_, err := s.AskImages(t.Context(), targetOf(t, "worker:1", "client:2"))
	if !errors.As(err, new(console.EnvironmentError)) ||
		err.Error() != "the cluster lacks what the files describe: client:2" ||
		event.Hint(err) != "bring it there: devloop run" {
		t.Errorf("%v", err)
	}
	s.images = &images{store: nodesWith{tags: loop.Tags(targetOf(t, "worker:2", "client:2").Images)}}
	_, err = s.AskImages(t.Context(), targetOf(t, "worker:2", "client:2"))
	if !errors.As(err, new(console.EnvironmentError)) {
		t.Errorf("an API server that is away: %v", err)
	}
}

// The files of an environment and its own Python list the same.
func TestListingIsWhatIsRead(t *testing.T) {
	dir := pipVenv(t)
	local, err := FindLocal(&config.Config{Dir: "/", Local: config.Local{Venv: dir}})
	if err != nil {
		t.Fatal(err)
	}
	read := local.Libraries(nil)
	listed, err := proof.ParseListing("here", runPython(t, dir, proof.ListCommands[0][1:]), nil)
	if err != nil || !maps.Equal(listed.Versions, read.Versions) || listed.Python != read.Python {
		t.Errorf("%v\n%+v\n%+v", err, listed, read)
	}
}
