// The Python libraries of all places: what the images hold, asked of them on a node after each run that went well, compared with each other and
// with the environment on this machine.
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

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/venv"
)

const (
	// listTimeout is for a pod that lists the libraries of an image. Who asks over the socket is answered within less than what a server
	// has for an answer.
	listTimeout   = time.Minute
	answerWithin  = 50 * time.Second
	keptLibraries = 24 // images of which it is known, so that undoing a change asks nothing
)

// libraries knows what images hold. It belongs to a session.
type libraries struct {
	session *Session
	runPod  func(context.Context, deploy.CheckPod) (string, error)
	gateway func(context.Context, *config.Config) (bool, error) // whether one is among what the releases have made
	woken   chan struct{}                                       // holds something if there is a newer current
	reading chan struct{}                                       // holds something while images are asked

	mu      sync.Mutex
	current *target // of the last good run, nil before
	giveUp  context.CancelCauseFunc
	known   []held // the newest last

	reported event.Changes
}

// held is what an image holds.
type held struct {
	ref       string
	libraries *proof.Libraries // nil where there is no Python
}

func newLibraries(s *Session) *libraries {
	return &libraries{
		session: s, woken: make(chan struct{}, 1), reading: make(chan struct{}, 1), giveUp: func(error) {},
		runPod: func(ctx context.Context, t deploy.CheckPod) (string, error) { return s.deployer.RunCheckPod(ctx, t) },
		gateway: func(ctx context.Context, c *config.Config) (bool, error) {
			return dask.HasGateway(ctx, s.cluster, namespacesOf(c))
		},
	}
}

// follow has the libraries compared for images that run now. It does not block; the newest ones count.
func (l *libraries) follow(now target) {
	l.mu.Lock()
	l.current = &now
	l.giveUp(event.ErrSuperseded)
	l.mu.Unlock()
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// run compares what it is told to follow, until ctx ends.
func (l *libraries) run(ctx context.Context) {
	var again <-chan time.Time // after a comparison that failed in a way that may pass
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-l.woken:
		}
		l.mu.Lock()
		now := l.current
		comparing, giveUp := context.WithCancelCause(ctx)
		l.giveUp = giveUp
		l.mu.Unlock()
		again = nil
		if l.session.syncer.wait(comparing) == nil {
			var err error // which was told
			_ = l.session.options.Sink.For("proof").Contain("libraries", func() { err = l.compare(comparing, now) })
			if event.IsTransient(err) && ctx.Err() == nil {
				again = time.After(lookAgain)
			}
		}
		giveUp(nil)
	}
}

// compare compares, and tells what came of it: in the log if it is not what was told before. The error, why it could not, was told.
func (l *libraries) compare(ctx context.Context, now *target) error {
	say := l.session.options.Sink.For("proof")
	places, err := l.ofImages(ctx, now)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		l.warn(say, "libraries of the images could not be read", err)
		return err
	case len(places) == 0:
		l.nothing(say)
		return nil
	}
	here, found, err := LocalLibraries(now.config)
	switch {
	case err != nil:
		l.warn(say, "Python environment of this machine could not be read", err)
	case found:
		places = append(places, here)
	default:
		say.Detail("no Python environment of this machine is compared", "why", WhyNoVenv)
	}
	if err == nil {
		l.reported.Forget("failure")
	}
	if len(places) < 2 {
		l.nothing(say)
		return nil
	}
	c := proof.Compare(places)
	changed, message := l.reported.Changed("comparison", c), event.LibrariesDiffer
	if c.Same() {
		c.Differences, message = nil, event.LibrariesSame
	}
	switch {
	case !changed:
		say.Detail(message, c)
	case c.Same():
		say.Note(message, c)
	default:
		say.Warn(message, nil, c)
	}
	return nil
}

// nothing takes back what was told, since there is nothing to compare any more.
func (l *libraries) nothing(say event.Stage) {
	if l.reported.Forget("comparison") {
		say.Detail(event.LibrariesSame, event.Comparison{Places: []string{}})
	}
}

// warn tells why there is nothing to compare, once. What may pass by itself is a detail.
func (l *libraries) warn(say event.Stage, message string, err error) {
	if event.IsTransient(err) || !l.reported.Changed("failure", err.Error()) {
		say.Detail(message, "reason", err.Error())
		return
	}
	say.Warn(message, err)
}

// ofImages returns what the images hold that have to hold the same, in devloop.yaml's order: those that local.images names; or all with Python where
// an environment is configured; or these where a Dask Gateway runs and Dask is in one of them. Of other projects nobody has asked.
func (l *libraries) ofImages(ctx context.Context, now *target) ([]proof.Libraries, error) {
	select {
	case l.reading <- struct{}{}:
		defer func() { <-l.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	wanted := now.config.Local.Images
	asked := len(wanted) > 0 || now.config.Local.Venv != "" || now.config.Local.Sync
	if !asked {
		if gateway, err := l.gateway(ctx, now.config); err != nil || !gateway {
			return nil, event.Transient(err)
		}
	}
	images := now.Images
	found, errs := make([]*proof.Libraries, len(images)), make([]error, len(images))
	var asking sync.WaitGroup
	for i, image := range images {
		if named := slices.Contains(wanted, image.Name); named || len(wanted) == 0 {
			asking.Go(func() {
				errs[i] = l.session.options.Sink.For("proof").Guard("libraries", func() (err error) {
					found[i], err = l.ofImage(ctx, now.config, image.Name, image.Ref, named)
					return err
				})
			})
		}
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var list []proof.Libraries
	dask := asked
	for _, one := range found {
		if one != nil {
			list, dask = append(list, *one), dask || one.HoldsDask()
		}
	}
	if !dask {
		return nil, nil
	}
	return list, nil
}

// ofImage returns what an image holds, nil if that is no Python. One that was named has to have it.
func (l *libraries) ofImage(ctx context.Context, c *config.Config, image, ref string, named bool) (*proof.Libraries, error) {
	if is, known := l.recall(ref); known && (is != nil || !named) {
		return is, nil
	}
	is, err := l.ask(ctx, deploy.CheckPod{Image: ref, Name: image, Purpose: "libraries", Near: namespaceOf(c, image), Timeout: listTimeout})
	var failed *deploy.CheckPodError
	switch {
	case named && is == nil && err == nil:
		return nil, event.WithHint(fmt.Errorf("image %s holds no Python (3.8 or newer)", image), "take it out of local.images in devloop.yaml, or install Python in it")
	case err != nil && (named || !errors.As(err, &failed)):
		return nil, err
	case err != nil:
		l.session.options.Sink.For("proof").Detail("libraries of an image could not be read", "image", event.Name(ref),
			"reason", err.Error())
	case is == nil:
		l.session.options.Sink.For("proof").Detail("an image holds no Python", "image", event.Name(ref))
	}
	l.remember(held{ref, is})
	return is, nil
}

// ask runs the commands that list the libraries, until one can be started. None of them can where there is no Python.
func (l *libraries) ask(ctx context.Context, t deploy.CheckPod) (*proof.Libraries, error) {
	for _, t.Command = range proof.ListCommands {
		output, err := l.runPod(ctx, t)
		var failed *deploy.CheckPodError
		const cannotRun, notFound = 126, 127 // of a shell, or of the command itself
		switch {
		case errors.As(err, &failed) && (failed.NotStarted || failed.Code == cannotRun || failed.Code == notFound):
			continue
		case err != nil:
			return nil, err
		}
		is, err := proof.ParseListing(t.Name, output)
		return &is, err
	}
	return nil, nil
}

func (l *libraries) recall(ref string) (is *proof.Libraries, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.known {
		if h.ref == ref {
			return h.libraries, true
		}
	}
	return nil, false
}

func (l *libraries) remember(h held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = append(slices.DeleteFunc(l.known, func(old held) bool { return old.ref == h.ref }), h)
	l.known = slices.Clone(l.known[max(0, len(l.known)-keptLibraries):])
}

// imageLibraries answers devloop skew: what the images hold that ran well last.
func (s *Session) imageLibraries(ctx context.Context) (any, error) {
	s.libraries.mu.Lock()
	now := s.libraries.current
	s.libraries.mu.Unlock()
	if now == nil {
		return nil, errors.New("no run of that devloop has ended well yet")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errors.New("the images did not say in time what they hold"))
	defer cancel()
	list, err := s.libraries.ofImages(ctx, now)
	return append([]proof.Libraries{}, list...), err
}

// WhyNoVenv is why there is no environment.
const WhyNoVenv = "VIRTUAL_ENV is not set, and there is no folder " + venv.DefaultFolder + " beside devloop.yaml"

// findVenv finds the environment on this machine.
func findVenv(c *config.Config) (dir string, found bool) {
	return venv.Find(inHome(c.Local.Venv), c.Dir)
}

// LocalLibraries reads the environment on this machine, if there is one.
func LocalLibraries(c *config.Config) (l proof.Libraries, found bool, err error) {
	dir, found := findVenv(c)
	if !found {
		return l, false, nil
	}
	python, versions, err := venv.Read(dir)
	return proof.Libraries{Place: placeName(c, dir), Python: python, Versions: versions, Local: true}, true, err
}

// placeName is how a folder or file is called: in the folder of devloop.yaml, or in the user's home, without that.
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

// AskImages asks images that the cluster has to hold already.
func (s *Session) AskImages(ctx context.Context, now *loop.Target) ([]proof.Libraries, error) {
	missing, err := s.images.store.Missing(ctx, loop.Tags(now.Images))
	if err != nil {
		return nil, console.EnvironmentError{Err: err}
	}
	if len(missing) > 0 {
		return nil, console.EnvironmentError{Err: event.WithHint(fmt.Errorf("the cluster lacks what the files describe: %s", tagNames(missing)), "bring it there: devloop run")}
	}
	list, err := s.libraries.ofImages(ctx, &target{now, s.config.Load()})
	if err != nil {
		return nil, console.EnvironmentError{Err: err}
	}
	return list, nil
}
