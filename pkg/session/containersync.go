package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filesync"
	"github.com/devloop/devloop/pkg/proof"
)

// groupsAtOnce is on how many nodes, or in how many containers, files are written at once.
const groupsAtOnce = 8

// pass is one look at containers, after which they hold what a target wants.
type pass struct {
	*containers
	sink    event.Sink
	now     *target
	started bool // between runs: these containers have just started
}

// instance is a container that runs an image whose files are synced.
type instance struct {
	dask.Container
	pid   int
	found map[string]filesync.State

	differ    []filesync.File // what it does not hold as it should
	leftOver  []filesync.File // folders
	files     []filesync.File // what is written
	restarted bool            // instead, in an image that has the files
	err       error
}

// errDeferred is for a container that is restarted once the image that it needs is there.
var errDeferred = errors.New("the image that holds the files is not there yet")

// run has those of the containers that run the target's images hold their synced files. all is
// false if some of them cannot get any.
func (p *pass) run(ctx context.Context, list []dask.Container) (all bool, err error) {
	var mu sync.Mutex
	all = true
	err = p.eachImage(ctx, list, func(image *syncedImage, list []*instance) error {
		p.look(ctx, image, list)
		refused, err := p.update(ctx, image, list)
		mu.Lock()
		defer mu.Unlock()
		all = all && !refused
		return err
	})
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return all && err == nil, err
}

// eachImage calls work for the images of the target that containers run, in parallel, and returns
// all errors.
func (p *pass) eachImage(ctx context.Context, list []dask.Container,
	work func(*syncedImage, []*instance) error) error {
	images := p.syncedImages(p.now)
	errs := make([]error, len(images))
	var group sync.WaitGroup
	for at, image := range images {
		var running []*instance
		for _, c := range list {
			if image.runs(c) {
				running = append(running, &instance{Container: c})
			}
		}
		group.Go(func() {
			errs[at] = event.Guard(func() error {
				if running = p.own(ctx, running); len(running) == 0 {
					return nil
				}
				return work(image, running)
			})
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// shellGroup is the containers that one shell reaches: those of a node, or a single one.
type shellGroup struct {
	shell     filesync.Shell
	node      string // "" for a shell in the container itself
	instances []*instance
}

func containersOf(list []*instance) []filesync.Container {
	containers := make([]filesync.Container, len(list))
	for n, i := range list {
		containers[n] = filesync.Container{ID: i.ContainerID, PID: i.pid}
	}
	return containers
}

// groups returns the containers by the shells that reach them.
func (p *pass) groups(list []*instance) (groups []shellGroup) {
	nodes := map[string]int{}
	for _, i := range list {
		shell, reached := p.reach.Shell(i.Node)
		switch at, known := nodes[i.Node]; {
		case !reached:
			groups = append(groups, shellGroup{shell: p.reach.Inside(i.Container), instances: []*instance{i}})
		case known:
			groups[at].instances = append(groups[at].instances, i)
		default:
			nodes[i.Node] = len(groups)
			groups = append(groups, shellGroup{shell: shell, node: i.Node, instances: []*instance{i}})
		}
	}
	return groups
}

// findProcesses finds out which processes of a node the containers are.
func (p *pass) findProcesses(ctx context.Context, group *shellGroup) error {
	var ids []string
	for _, i := range group.instances {
		ids = append(ids, i.ContainerID)
	}
	pids, err := p.reach.PIDs(ctx, group.node, ids)
	if err != nil {
		return err
	}
	for _, i := range group.instances {
		if i.pid = pids[i.ContainerID]; i.pid == 0 {
			i.err = filesync.ErrGone
		}
	}
	return nil
}

// eachGroup calls work for each group, some in parallel. What goes wrong in one does not end
// another.
func eachGroup(groups []shellGroup, work func(*shellGroup) error) {
	var working errgroup.Group
	working.SetLimit(groupsAtOnce)
	for n := range groups {
		group := &groups[n]
		working.Go(func() error {
			if err := event.Guard(func() error { return work(group) }); err != nil {
				for _, i := range group.instances {
					i.err = cmp.Or(i.err, err)
				}
			}
			return nil
		})
	}
	_ = working.Wait() // each instance has its error
}

// eachInstance calls work for each container, some in parallel.
func eachInstance(list []*instance, work func(*instance) error) {
	groups := make([]shellGroup, len(list))
	for n, i := range list {
		groups[n].instances = []*instance{i}
	}
	eachGroup(groups, func(group *shellGroup) error { return work(group.instances[0]) })
}

// look finds out what each container holds, and how that differs from what it should.
func (p *pass) look(ctx context.Context, image *syncedImage, list []*instance) {
	paths := make([]string, len(image.wanted))
	for n, f := range image.wanted {
		paths[n] = f.Path
	}
	eachGroup(p.groups(list), func(group *shellGroup) error {
		if group.node != "" {
			if err := p.findProcesses(ctx, group); err != nil {
				return err
			}
		}
		running := slices.DeleteFunc(slices.Clone(group.instances), func(i *instance) bool { return i.err != nil })
		if len(running) == 0 {
			return nil
		}
		listings, err := p.reach.Look(ctx, group.shell, containersOf(running), paths)
		for n, listing := range listings {
			running[n].found, running[n].err = listing.Files, listing.Err
		}
		return err
	})
	for _, i := range list {
		if i.err == nil {
			i.differ, i.leftOver = image.differing(i.found)
		}
	}
}

// write writes the files of each container. Those that need the same get them together.
func (p *pass) write(ctx context.Context, list []*instance) {
	eachGroup(p.groups(list), func(group *shellGroup) error {
		for len(group.instances) > 0 {
			files := group.instances[0].files
			var same, others []*instance
			for _, i := range group.instances {
				if slices.Equal(i.files, files) {
					same = append(same, i)
				} else {
					others = append(others, i)
				}
			}
			written, err := p.reach.Write(ctx, group.shell, containersOf(same), files)
			for n, w := range written {
				same[n].err = w.Err
				if w.Err == nil {
					same[n].err = same[n].check(w.Files)
				}
			}
			if err != nil {
				return err
			}
			group.instances = others
		}
		return nil
	})
}

// check returns an error if a container does not hold what was written.
func (i *instance) check(found map[string]filesync.State) error {
	for _, f := range i.differ {
		if !stateOf(found, f.Path).Matches(f) {
			return event.Transient(fmt.Errorf("%s is not what was written: something in the container changes it", f.Path))
		}
	}
	return nil
}

// differing returns the files that a container does not hold as it should, and the folders that
// are left over. Without such files, those may stay: the container may have written into them.
func (i *syncedImage) differing(found map[string]filesync.State) (files, folders []filesync.File) {
	for _, f := range i.wanted {
		switch state := stateOf(found, f.Path); {
		case !state.Matches(f):
			files = append(files, f)
		case f.Absent && !state.Absent:
			folders = append(folders, f)
		}
	}
	return files, folders
}

func stateOf(found map[string]filesync.State, path string) filesync.State {
	if state, known := found[path]; known {
		return state
	}
	return filesync.State{Absent: true}
}

// compare compares what a container holds with what it should.
func (i *syncedImage) compare(of *instance) proof.Files {
	is, want := map[string]string{}, map[string]string{}
	for _, f := range i.wanted {
		wanted := filesync.State{Absent: f.Absent, Mode: f.Mode, Digest: f.Digest, Link: f.Link}
		want[f.Path] = textOf(wanted)
		if state := stateOf(of.found, f.Path); state.Matches(f) {
			is[f.Path] = want[f.Path]
		} else {
			is[f.Path] = textOf(state)
		}
	}
	files := proof.CompareFiles(of.ContainerRef, i.Name, is, want)
	if of.err != nil { // nobody could look
		files.Is, files.Differ = "", nil
	}
	return files
}

// textOf has all that counts of what is at a path, "" if nothing is there.
func textOf(s filesync.State) string {
	switch {
	case s.Absent:
		return ""
	case s.Mode.IsDir(): // whose permissions are the image's
		return "folder"
	case s.Mode&fs.ModeSymlink != 0:
		return "link to " + s.Link
	}
	return s.Mode.String() + " " + s.Digest
}

func byPath(a, b filesync.File) int { return cmp.Compare(a.Path, b.Path) }
