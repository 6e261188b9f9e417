package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const partFile = `apiVersion: devloop/v1
name: shop
images:
  web: {}
  api: { args: { BASE: '{{ image "middle" }}' } }
  middle: { args: { BASE: '{{ image "base" }}' } }
  base: {}
  client: {}
releases:
  - { name: db, chart: chart, namespace: data }
  - { name: api, chart: chart, namespace: shop, dependsOn: [db] }
  - { name: web, chart: chart, namespace: shop, dependsOn: [api] }
  - { name: mail, chart: chart, namespace: mail }
verify:
  - { image: api, command: [ls] }
  - { image: web, command: [ls] }
logs:
  - { namespace: mail, selector: a=b }
  - { namespace: shop, selector: a=b }
health:
  - { deployment: app=mail, namespace: mail }
  - { deployment: app=api, namespace: shop }
forwards:
  - { service: mail, namespace: mail, port: 25, local: 2525 }
  - { service: web, namespace: shop, port: 80, local: 8080 }
  - { service: api, namespace: shop, port: 80, local: 8081 }
local:
  images: [client, api]
`

func loadPart(t *testing.T, only ...string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{FileName: partFile, "chart/Chart.yaml": "", "Dockerfile": ""} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return Load(Source{Only: only})
}

func TestOnly(t *testing.T) {
	for only, want := range map[string]string{
		"":         "db api web mail of all",
		"db":       "db",
		"web":      "db api web",
		"mail api": "db api mail",
		"api api":  "db api",
	} {
		c, err := loadPart(t, strings.Fields(only)...)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(c.ReleaseNames(), " ")
		if c.Part == nil {
			got += " of all"
		}
		if got != want || len(c.Releases)+len(c.Others) != 4 {
			t.Errorf("only %q: %s, others %v; want %s", only, got, c.Others, want)
		}
	}
	c, err := loadPart(t, "mail", "x")
	const message = "devloop.yaml:10:3: releases: no release is called \"x\""
	if err == nil || err.Error() != message {
		t.Errorf("%v, %v, want %s", c, err, message)
	}
}

// What is found by its index has its place in the file in a part, too.
func TestKeep(t *testing.T) {
	c, err := loadPart(t, "api")
	if err != nil {
		t.Fatal(err)
	}
	c = c.Keep(Needs{
		Image:   func(name string) bool { return name == "api" },
		Forward: func(f Forward) bool { return f.Service == "api" },
		Health:  func(h Health) bool { return h.Namespace == "shop" },
	})
	if len(c.Images) != 3 || len(c.Verify) != 1 || c.Verify[0].Image != "api" || len(c.Health) != 1 ||
		len(c.Logs) != 1 || c.Logs[0].Namespace != "shop" || !slices.Equal(c.Local.Images, []string{"api"}) {
		t.Errorf("%+v", c)
	}
	if got := c.Wrong("forwards[0].local", "taken", "").Error(); got != "devloop.yaml:26:55: forwards[2].local: taken" {
		t.Error(got)
	}
	if got := c.WrongValue("api", "set", "a", "bad", "").Error(); !strings.HasPrefix(got, "devloop.yaml:11:") {
		t.Error(got)
	}
	if all, err := loadPart(t); err != nil || len(all.Forwards) != 3 || len(all.root.Get("forwards").Items) != 3 {
		t.Errorf("the whole was changed: %v, %v", all, err)
	}
	if none := c.Keep(Needs{func(string) bool { return false }, func(Forward) bool { return true },
		func(Health) bool { return true }}); len(none.Local.Images)+len(none.Images)+len(none.Verify) > 0 {
		t.Errorf("%+v", none)
	}
}
