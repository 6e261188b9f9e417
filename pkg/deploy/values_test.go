package deploy

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSecretValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte("auth: { password: from-file, pin: 12345678, on: true }\nlist: [{ token: first }, { token: second }]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := Release{Name: "web", Namespace: "ns", ValuesFiles: []string{file}, Set: map[string]any{"auth.user": "from-set"},
		SecretValues: []string{"auth", "list[1].token", "nowhere.at.all"}}
	got, err := SecretValues(r)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"1.2345678e+07", "12345678", "from-file", "from-set", "second"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	if none, err := SecretValues(Release{ValuesFiles: []string{"not there"}}); none != nil || err != nil {
		t.Errorf("without any: %q, %v", none, err)
	}
	r.ValuesFiles = []string{file + ".not"}
	if _, err := SecretValues(r); err == nil {
		t.Error("a file that is not there is no error")
	}

	var hidden []string
	d := &Deployer{options: Options{Secret: func(values ...string) { hidden = append(hidden, values...) }}}
	err = d.hideValues(r, map[string]any{"auth": map[string]any{"password": "of the chart"}, "list": []any{nil, map[string]any{"token": "x"}}})
	var wrong *ValueError
	if !errors.As(err, &wrong) || wrong.In != "secretValues[2]" || wrong.Release != "web" || !slices.Equal(hidden, []string{"of the chart", "x"}) {
		t.Errorf("%v, %q", err, hidden)
	}
}
