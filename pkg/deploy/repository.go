package deploy

// Charts with a name and a version, in a chart repository (an index.yaml and archives) or in an OCI
// registry (tags). They are resolved once while devloop runs, and remembered on disk for when the
// network is away. An exact version is never resolved again.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	dockerconfig "github.com/docker/cli/cli/config"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/registry"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// chartLocation is where a version of a chart is.
type chartLocation struct {
	URL    string `json:"url"`              // of the archive, or the reference with its tag
	Digest string `json:"sha256,omitempty"` // of the archive, or ""
}

// resolve finds the chart's location.
func (c *charts) resolve(ctx context.Context, stage event.Stage, from source) (chartLocation, error) {
	if from.repo == "" && hasTag(from.chart) {
		return chartLocation{URL: from.chart}, nil
	}
	key := from.key()
	c.mu.Lock()
	at, known := c.resolved[key]
	c.mu.Unlock()
	if known {
		return at, nil
	}
	before := c.remembered(from)
	_, err := semver.StrictNewVersion(strings.TrimPrefix(from.version, "v"))
	if exact := err == nil; exact && before.URL != "" && c.isCached(before.URL) {
		at = before
	} else if at, err = findVersion(ctx, from); err != nil {
		if before.URL == "" || ctx.Err() != nil {
			return at, event.WithHint(fmt.Errorf("chart %s: %w", from, err),
				"check the address, the name and the version, and the network")
		}
		at = before
		stage.Warn("newest version of the chart is unknown, the last known one is used", err, "chart", from.chart, "url",
			redacted(at.URL))
	} else if text, err := json.Marshal(at); err == nil {
		if err := errors.Join(c.makeFolder(), writeFile(filepath.Join(c.dir, key+".json"), text)); err != nil {
			return at, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resolved == nil {
		c.resolved = map[string]chartLocation{}
	}
	c.resolved[key] = at
	return at, nil
}

func (c *charts) isCached(url string) bool {
	_, err := os.Stat(c.file(url))
	return err == nil
}

// key names the chart in the cache.
func (s source) key() string { return sum256([]byte(s.repo + "\n" + s.chart + "\n" + s.version))[:16] }

// remembered returns the last known location, the zero value if there is none.
func (c *charts) remembered(from source) (before chartLocation) {
	if from.repo == "" && hasTag(from.chart) {
		return chartLocation{URL: from.chart}
	}
	if text, err := files.Read(filepath.Join(c.dir, from.key()+".json"), maxText); err == nil {
		_ = json.Unmarshal(text, &before)
	}
	return before
}

func indexOf(repository string) string { return strings.TrimSuffix(repository, "/") + "/index.yaml" }

// findVersion asks the repository or the registry for the location.
func findVersion(ctx context.Context, from source) (chartLocation, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	if from.repo == "" {
		return findTag(ctx, from)
	}
	text, err := download(ctx, indexOf(from.repo), from.repo)
	if err != nil {
		return chartLocation{}, err
	}
	temporary, err := os.CreateTemp("", "index-*.yaml") // Helm only reads an index from a file
	if err != nil {
		return chartLocation{}, err
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	_, err = temporary.Write(text)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return chartLocation{}, err
	}
	index, err := repo.LoadIndexFile(temporary.Name())
	if err != nil {
		return chartLocation{}, fmt.Errorf("its index.yaml: %w", err)
	}
	index.SortEntries()
	version, err := index.Get(from.chart, from.version)
	if err != nil {
		return chartLocation{}, err
	}
	if len(version.URLs) == 0 {
		return chartLocation{}, fmt.Errorf("its index.yaml has no URL for version %s", version.Version)
	}
	address, err := repo.ResolveReferenceURL(withoutLogin(from.repo), version.URLs[0])
	return chartLocation{address, strings.TrimPrefix(version.Digest, "sha256:")}, err
}

// withoutLogin returns a URL without user and password.
func withoutLogin(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	u.User = nil
	return u.String()
}

// withLogin adds the user and password of a repository to a URL on the same host.
func withLogin(address, repository string) string {
	u, err := url.Parse(address)
	of, repoErr := url.Parse(repository)
	if err != nil || repoErr != nil || u.Host != of.Host || u.User != nil {
		return address
	}
	u.User = of.User
	return u.String()
}

// findTag picks the tag of a version.
func findTag(ctx context.Context, from source) (chartLocation, error) {
	if _, err := semver.StrictNewVersion(strings.TrimPrefix(from.version, "v")); err == nil {
		// as Helm encodes a version in a tag
		return chartLocation{URL: from.chart + ":" + strings.ReplaceAll(from.version, "+", "_")}, nil
	}
	client, err := registryClient(ctx, from.chart)
	if err != nil {
		return chartLocation{}, err
	}
	tags, err := client.Tags(strings.TrimPrefix(from.chart, "oci://"))
	if err != nil {
		return chartLocation{}, err
	}
	tag, err := registry.GetTagMatchingVersionOrConstraint(tags, from.version)
	return chartLocation{URL: from.chart + ":" + strings.ReplaceAll(tag, "+", "_")}, err
}

// pullChart downloads the archive of a reference with its tag.
func pullChart(ctx context.Context, reference string) ([]byte, error) {
	client, err := registryClient(ctx, reference)
	if err != nil {
		return nil, err
	}
	result, err := client.Pull(strings.TrimPrefix(reference, "oci://"))
	if err != nil {
		return nil, err
	}
	return result.Chart.Data, nil
}

// registryClient uses the credentials of Helm and Docker. Plain http is only for registries on this
// machine.
func registryClient(ctx context.Context, reference string) (*registry.Client, error) {
	options := []registry.ClientOption{registry.ClientOptHTTPClient(&http.Client{Transport: boundedTransport{ctx}})}
	host, _, _ := strings.Cut(strings.TrimPrefix(reference, "oci://"), "/")
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); host == "localhost" || err == nil && ip.IsLoopback() {
		options = append(options, registry.ClientOptPlainHTTP())
	}
	return registry.NewClient(options...)
}

// boundedTransport adds a context to Helm's registry client, which takes none, and limits responses
// to the size of a chart.
type boundedTransport struct {
	ctx context.Context //nolint:containedctx // of one call
}

func (b boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r.WithContext(b.ctx))
	if err != nil {
		return nil, markDownload(b.ctx, err)
	}
	if err := answerError(resp); event.IsTransient(err) { // the client turns it into text
		_ = resp.Body.Close()
		return nil, err
	}
	resp.Body = struct { // a truncated chart fails by its digest
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxChart), resp.Body}
	return resp, nil
}

// hasTag tells whether a reference ends in a tag: oci://host:port/path/name:tag.
func hasTag(reference string) bool {
	return strings.LastIndex(reference, ":") > strings.LastIndex(reference, "/")
}

// helmSettings returns the files of this user that say how a repository or registry is reached:
// helm repo add, helm registry login and docker login change them.
func helmSettings(repository string) []string {
	if strings.HasPrefix(repository, "oci://") {
		return []string{cli.New().RegistryConfig, filepath.Join(dockerconfig.Dir(), dockerconfig.ConfigFileName)}
	}
	return []string{cli.New().RepositoryConfig}
}

// addedRepository returns the URL of a repository that was added by helm repo add.
func addedRepository(name string) (string, error) {
	file := cli.New().RepositoryConfig
	added, err := repo.LoadFile(file)
	if err == nil {
		if entry := added.Get(name); entry != nil {
			return entry.URL, nil
		}
	}
	return "", event.WithHint(fmt.Errorf("the repository %q is not in %s", name, file), "helm repo add "+name+" URL")
}

// repositoryEntry returns the repository of helm repo add that the URLs belong to, the one with the
// longest URL, or nil.
func repositoryEntry(urls ...string) (best *repo.Entry) {
	added, err := repo.LoadFile(cli.New().RepositoryConfig)
	if err != nil {
		return nil
	}
	for _, entry := range added.Repositories {
		prefix := strings.TrimSuffix(entry.URL, "/") + "/"
		isOurs := slices.ContainsFunc(urls, func(u string) bool { return strings.HasPrefix(u+"/", prefix) })
		if isOurs && (best == nil || len(entry.URL) > len(best.URL)) {
			best = entry
		}
	}
	return best
}

// clientFor returns a client with the certificates of a repository.
func clientFor(entry *repo.Entry) (*http.Client, error) {
	if entry.CAFile == "" && entry.CertFile == "" && !entry.InsecureSkipTLSverify {
		return http.DefaultClient, nil
	}
	settings := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: entry.InsecureSkipTLSverify, //nolint:gosec // helm repo add was told so
	}
	if entry.CertFile != "" {
		own, err := tls.LoadX509KeyPair(entry.CertFile, entry.KeyFile)
		if err != nil {
			return nil, err
		}
		settings.Certificates = []tls.Certificate{own}
	}
	if entry.CAFile != "" {
		text, err := files.Read(entry.CAFile, maxText)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", entry.CAFile)
		}
	}
	// One client a download: connections are not kept.
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: settings,
		DisableKeepAlives: true, ForceAttemptHTTP2: true}}, nil
}

func isSameHost(one, other string) bool {
	a, err := url.Parse(one)
	b, otherErr := url.Parse(other)
	return err == nil && otherErr == nil && a.Scheme == b.Scheme && a.Host == b.Host
}
