package manifests

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

// object is one object that was found.
type object struct {
	Document
	id id
}

// id is what an object is called in a cluster, as far as its manifest says so.
type id struct{ group, kind, namespace, name string }

func (i id) String() string {
	name := i.kind + " " + i.name
	if i.namespace != "" {
		name += " in " + i.namespace
	}
	return name
}

// document is one YAML document being checked.
type document struct {
	Document
	*problems
}

func (d *document) wrong(n *yaml.Node, format string, args ...any) {
	d.add(d.File, d.Line+n.Line-1, n.Column, format, args...)
}

var (
	yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	// helmTemplate matches what only a chart's templates hold. Other programs have {{ }}, too.
	helmTemplate = regexp.MustCompile(
		`\{\{-?\s*(\.Values\b|\.Release\.|\.Chart\.|\.Capabilities\.|(include|template|tpl|toYaml)\s)`)
	// anyTemplate matches what is a template where it is no YAML either.
	anyTemplate = regexp.MustCompile(`\{\{-?\s*[\w."$/(]`)
)

// objects returns the document, or the items of a List. It returns none of a document with
// mistakes, which it reports.
func (d *document) objects() []object {
	root, ok := d.parse()
	if !ok {
		return nil
	}
	return d.object(root, d.Document, 0)
}

// parse returns the tree of the document, unless it is empty or wrong.
func (d *document) parse() (root *yaml.Node, ok bool) {
	root, err := decode(d.Text)
	if err != nil {
		message, line := err.Error(), 1
		if m := yamlError.FindStringSubmatch(message); m != nil {
			message = m[2]
			if n, err := strconv.Atoi(m[1]); err == nil {
				line = n
			}
		}
		if !d.template(anyTemplate) {
			d.add(d.File, d.Line+line-1, 0, "%s", message)
		}
		return nil, false
	}
	if root.Tag == "!!null" || !d.keys(root) {
		return nil, false
	}
	return root, true
}

// template reports the first match of a Helm template.
func (d *document) template(pattern *regexp.Regexp) bool {
	at := pattern.FindStringIndex(d.Text)
	if at == nil {
		return false
	}
	before := d.Text[:at[0]]
	d.add(d.File, d.Line+strings.Count(before, "\n"), at[0]-strings.LastIndex(before, "\n"),
		"%s is a template of a Helm chart; write chart: with the folder that holds the Chart.yaml instead of manifests",
		strings.TrimSpace(line(d.Text[at[0]:])))
	return true
}

// line returns the beginning of the first line of text.
func line(text string) string {
	const most = 40
	text, _, _ = strings.Cut(text, "\n")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// keys reports mappings with keys that are no text, or are there twice.
func (d *document) keys(n *yaml.Node) (ok bool) {
	ok = true
	first := map[string]int{}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			line, twice := first[child.Value]
			switch {
			case child.Kind == yaml.AliasNode, child.Tag == "!!merge":
			case child.Kind != yaml.ScalarNode && d.template(anyTemplate):
				return false
			case child.Kind != yaml.ScalarNode:
				d.wrong(child, "a key must be text")
				return false
			case twice:
				d.wrong(child, "%q is here twice; first on line %d", child.Value, line)
				ok = false
			default:
				first[child.Value] = d.Line + child.Line - 1
			}
		}
		ok = d.keys(child) && ok // aliases have no content of their own
	}
	return ok
}

// object checks one object and returns it, or the items of a List, which may hold Lists.
func (d *document) object(n *yaml.Node, as Document, depth int) []object {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, "must be an object with apiVersion and kind, but is %s", describe(n))
		return nil
	}
	apiVersion, kind := text(n, "apiVersion"), text(n, "kind")
	if message := notManifest(d.File, apiVersion, kind, n); message != "" {
		d.wrong(n, "%s", message)
		return nil
	}
	for _, key := range []string{"apiVersion", "kind"} {
		switch value := get(n, key); {
		case value == nil:
			d.wrong(n, "%s is missing", key)
			return nil
		case text(n, key) == "":
			d.wrong(value, "%s must be text, but is %s", key, describe(value))
			return nil
		}
	}
	if items := get(n, "items"); strings.HasSuffix(kind, "List") && (items != nil || kind == "List") {
		return d.list(items, as, depth)
	}
	metadata := get(n, "metadata")
	if metadata == nil || metadata.Kind != yaml.MappingNode {
		d.wrong(cmp.Or(metadata, n), "%s: metadata with a name is missing", kind)
		return nil
	}
	if !d.metadata(metadata, kind) || !d.noTemplate(n, apiVersion, kind) {
		return nil
	}
	return []object{{as, id{group(apiVersion), kind, text(metadata, "namespace"), text(metadata, "name")}}}
}

// list returns the items of a List as documents of their own.
func (d *document) list(items *yaml.Node, as Document, depth int) []object {
	const maxDepth = 10
	switch {
	case items == nil || items.Tag == "!!null":
		return nil
	case items.Kind != yaml.SequenceNode:
		d.wrong(items, "items must be a list, but is %s", describe(items))
		return nil
	case depth == maxDepth:
		d.wrong(items, "Lists stand in Lists more than %d deep", maxDepth)
		return nil
	}
	var content struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := sigsyaml.Unmarshal([]byte(as.Text), &content); err != nil || len(content.Items) != len(items.Content) {
		d.wrong(items, "the List cannot be read: %v", err)
		return nil
	}
	var objects []object
	for i, item := range items.Content {
		item = deref(item)
		own, err := sigsyaml.JSONToYAML(content.Items[i])
		if err != nil {
			d.wrong(item, "the item cannot be read: %v", err)
			continue
		}
		objects = append(objects, d.object(item, Document{File: d.File, Line: d.Line + item.Line - 1, Text: string(own)},
			depth+1)...)
	}
	return objects
}

// metadata checks the metadata of an object.
func (d *document) metadata(n *yaml.Node, kind string) bool {
	name := get(n, "name")
	switch generate := get(n, "generateName"); {
	case name == nil && generate != nil:
		d.wrong(generate, "generateName: each run would make another %s, which devloop could neither compare with the "+
			"last one nor remove; write a name", kind)
		return false
	case name == nil:
		d.wrong(n, "%s: metadata.name is missing", kind)
		return false
	}
	for _, key := range []string{"name", "namespace"} {
		value := get(n, key)
		if value == nil || key == "namespace" && value.Tag == "!!null" {
			continue
		}
		if text(n, key) == "" {
			d.wrong(value, "metadata.%s must be text, but is %s%s", key, describe(value), quoted(value))
			return false
		}
	}
	ok := true
	for _, key := range []string{"labels", "annotations"} {
		texts := get(n, key)
		if texts == nil || texts.Kind != yaml.MappingNode {
			continue
		}
		for i := 0; i+1 < len(texts.Content); i += 2 {
			value := texts.Content[i+1]
			if value.Kind == yaml.ScalarNode && !isText(value) && value.Tag != "!!null" {
				d.wrong(value, "metadata.%s: %s must be text, but is %s%s", key, texts.Content[i].Value, describe(value),
					quoted(value))
				ok = false
			}
		}
	}
	return ok
}

// quoted says how a number or the like is written as text.
func quoted(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || isText(n) {
		return ""
	}
	return fmt.Sprintf("; write %q", n.Value)
}

// group returns the group of an apiVersion, "" for the core group.
func group(apiVersion string) string {
	group, _, has := strings.Cut(apiVersion, "/")
	if !has {
		return ""
	}
	return group
}

// noTemplate reports a Helm template in an object that holds none for other programs.
func (d *document) noTemplate(n *yaml.Node, apiVersion, kind string) bool {
	group := group(apiVersion)
	own := !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io")
	if !own || slices.Contains([]string{"ConfigMap", "Secret"}, kind) {
		return true
	}
	return d.noTemplateIn(n)
}

func (d *document) noTemplateIn(n *yaml.Node) bool {
	if n.Kind == yaml.ScalarNode && helmTemplate.MatchString(n.Value) {
		d.wrong(n, "%q is a template of a Helm chart; write chart: with the folder that holds the Chart.yaml instead of "+
			"manifests", line(n.Value))
		return false
	}
	for _, child := range n.Content {
		if !d.noTemplateIn(child) {
			return false
		}
	}
	return true
}

// notManifest says what a file is that is no manifest, and what to write; "" for what may be one.
func notManifest(file, apiVersion, kind string, n *yaml.Node) string {
	folder, name := path.Dir(file), path.Base(file)
	group := group(apiVersion)
	lower := strings.ToLower(name)
	switch {
	case group == kustomizeGroup, kind == "" && slices.Contains(KustomizationNames, name):
		if kind == "Component" {
			return "is a component of a kustomization, and no manifest; name the manifests one by one, or write " +
				"kustomize: with the folder that uses it instead of manifests"
		}
		return fmt.Sprintf("is a kustomization, and no manifest; write kustomize: %s instead of manifests", folder)
	case kind == "" && name == "Chart.yaml":
		return fmt.Sprintf("describes a Helm chart, and is no manifest; write chart: %s instead of manifests", folder)
	case kind == "" && apiVersion == "" && strings.Contains(lower, "values"):
		return "has neither apiVersion nor kind: these are values of a Helm chart, and no manifest; " +
			"write chart: and values: instead of manifests"
	case kind == "" && apiVersion == "" && get(n, "services") != nil:
		return "is a file of Docker Compose, and no manifest; name the manifests one by one"
	case kind == "" && strings.HasPrefix(apiVersion, "devloop/"), strings.HasPrefix(apiVersion, "skaffold/"):
		return "is a configuration of " + group + ", and no manifest; name the manifests one by one"
	case kind == "" && apiVersion == "":
		return "is no manifest: apiVersion and kind are missing"
	}
	return ""
}
