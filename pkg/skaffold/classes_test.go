package skaffold

import (
	"cmp"
	stdflag "flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config"
)

var update = stdflag.Bool("update", false, "write the classes into testdata/leaves.txt")

// The files that leaves are put into.
const (
	builds  = "build: { artifacts: [{ image: worker, docker: { dockerfile: Dockerfile.worker } }] }\n"
	deploys = "deploy: { helm: { releases: [{ name: r, chartPath: chart.tgz, namespace: n }] } }\n"
	remote  = "deploy: { helm: { releases: [{ name: r, remoteChart: db, repo: 'https://a', namespace: n }] } }\n"
	first   = "deploy: { helm: { releases: [{ name: r, chartPath: chart.tgz, namespace: n }, " +
		"{ name: first, chartPath: chart.tgz, namespace: n }] } }\n"
)

// bases are the files for the leaves whose paths begin so; the last one counts.
var bases = []struct{ beginning, text string }{
	{"", builds + deploys},
	{"build.artifacts[].kaniko.", strings.Replace(builds, "docker:", "kaniko:", 1) + deploys},
	{"build.artifacts[].requires[]", "build: { artifacts: [{ image: client, docker: { dockerfile: " +
		"Dockerfile.client } }, " +
		"{ image: worker, docker: { dockerfile: Dockerfile.worker } }] }\n" + deploys},
	{"build.artifacts[].requires[].alias", "build: { artifacts: [{ image: client, requires: [{ image: worker }], " +
		"docker: { dockerfile: Dockerfile.client } }, { image: worker, docker: { dockerfile: Dockerfile.worker } }] }\n" +
		deploys},
	{"build.artifacts[].sync.manual[]", strings.Replace(builds, "docker:", "sync: { manual: [{ src: 'src/*', "+
		"dest: . }] }, docker:", 1) + deploys},
	{"build.artifacts[].docker.secrets[]", strings.Replace(builds, "docker: {", "docker: { secrets: [{ id: a }],", 1) +
		deploys},
	{"deploy.helm.releases[].remoteChart", strings.Replace(remote, "remoteChart: db, ", "", 1)},
	{"deploy.helm.releases[].repo", remote},
	{"deploy.helm.releases[].version", remote},
	{"deploy.helm.releases[].upgradeOnChange", remote},
	{"deploy.helm.releases[].wait", first},
	{"deploy.helm.releases[].dependsOn", first},
	{"deploy.helm.releases[].packaged.", strings.Replace(deploys, "chart.tgz", "chart", 1)},
	{"deploy.kubectl.", builds + "manifests: { rawYaml: [k8s/web.yaml] }\n"},
	{"manifests.kustomize.buildArgs", builds + "manifests: { kustomize: { paths: [overlays/dev] } }\n"},
	{"requires[].", builds + deploys + "requires: [{ path: module }]\n"},
	{"requires[].path", builds + deploys},
	{"requires[].activeProfiles[].activatedBy", builds + deploys +
		"requires: [{ path: module, activeProfiles: [{ name: dev }] }]\n"},
	{"portForward[].", builds + deploys +
		"portForward: [{ resourceType: service, resourceName: web, namespace: n, port: 80, localPort: 8080 }]\n"},
	{"profiles[].", builds + deploys + "profiles: [{ name: p, deploy: { statusCheckDeadlineSeconds: 7 } }]\n"},
	{"profiles[].requiresAllActivations", builds + deploys +
		"profiles: [{ name: p, deploy: { statusCheckDeadlineSeconds: " +
		"7 }, activation: [{ env: PLACE=here }, { env: PLACE=there }] }]\n"},
	{"profiles[].patches[].", builds + deploys + "profiles: [{ name: p, patches: [{ op: copy, value: a, " +
		"path: /build/artifacts/0/docker/target, from: /build/artifacts/0/image }] }]\n"},
	{"profiles[].patches[].value", builds + deploys + "profiles: [{ name: p, patches: [{ op: add, value: a, " +
		"path: /deploy/kubeContext }] }]\n"},
}

// schemaLeaf is a line of testdata/leaves.txt.
type schemaLeaf struct {
	class, path, value, since string
}

// documents are the leaf's base, with what a leaf cannot be without, and that with the leaf.
func (l schemaLeaf) documents(t *testing.T) (without, with string) {
	t.Helper()
	path := strings.Replace(l.path, "manifests.helm.", "deploy.helm.", 1)
	text := ""
	for _, base := range bases {
		if strings.HasPrefix(path, base.beginning) {
			text = skaffoldHead + base.text
		}
	}
	if path != l.path {
		text = strings.Replace(text, "deploy: { helm:", "manifests: { helm:", 1)
	}
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(text), &root); err != nil {
		t.Fatalf("%s: %v", l.path, err)
	}
	for _, hook := range []string{"host", "container"} {
		if before, _, found := strings.Cut(l.path, "[]."+hook+"."); found && strings.Contains(l.path, "hooks.") {
			before += "[]"
			putAt(t, root.Content[0], before+"."+hook+".command[]", "first")
			if hook == "container" && !strings.Contains(l.path, "sync") {
				putAt(t, root.Content[0], before+"."+hook+".podName", "first")
			}
		}
	}
	without = marshal(t, &root)
	putAt(t, root.Content[0], l.path, l.value)
	return without, marshal(t, &root)
}

func marshal(t *testing.T, root *yaml.Node) string {
	t.Helper()
	text, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// putAt sets what is at a path of leaves.txt.
func putAt(t *testing.T, at *yaml.Node, path, text string) {
	t.Helper()
	for part := range strings.SplitSeq(path, ".") {
		name, isItem := strings.CutSuffix(strings.Replace(part, "{}", "key", 1), "[]")
		at = valueOf(at, name)
		if isItem {
			if at.Kind != yaml.SequenceNode {
				*at = yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!null"}}}
			}
			at = at.Content[0]
		}
	}
	var value yaml.Node
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	*at = *value.Content[0]
}

// valueOf returns the value of a key, which is made if it is not there.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		*n = yaml.Node{Kind: yaml.MappingNode}
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	return value
}

// classify finds out what devloop does about a leaf: "" if that is nothing.
func (l schemaLeaf) classify(t *testing.T, dir string) (class, why string) {
	t.Helper()
	var profiles []string
	if strings.HasPrefix(l.path, "profiles[]") && !strings.Contains(l.path, "ctivation") {
		profiles = []string{"p"}
	}
	without, with := l.documents(t)
	t.Chdir(dir)
	load := func(text string) (*config.Config, error) {
		write(t, "skaffold.yaml", text)
		return config.Load(config.Source{Files: []string{"skaffold.yaml"}, Profiles: profiles,
			Translate: Options{CurrentContext: "minikube"}.Translate})
	}
	before, err := load(without)
	if err != nil {
		before = &config.Config{}
	}
	c, err := load(with)
	if err != nil {
		return "refused", err.Error()
	}
	path := strings.NewReplacer("[]", "[0]", "{}", "key").Replace(l.path)
	for _, note := range c.Notes {
		at, text, _ := strings.Cut(note.Message, ": ")
		switch {
		case !strings.HasPrefix(at, path) && !strings.HasPrefix(path, at+".") && !strings.HasPrefix(path, at+"["):
			// about another key
		case strings.HasPrefix(text, "skaffold has no such key"):
			return "", note.Message
		case !note.Harmless:
			return "warns", note.Message
		default:
			class, why = "works", note.Message
		}
	}
	if !reflect.DeepEqual(meant(before), meant(c)) {
		class = "works"
	}
	return class, why
}

// alreadySo are leaves whose value changes nothing: what they say is so anyway.
var alreadySo = []string{"apiVersion", "kind", "profiles[].name", "build.artifacts[].docker.secrets[].id"}

// readLeaves returns the leaves of the schemas, and the comment above them.
func readLeaves(t *testing.T) (head string, list []schemaLeaf) {
	t.Helper()
	for line := range strings.Lines(read(t, "testdata/leaves.txt")) {
		class, rest, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		if class == "#" || class == "" {
			head += line
			continue
		}
		text, since, _ := strings.Cut(rest, " # ")
		path, value, found := strings.Cut(strings.TrimSpace(text), ": ")
		if !found {
			t.Fatalf("not a leaf: %s", line)
		}
		list = append(list, schemaLeaf{class, path, value, since})
	}
	return head, list
}

// TestClasses holds that devloop has an answer to every leaf of the newest schemas, and which.
func TestClasses(t *testing.T) {
	file, err := filepath.Abs("testdata/leaves.txt")
	if err != nil {
		t.Fatal(err)
	}
	head, leaves := readLeaves(t)
	dir := everything(t)
	for name, text := range map[string]string{
		"k8s/web.yaml": "", "overlays/dev/kustomization.yaml": "", "other.tgz": "", "chart/Chart.yaml": "",
		"sub/Dockerfile.worker": "", "Dockerfile": "", "module/chart.tgz": "",
		"module/skaffold.yaml": strings.Replace(skaffoldHead, "name: p", "name: module", 1) +
			"deploy: { helm: { releases: [{ name: below, chartPath: chart.tgz, namespace: n }] } }\n" +
			"profiles: [{ name: dev, deploy: { statusCheckDeadlineSeconds: 8 } }]\n---\n" +
			strings.Replace(skaffoldHead, "name: p", "name: other", 1) +
			"deploy: { helm: { releases: [{ name: other, chartPath: chart.tgz, namespace: n }] } }\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, text)
	}
	t.Setenv("PLACE", "here")
	t.Setenv("TOKEN", "x")
	made := head
	for _, leaf := range leaves {
		class, why := leaf.classify(t, dir)
		if below, ok := strings.CutPrefix(leaf.path, "deploy.helm.releases"); ok {
			other := leaf
			other.path = "manifests.helm.releases" + below
			// The section itself warns, since kubectl applies what it renders.
			otherClass, why := other.classify(t, dir)
			if otherClass == "" || (otherClass == "refused") != (class == "refused") {
				t.Errorf("%s: %s is %q, and in deploy %q: %s", other.path, leaf.value, otherClass, class, why)
			}
		}
		if slices.Contains(alreadySo, leaf.path) {
			class = "works"
		}
		if class == "" {
			t.Errorf("%s: %s is neither used nor reported; %s", leaf.path, leaf.value, why)
		} else if class != leaf.class && !*update {
			t.Errorf("%s: %s is %s, not %s: %s", leaf.path, leaf.value, class, leaf.class, why)
		}
		line := fmt.Sprintf("%-7s %s: %s", cmp.Or(class, "?"), leaf.path, leaf.value)
		if leaf.since != "" {
			line += " # " + leaf.since
		}
		made += line + "\n"
	}
	if *update {
		write(t, file, made)
	}
}
