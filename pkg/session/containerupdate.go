package session

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/filesync"
)

// update has the containers hold what differs, and use it. refused is true if some of them cannot,
// and the newest image is not deployed.
func (p *pass) update(ctx context.Context, image *syncedImage, list []*instance) (refused bool, err error) {
	var todo []*instance
	for _, i := range list {
		if !errors.Is(i.err, filesync.ErrGone) && (i.err != nil || len(i.differ) > 0 || p.hasPending(i)) {
			todo = append(todo, i)
		}
	}
	switch {
	case len(todo) == 0:
		return false, nil
	case p.started:
		err = p.updateStarted(ctx, image, todo)
	default:
		err = p.updateInRun(ctx, image, todo)
	}
	if ctx.Err() != nil {
		return false, err
	}
	p.reportRefused(image, todo)
	p.explainPython(todo)
	isDeployed := inputsOf(image.Image).Tag == image.Tag // then no other image would hold more
	return !isDeployed && slices.ContainsFunc(todo, (*instance).isRefused), err
}

// updateStarted notes each container by its name.
func (p *pass) updateStarted(ctx context.Context, image *syncedImage, list []*instance) error {
	p.apply(ctx, image, list)
	for _, i := range list {
		if synced := image.summary([]*instance{i}); synced.Containers > 0 {
			synced.Started, synced.InTime = i.FullName(), p.isUnready(i.Container)
			p.sink.Stage("sync").Note(event.FilesSynced, synced)
		}
	}
	return p.failure(image, list)
}

// updateInRun is a step of the run.
func (p *pass) updateInRun(ctx context.Context, image *syncedImage, list []*instance) error {
	var synced event.SyncedFiles
	quiet := event.Sink(func(e event.Event) { // all may have been refused
		if e.Phase == event.Succeeded && synced.Containers == 0 {
			e.Phase = event.Detailed
		}
		p.sink(e)
	})
	return quiet.Stage("sync").Step(ctx, event.FilesSynced, func(ctx context.Context) ([]any, error) {
		p.apply(ctx, image, list)
		synced = image.summary(list)
		return []any{synced}, p.failure(image, list)
	}, event.SyncedFiles{Image: event.Name(image.Name)})
}

// apply writes files, or restarts containers in the image that has them, and runs commands.
func (p *pass) apply(ctx context.Context, image *syncedImage, list []*instance) {
	var writing, restarting []*instance
	for _, i := range list {
		switch {
		case i.err != nil || len(i.differ) == 0:
		case p.needsRestart(image, i):
			restarting = append(restarting, i)
		default:
			i.files = slices.Concat(i.differ, i.leftOver)
			p.addPending(image, i)
			writing = append(writing, i)
		}
	}
	p.write(ctx, writing)
	p.restart(ctx, image, restarting)
	p.runCommands(ctx, image, list)
}

// reportRefused remembers which containers cannot get files, and reports each once.
func (p *pass) reportRefused(image *syncedImage, list []*instance) {
	for _, i := range list {
		p.memory.Lock()
		p.refused[i.ContainerID] = i.isRefused()
		p.memory.Unlock()
		if i.isRefused() && p.reported.Changed("refused "+i.ContainerID, i.err.Error()) {
			p.sink.Stage("sync").Warn(event.SyncRefused, nil, event.UnsyncedContainer{Image: event.Name(image.Name),
				Container: i.FullName(), Reason: i.err.Error()})
		}
	}
}

// isRefused reports whether a container cannot get files, for a reason that will not pass.
func (i *instance) isRefused() bool {
	return i.err != nil && !errors.Is(i.err, filesync.ErrGone) && !errors.Is(i.err, errDeferred) &&
		!event.IsTransient(i.err) && !errors.As(i.err, new(*runError))
}

// summary sums up what the containers got.
func (i *syncedImage) summary(list []*instance) event.SyncedFiles {
	synced := event.SyncedFiles{Image: event.Name(i.Name)}
	counted := map[string]bool{}
	for _, of := range list {
		if of.err != nil || len(of.differ) == 0 {
			continue
		}
		synced.Containers++
		if of.restarted {
			synced.Restarted++
		}
		for _, f := range of.differ {
			if counted[f.Path] {
				continue
			}
			counted[f.Path] = true
			synced.Python = synced.Python || isPython(f)
			if f.Absent {
				synced.Deleted++
				continue
			}
			synced.Written++
			synced.Bytes += f.Size
		}
	}
	return synced
}

func isPython(f filesync.File) bool { return path.Ext(f.Path) == ".py" }

// failure says which containers have the files and which have not, nil if nothing went wrong.
func (p *pass) failure(image *syncedImage, list []*instance) error {
	var failed, others []error
	var without []string
	for _, i := range list {
		switch {
		case errors.Is(i.err, errDeferred):
			p.requeue(i.Container)
		case i.err == nil, errors.Is(i.err, filesync.ErrGone), i.isRefused():
		case errors.As(i.err, new(*runError)):
			if !slices.Contains(others, i.err) { // that of a build is the error of several containers
				others = append(others, i.err)
			}
		default:
			p.requeue(i.Container)
			without, failed = append(without, string(i.FullName())), append(failed, i.err)
		}
	}
	if len(failed) == 0 {
		return errors.Join(others...)
	}
	const named = 5
	if more := len(without) - named; more > 0 {
		without = append(without[:named], fmt.Sprintf("%d more", more))
	}
	err := fmt.Errorf("image %s: the files are in %d of %d containers, not in %s: %w", image.Name,
		len(list)-len(failed), len(list), strings.Join(without, ", "), failed[0])
	return errors.Join(append(others, err)...)
}

// explainPython says once that modules are not loaded again by themselves.
func (p *pass) explainPython(list []*instance) {
	for _, i := range list {
		if i.err == nil && i.Cluster != "" && slices.ContainsFunc(i.files, isPython) && p.reported.Changed("python", true) {
			p.sink.Stage("sync").Note("modules that were imported before are loaded again by client.restart()",
				"or", "devloop clusters restart "+string(i.Cluster))
		}
	}
}
