package deploy

// A chart is a folder or an archive on disk, or an archive that is downloaded once and kept with
// its digest: devloop works offline, and notices when the copy was changed. repository.go resolves
// names and versions.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/cli"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	downloadTimeout = 60 * time.Second
	// maxChart is Helm's own limit for an archive, in bytes.
	maxChart = 100 << 20
)

// source is where a chart comes from.
type source struct {
	chart   string // folder, archive, URL (https, http, oci), or the chart's name in repo
	repo    string // URL of a chart repository, or ""
	version string // in the repository or registry: exact, a range, or "" for the newest
	sha256  string // expected of its archive, or ""
}

func (s source) String() string {
	if s.repo != "" {
		return strings.TrimSpace(redacted(s.repo) + " " + s.chart + " " + s.version)
	}
	return strings.TrimSpace(redacted(s.chart) + " " + s.version)
}

func (s source) isLocal() bool { return s.repo == "" && !strings.Contains(s.chart, "://") }

// redacted returns a URL without its password.
func redacted(address string) string {
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return u.Redacted()
	}
	return address
}

// charts is the cache of downloaded charts: <sha256 of the URL>-<file name>, and beside it the same
// with ".sha256".
type charts struct {
	dir string

	mu       sync.Mutex
	digests  map[string]string        // of archives, by path, size and time
	resolved map[string]chartLocation // names and versions, while devloop runs
}

// chartRef is a chart by the digest of its files, to be loaded when it is needed.
type chartRef struct {
	digest string
	// load returns a new one at each call, since Helm changes charts.
	load func(context.Context) (*chart.Chart, error)
}

// open finds the chart and the digest of all its files.
func (c *charts) open(ctx context.Context, stage event.Stage, from source) (chartRef, error) {
	file, err := c.locate(ctx, stage, from)
	if err != nil {
		return chartRef{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return chartRef{}, fmt.Errorf("chart %s: %w", from, err)
	}
	key := fmt.Sprintf("%s %d %d", file, info.Size(), info.ModTime().UnixNano())
	c.mu.Lock()
	digest, known := c.digests[key]
	c.mu.Unlock()
	if !known {
		loaded, err := c.load(ctx, stage, file, from, 0)
		if err != nil {
			return chartRef{}, err
		}
		digest = digestOf(loaded)
	}
	if !known && !info.IsDir() { // a folder's time does not cover its files
		c.mu.Lock()
		if c.digests == nil {
			c.digests = map[string]string{}
		}
		c.digests[key] = digest
		c.mu.Unlock()
	}
	return chartRef{digest, func(ctx context.Context) (*chart.Chart, error) { // a Helm write has its own
		loaded, err := c.load(ctx, stage, file, from, 0)
		if err == nil && digestOf(loaded) != digest {
			err = fmt.Errorf("chart %s: %w", from, event.ErrSuperseded) // saved since
		}
		return loaded, err
	}}, nil
}

// load reads the chart in a file or folder, with the dependencies that helm dependency build would
// put into its charts folder.
func (c *charts) load(ctx context.Context, stage event.Stage, file string, from source, depth int) (*chart.Chart,
	error) {
	loaded, err := loadChart(ctx, file)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("chart %s: %w", from, context.Cause(ctx))
	}
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("chart %s: %w", from, err), "fix it and save")
	}
	if err := c.addDependencies(ctx, stage, loaded, file, true, depth); err != nil {
		return nil, fmt.Errorf("chart %s: %w", from, err)
	}
	return loaded, nil
}

// digestOf covers a chart's files and those of its dependencies. The digest of the archive would
// not do: two archives of the same files may differ in their order.
func digestOf(loaded *chart.Chart) string {
	sum := sha256.New()
	raw := slices.SortedFunc(slices.Values(loaded.Raw),
		func(a, b *chart.File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range raw {
		if strings.HasPrefix(f.Name, "charts/") {
			continue // counted below, but for old copies
		}
		_, _ = fmt.Fprintf(sum, "%d:%s,%d:", len(f.Name), f.Name, len(f.Data)) // a hash never fails
		_, _ = sum.Write(f.Data)
	}
	var below []string
	for _, dependency := range loaded.Dependencies() {
		below = append(below, digestOf(dependency))
	}
	slices.Sort(below)
	_, _ = fmt.Fprint(sum, below)
	return hex.EncodeToString(sum.Sum(nil))
}

// locate returns the path of the chart on this machine, after downloading it if necessary.
func (c *charts) locate(ctx context.Context, stage event.Stage, from source) (string, error) {
	switch {
	case from.repo != "":
		at, err := c.resolve(ctx, stage, from)
		if err != nil {
			return "", err
		}
		return c.fetch(ctx, stage, at.URL, from.sha256, at.Digest, func(ctx context.Context) ([]byte, error) {
			return download(ctx, withLogin(at.URL, from.repo), from.repo)
		})
	case strings.HasPrefix(from.chart, "oci://"):
		at, err := c.resolve(ctx, stage, from)
		if err != nil {
			return "", err
		}
		return c.fetch(ctx, stage, at.URL, from.sha256, "", func(ctx context.Context) ([]byte, error) {
			return pullChart(ctx,
				at.URL)
		})
	case strings.HasPrefix(from.chart, "https://"), strings.HasPrefix(from.chart, "http://"):
		return c.fetch(ctx, stage, from.chart, from.sha256, "", func(ctx context.Context) ([]byte,
			error) {
			return download(ctx, from.chart, "")
		})
	case from.isLocal():
		return from.chart, from.verify()
	}
	return "", event.WithHint(fmt.Errorf("chart %s: not a kind of address that devloop can download", from),
		"give the URL (https, http, oci) of a chart, a repository and the chart's name, or a folder")
}

// verify compares the archive on disk with the expected checksum.
func (s source) verify() error {
	if s.sha256 == "" {
		return nil
	}
	archive, err := files.Read(s.chart, maxChart)
	if err != nil {
		return fmt.Errorf("chart %s: %w", s, err)
	}
	if digest := sum256(archive); digest != s.sha256 {
		return event.WithHint(fmt.Errorf("chart %s: its sha256 is %s, and the release asks for %s", s, digest, s.sha256),
			"make sure which one is right, then correct the release's sha256")
	}
	return nil
}

func sum256(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// file is where the cache keeps the archive of a URL.
func (c *charts) file(url string) string {
	name := strings.ReplaceAll(path.Base(url), ":", "-")
	return filepath.Join(c.dir, sum256([]byte(url))[:16]+"-"+name)
}

// CachedChart tells whether the cache in dir has a release's chart, and in which file. The address
// is what it would be requested from, "" for a registry. Both are "" as far as they are not known
// yet.
func CachedChart(dir string, r Release) (file, address string, cached bool) {
	c, from := charts{dir: dir}, r.source()
	at, address := from.chart, from.chart
	if from.repo != "" || strings.HasPrefix(at, "oci://") {
		at, address = c.remembered(from).URL, ""
		if from.repo != "" {
			address = indexOf(from.repo)
		}
	}
	if at == "" {
		return "", address, false
	}
	return c.file(at), address, c.isCached(at)
}

// fetch returns the archive's path in the cache, after downloading it if necessary. pinned is the
// checksum that the user expects, listed that of the repository; both may be "".
func (c *charts) fetch(ctx context.Context, stage event.Stage, url, pinned, listed string,
	download func(context.Context) ([]byte, error)) (string, error) {
	file, address := c.file(url), redacted(url)
	archive, err := files.Read(file, maxChart)
	if errors.Is(err, fs.ErrNotExist) {
		err = stage.Step(ctx, event.ChartDownloaded, func(ctx context.Context) ([]any, error) {
			ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
			defer cancel()
			archive, err = download(ctx)
			if err == nil && listed != "" && sum256(archive) != listed {
				err = fmt.Errorf("its sha256 is %s, and its repository lists %s", sum256(archive), listed)
			}
			if err == nil { // it may be a proxy's login page
				room := int64(maxUnpacked)
				_, err = loadArchive(ctx, archive, &room)
			}
			if err != nil {
				return nil, event.WithHint(fmt.Errorf("chart %s: %w", address, err),
					"check the address and the network, or put the archive at "+file)
			}
			return []any{event.Download{URL: address, Bytes: int64(len(archive))}},
				errors.Join(c.makeFolder(), writeFile(file, archive))
		}, event.Download{URL: address})
	}
	if err != nil {
		return "", err
	}
	digest := sum256(archive)
	if pinned != "" && pinned != digest {
		return "", event.WithHint(fmt.Errorf("chart %s: its sha256 is %s, and the release asks for %s", address, digest,
			pinned),
			"make sure which one is right, then correct the release's sha256, or delete "+file)
	}
	known, err := files.Read(file+".sha256", maxText)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = writeFile(file+".sha256", []byte(digest+"\n"))
	case err == nil && strings.TrimSpace(string(known)) != digest:
		err = event.WithHint(fmt.Errorf("chart %s: its copy %s is not the file that was downloaded", address, file),
			"delete both the copy and "+file+".sha256")
	}
	return file, err
}

// makeFolder creates the cache's folder, for this user alone. Earlier devloops let others read it.
func (c *charts) makeFolder() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(c.dir, 0o700)
}

// get asks for the content at a URL, in the way that helm repo add has set for the repository
// that it belongs to, or for the URL itself. A user and a password in the URL come first. The
// caller closes the body.
func get(ctx context.Context, address, repository string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := http.DefaultClient
	if entry := repositoryEntry(address, withoutLogin(repository)); entry != nil {
		if client, err = clientFor(entry); err != nil {
			return nil, event.WithHint(fmt.Errorf("the repository %q in %s: %w", entry.Name, cli.New().RepositoryConfig, err),
				"helm repo add --force-update "+entry.Name+" "+entry.URL)
		}
		if req.URL.User == nil && entry.Username != "" && (entry.PassCredentialsAll || isSameHost(entry.URL, address)) {
			req.SetBasicAuth(entry.Username, entry.Password)
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, markDownload(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close() // the answer counts
		return nil, answerError(resp)
	}
	return resp.Body, nil
}

// Reachable asks for what is at the URL of a chart or a repository's index as a download does, and
// reads nothing of it.
func Reachable(ctx context.Context, address, repository string) error {
	body, err := get(ctx, address, repository)
	if err != nil {
		return err
	}
	return body.Close()
}

// download returns the content at a URL.
func download(ctx context.Context, address, repository string) ([]byte, error) {
	body, err := get(ctx, address, repository)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(body, maxChart+1))
	if len(content) > maxChart {
		return nil, fmt.Errorf("it is larger than %d MB", maxChart>>20)
	}
	return content, markDownload(ctx, err)
}

// writeFile writes a file atomically.
func writeFile(name string, content []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(temporary.Name()))
	}
	return err
}
