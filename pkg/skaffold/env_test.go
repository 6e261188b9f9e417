package skaffold

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/config"
)

func TestSettings(t *testing.T) {
	for text, want := range map[string][]setting{
		"":                                  nil,
		"# nothing\n\n  # at all":           nil,
		"A=1\nB = two words \nC=":           {{"A", "1", 1}, {"B", "two words", 2}, {"C", "", 3}},
		"export A=1\r\nexport\tB: 2\r\n":    {{"A", "1", 1}, {"B", "2", 2}},
		"exported=1":                        {{"exported", "1", 1}},
		"A=a#b # c\nB= # c\nC='a # b' # c":  {{"A", "a#b", 1}, {"B", "# c", 2}, {"C", "a # b", 3}},
		`A="a\nb\t\"c" B='a\n$A'`:           {{"A", "a\nbt\"c", 1}, {"B", `a\n$A`, 1}},
		"A=\"a\nb\"\nB=1":                   {{"A", "a\nb", 1}, {"B", "1", 3}},
		`A=x` + "\n" + `B=$A-${A}-\$A-$(A)`: {{"A", "x", 1}, {"B", "x-x-$A-x)", 2}},
		"A=1\nB":                            {{"A", "1", 1}},
		"A=$HOME.":                          {{"A", ".", 1}},
		"A=1\nA=2":                          {{"A", "1", 1}, {"A", "2", 2}},
	} {
		if got, line, message := parseEnv(text); !reflect.DeepEqual(got, want) || message != "" {
			t.Errorf("%q: got %+v, want %+v; line %d: %s", text, got, want, line, message)
		}
	}
	for text, want := range map[string]int{"A\n": 1, "A=1\nB\n": 2, "A=1\n\nB\nC=2": 3, "A=1\nA-B=1": 2, "A='x": 1,
		"A=1\nB=\"x\\\"\n": 2, "\xff=1": 1, "\ufeffA=1": 1, "A=\x00": 1, "A=0123456789\n" +
			strings.Repeat("A=$A$A\n", 20): 18} {
		if got, line, message := parseEnv(text); message == "" || line != want {
			t.Errorf("%q: %+v, line %d %q", text, got, line, message)
		}
	}
}

// FuzzSettings holds that a quoted value comes back as it was, whatever stands before it.
func FuzzSettings(f *testing.F) {
	for _, text := range []string{"", "A=1", "export A='b' # c", "A=\"\\$B ${C}\"", "A: b\nB", "'", "A=\"a\n", "=",
		"A=$(b", "#\r\nA=\r\nB=2"} {
		f.Add(text, "value")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		list, line, message := parseEnv(text)
		if (message == "") != (line == 0) || line > strings.Count(text, "\n")+1 || message != "" && list != nil {
			t.Errorf("%q gives %+v, line %d %s", text, list, line, message)
		}
		list, _, message = parseEnv(text + "\n")
		if message != "" || strings.ContainsAny(value, "'\\\r\x00") ||
			slices.ContainsFunc([]rune(value), func(r rune) bool { return r == '\ufffd' }) {
			return
		}
		again, _, message := parseEnv(text + "\nLAST='" + value + "'\n")
		if message != "" || len(again) != len(list)+1 || again[len(list)].value != value || again[len(list)].name != "LAST" {
			t.Errorf("%q and %q give %+v, %s", text, value, again, message)
		}
	})
}

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
