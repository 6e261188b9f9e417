package skaffold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// translated is the devloop.yaml that is made of a skaffold.yaml, without what every one has, and
// the warnings.
func translated(t *testing.T, text string) (made, warnings string) {
	t.Helper()
	c, err := skaffolded(t, everything(t), text)
	if err != nil {
		return "", strings.ReplaceAll(err.Error(), "skaffold.yaml:", "")
	}
	checkText(t, c)
	all, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	_, made, _ = strings.Cut(string(all), "\nname: p\n")
	for _, note := range c.Notes {
		if !note.Harmless {
			warnings += strings.TrimPrefix(note.String(), "skaffold.yaml:") + "\n"
		}
	}
	return strings.TrimSpace(made), strings.TrimSpace(warnings)
}

const (
	v2Head = "apiVersion: skaffold/v2beta29\nkind: Config\nmetadata: { name: p }\n"
	helmR  = "releases: [{ name: r, chartPath: chart.tgz, namespace: n }]"
)

func TestWhatIsDeployed(t *testing.T) {
	manifests := func(namespace string, paths ...string) string {
		return fmt.Sprintf("{ name: p, namespace: %s, manifests: [%s] }", namespace, strings.Join(paths, ", "))
	}
	kustomize := func(name, path string) string {
		return fmt.Sprintf("{ name: %s, namespace: default, kustomize: %s, remoteBases: true }", name, path)
	}
	const chart = "{ name: r, chart: chart.tgz, namespace: n }"
	for _, c := range []struct {
		name, text, warnings string
		releases             []string
	}{
		{"nothing is named", skaffoldHead, "", []string{manifests("default", "k8s/*.yaml")}},
		{"kubectl alone, v2", v2Head + "deploy: { kubectl: {} }", "", []string{manifests("default", "k8s/*.yaml")}},
		{"kubectl, v2", v2Head + "deploy: { kubectl: { manifests: [k8s/app.yaml, more/*.yaml], defaultNamespace: d } }", "",
			[]string{manifests("d", "k8s/app.yaml", "more/*.yaml")}},
		{"kustomize, v2", v2Head + "deploy: { kustomize: {} }", "", []string{kustomize("p", ".")}},
		{"kustomize of before", v2Head + "deploy: { kustomize: { path: overlay } }", "", []string{kustomize("p", "overlay")}},
		{"kustomize and kubectl, v2", v2Head + "deploy: { kustomize: { paths: [., overlay] }, kubectl: { manifests: " +
			"[k8s/*.yaml] } }", "",
			[]string{manifests("default", "k8s/*.yaml"), kustomize("p-kustomize", "."), kustomize("p-overlay", "overlay")}},
		{"rawYaml", skaffoldHead + "manifests: { rawYaml: [k8s/*.yaml] }", "", []string{manifests("default", "k8s/*.yaml")}},
		{"kustomize", skaffoldHead + "manifests: { kustomize: { paths: [overlay] } }\ndeploy: { kubectl: {} }", "",
			[]string{kustomize("p", "overlay")}},
		{"kustomize without paths", skaffoldHead + "manifests: { kustomize: {} }", "", []string{kustomize("p", ".")}},
		{"templates in paths", skaffoldHead + `manifests: { rawYaml: ["{{.DIR}}/*.yaml"], kustomize: { paths: ` +
			`["{{.OVERLAY}}"] } }`, "", []string{manifests("default", "k8s/*.yaml"), kustomize("p-kustomize", "overlay")}[:2]},
		{"a flag for the namespace", skaffoldHead + "manifests: { rawYaml: [k8s/*.yaml] }\ndeploy: { kubectl: { flags: " +
			"{ global: [-v, '6'], apply: [--namespace=f, --server-side] }, defaultNamespace: d } }", "",
			[]string{manifests("f", "k8s/*.yaml")}},
		{"manifests beside charts", skaffoldHead + "manifests: { rawYaml: [k8s/*.yaml] }\ndeploy: { helm: { " + helmR +
			" } }", "", []string{chart, manifests("default", "k8s/*.yaml")}},
		{"a kustomization beside charts", skaffoldHead + "manifests: { kustomize: { paths: [overlay] } }\ndeploy: { " +
			"helm: { " + helmR + " } }", "4:35: manifests.kustomize.paths[0]: is not deployed: " +
			"skaffold applies manifests only where deploy has kubectl: add kubectl: {} to it", []string{chart}},
		{"charts that are rendered", skaffoldHead + "manifests: { helm: { " + helmR + " } }", "4:14: manifests.helm: " +
			"skaffold renders these charts and applies that by kubectl; devloop installs them: their hooks run as hooks, " +
			"and what names no namespace is in that of its release", []string{chart}},
		{"charts beside kubectl", v2Head + "deploy: { helm: { " + helmR + " }, kubectl: {} }", "", []string{chart}},
		{"both Helm sections alike", skaffoldHead + "manifests: { helm: { " + helmR + " } }\ndeploy: { helm: { " + helmR +
			" } }", "", []string{chart}},
		{"both Helm sections", skaffoldHead + "manifests: { helm: { " + helmR + " } }\ndeploy: { helm: { releases: " +
			"[{ name: x, chartPath: nowhere }], flags: { global: [--debug] }, hooks: { after: [{ host: { " +
			"command: [a] } }] } } }",
			`5:19: deploy.helm.releases: differs from that of manifests.helm: that one counts, as for skaffold
5:64: deploy.helm.flags: differs from that of manifests.helm: that one counts, as for skaffold
5:119: deploy.helm.hooks.after[0].host: the commands run around all releases, and only if any of these differs; ` +
				"they have the variable KUBECONFIG, and none of skaffold's", []string{chart}},
		{"another machine's", skaffoldHead + "manifests: { rawYaml: [https://example.com/a.yaml, gs://b/c.yaml, " +
			"k8s/*.yaml] }",
			`4:24: manifests.rawYaml[0]: is not on this machine, and so not deployed: download it
4:52: manifests.rawYaml[1]: is not on this machine, and so not deployed: download it`,
			[]string{manifests("default", "k8s/*.yaml")}},
		{"folders", skaffoldHead + "manifests: { rawYaml: [k8s/, ./**/*.yaml] }",
			"4:24: manifests.rawYaml[0]: is a folder, which skaffold leaves out: the manifests in it are deployed",
			[]string{manifests("default", "k8s/", "./*/*.yaml")}},
		{"a pattern without a file", skaffoldHead + "manifests: { rawYaml: [k8s/*.yaml, k8s/*.yml] }",
			"4:36: manifests.rawYaml[1]: matches no file, and so nothing of it is deployed, as for skaffold",
			[]string{manifests("default", "k8s/*.yaml")}},
		{"a release of the project's name", skaffoldHead + "manifests: { rawYaml: [k8s/*.yaml] }\ndeploy: { helm: { " +
			"releases: [{ name: p, chartPath: chart.tgz, namespace: n }] } }", "",
			[]string{"{ name: p, chart: chart.tgz, namespace: n }",
				"{ name: p-manifests, namespace: default, manifests: [k8s/*.yaml] }"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("DIR", "k8s")
			t.Setenv("OVERLAY", "overlay")
			made, warnings := translated(t, c.text)
			if warnings != c.warnings {
				t.Errorf("warnings:\n%s\nwant:\n%s", warnings, c.warnings)
			}
			var got struct{ Releases []map[string]any }
			if err := yaml.Unmarshal([]byte(made), &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Releases) != len(c.releases) {
				t.Fatalf("made:\n%s", made)
			}
			for i, text := range c.releases {
				var want map[string]any
				if err := yaml.Unmarshal([]byte(text), &want); err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(got.Releases[i]) != fmt.Sprint(want) {
					t.Errorf("release %d is %v, want %v", i, got.Releases[i], want)
				}
			}
		})
	}
}

// TestNothingIsDeployed holds that what devloop cannot deploy, or not build, is no success.
func TestNothingIsDeployed(t *testing.T) {
	const builder = "devloop builds Dockerfiles alone: the image a, which is deployed, would not be built; " +
		"write a Dockerfile for it, and docker: {} in place of this, if need be in a profile"
	for text, want := range map[string]string{
		"jib: {}":                     "4:39: build.artifacts[0].jib: " + builder,
		"custom: { buildCommand: x }": "4:42: build.artifacts[0].custom: " + builder,
		"jib: ":                       `4:31: build.artifacts[0]: there is no file "Dockerfile"`,
	} {
		if _, got := translated(t, skaffoldHead+"build: { artifacts: [{ image: a, "+text+" }] }\n"+oneRelease); got != want {
			t.Errorf("%s: %s\nwant %s", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"deploy: { docker: { images: [a] } }": "deploy.docker: these containers are not started",
		"deploy: { helm: {} }":                "",
		"manifests: { rawYaml: [https://x/y.yaml], kustomize: { paths: [https://x/y] } }": "manifests.kustomize.paths[0]: " +
			"is not on this machine, and so not deployed",
		"manifests: { rawYaml: [k8s/a.yaml] }\ndeploy: { cloudrun: { region: r } }": "manifests.rawYaml[0]: is not deployed",
		"metadata: { name: p }": "names nothing to deploy, and there is no k8s/*.yaml, which skaffold deploys then",
	} {
		dir := everything(t)
		if err := os.RemoveAll(filepath.Join(dir, "k8s")); err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(skaffoldHead, "metadata: { name: p }\n", "", 1) + text
		c, err := skaffolded(t, dir, text)
		if err != nil {
			t.Fatal(err)
		}
		if err = c.CheckDeploys(); err == nil || !strings.Contains(reported(c, nil), want) {
			t.Errorf("%s: %v, and reported are:\n%s", text, err, reported(c, nil))
		}
	}
}

func TestHelmFlags(t *testing.T) {
	const both = "install: [%[1]s], upgrade: [%[1]s]"
	for flags, want := range map[string]string{
		fmt.Sprintf(both, "--set=a=5"): "namespace: n, set: { a: 5 }",
		fmt.Sprintf(both, "--set, 'a=5,b.c={1,x}'"): `namespace: n, set: { a: 5 }, inlineValues: ` +
			`{ b: { c: [1, x] } }`,
		fmt.Sprintf(both, "--set-string, a=5, -f, values.yaml"): `namespace: n, setString: { a: "5" }, ` +
			`values: [values.yaml]`,
		fmt.Sprintf(both, "--create-namespace, --wait, --debug"): "namespace: n, createNamespace: true",
		"global: [--namespace=m, --atomic, --history-max, '3']":  "namespace: m, onFailure: rollback",
	} {
		made, warnings := translated(t, skaffoldHead+"deploy: { helm: { "+helmR+", flags: { "+flags+" } } }")
		var got struct{ Releases []map[string]any }
		var release map[string]any
		err := errors.Join(yaml.Unmarshal([]byte(made), &got),
			yaml.Unmarshal([]byte("{ name: r, chart: chart.tgz, "+want+" }"), &release))
		if err != nil || warnings != "" || fmt.Sprint(got.Releases) != fmt.Sprint([]any{release}) {
			t.Errorf("%s: %v, %v, %s\nwant %v", flags, err, got.Releases, warnings, release)
		}
	}
	for flags, want := range map[string]string{
		"install: [--set=a=5]":            "flags of install and of upgrade count each time that a release is applied",
		"global: [--no-hooks]":            "--no-hooks: hooks of charts run all the same",
		"global: [--unknown]":             "helm is not called: without --unknown",
		"global: [--unknown=x]":           "has nothing for its flag --unknown: what it says would be lost",
		"global: [--unknown, x]":          "has nothing for its flag --unknown: what it says would be lost",
		"global: [--set-json, 'a=[1]']":   "devloop does not read --set-json: write it as overrides",
		"global: [--set-string, 'a={1}']": "devloop.yaml cannot say a list of text by --set-string",
		"global: [--set]":                 "--set has no value",
	} {
		_, got := translated(t, skaffoldHead+"deploy: { helm: { "+helmR+", flags: { "+flags+" } } }")
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s\nwant %s", flags, got, want)
		}
	}
	for flags, want := range map[string]string{
		"apply: [--force]":        "--force: devloop itself finds out",
		"apply: [-l, a=b]":        "devloop does not read -l: write it as files that hold only what is to be deployed",
		"global: [--context=x]":   "devloop does not read --context: write it as deploy.kubeContext",
		"global: [--unknown=x]":   "kubectl is not called, and devloop has nothing for its flag --unknown",
		"disableValidation: true": "the API server checks",
		"delete: [--wait]":        "kubectl is not called: objects are deleted without these flags",
	} {
		_, got := translated(t, skaffoldHead+"deploy: { kubectl: { flags: { "+flags+" } } }")
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s\nwant %s", flags, got, want)
		}
	}
}

// TestArguments holds what builds get: variables of the image itself, how skaffold was started, and
// the images that it requires.
func TestArguments(t *testing.T) {
	dir := everything(t)
	write(t, filepath.Join(dir, "Dockerfile.worker"), "ARG BASE\nFROM $BASE\narg SKAFFOLD_RUN_MODE=x\nARG TOP\n")
	c, err := skaffolded(t, dir, skaffoldHead+`build:
  artifacts:
    - image: gcr.io/team/web
      docker:
        dockerfile: Dockerfile.worker
        buildArgs: { R: "{{.IMAGE_REPO}}", N: "{{.IMAGE_NAME}}", T: "{{.IMAGE_TAG}}", TOP: mine,
          B: "a{{ `+"`{{`"+` }}b" }
      requires: [{ image: localhost:5000/base, alias: BASE }, { image: localhost:5000/base, alias: TOP },
        { image: sub }]
    - { image: localhost:5000/base, docker: { dockerfile: Dockerfile.client } }
    - { image: sub, context: sub }
`+oneRelease)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"R": "gcr.io/team", "N": "web", "T": "latest", "B": `a{{ "{{" }}b`, "TOP": "mine",
		"BASE": `{{ image "base" }}`, "SKAFFOLD_RUN_MODE": "dev"}
	if got := c.Images[1].Args; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the build gets %v, want %v", got, want)
	}
	if base := c.Images[0]; len(base.Args) > 0 || base.Name+fmt.Sprint(base.Aliases) != "base[localhost:5000/base]" {
		t.Errorf("the base is %+v", base)
	}
	if notes := reported(c, nil); !strings.Contains(notes, "IMAGE_TAG is latest for the build") ||
		!strings.Contains(notes, "the Dockerfile has no ARG sub: it is not built from the image sub") {
		t.Error(notes)
	}
	_, got := translated(t, skaffoldHead+"build: { artifacts: [{ image: a, context: sub, requires: [{ image: b }] }] }\n"+
		oneRelease)
	if want := `no artifact is called "b"`; !strings.Contains(got, want) {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestSameRegistryPorts holds that images of two registries are two images.
func TestSameRegistryPorts(t *testing.T) {
	c, err := skaffolded(t, everything(t), skaffoldHead+"build: { artifacts: [{ image: localhost:5000/web, context: "+
		"sub }, { image: localhost:5001/web, context: sub }] }\n"+oneRelease)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Images[0].Name, c.Images[0].Aliases, " ", c.Images[1].Name, c.Images[1].Aliases); got !=
		"web[localhost:5000/web] localhost-5001/web[localhost:5001/web]" {
		t.Error(got)
	}
}

// TestNamespacesOfForwards holds that a forward leads to where manifests put its target.
func TestNamespacesOfForwards(t *testing.T) {
	dir := everything(t)
	write(t, filepath.Join(dir, "k8s/app.yaml"), "kind: Namespace\nmetadata: { name: x }\n---\n"+
		"kind: Service\nmetadata: { name: web, namespace: x }\n---\nkind: Service\nmetadata: { name: plain }\n")
	write(t, filepath.Join(dir, "overlay/kustomization.yaml"), "namespace: y\n")
	forward := "portForward: [{ resourceType: service, resourceName: %s, port: 80 }]\n"
	for text, want := range map[string]string{
		"manifests: { rawYaml: [k8s/*.yaml] }\n" + fmt.Sprintf(forward, "web"):                    "x",
		"manifests: { rawYaml: [k8s/*.yaml] }\n" + fmt.Sprintf(forward, "plain"):                  "default",
		"manifests: { kustomize: { paths: [overlay] } }\n" + fmt.Sprintf(forward, "plain"):        "y",
		"manifests: { rawYaml: [k8s/*.yaml] }\n" + oneRelease + fmt.Sprintf(forward, "web"):       "x",
		"manifests: { rawYaml: [k8s/*.yaml] }\n" + oneRelease + fmt.Sprintf(forward, "somewhere"): "",
	} {
		c, err := skaffolded(t, dir, skaffoldHead+text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if len(c.Forwards) > 0 {
			got = c.Forwards[0].Namespace
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
