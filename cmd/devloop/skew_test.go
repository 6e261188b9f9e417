package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/proof"
	"github.com/devloop/devloop/pkg/status"
	"github.com/devloop/devloop/pkg/status/web"
)

func TestStatusOfLibraries(t *testing.T) {
	l := &status.Libraries{Compared: time.Now(), Places: []string{"worker", "client", ".venv"}, Libraries: 53,
		Differences: event.Differences{}}
	var out strings.Builder
	if err := writeStatus(&out, status.State{Libraries: l}); err != nil ||
		!strings.Contains(out.String(), "\nLIBRARIES\nthe same 53 in worker, client and .venv, 0s ago\n") {
		t.Errorf("%s, %v", out.String(), err)
	}
	out.Reset()
	l.Differences = event.Differences{{Library: "library-of-things", Versions: []string{"1", "1", ""}}}
	if err := writeStatus(&out, status.State{Libraries: l}); err != nil ||
		!strings.Contains(out.String(),
			"\nLIBRARY            worker  client  .venv\nlibrary-of-things  1       1       -\n") {
		t.Errorf("%s, %v", out.String(), err)
	}
}

// devloop skew beside a devloop that runs: what the images hold is that one's, the environment its
// caller's.
func TestSkew(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	noEnvironment(t)
	holds := func(place string, versions map[string]string) proof.Libraries {
		return proof.Libraries{Place: place, Versions: versions}
	}
	worker, client := holds("worker", map[string]string{"dask": "1", "numpy": "2"}),
		holds("client", map[string]string{"dask": "1", "numpy": "2"})
	other := holds("client", map[string]string{"dask": "2", "numpy": "2"})
	for i := range 30 { // all are shown
		other.Versions[fmt.Sprintf("extra%d", i)] = "1"
	}
	var answer []proof.Libraries
	noRun := errors.New("no run of that devloop has ended well yet")
	expect := func(what string, code int, out, said string, args ...string) string {
		t.Helper()
		gotCode, gotOut, gotSaid := s.call(append([]string{"skew"}, args...)...)
		if gotCode != code || !strings.Contains(gotOut, out) || !strings.Contains(gotSaid, said) || code == 1 &&
			gotSaid != "" {
			t.Errorf("%s: %d: %s%s", what, gotCode, gotOut, gotSaid)
		}
		return gotOut
	}
	const alone = "--images-only"
	expect("it only starts", 3, "", "ask the devloop that runs: devloop is only starting", alone)
	libraries := func(context.Context) (any, error) { return answer, noRun }
	defer s.views.Answer(map[string]web.Question{"libraries": libraries})()
	expect("no run yet", 3, "", "ask the devloop that runs: no run of that devloop has ended well yet", alone)
	answer, noRun = []proof.Libraries{worker, client}, nil
	expect("nothing on this machine", 3, "", "nothing on this machine is compared: there is no Python environment: "+
		"none is active (VIRTUAL_ENV, CONDA_PREFIX), and the project has none (.venv, Poetry, Pipenv, Hatch, pyenv)")
	expect("nothing on this machine", 3, "", "devloop skew --images-only")
	expect("nothing to fix", 3, "", "python3 -m venv .venv", "--fix")
	expect("images alone", 0, "the same 2 libraries in worker and client\n", "", alone)
	expect("images alone", 0, `"same": true`, "", alone, "--json")
	expect("one or the other", 2, "", "images-only", alone, "--fix")
	answer = answer[:1]
	expect("one image", 0, "only image worker holds Python", "", alone)
	answer = []proof.Libraries{worker, client}
	removed := filepath.Join(t.TempDir(), "removed")
	t.Setenv("VIRTUAL_ENV", removed)
	expect("a removed one", 3, "", "VIRTUAL_ENV names "+removed+", which is not there")
	t.Setenv("VIRTUAL_ENV", "")
	active := filepath.Join(t.TempDir(), "an env")
	venvWith(t, active, "dask==1", "numpy==3")
	t.Setenv("VIRTUAL_ENV", active)
	expect("this machine differs", 1, "numpy    2       2       3\n", "")
	expect("which environment", 1, "this machine: "+active+" (venv, Python 3.11.9), by VIRTUAL_ENV\n", "")
	var shown skew
	if err := json.Unmarshal([]byte(expect("JSON", 1, "", "", "--json")), &shown); err != nil || shown.Same ||
		!slices.Equal(shown.Places, []string{"worker", "client", active}) || shown.Differences.String() != "numpy 2/2/3" {
		t.Errorf("%+v, %v", shown, err)
	}
	if e := shown.Environment; e.Path != active || e.Kind != "venv" || e.Python != "3.11.9" || e.Source != "VIRTUAL_ENV" {
		t.Errorf("%+v", e)
	}
	venvWith(t, active, "dask==1", "numpy==2")
	expect("all the same", 0, "the same 2 libraries in worker, client and "+active+"\n", "")
	expect("all the same", 0, `"same": true`, "", "--json")
	expect("nothing to fix", 0, "the same 2 libraries in worker, client and ", "", "--fix")
	expect("it does not count", 0, "the same 2 libraries in worker and client\n", "", alone)
	source := filepath.Join(t.TempDir(), "analysis")
	copied := filepath.Join(active, "lib", "python3.11", "site-packages", "analysis")
	for _, dir := range []string{source, copied} {
		if err := errors.Join(os.MkdirAll(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "__init__.py"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	synced := worker
	synced.Packages = []proof.Package{{Name: "analysis", Folder: "/opt/analysis", Source: source}}
	synced.Shadowed = []proof.Shadow{{Package: "analysis", Place: "worker", Path: "/site/analysis", Library: "analysis 3",
		Synced: "/opt/analysis"}}
	answer = []proof.Libraries{synced, client}
	expect("a synced package that is installed", 1, "the same 2 libraries in worker, client and "+active+"\n"+
		"package analysis: unless Python in worker starts in /opt, it imports the installed /site/analysis (analysis 3), "+
		"which is not synced\npackage analysis: unless Python in "+active+" starts in "+filepath.Dir(source)+
		", it imports the installed "+copied+", which is not synced\n", "")
	if err := json.Unmarshal([]byte(expect("JSON", 1, "", "", "--json")), &shown); err != nil || shown.Same ||
		len(shown.Differences) > 0 || len(shown.Shadowed) != 2 || shown.Shadowed[0] != synced.Shadowed[0] {
		t.Errorf("%+v, %v", shown, err)
	}
	answer = []proof.Libraries{worker, client}
	venvWith(t, active, "pip==23")
	expect("an empty one", 3, "", "nothing on this machine is compared: nothing is installed in "+active)
	answer = []proof.Libraries{worker, other}
	venvWith(t, active, "dask==1", "numpy==2")
	if table := expect("the images differ", 1, "dask", ""); strings.Count(table, "\n") != 34 {
		t.Error(table)
	}
	if err := os.RemoveAll(filepath.Join(active, "lib")); err != nil {
		t.Fatal(err)
	}
	expect("a broken environment", 3, "", "is incomplete")
	answer = []proof.Libraries{}
	t.Setenv("VIRTUAL_ENV", "")
	expect("no images", 2, "", "it is not known which images have to hold the same libraries", alone)
}

// An environment of conda that has another version than the images is a difference.
func TestSkewOfConda(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	noEnvironment(t)
	images := []proof.Libraries{{Place: "worker", Python: "3.11.9", Versions: map[string]string{"dask": "2024.1.0"}}}
	defer s.views.Answer(map[string]web.Question{
		"libraries": func(context.Context) (any, error) { return images, nil }})()
	dir := filepath.Join(t.TempDir(), "envs", "work")
	venvWith(t, dir, "dask==2023.1.0")
	meta := filepath.Join(dir, "conda-meta")
	if err := errors.Join(os.Remove(filepath.Join(dir, "pyvenv.cfg")), os.Mkdir(meta, 0o755),
		os.WriteFile(filepath.Join(meta, "python-3.11.5-h955ad1f_0.json"), []byte("{}"), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONDA_PREFIX", dir)
	code, out, said := s.call("skew")
	want := "this machine: " + dir + " (conda, Python 3.11.5), by CONDA_PREFIX\n"
	if code != 1 || said != "" || !strings.HasPrefix(out, want) ||
		!strings.HasSuffix(out, "\ndask     2024.1.0  2023.1.0\n") {
		t.Errorf("%d: %s%s", code, out, said)
	}
}

// devloop skew --fix installs what the images hold, and compares again.
func TestSkewFix(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	noEnvironment(t)
	holds := map[string]string{"dask": "1", "numpy": "2"}
	images := []proof.Libraries{{Place: "worker", Python: "3.11.9", Versions: holds}}
	defer s.views.Answer(map[string]web.Question{
		"libraries": func(context.Context) (any, error) { return images, nil }})()
	dir, tools := filepath.Join(t.TempDir(), "env"), t.TempDir()
	venvWith(t, dir, "dask==1", "numpy==3", "pytest==8")
	site := filepath.Join(dir, "lib", "python3.11", "site-packages")
	uv := `#!/bin/sh
for one; do
  case $one in
    *==9) echo "Because there is no version of $one and you require $one"; exit 1 ;;
    *==*) ;;
    *) continue ;;
  esac
  rm -rf "` + site + `/${one%==*}"-*
  mkdir "` + site + `/${one%==*}-${one#*==}.dist-info"
  printf 'Name: %s\nVersion: %s\n' "${one%==*}" "${one#*==}" > "` + site + `/${one%==*}-${one#*==}.dist-info/METADATA"
  echo " + $one"
done
`
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "bin"), 0o755),
		os.WriteFile(filepath.Join(dir, "bin", "python"), nil, 0o755),
		os.WriteFile(filepath.Join(tools, "uv"), []byte(uv), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VIRTUAL_ENV", dir)
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	for range 2 { // then nothing is left to do
		code, out, said := s.call("skew", "--fix")
		if code != 0 || !strings.HasSuffix(out, "the same 2 libraries in worker and "+dir+"\n") {
			t.Errorf("%d: %s%s", code, out, said)
		}
	}
	holds["numpy"] = "9"
	code, out, said := s.call("skew", "--fix")
	if code != 1 || out != "" || !strings.Contains(said, "there is no numpy==9 for Python 3.11.9 on this machine") {
		t.Errorf("%d: %s%s", code, out, said)
	}
	if _, err := os.Stat(filepath.Join(site, "pytest-8.dist-info")); err != nil {
		t.Error("what no image has is gone")
	}
}

// noEnvironment takes away those of whoever runs the test.
func noEnvironment(t *testing.T) {
	t.Helper()
	for _, variable := range []string{"VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT", "PYENV_VERSION"} {
		t.Setenv(variable, "")
	}
}

// venvWith writes a Python environment of this machine.
func venvWith(t *testing.T, dir string, libraries ...string) {
	t.Helper()
	site := filepath.Join(dir, "lib", "python3.11", "site-packages")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(site, 0o755),
		os.WriteFile(filepath.Join(dir, "pyvenv.cfg"), []byte("version = 3.11.9\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, library := range libraries {
		name, version, _ := strings.Cut(library, "==")
		info := filepath.Join(site, name+"-"+version+".dist-info")
		if err := errors.Join(os.Mkdir(info, 0o755),
			os.WriteFile(filepath.Join(info, "METADATA"), []byte("Name: "+name+"\nVersion: "+version+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}
