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
	t.Setenv("VIRTUAL_ENV", "")
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
	expect("it only starts", 3, "", "ask the devloop that runs: devloop is only starting")
	libraries := func(context.Context) (any, error) { return answer, noRun }
	defer s.views.Answer(map[string]web.Question{"libraries": libraries})()
	expect("no run yet", 3, "", "ask the devloop that runs: no run of that devloop has ended well yet")
	answer, noRun = []proof.Libraries{worker, client}, nil
	expect("images alone", 0, "the same 2 libraries in worker and client\n",
		"no Python environment of this machine is compared")
	active := filepath.Join(t.TempDir(), "an env")
	venvWith(t, active, "dask==1", "numpy==3")
	t.Setenv("VIRTUAL_ENV", active)
	expect("this machine differs", 1, "numpy    2       2       3\n", "")
	var shown struct {
		Same bool `json:"same"`
		event.Comparison
	}
	if err := json.Unmarshal([]byte(expect("JSON", 1, "", "", "--json")), &shown); err != nil || shown.Same ||
		!slices.Equal(shown.Places, []string{"worker", "client", active}) || shown.Differences.String() != "numpy 2/2/3" {
		t.Errorf("%+v, %v", shown, err)
	}
	venvWith(t, active, "dask==1", "numpy==2")
	expect("all the same", 0, "the same 2 libraries in worker, client and "+active+"\n", "")
	expect("all the same", 0, `"same": true`, "", "--json")
	answer = []proof.Libraries{worker, other}
	if table := expect("the images differ", 1, "dask", ""); strings.Count(table, "\n") != 32 {
		t.Error(table)
	}
	if err := os.RemoveAll(filepath.Join(active, "lib")); err != nil {
		t.Fatal(err)
	}
	expect("a broken environment", 3, "", "is incomplete")
	answer = []proof.Libraries{}
	t.Setenv("VIRTUAL_ENV", "")
	expect("no images", 2, "", "it is not known which images have to hold the same libraries")
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
