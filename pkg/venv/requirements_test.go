package venv

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestReadRequirements(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"requirements.txt": "# ours\n-r sub/base.txt  # the base\n-c\tpins.txt\n--requirement=none.txt\n" +
			"dask[array] == 2024.1.0\nToolz\nuvloop==1; sys_platform == 'linux'\nbokeh>=3,<4\n-r https://host/r.txt\n" +
			"six==1.16.0 \\\n    --hash=sha256:00\n./folder\n" +
			"git+https://host/a.git\nhttps://host/b-1.0.tar.gz\nfile:///c.whl\nwheels/d.whl\nruamel.yaml@ file:///e\n",
		"sub/base.txt": "-r ../requirements.txt\nnumpy==1.*\n--extra-index-url https://host/simple\n" +
			"--find-links=wheels\n-f https://host/w\n", "sub/wheels/": "", "more.txt": "never==2\n",
		"pins.txt": "never==1\n-r more.txt\n",
	})
	r, err := ReadRequirements(filepath.Join(dir, "requirements.txt"))
	var want []string
	for _, name := range []string{"requirements.txt", "sub/base.txt", "pins.txt", "none.txt", "more.txt"} {
		want = append(want, filepath.Join(dir, name))
	}
	if err != nil || !slices.Equal(r.Files, want) {
		t.Errorf("%q, %v", r.Files, err)
	}
	all := map[string]string{"dask": "2024.1.0", "toolz": "1", "bokeh": "3", "six": "1.16.0", "numpy": "1.26.4",
		"ruamel-yaml": "0.18"}
	if !r.Met(all) {
		t.Error("nothing is missing")
	}
	if want := []string{"--extra-index-url https://host/simple", "--find-links " + filepath.Join(dir, "sub/wheels"),
		"-f https://host/w"}; !slices.Equal(r.Options, want) {
		t.Errorf("%q", r.Options)
	}
	for name, version := range map[string]string{"dask": "2023.1.0", "toolz": "", "numpy": ""} {
		before := all[name]
		if all[name] = version; r.Met(all) {
			t.Errorf("%s %q is enough", name, version)
		}
		all[name] = before
	}
	write(t, dir, map[string]string{"none.txt": "six\n"})
	if again, err := ReadRequirements(r.Files[0]); err != nil || again.Hash == r.Hash {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := ReadRequirements(filepath.Join(dir, "other.txt")); err == nil {
		t.Error("read what is not there")
	}
	if !(Requirements{}).Met(nil) {
		t.Error("no requirements are not met")
	}
}
