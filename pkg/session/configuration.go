package session

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/dask"
	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/loop"
	"github.com/devloop/devloop/pkg/pods"
)

// ShownNotes is how many notes on a skaffold.yaml are shown.
const ShownNotes = 50

// ReportConfig reports what devloop.yaml names, and how devloop differs from a skaffold.yaml, if
// that is not what it was before. before is nil at the start.
func ReportConfig(sink event.Sink, before, now *config.Config) {
	if before == nil || !reflect.DeepEqual(payload(before), payload(now)) {
		sink.Stage(event.ConfigStage).Detail(event.ConfigRead, payload(now))
	}
	if now.Part != nil && (before == nil || !slices.Equal(before.ReleaseNames(), now.ReleaseNames())) {
		others := (&config.Config{Releases: now.Others}).ReleaseNames()
		sink.Stage(event.ConfigStage).Note("only a part is deployed, the rest stays as it is",
			"releases", event.Name(strings.Join(now.ReleaseNames(), ", ")), "not", event.Name(strings.Join(others, ", ")))
	}
	if len(now.AllowContexts) > 0 && before == nil {
		sink.Stage(event.ConfigStage).Warn("allowContexts in devloop.yaml allows nothing by itself", nil,
			"allow it by", "--allow-context, or allowContexts in "+settingsName())
	}
	if now.Format != "" && before == nil {
		sink.Stage(event.ConfigStage).Note("a skaffold.yaml is read as a devloop.yaml", "file", event.Name(now.Path),
			"format", now.Format)
	}
	if before == nil || !reflect.DeepEqual(before.Notes, now.Notes) {
		for i, note := range now.Notes {
			if i == ShownNotes {
				sink.Stage(event.ConfigStage).Warn("more of it is not as skaffold has it", nil, "notes", len(now.Notes)-i)
				break
			}
			if note.Harmless {
				sink.Stage(event.ConfigStage).Note(note.String())
			} else {
				sink.Stage(event.ConfigStage).Warn(note.String(), nil)
			}
		}
	}
}

// payload returns the event of a configuration.
func payload(c *config.Config) event.Config {
	names := event.Config{Project: event.Name(c.Name), File: event.Name(c.Path), Folder: event.Name(c.Dir)}
	for _, image := range c.Images {
		names.Images = append(names.Images, image.Name)
	}
	for _, r := range c.Releases {
		names.Releases = append(names.Releases,
			event.Release{Namespace: event.Name(r.Namespace), Name: event.Name(r.Name), Chart: r.Chart})
	}
	names.Part = c.Part
	return names
}

// maxSecret is how much of a secret file is hidden, in bytes: one named by mistake may be large.
const maxSecret = 1 << 20

// HideSecrets hides the secrets of builds and of the kubeconfig. What cannot be read cannot be
// shown either. The deployer hides those of releases when it merges values.
func HideSecrets(secrets *event.Secrets, c *config.Config) {
	secrets.Hide(kube.KubeconfigSecrets()...)
	for _, image := range c.Images {
		for _, secret := range image.Secrets {
			if secret.Env != "" {
				secrets.HideFile(os.Getenv(secret.Env))
				continue
			}
			file, err := files.Open(c.Abs(inHome(secret.File)))
			if err != nil {
				continue
			}
			content, err := io.ReadAll(io.LimitReader(file, maxSecret))
			_ = file.Close() // only read
			if err == nil {
				secrets.HideFile(string(content))
			}
		}
	}
}

// Load reads devloop.yaml for a run. If it is invalid, the last valid one stays in force.
func (s *Session) Load(ctx context.Context) (loop.Stages, error) {
	s.containers.stopRenewing()
	s.images.pruning.stop()
	before := s.config.Load()
	files := before.Files()
	c, err := config.Load(s.options.Source)
	if err == nil {
		err = c.CheckDeploys()
	}
	if err == nil {
		c, err = s.narrow(ctx, c)
	}
	if err == nil {
		err = s.adopt(before, c)
	}
	var invalid *tree.Error
	switch {
	case errors.As(err, &invalid):
		files = append(files, invalid.Files()...)
		if s.reported.Changed("invalid", err.Error()) {
			s.options.Sink.Stage(event.ConfigStage).Warn("the configuration is not valid, its last valid state stays in force",
				err)
		}
	case err != nil:
		return loop.Stages{}, err
	default:
		if s.reported.Forget("invalid") {
			s.options.Sink.Stage(event.ConfigStage).Note("the configuration is valid again")
		}
		files = c.Files()
	}
	now := s.config.Load()
	stages := loop.Stages{
		Files:      append(files, includedRequirements(now)...),
		Images:     imageStage{builders: s.builders, config: now},
		Nodes:      nodeStage{s.images, now},
		Local:      localStage{s.syncer, now},
		Platform:   s.platform(now, s.followNamespaces),
		Forwards:   s.forwards,
		Containers: containerStage{s.containers, now, s.prover},
		Proof:      proofStage{s.prover, s.libraries, s.deployer, now, s.forwards.gatewayRoutes()},
	}
	stages.Only = func(names []string) (loop.Stages, error) {
		part, err := now.Only(names)
		if err != nil {
			return loop.Stages{}, err
		}
		narrowed := stages
		followAll := func(*config.Config) { s.followNamespaces(now) }
		narrowed.Platform = s.platform(part, followAll)
		return narrowed, nil
	}
	return stages, nil
}

func (s *Session) platform(c *config.Config, follow func(*config.Config)) platformStage {
	return platformStage{s.deployer, s.prover, s.containers, &s.builders.podOnly, s.builders.passed, c, follow,
		make(chan struct{})}
}

// fixed returns the settings that only a restart changes.
func fixed(c *config.Config) [5]string {
	return [...]string{c.Name, c.KubeContext, c.BuildIn, c.Push, strconv.Itoa(c.Page.Port)}
}

// adopt puts a valid configuration in force, except for its fixed settings.
func (s *Session) adopt(before, c *config.Config) error {
	if wants := fixed(c); wants != fixed(before) {
		if s.reported.Changed("fixed", wants) {
			s.options.Sink.Stage(event.ConfigStage).Warn(
				"name, kubeContext, buildIn, push and page take effect when devloop is started again", nil)
		}
		c.Name, c.KubeContext, c.BuildIn = before.Name, before.KubeContext, before.BuildIn
		c.Push, c.Page = before.Push, before.Page
	}
	if err := s.forwards.reconcile(c); err != nil {
		return err
	}
	if s.watcher != nil {
		s.watcher.Settle(c.Watch.Quiet, c.Watch.Limit)
	}
	HideSecrets(s.options.Secrets, c)
	ReportConfig(s.options.Sink, before, c)
	s.config.Store(c)
	s.followPods(c)
	s.followClusters(c)
	return nil
}

// followPods sets whose pods are followed, and first hides the secrets that they may print.
func (s *Session) followPods(c *config.Config) {
	list := releases(c)
	namespaces := s.deployer.Namespaces(list)
	list = slices.DeleteFunc(list, func(r deploy.Release) bool {
		values, err := deploy.SecretValues(r)
		s.options.Secrets.Hide(values...)
		return err != nil // its pods may print secrets; the run reports the error
	})
	scope := scopeOf(c, list, namespaces)
	s.scoping.Lock()
	defer s.scoping.Unlock()
	scope.Selectors = append(scope.Selectors, s.clusterPods...)
	select {
	case <-s.pods: // the scope before is not received yet
	default:
	}
	s.pods <- scope
}

// scopeOf returns which pods belong to releases, or to those who use these.
func scopeOf(c *config.Config, list []deploy.Release, namespaces []string) pods.Scope {
	scope := pods.Scope{Namespaces: namespaces}
	for _, r := range list {
		scope.Releases = append(scope.Releases, types.NamespacedName{Namespace: r.Namespace, Name: r.Name})
	}
	for _, r := range scope.Releases { // pods that users of a Dask Gateway start belong to no release
		scope.Selectors = append(scope.Selectors, pods.Selector{Namespace: r.Namespace, Selector: dask.LabelCluster})
	}
	for _, l := range c.Logs {
		scope.Selectors = append(scope.Selectors, pods.Selector(l))
	}
	return scope
}

// followClusterPods has the pods of Dask clusters followed, in whichever namespaces these are.
func (s *Session) followClusterPods(namespaces []string, selector string) {
	s.scoping.Lock()
	s.clusterPods = nil
	for _, namespace := range namespaces {
		s.clusterPods = append(s.clusterPods, pods.Selector{Namespace: namespace, Selector: selector})
	}
	s.scoping.Unlock()
	s.followPods(s.config.Load())
}

// followClusters has the clusters of the releases' gateways followed, which are looked for again.
func (s *Session) followClusters(c *config.Config) {
	if s.clusters != nil && s.forwards != nil {
		s.clusters.Follow(dask.Scope{Namespaces: s.deployer.Namespaces(releases(c)), Routes: s.forwards.gatewayRoutes()})
	}
}

// followNamespaces has pods followed in the namespaces that releases have objects in, once these
// are known.
func (s *Session) followNamespaces(c *config.Config) {
	s.followClusters(c)
	if s.reported.Changed("namespaces of releases", strings.Join(s.deployer.Namespaces(releases(c)), " ")) {
		s.followPods(c)
	}
}

// inHome replaces a ~ at the start of a path.
func inHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path // where nothing is found
	}
	return filepath.Join(home, rest)
}
