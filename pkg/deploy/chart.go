// Charts: a folder or an archive on disk, or an archive at a URL that is downloaded once and kept with its digest, so that
// devloop works offline and notices when the copy was changed.
package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/devloop/devloop/pkg/event"
)

const (
	downloadTimeout = 60 * time.Second
	// maxChart is in bytes; Helm's own limit for an archive.
	maxChart = 100 << 20
)

// charts is the cache of downloaded charts: <sha256 of the URL>-<file name>, and beside it the same with ".sha256".
type charts struct{ dir string }

// load returns the chart and the digest of all its files. Helm changes charts while it works, so each caller gets its own.
func (c charts) load(ctx context.Context, say event.Stage, where, pinned string) (*chart.Chart, string, error) {
	file := where
	if strings.Contains(where, "://") {
		var err error
		if file, err = c.fetch(ctx, say, where, pinned); err != nil {
			return nil, "", err
		}
	}
	loaded, err := loader.Load(file)
	if err != nil {
		return nil, "", fmt.Errorf("chart %s: %w", where, err)
	}
	if err := action.CheckDependencies(loaded, loaded.Metadata.Dependencies); err != nil {
		return nil, "", event.WithHint(fmt.Errorf("chart %s: %w", where, err), "helm dependency build "+where)
	}
	// Two archives of the same files may hold them in another order.
	files := slices.SortedFunc(slices.Values(loaded.Raw), func(a, b *chart.File) int { return strings.Compare(a.Name, b.Name) })
	sum := sha256.New()
	for _, f := range files {
		_, _ = fmt.Fprintf(sum, "%d:%s,%d:", len(f.Name), f.Name, len(f.Data)) // a hash never fails to write
		_, _ = sum.Write(f.Data)
	}
	return loaded, hex.EncodeToString(sum.Sum(nil)), nil
}

// file is where the cache keeps the archive of a URL.
func (c charts) file(url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:8])+"-"+path.Base(url))
}

// CachedChart returns where the cache in dir keeps the chart of a URL, and whether it does.
func CachedChart(dir, url string) (file string, cached bool) {
	file = charts{dir}.file(url)
	_, err := os.Stat(file)
	return file, err == nil
}

// fetch returns the archive's path in the cache, downloading it first if it is not there.
func (c charts) fetch(ctx context.Context, say event.Stage, url, pinned string) (string, error) {
	if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") {
		return "", event.WithHint(fmt.Errorf("chart %s: not a kind of address that devloop can download", url),
			"give the URL (http, https) of a chart's archive, or a folder")
	}
	file := c.file(url)
	archive, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = say.Step(ctx, "chart downloaded", func(ctx context.Context) ([]any, error) {
			archive, err = download(ctx, url)
			if err == nil { // a proxy's log-in page is an answer, too
				_, err = loader.LoadArchive(bytes.NewReader(archive))
			}
			if err != nil {
				return nil, event.WithHint(fmt.Errorf("chart %s: %w", url, err), "check the address and the network, or put the archive at "+file)
			}
			return []any{"bytes", len(archive)}, errors.Join(os.MkdirAll(c.dir, 0o755), writeFile(file, archive))
		}, "url", url)
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(archive)
	digest := hex.EncodeToString(sum[:])
	if pinned != "" && pinned != digest {
		return "", event.WithHint(fmt.Errorf("chart %s: its sha256 is %s, and devloop.yaml asks for %s", url, digest, pinned),
			"make sure which one is right, then correct devloop.yaml or delete "+file)
	}
	known, err := os.ReadFile(file + ".sha256")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = writeFile(file+".sha256", []byte(digest+"\n"))
	case err == nil && strings.TrimSpace(string(known)) != digest:
		err = event.WithHint(fmt.Errorf("chart %s: its copy %s is not the file that was downloaded", url, file), "delete both the copy and "+file+".sha256")
	}
	return file, err
}

func download(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxChart))
}

// writeFile puts content at name whole or not at all.
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
