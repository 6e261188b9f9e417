package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/watch"
)

const (
	checkTimeout = 20 * time.Second
	// enoughDisk is room for a few images with a layer of Python packages each, in bytes.
	enoughDisk = 5 << 30
	// clockSkew is how far a node's clock may be off, about as far as certificates and tokens
	// allow.
	clockSkew = 10 * time.Second
)

func newDoctorCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what devloop needs on this machine, and say what to do",
		Long: `Checks devloop.yaml, Docker, the cluster, its nodes, the charts, the local ports, file watching,
disks, clocks and Dockerfiles: what BuildKit's linter finds, and pip installations that could be faster.
Nothing is changed. The exit code is 3 if something has to be fixed, and 2 if that is devloop.yaml.`,
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

// doctor runs one check after the other. Later checks use what earlier ones found; it is nil if
// they did not.
type doctor struct {
	options *options
	out     io.Writer
	check   string // the one that is running
	failed  int
	unsaid  error // the first line that could not be written

	config *config.Config
	docker *client.Client
	nodes  *node.Cluster
}

func (d *doctor) examine(ctx context.Context) error {
	d.check = "devloop"
	d.ok("%s", readBuildInfo())
	for _, check := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"configuration", d.checkConfig},
		{"Docker", d.checkDocker},
		{"cluster", d.checkCluster},
		{"nodes", d.checkNodes},
		{"charts", d.checkCharts},
		{"Dockerfiles", d.checkDockerfiles},
		{"ports", d.checkPorts},
		{"watching", d.checkWatching},
		{"disk", d.checkDisk},
	} {
		d.check = check.name
		checkCtx, cancel := context.WithTimeout(ctx, checkTimeout)
		err := check.run(checkCtx)
		cancel()
		if ctx.Err() != nil {
			return console.ErrInterrupted
		}
		if err != nil {
			d.fail(err)
		}
		if d.unsaid != nil {
			return d.unsaid
		}
	}
	switch {
	case d.failed == 0:
		return nil
	case d.config == nil:
		return console.UsageError{Err: errors.New("doctor: the configuration has to be fixed first")}
	}
	return console.EnvironmentError{Err: fmt.Errorf("doctor: %s to fix", count(d.failed, "thing"))}
}

func (d *doctor) ok(format string, values ...any) { d.print("ok", fmt.Sprintf(format, values...), "") }

// warn prints what devloop works with all the same.
func (d *doctor) warn(err error) {
	for _, f := range console.Facts(err) {
		d.print("warn", d.options.printer.Secrets().Text(f.Message), d.options.printer.Secrets().Text(f.Hint))
	}
}

func (d *doctor) fail(err error) {
	for _, f := range console.Facts(err) {
		d.failed++
		d.print("FAIL", d.options.printer.Secrets().Text(f.Message), d.options.printer.Secrets().Text(f.Hint))
	}
}

func (d *doctor) print(status, message, hint string) {
	const indent = 21
	message = strings.ReplaceAll(message, "\n", "\n"+strings.Repeat(" ", indent))
	line := fmt.Sprintf("%-4s  %-13s  %s\n", status, d.check, message)
	if hint != "" {
		line += fmt.Sprintf("%*s→ %s\n", indent, "", hint)
	}
	if _, err := io.WriteString(d.out, line); err != nil && d.unsaid == nil {
		d.unsaid = err
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

func (d *doctor) checkConfig(context.Context) error {
	c, err := config.Load(d.options.source())
	if err != nil {
		return err
	}
	d.config = c
	session.HideSecrets(d.options.printer.Secrets(), c)
	summary := fmt.Sprintf("%s: %s, %s, %s", strings.Join(d.options.files, ", "), count(len(c.Images), "image"),
		count(len(c.Releases), "release"), count(len(c.Forwards), "forward"))
	for i, note := range c.Notes {
		if i == session.ShownNotes {
			summary += fmt.Sprintf("\nand %d more", len(c.Notes)-i)
			break
		}
		summary += "\n" + note.String()
	}
	d.ok("%s", summary)
	return nil
}

func (d *doctor) checkDocker(ctx context.Context) error {
	docker, err := session.OpenDocker()
	if err != nil {
		return err
	}
	d.docker = docker
	ping, err := build.Ping(ctx, docker)
	if err != nil {
		return err
	}
	info, err := docker.Info(ctx, client.InfoOptions{})
	if err != nil {
		return build.DockerError(err)
	}
	daemon := fmt.Sprintf("%s, API %s, %s", info.Info.ServerVersion, ping.APIVersion, docker.DaemonHost())
	free, err := freeBytes(info.Info.DockerRootDir)
	switch {
	case err != nil: // the daemon's disk is on another machine
		d.ok("%s", daemon)
	case free < enoughDisk:
		d.warn(event.WithHint(fmt.Errorf("%s: %s left in %s", daemon, console.Size(free), info.Info.DockerRootDir),
			"docker system prune"))
	default:
		d.ok("%s, %s free", daemon, console.Size(free))
	}
	return nil
}

func (d *doctor) checkCluster(ctx context.Context) error {
	wanted, folder := d.options.kubeContext, ""
	if d.config != nil {
		wanted, folder = d.config.KubeContext, d.config.Dir
	}
	target, err := kube.ReadContext(wanted)
	if err != nil {
		return err
	}
	var origin node.Origin
	var machines kube.Machines
	if d.docker != nil {
		if d.nodes, err = session.FindNodes(ctx, target); err != nil {
			return err
		}
		origin, machines = d.nodes.Origin(), d.nodes.Machines
	}
	cluster, err := kube.ConnectTo(ctx, target, machines)
	if err != nil {
		return err
	}
	version, err := cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("kube context %q: ask for its version: %w", target.Context, err)
	}
	found := fmt.Sprintf("context %s, Kubernetes %s, %s", target.Context, version.GitVersion, target.Server)
	if folder, err = filepath.EvalSymlinks(folder); err != nil {
		return err
	}
	grounds, err := d.options.consent().Grounds(ctx, target, cluster, origin, folder)
	switch {
	case err == nil:
		d.ok("%s, %s", found, grounds)
	case errors.As(err, new(*kube.NotLocalError)): // devloop asks before it writes to it
		d.ok("%s", found)
		d.warn(err)
	default:
		return err
	}
	if d.nodes == nil {
		return nil
	}
	nodes := cluster.Client.CoreV1().Nodes()
	if err := d.nodes.Verify(ctx,
		func(ctx context.Context) ([]string, error) { return kube.BootIDs(ctx, nodes) }); err != nil {
		d.warn(err)
	}
	return nil
}

func (d *doctor) checkNodes(ctx context.Context) error {
	if d.nodes == nil {
		return nil
	}
	for _, h := range d.nodes.Check(ctx) {
		switch {
		case h.Err != nil:
			d.fail(h.Err)
		case h.ClockAhead.Abs() > clockSkew:
			d.fail(event.WithHint(fmt.Errorf("%s: its clock differs from this machine's by %s", h.Node, h.ClockAhead),
				h.Shell+" date -s @$(date +%s)"))
		case h.Free < enoughDisk:
			d.warn(event.WithHint(fmt.Errorf("%s: %s left for images", h.Node, console.Size(h.Free)),
				h.Shell+" crictl rmi --prune"))
		default:
			d.ok("%s: %s, %s, %s free, clock in step", h.Node, h.Runtime, count(h.Images, "image"),
				console.Size(h.Free))
		}
	}
	return nil
}

func (d *doctor) checkCharts(ctx context.Context) error {
	cache, err := session.CacheDir()
	if err != nil || d.config == nil {
		return err
	}
	here, there, failed := 0, 0, d.failed
	for _, r := range d.config.Releases {
		if r.Chart == "" || r.ChartIsLocal() {
			continue
		}
		file, address, cached := deploy.CachedChart(filepath.Join(cache, "charts"), session.ReleaseOf(d.config, r))
		if cached {
			here++
			continue
		}
		there++
		if address == "" { // an OCI registry is asked when the chart is needed
			continue
		}
		if err := deploy.Reachable(ctx, address, r.Repo); err != nil {
			hint := cmp.Or(event.Hint(err), "check the address and the network")
			if file != "" {
				hint += ", or put the archive at " + file
			}
			chart := r.Chart
			if r.Repo != "" {
				chart += " of " + r.Repo
			}
			d.fail(event.WithHint(fmt.Errorf("%s is not in the cache, and cannot be downloaded: %w", chart, err), hint))
		}
	}
	if d.failed == failed && here+there > 0 {
		d.ok("%d downloaded before, %d to be downloaded", here, there)
	}
	return nil
}

func (d *doctor) checkDockerfiles(ctx context.Context) error {
	if d.config == nil || len(d.config.Images) == 0 {
		return nil
	}
	dockerfiles, warned := map[string]bool{}, map[string]bool{}
	warn := func(err error) {
		if !warned[err.Error()] { // images may share a Dockerfile
			warned[err.Error()] = true
			d.warn(err)
		}
	}
	for _, image := range d.config.Images {
		input := session.BuildInput(d.config, image, nil)
		dockerfiles[input.Dockerfile] = true
		findings, err := build.Lint(ctx, input)
		if err != nil {
			warn(err)
		}
		for _, f := range findings {
			warn(event.WithHint(fmt.Errorf("%s:%d: %s", shortPath(input.Dockerfile), f.Line, f.Message), f.Hint))
		}
	}
	if len(warned) == 0 {
		d.ok("%s without findings", count(len(dockerfiles), "Dockerfile"))
	}
	return nil
}

// shortPath is relative for a file below the working directory, as terminals can open it.
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

func (d *doctor) checkPorts(ctx context.Context) error {
	if d.config == nil {
		return nil
	}
	free, failed := 0, d.failed
	var own *control.Running // the devloop that runs for this file
	held := 0                // ports that it has
	for i, f := range d.config.Forwards {
		if f.Local == 0 {
			continue // devloop takes a free one
		}
		forward, err := session.ListenForward(ctx, d.config, i, nil)
		if err == nil {
			err = forward.Close()
		}
		var taken *session.PortTakenError
		switch {
		case err == nil:
			free++
		case errors.As(err, &taken) && taken.By != nil && taken.By.Serves(d.config.Path):
			held++
			own = taken.By
		default:
			d.fail(err)
		}
	}
	if held > 0 {
		d.ok("%s held by devloop itself (%s)", count(held, "local port"), own)
	}
	if d.failed == failed && free > 0 {
		d.ok("%s free", count(free, "local port"))
	}
	return nil
}

// checkWatching watches what devloop would watch.
func (d *doctor) checkWatching(ctx context.Context) error {
	watcher, err := watch.New(nil, watch.Options{Mode: watch.Events}) // devloop itself would fall back to polling
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- event.Guard(func() error { return watcher.Run(ctx) })
	}()
	_, err = watcher.Watch(d.inputs(ctx))
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	limit := ""
	if known := watch.Limit(); known != "" {
		limit = "; the kernel's limit is " + known
	}
	d.ok("all files of the project can be watched%s", limit)
	return nil
}

// inputs are the files that devloop would watch.
func (d *doctor) inputs(ctx context.Context) (files []watch.Path) {
	if d.config == nil {
		return nil
	}
	for _, file := range append(d.config.Files(), session.ReleaseFiles(d.config)...) {
		files = append(files, watch.Root(file))
	}
	cache, err := session.CacheDir()
	if err != nil || d.docker == nil {
		return files
	}
	builder := build.New(d.docker, cache)
	inputs, _ := session.HashInputs(ctx, builder, d.config) // a run reports the error
	for _, input := range inputs {
		for _, file := range input.Files {
			files = append(files, watch.Path(file))
		}
	}
	return files
}

func (d *doctor) checkDisk(context.Context) error {
	cache, err := session.CacheDir()
	if err != nil {
		return err
	}
	folder := cache
	for { // the cache is made by the first run
		if _, err := os.Stat(folder); err == nil || folder == filepath.Dir(folder) {
			break
		}
		folder = filepath.Dir(folder)
	}
	free, err := freeBytes(folder)
	if err != nil {
		return err
	}
	if free < enoughDisk {
		d.warn(event.WithHint(
			fmt.Errorf("%s left for %s, where charts and image layers are kept", console.Size(free), cache),
			"make room, or set XDG_CACHE_HOME to a larger disk"))
		return nil
	}
	d.ok("%s free for charts and image layers in %s", console.Size(free), cache)
	return nil
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
