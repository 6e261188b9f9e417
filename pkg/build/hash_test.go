package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/moby/moby/client"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"

	"github.com/devloop/devloop/pkg/event"
)

// tree is a build context: file names and contents; a name that ends in "@" is a symbolic link.
type tree map[string]string

func (files tree) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, content := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if link, ok := strings.CutSuffix(full, "@"); ok {
			err = os.Symlink(content, link)
		} else {
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// emptyDocker answers like a daemon without images. (The end-to-end tests use a real one.)
func emptyDocker(t *testing.T) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message": "no such image"}`))
	}))
	t.Cleanup(server.Close)
	docker, err := client.New(client.WithHost("tcp://" + server.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	return docker
}

func hashOf(t *testing.T, dir string, change func(*Image)) Input {
	t.Helper()
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	if change != nil {
		change(&image)
	}
	input, err := New(emptyDocker(t), t.TempDir()).Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	return input
}

var project = tree{
	"Dockerfile": `FROM scratch AS files
ARG GREETING=hello
COPY requirements.txt /
COPY src/ /src/
FROM scratch AS unused
COPY unused.txt /
FROM files
LABEL greeting=$GREETING
COPY *.cfg link /etc/
`,
	".dockerignore":    "src/ignored.txt\n",
	"requirements.txt": "dask==2024.1.0\n",
	"src/a.py":         "a",
	"src/b/c.py":       "c",
	"src/to@":          "a.py",
	"src/ignored.txt":  "ignored",
	"setup.cfg":        "cfg",
	"link@":            "setup.cfg",
	"unused.txt":       "unused",
	"README":           "not copied",
}

func (files tree) with(path, content string) tree {
	changed := tree{}
	for p, c := range files {
		changed[p] = c
	}
	changed[path] = content
	return changed
}

func (files tree) without(path string) tree {
	changed := files.with(path, "")
	delete(changed, path)
	return changed
}

func TestHashIsTheSameElsewhere(t *testing.T) {
	first := hashOf(t, project.write(t), nil)
	if got := hashOf(t, project.write(t), nil).Hash; got != first.Hash {
		t.Errorf("another folder with the same files has another hash")
	}
	if first.Tag.String() != "worker:"+first.Hash[:16] {
		t.Errorf("tag %s of hash %s", first.Tag, first.Hash)
	}
	dir := project.write(t)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "requirements.txt"), old, old); err != nil {
		t.Fatal(err)
	}
	if got := hashOf(t, dir, nil).Hash; got != first.Hash {
		t.Errorf("the mtime counts")
	}
	dockerfile := project["Dockerfile"]
	for name, same := range map[string]tree{
		"a comment":                project.with("Dockerfile", "# hello\n"+dockerfile),
		"a file that is ignored":   project.with("src/ignored.txt", "other"),
		"a file that is not used":  project.with("README", "other"),
		"a stage that is not used": project.with("unused.txt", "other"),
	} {
		if got := hashOf(t, same.write(t), nil).Hash; got != first.Hash {
			t.Errorf("%s counts", name)
		}
	}
}

func TestEachChangeChangesTheHash(t *testing.T) {
	seen := map[string]string{hashOf(t, project.write(t), nil).Hash: "nothing"}
	check := func(name, hash string) {
		t.Helper()
		if other, ok := seen[hash]; ok {
			t.Errorf("%s: the same hash as %s", name, other)
		}
		seen[hash] = name
	}
	dockerfile := project["Dockerfile"]
	for name, changed := range map[string]tree{
		"content":             project.with("requirements.txt", "dask==2024.1.1\n"),
		"content deeper":      project.with("src/b/c.py", "C"),
		"a file more":         project.with("src/d.py", ""),
		"a file less":         project.without("src/a.py"),
		"a file renamed":      project.without("src/a.py").with("src/A.py", "a"),
		"a link's target":     project.with("src/to@", "b/c.py"),
		"behind a link":       project.with("setup.cfg", "CFG"),
		"one for a wildcard":  project.with("other.cfg", "x"),
		"what is ignored":     project.with(".dockerignore", ""),
		"the configuration":   project.with("Dockerfile", dockerfile+"ENV A=b\n"),
		"the command":         project.with("Dockerfile", dockerfile+"CMD [\"/a\"]\n"),
		"a default argument":  project.with("Dockerfile", strings.Replace(dockerfile, "hello", "hallo", 1)),
		"another destination": project.with("Dockerfile", strings.Replace(dockerfile, "/src/", "/SRC/", 1)),
	} {
		check(name, hashOf(t, changed.write(t), nil).Hash)
	}
	check("an argument",
		hashOf(t, project.write(t), func(i *Image) { i.Args = map[string]string{"GREETING": "hi"} }).Hash)
	check("the target", hashOf(t, project.write(t), func(i *Image) { i.Target = "files" }).Hash)
	check("the platform", hashOf(t, project.write(t), func(i *Image) { i.Platform = "linux/s390x" }).Hash)
	dir := project.write(t)
	if err := os.Chmod(filepath.Join(dir, "src/a.py"), 0o755); err != nil {
		t.Fatal(err)
	}
	check("a mode", hashOf(t, dir, nil).Hash)
}

func TestChangedFileIsReadAgain(t *testing.T) {
	dir := project.write(t)
	b := New(emptyDocker(t), t.TempDir())
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	first, err := b.Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	// The same size within the clock's step: the stat may be the same.
	if err := os.WriteFile(filepath.Join(dir, "requirements.txt"), []byte("dask==2024.1.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	second, err := b.Hash(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if first.Hash == second.Hash {
		t.Error("the change was not seen")
	}
}

func TestFilesToWatch(t *testing.T) {
	dir := project.write(t)
	input := hashOf(t, dir, nil)
	var got []string
	for _, file := range input.Files {
		short, err := filepath.Rel(dir, file.Name)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, short)
	}
	want := []string{".", ".dockerignore", "Dockerfile", "Dockerfile.dockerignore", "link", "requirements.txt",
		"setup.cfg", "src"}
	if !slices.Equal(got, want) {
		t.Errorf("files %v, not %v", got, want)
	}
}

func TestBrokenDockerfile(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\nCOPPY a b\n"}.write(t)
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	input, err := New(emptyDocker(t), t.TempDir()).Hash(t.Context(), image)
	if err == nil || !strings.Contains(err.Error(), "COPPY") {
		t.Errorf("error %v", err)
	}
	if !slices.ContainsFunc(input.Files, func(p Path) bool { return p.Name == image.Dockerfile }) {
		t.Errorf("files %v: nobody would see it mended", input.Files)
	}
}

// TestBaseImage uses a real registry on loopback, and then does without it.
func TestBaseImage(t *testing.T) {
	var manifests atomic.Int32 // that were fetched
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	base := server.Listener.Addr().String() + "/base:1"
	push := func(image v1.Image) {
		t.Helper()
		ref, err := name.ParseReference(base)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, image); err != nil {
			t.Fatal(err)
		}
	}
	layer, err := random.Layer(100, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, configOf(t, image))
	if err != nil {
		t.Fatal(err)
	}
	push(image)

	dir := tree{"Dockerfile": "FROM " + base + "\nENV A=b\n"}.write(t)
	cache := t.TempDir()
	hash := func(ctx context.Context) (Input, error) { // as in a new process
		return New(emptyDocker(t), cache).Hash(ctx,
			Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
	}
	lasting := New(emptyDocker(t), cache)
	again := func() Input {
		t.Helper()
		input, err := lasting.Hash(t.Context(),
			Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
		if err != nil {
			t.Fatal(err)
		}
		return input
	}
	first := again()
	next := func(version string) {
		t.Helper()
		other, err := mutate.Config(image, v1.Config{Env: []string{"BASE=" + version}})
		if err != nil {
			t.Fatal(err)
		}
		push(other)
	}
	next("2")
	second, err := hash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first.Hash == second.Hash {
		t.Error("a new base image does not count")
	}
	if again().Hash != first.Hash {
		t.Error("the registry is asked at every hash")
	}
	lasting.Refresh()
	if again().Hash != second.Hash {
		t.Error("it is not asked when it should be")
	}
	fetched := manifests.Load()
	lasting.Refresh()
	if again().Hash != second.Hash || manifests.Load() != fetched {
		t.Errorf("what is as it was is fetched again, %d times", manifests.Load()-fetched)
	}
	next("3")
	lasting.Refresh()
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := lasting.Hash(ended,
		Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}); err == nil {
		t.Error("who has no time left is given an old answer")
	}
	if again().Hash == second.Hash {
		t.Error("the one who had no time left keeps the others from asking")
	}
	next("4")
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("# changed\nFROM "+base+"\nENV A=b\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	if again().Hash == second.Hash {
		t.Error("a changed Dockerfile does not have it asked")
	}
	next("2")
	lasting.Refresh()
	if again().Hash != second.Hash {
		t.Error("the base image went back, the hash did not")
	}

	server.Close()
	lasting.Refresh()
	if input := again(); input.Hash != second.Hash || !slices.Equal(input.Stale, []string{base}) {
		t.Errorf("without the registry: hash %s, stale %v", input.Hash, input.Stale)
	}
	if input := again(); len(input.Stale) > 0 {
		t.Error("it is told of twice")
	}
	third, err := hash(t.Context())
	if err != nil {
		t.Fatalf("without the registry: %v", err)
	}
	if third.Hash != second.Hash {
		t.Error("the hash is another one while the registry is away")
	}
	cache = t.TempDir()
	if _, err := hash(t.Context()); err == nil || event.Hint(err) == "" {
		t.Errorf("a base image that nobody knows: %v (hint %q)", err, event.Hint(err))
	}
}

func configOf(t *testing.T, image v1.Image) *v1.ConfigFile {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	return config
}

// TestProxies: the hash does not depend on proxies.
func TestProxies(t *testing.T) {
	files := tree{"Dockerfile": "FROM scratch\nARG A\nENV A=$A\nRUN b\n"}
	dir := files.write(t)
	plain := hashOf(t, dir, nil).Hash
	with := func(args map[string]string) string { return hashOf(t, dir, func(i *Image) { i.Args = args }).Hash }
	if with(map[string]string{"HTTP_PROXY": "http://proxy.example", "no_proxy": "localhost"}) != plain {
		t.Error("a proxy counts")
	}
	named := tree{"Dockerfile": "FROM scratch\nARG HTTP_PROXY\nENV P=$HTTP_PROXY\n"}.write(t)
	proxied := hashOf(t, named, func(i *Image) { i.Args = map[string]string{"HTTP_PROXY": "http://proxy.example"} })
	if proxied.Hash == hashOf(t, named, nil).Hash {
		t.Error("a proxy that is written into the image does not count")
	}
	if with(map[string]string{"A": "a"}) == plain {
		t.Error("another argument does not")
	}
	secret := func(i *Image) { i.Secrets, i.SSH = []Secret{{ID: "a", Env: "HOME"}}, []SSH{{ID: "default"}} }
	if hashOf(t, dir, secret).Hash != plain {
		t.Error("secrets count")
	}
}

// TestPing: a daemon that cannot build is an error of one line.
func TestPing(t *testing.T) {
	for _, test := range []struct{ os, api, want, hint string }{
		{"linux", "1.24", "Docker is too old", "update it"},
		{"linux", "1.41", "has no BuildKit", "BUILDKIT_HOST"},
		{"windows", "1.41", "builds Windows images", "switch Docker"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", test.api)
			w.Header().Set("Ostype", test.os)
			if !strings.HasSuffix(r.URL.Path, "/_ping") {
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		docker, err := client.New(client.WithHost("tcp://" + server.Listener.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Ping(t.Context(), docker)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(event.Hint(err), test.hint) {
			t.Errorf("%s, API %s: %v (hint %q)", test.os, test.api, err, event.Hint(err))
		}
		server.Close()
		_, err = Ping(t.Context(), docker)
		if err == nil || !strings.Contains(err.Error(), "no answer from Docker") || !event.IsTransient(err) {
			t.Errorf("away: %v", err)
		}
		_ = docker.Close()
	}
}

// TestTransferTimes: other content of the same size and time gets another time for BuildKit.
func TestTransferTimes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	old := time.Now().Add(-time.Hour)
	shown := func(content string) (modTime time.Time) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
		folder, err := newTransferFS(dir, &fileDigests{})
		if err != nil {
			t.Fatal(err)
		}
		if err := folder.Walk(t.Context(), "", func(_ string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				modTime = info.ModTime()
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return modTime
	}
	first, second := shown("dask==1.2.3"), shown("dask==1.2.4")
	if first.Equal(second) {
		t.Error("other content of the same size and time looks the same")
	}
	if !first.Equal(shown("dask==1.2.3")) {
		t.Error("the same content looks different")
	}
	if first.Unix() != old.Unix() || second.Unix() != old.Unix() {
		t.Errorf("times %s and %s are not the file's %s", first, second, old)
	}
}

// TestVanished: a file that vanishes during a walk hides no other files.
func TestVanished(t *testing.T) {
	dir := tree{"src/a": "", "src/b": "", "src/c": ""}.write(t)
	folder, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	if err := folder.Walk(t.Context(), "", skipVanished(func(path string, entry fs.DirEntry, err error) error {
		if path == "src/a" {
			if err := os.Remove(filepath.Join(dir, "src/b")); err != nil {
				return err
			}
		}
		if _, err := entry.Info(); err != nil {
			return err
		}
		seen = append(seen, path)
		return err
	})); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []string{"src", "src/a", "src/c"}) {
		t.Errorf("seen: %v", seen)
	}
}

// TestVanishedAndBack: a file that is gone only while the context is hashed counts again once it is
// back.
func TestVanishedAndBack(t *testing.T) {
	dir := tree{"d/a": "", "d/b": "", "d/c": ""}.write(t)
	file, b := filepath.Join(dir, "d/b"), New(emptyDocker(t), t.TempDir())
	aCenturyAhead(t, func(t *testing.T) {
		hash := func() string {
			found, err := b.hashContext(t.Context(), dir, nil, nil)
			must(t, err)
			return found.sum
		}
		must(t, os.Chmod(file, 0o600))
		first := hash()
		for i := range 150 {
			gone := make(chan error)
			go func() {
				for range i {
					_, _ = os.Lstat(dir) // takes some time, a little more in each round
				}
				gone <- os.Remove(file)
			}()
			hash()
			must(t, <-gone)
			tick(t)
			overwrite(t, file, "")
			if hash() != first {
				t.Fatalf("round %d: the file does not count", i)
			}
			tick(t)
		}
	})
}

// TestExplain: errors that a step got over are not why it failed.
func TestExplain(t *testing.T) {
	const warned, retries = "WARNING: Retrying after connection broken by 'ReadTimeoutError'\n",
		"WARNING: Retrying (Retry(total=0)) by 'NewConnectionError'\n"
	for _, test := range []struct {
		output  string
		passing bool
	}{
		{warned + "ERROR: No matching distribution found\n", false},
		{retries + "ERROR: No matching distribution found\n", true},
		{"E: Temporary failure resolving 'deb.example'\n", true},
		{"error: Failed to fetch\n  cause: dns error\n", true},
		{"dial tcp: refused\n" + strings.Repeat("ok\n", 20) + "FAIL\n", false},
		{"write: No space left on device\n", true},
		{"unexpected status from GET request to https://r.example/v2/a/blobs/sha256:0: 503 Service Unavailable\n", true},
		{"toomanyrequests: 429 Too Many Requests\n", true},
		{"E: Failed to fetch http://deb.example/a.deb  502  Bad Gateway [IP: 1.2.3.4 80]\n", true},
		{"curl: (22) The requested URL returned error: 404\n", false},
		{"FAIL: got 500 items\n", false},
	} {
		p := newProgress(event.Stage{}, Input{Image: Image{Name: "a", Dockerfile: "Dockerfile"}}, nil)
		p.failed = &step{name: "RUN a", tail: []byte(test.output)}
		err := p.explain(errors.New("exit code: 1"), hostDocker)
		if busy := strings.Contains(test.output, " 50") || strings.Contains(test.output, "429"); test.passing &&
			errors.Is(err, ErrServerBusy) != busy {
			t.Errorf("%q: %v", test.output, err)
		}
		if event.IsTransient(err) != test.passing || event.Hint(err) == "" {
			t.Errorf("%q: transient %v, hint %q", test.output, event.IsTransient(err), event.Hint(err))
		}
	}
}

func TestLastLines(t *testing.T) {
	var output strings.Builder
	for i := range 30 {
		fmt.Fprintf(&output, "line %d\n\n", i)
	}
	output.WriteString("  0%\r 50%\r100%\r\n\x1b[31mred\x1b[0m \n" + strings.Repeat("x", 1000) + "\nend")
	lines := strings.Split(lastLines(output.String()), "\n")
	if len(lines) != failureLines || lines[0] != "line 22" || lines[failureLines-4] != "100%" ||
		lines[failureLines-3] != "red" || lines[failureLines-1] != "end" {
		t.Errorf("%q", lines)
	}
	if long := lines[failureLines-2]; !strings.HasSuffix(long, " …") || len(long) > reasonLine+3 {
		t.Errorf("a long line has %d bytes", len(long))
	}
}

// TestLogs keeps the output of some builds.
func TestLogs(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "builds")
	var last string
	for i := range keepLogs + 5 {
		tag, err := name.NewTag(fmt.Sprintf("team/worker:%d", i))
		if err != nil {
			t.Fatal(err)
		}
		file, err := createLog(folder, Input{Image: Image{Name: "team/worker"}, Tag: tag})
		if err != nil {
			t.Fatal(err)
		}
		if last = file.Name(); file.Close() != nil {
			t.Fatal(last)
		}
	}
	kept, err := os.ReadDir(folder)
	if err != nil || len(kept) != keepLogs {
		t.Errorf("%d files are kept (%v)", len(kept), err)
	}
	if info, err := os.Stat(last); err != nil || info.Mode() != 0o600 ||
		filepath.Base(last) != fmt.Sprintf("team_worker-%d.log", keepLogs+4) {
		t.Errorf("%s: %v, %v", last, info, err)
	}
}

func TestReason(t *testing.T) {
	for output, want := range map[string]string{
		"": "",
		"ERROR: Ignored the following versions\nERROR: Could not find a version\nERROR: No matching distribution\n\n" +
			"[notice] new pip": "ERROR: Could not find a version; ERROR: No matching distribution",
		"Reading lists\nE: Unable to locate package foo\n": "E: Unable to locate package foo",
		"make: nothing\nlast words\n":                      "last words",
		"\x1b[31mERROR: red\x1b[0m\x1b]0;title\a\n":        "ERROR: red",
		"Using Python\nerror: No solution found\n" +
			"  cause: Because there is no version\n": "error: No solution found; cause: Because there is no version",
	} {
		if got := reason(output); got != want {
			t.Errorf("reason(%q) = %q, not %q", output, got, want)
		}
	}
}

// TestTrustedAt: the change time counts, which no tool can set.
func TestTrustedAt(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	for says, test := range map[string]struct {
		stat fileStat
		want bool
	}{
		"long ago":                       {fileStat{mtime: ago(time.Hour), ctime: ago(time.Minute)}, true},
		"just now, the mtime set back":   {fileStat{mtime: ago(time.Hour), ctime: ago(time.Second)}, false},
		"long ago, the mtime set ahead":  {fileStat{mtime: ago(-time.Hour), ctime: ago(time.Minute)}, true},
		"just now, without change times": {fileStat{mtime: ago(time.Second)}, false},
	} {
		if got := test.stat.trustedAt(now); got != test.want {
			t.Errorf("%s: %v", says, got)
		}
	}
}

// If a parent of a path becomes a file or a circular link, the path does not exist, as for
// BuildKit.
func TestHashOfAPathThroughNoFolder(t *testing.T) {
	project := tree{"Dockerfile": "FROM scratch\nCOPY way/there /\n", "d/there": "x", "way@": "d"}
	b := New(emptyDocker(t), t.TempDir())
	dir := project.write(t)
	image := Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	seen := map[string]string{mustHash(t, b, image).Hash: "a link to a folder"}
	way := filepath.Join(dir, "way")
	for what, make := range map[string]func() error{
		"a file":              func() error { return os.WriteFile(way, []byte("x"), 0o644) },
		"a link to itself":    func() error { return os.Symlink("way", way) },
		"a link to a file":    func() error { return os.Symlink("d/there", way) },
		"a link into nothing": func() error { return os.Symlink("nowhere/at/all", way) },
	} {
		must(t, os.Remove(way))
		must(t, make())
		hash := mustHash(t, b, image).Hash
		if other, ok := seen[hash]; ok {
			t.Errorf("%s has the hash of %s", what, other)
		}
		seen[hash] = what
	}
}

// BuildKit is sent a socket as an empty file, and pipes and devices as such: none is opened.
func TestHashOpensOnlyFiles(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\nCOPY d /d\n", "d/a": "a"}.write(t)
	special := filepath.Join(dir, "d", "s")
	makes := map[string]func() error{
		"nothing":       func() error { return nil },
		"an empty file": func() error { return os.WriteFile(special, nil, 0o755) },
		"a socket": func() error {
			var config net.ListenConfig
			listener, err := config.Listen(t.Context(), "unix", special)
			if err == nil {
				t.Cleanup(func() { _ = listener.Close() })
				err = os.Chmod(special, 0o755)
			}
			return err
		},
		"a named pipe": func() error { return syscall.Mkfifo(special, 0o755) },
	}
	if os.Geteuid() == 0 {
		// as /dev/zero
		makes["a device"] = func() error { return syscall.Mknod(special, syscall.S_IFCHR|0o755, 1<<8|5) }
		makes["another device"] = func() error { return syscall.Mknod(special, syscall.S_IFCHR|0o755, 1<<8|3) }
	}
	hashes, sent := map[string]string{}, map[string]string{}
	for what, make := range makes {
		if err := os.Remove(special); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := make(); errors.Is(err, syscall.EPERM) {
			continue // no devices in this container
		} else if err != nil {
			t.Fatal(err)
		}
		hashes[what], sent[what] = hashOf(t, dir, nil).Hash, received(t, filepath.Join(dir, "d"))
	}
	for one, hash := range hashes {
		for other := range hashes {
			if (hash == hashes[other]) != (sent[one] == sent[other]) {
				t.Errorf("%s and %s: the same hash is %v, but BuildKit is sent %q and %q", one, other,
					hash == hashes[other], sent[one], sent[other])
			}
		}
	}
	if sent["a socket"] != sent["an empty file"] {
		t.Errorf("as a socket, BuildKit is sent %q", sent["a socket"])
	}
}

// received returns what BuildKit receives of a folder.
func received(t *testing.T, dir string) string {
	t.Helper()
	folder, err := newTransferFS(dir, &fileDigests{})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	there, back, copied := make(chan []byte), make(chan []byte), t.TempDir()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(there)
		return fsutil.Send(ctx, packets{ctx, there, back}, folder, nil)
	})
	group.Go(func() error { return fsutil.Receive(ctx, packets{ctx, back, there}, copied, fsutil.ReceiveOpt{}) })
	must(t, group.Wait())
	var found []string
	must(t, filepath.WalkDir(copied, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == copied {
			return err
		}
		info, err := entry.Info()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && err == nil {
			found = append(found, fmt.Sprint(info.Name(), " ", info.Mode(), " ", info.Size(), " ", stat.Rdev))
		}
		return err
	}))
	return strings.Join(found, ", ")
}

// packets are one end of a transfer.
type packets struct {
	ctx     context.Context
	to      chan<- []byte
	waiting <-chan []byte
}

func (p packets) Context() context.Context { return p.ctx }

func (p packets) SendMsg(m any) error {
	sent, err := m.(*types.Packet).MarshalVT()
	if err != nil {
		return err
	}
	select {
	case p.to <- sent:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p packets) RecvMsg(m any) error {
	select {
	case got, more := <-p.waiting:
		if !more {
			return io.EOF
		}
		m.(*types.Packet).Reset()
		return m.(*types.Packet).UnmarshalVT(got)
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// A Dockerfile or .dockerignore that is too large or no regular file is an error with its path.
func TestHashReadsOnlyFiles(t *testing.T) {
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		for what, make := range map[string]func(path string) error{
			"a named pipe": func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"a device":     func(path string) error { return os.Symlink("/dev/zero", path) },
			"more than 16 MiB": func(path string) error {
				return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, maxFrontendFile+1))
			},
		} {
			t.Run(name+" is "+what, func(t *testing.T) {
				dir := tree{"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": ""}.write(t)
				path := filepath.Join(dir, name)
				must(t, os.Remove(path))
				must(t, make(path))
				_, err := New(emptyDocker(t), t.TempDir()).Hash(t.Context(),
					Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
				if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), what) {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

func TestTagIsNoNumber(t *testing.T) {
	for hash, want := range map[string]string{
		"a234567890123456ffff": "a234567890123456",
		"1234567890123456ffff": "1234567890123456f", // digits only
		"12345678901234e5ffff": "12345678901234e5f", // 1.2e18
		"0b01010101010101ffff": "0b01010101010101f", // binary
	} {
		if got := tagOf(hash); got != want {
			t.Errorf("tag %s of %s, not %s", got, hash, want)
		}
	}
}

// TestMissingSecretIsWatched: the build fails without it, and its appearance starts the next run.
func TestMissingSecretIsWatched(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\n"}.write(t)
	secret, key := filepath.Join(dir, "token"), filepath.Join(dir, "key")
	input := hashOf(t, dir, func(image *Image) {
		image.Secrets = []Secret{{ID: "token", File: secret}, {ID: "env", Env: "TOKEN"}}
		image.SSH = []SSH{{ID: "default", Paths: []string{key}}}
	})
	for _, want := range []string{secret, key} {
		if !slices.ContainsFunc(input.Files, func(p Path) bool { return p.Name == want }) {
			t.Errorf("%s is not watched", want)
		}
	}
}

func TestNamedContext(t *testing.T) {
	for dockerfile, named := range map[string]bool{
		"FROM scratch\nCOPY --from=shared a /\n":                    true,
		"FROM scratch\nRUN --mount=from=shared,target=/shared ls\n": true,
		"FROM shared\n": false,
		"FROM shared\nCOPY --from=shared:1 a /\n":            false,
		"FROM scratch\nCOPY --from=127.0.0.1:1/shared a /\n": false,
	} {
		if copiesFrom([]byte(dockerfile), "docker.io/library/shared:latest") != named {
			t.Errorf("%q: not %v", dockerfile, named)
		}
	}
}

// TestOpenFilesDoNotCount: opening a file of the context builds nothing. A backup is Docker's to
// leave out.
func TestOpenFilesDoNotCount(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\nCOPY . /\n", "app.py": "app"}.write(t)
	before := hashOf(t, dir, nil)
	for name, target := range map[string]string{".#app.py": "me@host.42:17", ".app.py.swp": "", "#app.py#": ""} {
		path := filepath.Join(dir, name)
		err := os.WriteFile(path, []byte("half"), 0o600)
		if target != "" {
			err = errors.Join(os.Remove(path), os.Symlink(target, path))
		}
		if err != nil {
			t.Fatal(err)
		}
		if hashOf(t, dir, nil).Hash != before.Hash {
			t.Errorf("%s counts", name)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "app.py~"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if hashOf(t, dir, nil).Hash == before.Hash {
		t.Error("a backup does not count, which the image has")
	}
}

// TestFolderThatCannotBeRead: it may be back by the next hash, as old as it was before.
func TestFolderThatCannotBeRead(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	known, entries, err := (&contextFolder{source: folder}).look()
	if err != nil || len(entries) != 0 || known.entries == "" {
		t.Fatalf("an empty folder is %+v (%v)", known, err)
	}
	if err := os.Rename(folder, folder+"2"); err != nil {
		t.Fatal(err)
	}
	gone, _, err := (&contextFolder{source: folder}).look()
	if !errors.Is(err, fs.ErrNotExist) || gone.trusted || gone.entries == known.entries {
		t.Errorf("a folder that is gone is %+v (%v)", gone, err)
	}
	// Files of the system are older than any step of a file system's clock.
	file, _, err := (&contextFolder{source: "/etc/passwd"}).look()
	if err == nil || file.trusted || file.entries == known.entries {
		t.Errorf("a file is the folder %+v (%v)", file, err)
	}
}
