package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

// everyKey is a valid file that has each key at least once.
const everyKey = `apiVersion: devloop/v1
name: all
kubeContext: minikube
allowContexts: [staging]
buildIn: node
keepImages: 5
push: registry.example/team
images:
  worker:
    context: .
    dockerfile: Dockerfile.worker
    target: final
    args: { BASE: '{{ image "base" }}' }
    platform: linux/amd64
    secrets: { a: { file: x }, b: { env: X } }
    ssh: [default]
    aliases: [registry.example/worker]
    sync: [{ from: src, to: /app, then: [kill] }]
    rollout: later
  base: { context: sub }
releases:
  - name: a
    chart: demo
    repo: https://charts.example/stable
    version: ^1.2
    sha256: SHA256
    namespace: n
    createNamespace: true
    dependsOn: [b]
    values: [values.yaml]
    inlineValues: { a: 1 }
    set: { image: '{{ image "worker" }}' }
    setString: { b: 1 }
    secretValues: [b]
    hooks:
      before: [{ command: ['true'], timeout: 1s }]
      after: [{ command: ['true'] }]
    onFailure: rollback
  - { name: b, manifests: [values.yaml], namespace: n }
  - { name: c, kustomize: sub, remoteBases: true, namespace: n }
hooks: { before: [{ command: ['true'] }] }
verify:
  - { image: worker, command: ['true'], args: [x], namespace: n, timeout: 1s }
shell: a
health: [{ deployment: a=b, namespace: n }]
cleanup: { before: [pods] }
forwards:
  - { service: s, namespace: n, port: 80, local: 8001, bind: 127.0.0.1, ready: /, hold: 1s }
  - { deployment: s, namespace: n, port: 80, local: 8002 }
  - { statefulset: s, namespace: n, port: 80, local: 8003 }
  - { pod: s, namespace: n, port: 80, local: 8004 }
  - { selector: a=b, namespace: n, port: 80, local: 8005 }
timeouts: { rollout: 1m }
watch: { quiet: 100ms, limit: 1s }
logs: [{ namespace: n, selector: a=b }]
local: { venv: sub, sync: true, requirements: Dockerfile.client, images: [worker] }
page: { port: 10361 }
profiles: { p: { timeouts: { rollout: 2m } } }
`

// TestMisspeltKeys holds that a key with a typo is one error, which suggests the right key: nothing
// that the key says is missing then, too.
func TestMisspeltKeys(t *testing.T) {
	t.Chdir(project(t))
	write(t, "sub/kustomization.yaml", "")
	text := strings.ReplaceAll(everyKey, "SHA256", strings.Repeat("ab", 32))
	if err := os.WriteFile(FileName, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Source{}); err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		t.Fatal(err)
	}
	tried := map[string]bool{}
	eachKey(document.Content[0], reflect.TypeFor[file](), func(mapping reflect.Type, key *yaml.Node) {
		tried[mapping.Name()+"."+key.Value] = true
		for _, word := range typosOf(key.Value) {
			if slices.ContainsFunc(fields(mapping), func(f field) bool { return f.key == word }) {
				continue
			}
			lines := strings.Split(text, "\n")
			line := lines[key.Line-1]
			lines[key.Line-1] = line[:key.Column-1] + word + line[key.Column-1+len(key.Value):]
			write(t, FileName, strings.Join(lines, "\n"))
			_, err := Load(Source{Profiles: []string{"p"}})
			var wrong *tree.Error
			suggestion := fmt.Sprintf("unknown key %q; did you mean %q?", word, key.Value)
			place := fmt.Sprintf("%s:%d:%d: ", FileName, key.Line, key.Column)
			if !errors.As(err, &wrong) || len(wrong.Problems) != 1 ||
				!strings.HasPrefix(err.Error(), place) || !strings.HasSuffix(err.Error(), suggestion) {
				t.Errorf("%s for %s, line %d: %v", word, key.Value, key.Line, err)
			}
		}
	})
	for _, mapping := range []reflect.Type{
		reflect.TypeFor[file](), reflect.TypeFor[Image](), reflect.TypeFor[Sync](), reflect.TypeFor[Secret](),
		reflect.TypeFor[Release](),
		reflect.TypeFor[Hooks](), reflect.TypeFor[Hook](), reflect.TypeFor[Verify](), reflect.TypeFor[Health](),
		reflect.TypeFor[Cleanup](), reflect.TypeFor[Forward](), reflect.TypeFor[Timeouts](), reflect.TypeFor[Watch](),
		reflect.TypeFor[PodLogs](), reflect.TypeFor[Local](), reflect.TypeFor[Page](),
	} {
		for _, f := range fields(mapping) {
			if !tried[mapping.Name()+"."+f.key] {
				t.Errorf("everyKey has no %s of a %s", f.key, mapping.Name())
			}
		}
	}
}

// eachKey calls visit for the keys in n, a value of type t, that devloop defines, with the type of
// the mapping that each is in.
func eachKey(n *yaml.Node, t reflect.Type, visit func(mapping reflect.Type, key *yaml.Node)) {
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if t.Kind() == reflect.Struct {
			visit(t, n.Content[i])
		}
		if below := typeOf(t, n.Content[i].Value); below != nil {
			eachKey(n.Content[i+1], below, visit)
		}
	}
	for i := 0; n.Kind == yaml.SequenceNode && i < len(n.Content); i++ {
		if below := typeOf(t, ""); below != nil {
			eachKey(n.Content[i], below, visit)
		}
	}
}

// typosOf returns a word with one of these at each letter in turn: it is missing, there twice,
// wrong, or has changed places with the one before it; and in other cases, and with separators.
func typosOf(word string) (all []string) {
	for i := 1; i < len(word); i++ {
		switch before, letter, after := word[:i], word[i:i+1], word[i+1:]; {
		case 'A' <= word[i] && word[i] <= 'Z':
			lower := strings.ToLower(letter)
			all = append(all, before+"_"+letter+after, before+"-"+lower+after, before+lower+after)
		case i%4 == 0:
			all = append(all, before+after)
		case i%4 == 1:
			all = append(all, before+letter+letter+after)
		case i%4 == 2:
			all = append(all, before+"x"+after)
		case word[i-1] != word[i]:
			all = append(all, word[:i-1]+letter+word[i-1:i]+after)
		}
	}
	return append(all, strings.ToUpper(word), strings.ToUpper(word[:1])+word[1:], word[:len(word)-1], word+"s")
}

// TestHints is about what to do where a file is missing or begins in another way.
func TestHints(t *testing.T) {
	t.Chdir(project(t))
	write(t, FileName, "apiVersion: devloop/v1\nname: x\n")
	write(t, "sub/"+FileName, "")
	write(t, "nothing.yaml", "kubeContext: x\n")
	write(t, "nameless.yaml", "apiVersion: devloop/v1\n")
	write(t, "pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: { name: a }\n")
	write(t, "sub/case.yaml", "apiversion: devloop/v1\nnmae: x\n")
	for name, want := range map[string]string{
		"devlop.yaml":             "did you mean devloop.yaml?",
		"devloop.yml":             "did you mean devloop.yaml?",
		"sub/cases.yaml":          "did you mean sub/case.yaml?",
		"production.yaml":         "there is a devloop.yaml",
		"sub/production.yaml":     "there is a sub/devloop.yaml",
		"deploy/production.yaml":  "there is no deploy/devloop.yaml, either; devloop init writes a devloop.yaml",
		"nowhere/production.yaml": "there is no folder nowhere",
		"nowhere/devloop.yaml":    "there is no folder nowhere",
		"sub":                     "name the file in it: sub/devloop.yaml",
		"deploy":                  "",
		"nothing.yaml":            `write at its beginning: "apiVersion: devloop/v1", and below that "name: `,
		"nameless.yaml":           `write at its beginning: "name: `,
		"sub/" + FileName:         `it has to start with "apiVersion: devloop/v1"`,
		"sub/case.yaml":           "",
		"pod.yaml":                "it looks like a Kubernetes manifest: ",
	} {
		_, err := Load(Source{Files: []string{name}})
		var wrong *tree.Error
		if !errors.As(err, &wrong) || !strings.HasPrefix(wrong.Hint(), want) || want == "" && wrong.Hint() != "" {
			t.Errorf("%s: %v, hint %q", name, err, wrong.Hint())
		}
	}
}
