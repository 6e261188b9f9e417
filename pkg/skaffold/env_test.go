package skaffold

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/config"
)

func TestSkaffoldEnv(t *testing.T) {
	dir := everything(t)
	t.Setenv("FROM_BOTH", "environment")
	const file = `# of the team
export FROM_FILE=file
FROM_BOTH=file
TOKEN="x"
SKAFFOLD_PROFILE=gpu
SKAFFOLD_NAMESPACE=team
SKAFFOLD_TAIL=true
KUBECONFIG=/x
`
	text := inHelm(`setValueTemplates: { image: "{{.IMAGE_FULLY_QUALIFIED_worker}}", a: ` +
		`"{{.FROM_FILE}}-{{env \"FROM_BOTH\"}}-{{.SKAFFOLD_PROFILE}}" }`)
	text += "profiles: [{ name: gpu }]\n"
	text = strings.Replace(text, "Dockerfile.worker }",
		"Dockerfile.worker, buildArgs: { FROM_FILE: }, secrets: [{ id: TOKEN }] }", 1)
	_, err := skaffolded(t, dir, text)
	if want := `skaffold.yaml:6:69: deploy.helm.releases[0].setValueTemplates.a: the environment has no variable ` +
		`"FROM_FILE"`; reported(nil, err) != want {
		t.Errorf("without the file: %v", err)
	}
	write(t, envFile, file)
	c, err := config.Load(config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Releases[0].Set["a"]; got != "file-environment-gpu" {
		t.Errorf("the value is %q", got)
	}
	if image := c.Images[0]; image.Args["FROM_FILE"] != "file" || len(image.Secrets) != 1 ||
		image.Secrets[0].Env != "TOKEN" {
		t.Errorf("the image has %+v", image)
	}
	if want := `skaffold.env:7: SKAFFOLD_TAIL is a flag of skaffold: without it
skaffold.env:8: KUBECONFIG fills in templates alone: export it, and devloop itself goes by it
skaffold.yaml:4:123: build.artifacts[0].docker.secrets[0].id: the variable TOKEN is in skaffold.env alone, ` +
		`where builds do not get secrets from: export it
skaffold.yaml:5:63: deploy.helm.releases[0].namespace: team counts, by a flag of skaffold or helm`; reported(c,
		nil) != want {
		t.Errorf("reported:\n%s\nwant:\n%s", reported(c, nil), want)
	}
	made, err := c.Text()
	if err != nil || !strings.Contains(string(made), "# - skaffold.env, line 7, SKAFFOLD_TAIL is") {
		t.Errorf("%v\n%s", err, made)
	}
	checkText(t, c)
}

// TestSkaffoldEnvIsWatched holds that the file counts from the moment that it is there.
func TestSkaffoldEnvIsWatched(t *testing.T) {
	dir := everything(t)
	c, err := skaffolded(t, dir, skaffoldHead+oneRelease)
	if err != nil || !slices.Contains(c.Files(), filepath.Join(dir, envFile)) {
		t.Errorf("%v: the files are %q", err, c.Files())
	}
	write(t, envFile, "A=1\nnothing\n")
	if c, err = config.Load(config.Source{Files: []string{"skaffold.yaml"}, Translate: Translate}); reported(c,
		err) != "skaffold.env:2: this is no NAME=value: nothing of this file is used, as skaffold does" {
		t.Error(reported(c, err))
	}
}
