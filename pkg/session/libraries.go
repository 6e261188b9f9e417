package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/utils/lru"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/venv"
)

const (
	// listTimeout is for a pod that lists the libraries of an image.
	listTimeout = time.Minute
	// keptListings is for how many images the listing is kept: an undone change starts no pods.
	keptListings = 24
	// compareRetry is how soon a comparison is tried again after an error that may pass.
	compareRetry = 10 * time.Second
)

// libraries compares the Python libraries of the images, which pods list after each successful run,
// with each other and with those of the environment on this machine.
type libraries struct {
	sink       event.Sink
	syncer     *syncer // changes the environment on this machine
	deployer   *deploy.Deployer
	runPod     func(context.Context, deploy.CheckPod) (string, error)
	hasGateway func(context.Context, *config.Config) (bool, error) // made by one of the releases

	woken    chan struct{} // holds a token if current is new
	reading  chan struct{} // a semaphore: one reader of images at a time
	listings *lru.Cache    // *proof.Libraries by image and synced packages, nil for an image without Python
	reported event.Changes

	mu        sync.Mutex
	current   *target // of the last successful run, nil before
	supersede context.CancelCauseFunc
}

func newLibraries(sink event.Sink, y *syncer, d *deploy.Deployer, c *kube.Cluster) *libraries {
	l := &libraries{
		sink: sink, syncer: y, deployer: d, runPod: d.RunCheckPod,
		hasGateway: func(ctx context.Context, read *config.Config) (bool, error) {
			return dask.HasGateway(ctx, c, namespacesOf(read))
		},
		woken: make(chan struct{}, 1), reading: make(chan struct{}, 1), listings: lru.New(keptListings),
		supersede: func(error) {},
	}
	y.images = l.ofImages
	return l
}

// follow requests a comparison for the images that run now, and cancels an older one. It does not
// block.
func (l *libraries) follow(now target) {
	l.mu.Lock()
	l.current = &now
	l.supersede(event.ErrSuperseded)
	l.mu.Unlock()
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// run serves follow until ctx ends.
func (l *libraries) run(ctx context.Context) {
	var retry <-chan time.Time
	for {
		again := false
		select {
		case <-ctx.Done():
			return
		case <-retry:
			again = true
		case <-l.woken:
		}
		comparing, cancel := context.WithCancelCause(ctx)
		l.mu.Lock()
		now := l.current
		l.supersede = cancel
		l.mu.Unlock()
		if retry = nil; again { // the images could not be read before
			l.syncer.request(*now)
		}
		if l.syncer.wait(comparing) == nil {
			var err error // already reported
			_ = l.sink.Stage("proof").Recover("libraries", func() { err = l.compare(comparing, now) })
			if event.IsTransient(err) && ctx.Err() == nil {
				retry = time.After(compareRetry)
			}
		}
		cancel(nil)
	}
}

// compare reports how the libraries differ: prominently only if that has changed. An error, which
// says why they could not be compared, is already reported.
func (l *libraries) compare(ctx context.Context, now *target) error {
	stage := l.sink.Stage("proof")
	places, err := l.ofImages(ctx, now)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		warnOnce(stage, &l.reported, "libraries of the images could not be read", err)
		return err
	case len(places) > 0:
		places = l.withLocal(stage, places, now.config)
	}
	l.reportShadowed(stage, places)
	if len(places) < 2 {
		if l.reported.Forget("comparison") {
			stage.Detail(event.LibrariesSame, event.Comparison{Places: []string{}})
		}
		return nil
	}
	c := proof.Compare(places)
	changed, message := l.reported.Changed("comparison", c), event.LibrariesDiffer
	if c.Same() {
		c.Differences, message = nil, event.LibrariesSame
	}
	for _, image := range now.Images {
		c.Images = append(c.Images, image.Event())
	}
	switch {
	case !changed:
		stage.Detail(message, c)
	case c.Same():
		stage.Note(message, c)
	default:
		stage.Warn(message, nil, c)
	}
	return nil
}

// reportShadowed reports, once, the packages that Python imports in the place of synced ones.
func (l *libraries) reportShadowed(stage event.Stage, places []proof.Libraries) {
	shadowed := proof.Shadowed(places)
	if !l.reported.Changed("shadowed", fmt.Sprint(shadowed)) {
		return
	}
	for _, s := range shadowed {
		stage.Warn("a synced Python package is shadowed by an installed one", nil,
			"package", event.Name(s.Package), "in", s.Place, "installed", s.Path, "library", s.Library, "synced", s.Synced)
	}
}

// withLocal adds the environment on this machine to places, if there is one.
func (l *libraries) withLocal(stage event.Stage, places []proof.Libraries, c *config.Config) []proof.Libraries {
	local, err := FindLocal(c)
	var none NoLocalError
	switch {
	case errors.As(err, &none):
		l.reported.Forget("failure")
		if why := none.Why; l.reported.Changed("environment", why) {
			stage.Note("nothing on this machine is compared", "why", why)
		}
		return places
	case err != nil:
		warnOnce(stage, &l.reported, "Python environment of this machine could not be read", err)
		return places
	}
	l.reported.Forget("failure")
	if l.reported.Changed("environment", local.String()) {
		stage.Note(event.LocalPython, "path", local.Environment.Path, "kind", local.Kind,
			"python", local.Python, "by", local.Source)
	}
	return append(places, local.Libraries(places))
}

// ofImages returns the libraries of the images that must have the same, in the order of
// devloop.yaml: those in local.images; or all with Python if the configuration names an
// environment; or all with Python if a Dask Gateway runs and one of them contains Dask. In other
// projects, images may differ, and so may one that only others are built from.
func (l *libraries) ofImages(ctx context.Context, now *target) ([]proof.Libraries, error) {
	select {
	case l.reading <- struct{}{}:
		defer func() { <-l.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	local := now.config.Local
	configured := len(local.Images) > 0 || local.Venv != "" || local.Sync
	if !configured {
		if found, err := l.hasGateway(ctx, now.config); err != nil || !found {
			return nil, event.Transient(err)
		}
	}
	found, errs := make([]*proof.Libraries, len(now.Images)), make([]error, len(now.Images))
	var reading sync.WaitGroup
	for i, image := range now.Images {
		named := slices.Contains(local.Images, image.Name)
		onlyBase := isBase(now.config, image.Name) && namespaceOf(now.config, l.deployer, image.Name) == ""
		if named || len(local.Images) == 0 && !onlyBase {
			reading.Go(func() {
				errs[i] = l.sink.Stage("proof").Guard("libraries", func() (err error) {
					found[i], err = l.ofImage(ctx, now.config, image, named)
					return err
				})
			})
		}
	}
	reading.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var list []proof.Libraries
	for _, one := range found {
		if one != nil {
			list = append(list, *one)
		}
	}
	if !configured && !slices.ContainsFunc(list, proof.Libraries.HoldsDask) {
		return nil, nil
	}
	return list, nil
}

// ofImage returns the libraries of an image, nil if it has no Python, which is an error if
// local.images names it.
func (l *libraries) ofImage(
	ctx context.Context, c *config.Config, image *loop.Image, named bool,
) (*proof.Libraries, error) {
	packages := syncedPackages(image)
	key := fmt.Sprint(image.Ref, packages)
	if known, ok := l.listings.Get(key); ok {
		if list, _ := known.(*proof.Libraries); list != nil || !named {
			return list, nil
		}
	}
	stage := l.sink.Stage("proof")
	list, err := l.list(ctx, deploy.CheckPod{Image: image.Ref, Name: image.Name, Purpose: "libraries",
		Near: namespaceOf(c, l.deployer, image.Name), Timeout: listTimeout}, packages)
	var failed *deploy.CheckPodError
	switch {
	case named && list == nil && err == nil:
		return nil, event.WithHint(fmt.Errorf("image %s holds no Python (3.8 or newer)", image.Name),
			"take it out of "+c.WhereToSet("local.images")+"; or install Python in it")
	case err != nil && (named || !errors.As(err, &failed)):
		return nil, err
	case err != nil:
		stage.Detail("libraries of an image could not be read", "image", event.Name(image.Ref), "reason", err.Error())
	case list == nil:
		stage.Detail("an image holds no Python", "image", event.Name(image.Ref))
	}
	l.listings.Add(key, list)
	return list, nil
}

// list runs the commands that list libraries until one starts; without Python, none does.
func (l *libraries) list(ctx context.Context, t deploy.CheckPod, packages []proof.Package) (*proof.Libraries, error) {
	for _, command := range proof.ListCommands {
		t.Command = proof.WithPackages(command, packages)
		output, err := l.runPod(ctx, t)
		var failed *deploy.CheckPodError
		const cannotRun, notFound = 126, 127 // exit codes of a shell, or of the runtime
		switch {
		case errors.As(err, &failed) && (failed.NotStarted || failed.Code == cannotRun || failed.Code == notFound):
			continue
		case err != nil:
			return nil, err
		}
		list, err := proof.ParseListing(t.Name, output, packages)
		return &list, err
	}
	return nil, nil
}

// answer answers devloop skew: the libraries of the images of the last successful run.
func (l *libraries) answer(ctx context.Context) (any, error) {
	l.mu.Lock()
	now := l.current
	l.mu.Unlock()
	if now == nil {
		return nil, errors.New("no run of that devloop has ended well yet")
	}
	list, err := l.ofImages(ctx, now)
	return append([]proof.Libraries{}, list...), err
}

// ofPresent is ofImages for images that need not have been deployed. missing returns those of
// tags that the cluster does not have, which is an error.
func (l *libraries) ofPresent(
	ctx context.Context, now *target, missing func(context.Context, []name.Tag) ([]name.Tag, error),
) ([]proof.Libraries, error) {
	absent, err := missing(ctx, loop.Tags(now.Images))
	if err == nil && len(absent) > 0 {
		err = event.WithHint(fmt.Errorf("the cluster lacks what the files describe: %s", tagNames(absent)),
			"bring it there: devloop run")
	}
	var list []proof.Libraries
	if err == nil {
		list, err = l.ofImages(ctx, now)
	}
	if err != nil {
		return nil, console.EnvironmentError{Err: err}
	}
	return list, nil
}

// Local is the Python environment on this machine.
type Local struct {
	*venv.Environment
	Place  string `json:"-"`      // its path for display
	Source string `json:"source"` // what names it
}

// String describes it for a person.
func (l *Local) String() string {
	python := "an unknown Python"
	if l.Python != "" {
		python = "Python " + l.Python
	}
	return fmt.Sprintf("%s (%s, %s), by %s", l.Place, l.Kind, python, l.Source)
}

// Libraries are what it has installed, and which of the images' synced packages.
func (l *Local) Libraries(images []proof.Libraries) proof.Libraries {
	list := proof.Libraries{Place: l.Place, Python: l.Python, Versions: l.Versions, Local: true}
	searched := filepath.SplitList(os.Getenv("PYTHONPATH")) // before the environment
	for _, image := range images {
		for _, p := range image.Packages {
			if p.Source == "" || slices.Contains(searched, filepath.Dir(p.Source)) {
				continue
			}
			path, library := l.Package(p.Name, p.Source)
			shadow := proof.Shadow{Package: p.Name, Place: l.Place, Path: path, Library: library, Synced: p.Source}
			if path != "" && !slices.Contains(list.Shadowed, shadow) {
				list.Shadowed = append(list.Shadowed, shadow)
			}
		}
	}
	return list
}

// NoLocalError says that this machine has no environment for the project.
type NoLocalError struct{ Why string }

func (e NoLocalError) Error() string {
	return "nothing on this machine is compared: there is no Python environment: " + e.Why
}

// FindLocal finds and reads the environment on this machine.
func FindLocal(c *config.Config) (*Local, error) {
	at, err := venv.Find(inHome(c.Local.Venv), c.Dir)
	if err != nil {
		return nil, event.WithHint(NoLocalError{err.Error()},
			"activate it, make one (python3 -m venv "+venv.DefaultFolder+"), or name it: local.venv")
	}
	e, err := venv.Read(at.Path)
	if err != nil {
		return nil, err
	}
	return &Local{e, placeName(c, at.Path), at.Source}, nil
}

// placeName returns a path for display: in the folder of devloop.yaml or the user's home, relative.
func placeName(c *config.Config, path string) string {
	if name, err := filepath.Rel(c.Dir, path); err == nil && filepath.IsLocal(name) {
		return name
	}
	if home, err := os.UserHomeDir(); err == nil {
		if name, err := filepath.Rel(home, path); err == nil && filepath.IsLocal(name) {
			return filepath.Join("~", name)
		}
	}
	return path
}
