// What a change costs until its images are there: to see what changed, to install one package more,
// to take over code, to undo, to give up.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/event"
)

// built is a folder with two images, and a builder for them.
type built struct {
	dir     string
	builder *build.Builder
	changes int
}

const buildImage = "bench-build" // the images' names begin so

func newBuilt(t *testbed) (*built, error) {
	b := &built{dir: filepath.Join(t.dir, "project")}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	docker, err := client.New(client.FromEnv)
	if err != nil {
		return nil, err
	}
	t.cleanup(func(context.Context) error { return docker.Close() })
	for _, image := range []string{"worker", "client"} {
		for _, side := range []string{"", "-theirs"} {
			t.cleanup(func(ctx context.Context) error { return removeImages(ctx, buildImage+"-"+image+side) })
		}
	}
	b.builder = build.New(docker, filepath.Join(t.dir, "cache"))
	return b, nil
}

func (b *built) write(file, content string) error {
	return os.WriteFile(filepath.Join(b.dir, file), []byte(content), 0o644)
}

// image is that of Dockerfile.NAME.
func (b *built) image(name string) build.Image {
	return build.Image{Name: buildImage + "-" + name, Dockerfile: filepath.Join(b.dir, "Dockerfile."+name), Context: b.dir}
}

// both makes both images as devloop does: side by side, and only what is not there.
func (b *built) both(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range []string{"worker", "client"} {
		group.Go(func() error {
			input, err := b.builder.Hash(ctx, b.image(name))
			if err != nil {
				return err
			}
			if has, err := b.builder.Has(ctx, input.Tag); has || err != nil {
				return err
			}
			return b.builder.Build(ctx, func(event.Event) {}, input)
		})
	}
	return group.Wait()
}

// theirs makes both as people do, from Dockerfiles whose names end in suffix.
func (b *built) theirs(ctx context.Context, suffix string) error {
	for _, name := range []string{"worker", "client"} {
		tag := buildImage + "-" + name + "-theirs:" + strconv.Itoa(b.changes)
		if _, err := output(ctx, "docker", "build", "--quiet", "--tag", tag, "--file",
			filepath.Join(b.dir, "Dockerfile."+name+suffix), b.dir); err != nil {
			return err
		}
	}
	return nil
}

// timed measures work after a change, in seconds.
func (b *built) timed(change func() error, work func(context.Context) error) sample {
	return func(ctx context.Context) (float64, error) {
		b.changes++
		if err := change(); err != nil {
			return 0, err
		}
		begin := time.Now()
		err := work(ctx)
		return time.Since(begin).Seconds(), err
	}
}

// milliseconds is a sample of seconds in another unit.
func milliseconds(s sample) sample {
	return func(ctx context.Context) (float64, error) {
		seconds, err := s(ctx)
		return seconds * 1000, err
	}
}

// hashed measures how long it takes to see what a context of so many files, 50 kB each, has become.
func hashed(files int, changed bool) func(context.Context, *testbed) (ours, theirs sample, err error) {
	return func(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
		b, err := newBuilt(t)
		if err != nil {
			return nil, nil, err
		}
		fill := strings.Repeat("0123456789abcde\n", 50_000/16)
		for i := range files {
			folder := "src/" + strconv.Itoa(i/100)
			if err := errors.Join(os.MkdirAll(filepath.Join(b.dir, folder), 0o755),
				b.write(folder+"/"+strconv.Itoa(i), strconv.Itoa(i)+fill)); err != nil {
				return nil, nil, err
			}
		}
		for _, name := range []string{"worker", "client"} {
			if err := b.write("Dockerfile."+name, "FROM scratch\nCOPY src /src\nENV NAME="+name+"\n"); err != nil {
				return nil, nil, err
			}
		}
		hash := func(ctx context.Context) error {
			_, err := b.builder.Hash(ctx, b.image("worker"))
			return err
		}
		change := func() error { return nil }
		theirWork := func(ctx context.Context) error { return b.theirs(ctx, "") }
		if changed {
			change = func() error { return b.write("src/0/0", strconv.Itoa(b.changes)+fill) }
			theirWork = func(ctx context.Context) error {
				_, err := output(ctx, "bash", "-c", `cd "$1" && find src -print0 | sort -z | tar --create --no-recursion --null `+
					`--files-from - | sha256sum`, "hash", b.dir)
				return err
			}
		}
		if err := hash(ctx); err != nil {
			return nil, nil, err
		}
		// What was written in the last two seconds is not trusted to be known by its stat.
		if err := wait(ctx, 3*time.Second); err != nil {
			return nil, nil, err
		}
		return milliseconds(b.timed(change, hash)), milliseconds(b.timed(change, theirWork)), hash(ctx)
	}
}

// lonely are packages without others, to be added one by one.
var lonely = []string{"six", "toml", "tabulate", "humanize", "colorama", "filelock", "termcolor", "docopt", "wcwidth",
	"pathspec", "iniconfig", "pluggy", "mccabe", "zipp", "ply", "xmltodict"}

// packageAdded measures until both images hold one package more than the thirty before, from PyPI.
// Ours are the platform's own Dockerfiles, theirs are written as is usual: no cache mount, nothing
// shared.
func packageAdded(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	b, err := newBuilt(t)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"worker", "client"} {
		platform, err := os.ReadFile("Dockerfile." + name)
		if err != nil {
			return nil, nil, err
		}
		usual := "FROM python:3.11-slim\nENV NAME=" + name +
			"\nCOPY requirements.txt .\nRUN pip install --no-cache-dir -r requirements.txt\n"
		if err := errors.Join(b.write("Dockerfile."+name, string(platform)),
			b.write("Dockerfile."+name+".usual", usual)); err != nil {
			return nil, nil, err
		}
	}
	if err := os.CopyFS(filepath.Join(b.dir, "analysis"), os.DirFS("analysis")); err != nil {
		return nil, nil, err
	}
	requirements, err := os.ReadFile("test/bench/testdata/build/requirements.txt")
	if err != nil {
		return nil, nil, err
	}
	if err := b.write("requirements.txt", string(requirements)); err != nil {
		return nil, nil, err
	}
	add := func() error {
		requirements = fmt.Appendf(requirements, "%s\n", lonely[b.changes%len(lonely)])
		return b.write("requirements.txt", string(requirements))
	}
	return b.timed(add, b.both), b.timed(add, func(ctx context.Context) error { return b.theirs(ctx, ".usual") }), nil
}

// newCode makes a project whose images only copy a file.
func newCode(t *testbed) (*built, error) {
	b, err := newBuilt(t)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"worker", "client"} {
		if err := b.write("Dockerfile."+name, "FROM python:3.11-slim\nENV NAME="+name+
			"\nWORKDIR /srv\nCOPY code.py .\n"); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// codeChanged measures until both images hold a changed file.
func codeChanged(_ context.Context, t *testbed) (ours, theirs sample, err error) {
	b, err := newCode(t)
	if err != nil {
		return nil, nil, err
	}
	change := func() error { return b.write("code.py", fmt.Sprintf("print(%d)\n", b.changes)) }
	return b.timed(change, b.both), b.timed(change, func(ctx context.Context) error { return b.theirs(ctx, "") }), nil
}

// undone measures until both images are those of before the last change.
func undone(ctx context.Context, t *testbed) (ours, theirs sample, err error) {
	b, err := newCode(t)
	if err != nil {
		return nil, nil, err
	}
	for _, code := range []string{"print(0)\n", "print(1)\n"} {
		if err := errors.Join(b.write("code.py", code), b.both(ctx), b.theirs(ctx, "")); err != nil {
			return nil, nil, err
		}
	}
	undo := func() error { return b.write("code.py", fmt.Sprintf("print(%d)\n", b.changes%2)) }
	return milliseconds(b.timed(undo, b.both)), milliseconds(
		b.timed(undo, func(ctx context.Context) error { return b.theirs(ctx, "") })), nil
}

// cancelled measures until nothing is left of a build that a newer change has made useless, in ms.
func cancelled(_ context.Context, t *testbed) (ours, theirs sample, err error) {
	b, err := newBuilt(t)
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (float64, error) {
		nap := "sleep " + strconv.FormatInt(time.Now().UnixNano()/1000, 10)
		if err := b.write("Dockerfile.worker", "FROM python:3.11-slim\nRUN "+nap+"\n"); err != nil {
			return 0, err
		}
		input, err := b.builder.Hash(ctx, b.image("worker"))
		if err != nil {
			return 0, err
		}
		buildCtx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		ended := make(chan error, 1)
		go func() { ended <- b.builder.Build(buildCtx, func(event.Event) {}, input) }()
		if err := awaitProcess(ctx, nap, true); err != nil {
			return 0, err
		}
		begin := time.Now()
		cancel(event.ErrSuperseded)
		if err := <-ended; !errors.Is(err, event.ErrSuperseded) {
			return 0, fmt.Errorf("the build ended otherwise: %w", err)
		}
		err = awaitProcess(ctx, nap, false)
		return float64(time.Since(begin)) / float64(time.Millisecond), err
	}, nil, nil
}

// awaitProcess waits until a command line is there, or is not.
func awaitProcess(ctx context.Context, line string, there bool) error {
	for {
		found := false
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, file := range files {
			words, _ := os.ReadFile(file) // it may have ended
			found = found || strings.TrimRight(strings.ReplaceAll(string(words), "\x00", " "), " ") == line
		}
		if found == there {
			return nil
		}
		if err := wait(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}
