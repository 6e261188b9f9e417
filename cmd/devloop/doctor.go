// devloop doctor: looks at everything around devloop that it needs, and says what to do where something is missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/watch"
)

// What doctor is content with.
const (
	lookTimeout = 20 * time.Second // for one look
	// enoughDisk is room for a few images with a layer of Python packages each, in bytes.
	enoughDisk = 5 << 30
	// clockSkew is how far a node's clock may be off: certificates and tokens are made with leeways of this order.
	clockSkew = 10 * time.Second
)

func newDoctorCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what devloop needs on this machine, and say what to do",
		Long: `Looks at devloop.yaml, Docker, the cluster, its nodes, the charts, the Dockerfiles, the local ports, the limits of file watching,
disks and clocks. Of Dockerfiles it reports what BuildKit's linter finds, and pip installations that could be faster. Nothing is changed.
The exit code is 3 if something has to be mended, and 2 if that is devloop.yaml.`,
		Example: "  devloop doctor",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, _, stop := interruptible(cmd.Context(), o.printer, nil)
			defer stop()
			d := &doctor{options: o, out: cmd.OutOrStdout()}
			defer d.close()
			return d.examine(ctx)
		},
	}
}

// doctor is one examination. What a look has found serves those after it; it is nil where it was not found.
type doctor struct {
	options *options
	out     io.Writer
	failed  int

	config *config.Config
	docker *client.Client
	nodes  *node.Cluster
}

// warning is an error that devloop can live with.
type warning struct{ error }

func (w warning) Unwrap() error { return w.error }

func (d *doctor) examine(ctx context.Context) error {
	for _, look := range []struct {
		at  string
		see func(context.Context) (string, error)
	}{
		{"configuration", d.lookAtConfig},
		{"Docker", d.lookAtDocker},
		{"cluster", d.lookAtCluster},
		{"nodes", d.lookAtNodes},
		{"charts", d.lookAtCharts},
		{"Dockerfiles", d.lookAtDockerfiles},
		{"ports", d.lookAtPorts},
		{"watching", d.lookAtWatching},
		{"disk", d.lookAtDisk},
	} {
		lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
		seen, err := look.see(lookCtx)
		cancel()
		if ctx.Err() != nil {
			return console.ErrInterrupted
		}
		d.tell(look.at, seen, err)
	}
	switch {
	case d.failed == 0:
		return nil
	case d.config == nil:
		return console.UsageError{Err: errors.New("doctor: the configuration has to be mended first")}
	}
	return console.EnvironmentError{Err: fmt.Errorf("doctor: %s to be mended", count(d.failed, "thing"))}
}

// tell prints what is well, and a line for each thing that is not.
func (d *doctor) tell(at, seen string, err error) {
	if seen != "" {
		d.line("ok", at, seen, "")
	}
	parts := []error{err}
	if several := event.Joined(err); several != nil {
		parts = several
	}
	for _, part := range parts {
		if part == nil {
			continue
		}
		verdict := "FAIL"
		if _, bearable := part.(warning); bearable { //nolint:errorlint // made here, never wrapped
			verdict = "warn"
		} else {
			d.failed++
		}
		for _, f := range console.Facts(part) {
			d.line(verdict, at, d.options.printer.Secrets.Text(f.Message), d.options.printer.Secrets.Text(f.Hint))
		}
	}
}

func (d *doctor) line(verdict, at, message, hint string) {
	_, _ = fmt.Fprintf(d.out, "%-4s  %-13s  %s\n", verdict, at, strings.ReplaceAll(message, "\n", "\n"+strings.Repeat(" ", 21)))
	if hint != "" {
		_, _ = fmt.Fprintf(d.out, "%21s→ %s\n", "", hint)
	}
}

func (d *doctor) close() {
	if d.nodes != nil {
		_ = d.nodes.Close() // nothing is lost with it
	}
	if d.docker != nil {
		_ = d.docker.Close()
	}
}

func (d *doctor) lookAtConfig(context.Context) (string, error) {
	c, err := config.Load(d.options.source())
	if err != nil {
		return "", err
	}
	d.config = c
	session.HideSecrets(d.options.printer.Secrets, c)
	seen := fmt.Sprintf("%s: %s, %s, %s", strings.Join(d.options.files, ", "), count(len(c.Images), "image"),
		count(len(c.Releases), "release"), count(len(c.Forwards), "forward"))
	for i, note := range c.Notes {
		if i == session.ShownNotes {
			seen += fmt.Sprintf("\nand %d more", len(c.Notes)-i)
			break
		}
		seen += "\n" + note.String()
	}
	return seen, nil
}

func (d *doctor) lookAtDocker(ctx context.Context) (string, error) {
	docker, err := session.OpenDocker()
	if err != nil {
		return "", err
	}
	d.docker = docker
	ping, err := build.Ping(ctx, docker)
	if err != nil {
		return "", err
	}
	info, err := docker.Info(ctx, client.InfoOptions{})
	if err != nil {
		return "", build.DockerError(err)
	}
	seen := fmt.Sprintf("%s, API %s, %s", info.Info.ServerVersion, ping.APIVersion, docker.DaemonHost())
	free, err := freeBytes(info.Info.DockerRootDir)
	if err != nil { // the daemon's disk is not this machine's
		return seen, nil
	}
	if free < enoughDisk {
		return "", warning{event.WithHint(fmt.Errorf("%s: %s left in %s", seen, console.Size(free), info.Info.DockerRootDir), "docker system prune")}
	}
	return seen + ", " + console.Size(free) + " free", nil
}

func (d *doctor) lookAtCluster(ctx context.Context) (string, error) {
	wanted, folder := d.options.kubeContext, ""
	if d.config != nil {
		wanted, folder = d.config.KubeContext, d.config.Dir
	}
	target, err := kube.ReadContext(wanted)
	if err != nil {
		return "", err
	}
	var origin node.Origin
	if d.docker != nil {
		if d.nodes, err = session.FindNodes(ctx, target, d.docker); err != nil {
			return "", err
		}
		origin = d.nodes.Origin()
	}
	cluster, err := kube.ConnectTo(ctx, target)
	if err != nil {
		return "", err
	}
	version, err := cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return "", fmt.Errorf("kube context %q: ask for its version: %w", target.Context, err)
	}
	seen := fmt.Sprintf("context %s, Kubernetes %s, %s", target.Context, version.GitVersion, target.Server)
	if folder, err = filepath.EvalSymlinks(folder); err != nil {
		return "", err
	}
	grounds, err := d.options.consent().Grounds(ctx, target, cluster, origin, folder)
	switch {
	case err == nil:
		seen += ", " + grounds.String()
	case errors.As(err, new(*kube.NotLocalError)): // devloop asks before it writes to it
		err = warning{err}
	default:
		return "", err
	}
	if d.nodes != nil {
		nodes := cluster.Client.CoreV1().Nodes()
		other := d.nodes.Verify(ctx, func(ctx context.Context) ([]string, error) { return kube.BootIDs(ctx, nodes) })
		if other != nil {
			err = errors.Join(err, warning{other})
		}
	}
	return seen, err
}

func (d *doctor) lookAtNodes(ctx context.Context) (string, error) {
	if d.nodes == nil {
		return "", nil
	}
	var well []string
	var errs []error
	for _, h := range d.nodes.Check(ctx) {
		switch {
		case h.Err != nil:
			errs = append(errs, h.Err)
		case h.Ahead.Abs() > clockSkew:
			errs = append(errs, event.WithHint(fmt.Errorf("%s: its clock differs from this machine's by %s", h.Node, h.Ahead), h.Shell+" date -s @$(date +%s)"))
		case h.Free < enoughDisk:
			errs = append(errs, warning{event.WithHint(fmt.Errorf("%s: %s left for images", h.Node, console.Size(h.Free)), h.Shell+" crictl rmi --prune")})
		default:
			well = append(well, fmt.Sprintf("%s: %s, %s, %s free, clock in step", h.Node, h.Runtime, count(h.Images, "image"), console.Size(h.Free)))
		}
	}
	return strings.Join(well, "\n"), errors.Join(errs...)
}

func (d *doctor) lookAtCharts(ctx context.Context) (string, error) {
	cache, err := session.CacheDir()
	if err != nil || d.config == nil {
		return "", err
	}
	var errs []error
	here, there := 0, 0
	for _, r := range d.config.Releases {
		if r.ChartIsLocal() {
			continue
		}
		file, address, cached := deploy.CachedChart(filepath.Join(cache, "charts"), session.ReleaseOf(d.config, r))
		if cached {
			here++
			continue
		}
		if address != "" { // a registry is asked when the chart is needed
			if err := reachable(ctx, address); err != nil {
				hint := "check the address and the network"
				if file != "" {
					hint += ", or put the archive at " + file
				}
				what := r.Chart
				if r.Repo != "" {
					what += " of " + r.Repo
				}
				errs = append(errs, event.WithHint(fmt.Errorf("%s is not in the cache, and cannot be downloaded: %w", what, err), hint))
				continue
			}
		}
		there++
	}
	if err := errors.Join(errs...); err != nil || here+there == 0 {
		return "", err
	}
	return fmt.Sprintf("%d downloaded before, %d to be downloaded", here, there), nil
}

// reachable asks for a chart without taking it.
func reachable(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	return nil
}

// lookAtDockerfiles only warns: devloop works with what it finds.
func (d *doctor) lookAtDockerfiles(ctx context.Context) (string, error) {
	if d.config == nil || len(d.config.Images) == 0 {
		return "", nil
	}
	files, seen := map[string]bool{}, map[string]bool{}
	var errs []error
	warn := func(err error) {
		if !seen[err.Error()] { // images may share a Dockerfile
			seen[err.Error()] = true
			errs = append(errs, warning{err})
		}
	}
	for _, image := range d.config.Images {
		input := session.BuildInput(d.config, image)
		files[input.Dockerfile] = true
		findings, err := build.Lint(ctx, input)
		if err != nil {
			warn(err)
		}
		for _, f := range findings {
			warn(event.WithHint(fmt.Errorf("%s:%d: %s", shortPath(input.Dockerfile), f.Line, f.Message), f.Hint))
		}
	}
	if len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	return count(len(files), "Dockerfile") + " without findings", nil
}

// shortPath is relative to the working directory for what is in there, so that terminals find it.
func shortPath(file string) string {
	dir, err := os.Getwd()
	if err != nil {
		return file
	}
	short, err := filepath.Rel(dir, file)
	if err != nil || !filepath.IsLocal(short) {
		return file
	}
	return short
}

func (d *doctor) lookAtPorts(ctx context.Context) (string, error) {
	if d.config == nil {
		return "", nil
	}
	free := 0
	var errs []error
	for i, f := range d.config.Forwards {
		if f.Local == 0 {
			continue // devloop takes one that is free
		}
		forward, err := session.ListenForward(ctx, d.config, i, nil)
		if err == nil {
			free++
			err = forward.Close()
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || free == 0 {
		return "", err
	}
	return count(free, "local port") + " free", nil
}

// lookAtWatching watches what devloop would watch.
func (d *doctor) lookAtWatching(ctx context.Context) (string, error) {
	watcher, err := watch.New(nil, watch.Options{Mode: watch.Events}) // devloop itself would fall back to polling
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- event.Guard(func() error { return watcher.Run(ctx) })
	}()
	err = watcher.Watch(d.inputs(ctx))
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		return "", err
	}
	seen := "all files of the project can be watched"
	if watches, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches"); err == nil {
		seen += "; the kernel's limit is " + strings.TrimSpace(string(watches)) + " folders"
	}
	return seen, nil
}

// inputs are the files that devloop would watch.
func (d *doctor) inputs(ctx context.Context) (files []watch.Path) {
	if d.config == nil {
		return nil
	}
	for _, file := range append(d.config.Files(), session.ReleaseFiles(d.config)...) {
		files = append(files, watch.Path{Name: file})
	}
	cache, err := session.CacheDir()
	if err != nil || d.docker == nil {
		return files
	}
	builder := build.New(d.docker, cache)
	for _, image := range d.config.Images {
		input, _ := builder.Hash(ctx, session.BuildInput(d.config, image)) // names files even with an error, which devloop itself will tell
		for _, file := range input.Files {
			files = append(files, watch.Path(file))
		}
	}
	return files
}

func (d *doctor) lookAtDisk(context.Context) (string, error) {
	cache, err := session.CacheDir()
	if err != nil {
		return "", err
	}
	folder := cache
	for { // devloop has not been here before
		if _, err := os.Stat(folder); err == nil || folder == filepath.Dir(folder) {
			break
		}
		folder = filepath.Dir(folder)
	}
	free, err := freeBytes(folder)
	if err != nil {
		return "", err
	}
	if free < enoughDisk {
		return "", warning{event.WithHint(fmt.Errorf("%s left for %s, where charts and image layers are kept", console.Size(free), cache), "make room, or set XDG_CACHE_HOME to a larger disk")}
	}
	return console.Size(free) + " free for charts and image layers in " + cache, nil
}

func freeBytes(folder string) (uint64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(folder, &fs); err != nil {
		return 0, fmt.Errorf("free space in %s: %w", folder, err)
	}
	return uint64(fs.Bavail) * uint64(fs.Bsize), nil //nolint:unconvert,gosec // their types differ between systems
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
