package skaffold

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestGatewayPrefix holds that the platform's health is asked where the gateway has it.
func TestGatewayPrefix(t *testing.T) {
	platform := read(t, "testdata/platform.skaffold.yaml")
	dir := everything(t)
	t.Setenv("GATEWAY_PREFIX", "/env/")
	for _, c := range []struct{ file, set, want string }{
		{"", "", "/api/health"},
		{"", `setValues: { gateway.prefix: / }`, "/api/health"},
		{"gateway: { prefix: '' }", "", "/api/health"},
		{"gateway: { prefix: /dask/ }", "", "/dask/api/health"},
		{"gateway: { prefix: /dask }", `overrides: { gateway: { prefix: /a/b } }`, "/a/b/api/health"},
		{"gateway: { prefix: /dask }", `setValues: { gateway: { prefix: c } }, overrides: { gateway: { prefix: /a } }`,
			"/c/api/health"},
		{"", `setValueTemplates: { gateway.prefix: "{{.GATEWAY_PREFIX}}" }`, "/env/api/health"},
		{"", `setFiles: { gateway.prefix: prefix.txt }`, "/text{{/api/health"},
		{"", `setValueTemplates: { gateway.prefix: "/{{.IMAGE_TAG}}" }`, ""},
		{"gateway: { prefix: [a] }", "", ""},
		{"gateway: { prefix: a b }", "", ""},
	} {
		write(t, filepath.Join(dir, "prefix.txt"), "/text{{")
		write(t, filepath.Join(dir, "deploy/dask-gateway/values.yaml"), c.file)
		text := platform
		if c.set != "" {
			from := strings.Index(text, "        setValues:\n          traefik")
			to := strings.Index(text, "      - name: dask-session")
			text = text[:from] + "        " + strings.ReplaceAll(c.set, "}, ", "}\n        ") + "\n" + text[to:]
		}
		got, err := skaffolded(t, dir, text)
		if err != nil {
			t.Fatal(err)
		}
		if got.Forwards[0].Ready != c.want {
			t.Errorf("%s, %s: ready is %q, want %q", c.file, c.set, got.Forwards[0].Ready, c.want)
		}
		says := "the platform counts as up when " + c.want + " answers here"
		if c.want == "" {
			says = "whose gateway.prefix is not known yet"
		}
		if !strings.Contains(reported(got, nil), says) {
			t.Errorf("%s, %s: reported:\n%s", c.file, c.set, reported(got, nil))
		}
	}
}
