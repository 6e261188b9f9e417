package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/config/tree"
)

var update = flag.Bool("update", false, "write schema.json and keys.md anew")

func TestSchema(t *testing.T) {
	d := describer{docs: comments(t)}
	top := d.value(reflect.TypeFor[file](), "")
	top.Version = "http://json-schema.org/draft-07/schema#"
	top.Title = FileName
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(top); err != nil {
		t.Fatal(err)
	}
	isUpToDate(t, "schema.json", out.Bytes())
}

func TestKeys(t *testing.T) {
	out := bytes.NewBufferString("# The keys of devloop.yaml\n\n" +
		"For those who write a devloop.yaml: every key, with its type, its default and what it is for.\n\n" +
		"| key | type | default | what it is |\n" +
		"| --- | --- | --- | --- |\n")
	d := describer{docs: comments(t)}
	d.rows(out, "", d.value(reflect.TypeFor[file](), ""))
	isUpToDate(t, "keys.md", out.Bytes())
}

func isUpToDate(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what config.go and rules.go say (%v); renew it: go test ./pkg/config -update", name, err)
	}
}

// rows writes a row of the table of keys for each property of s, and those below it.
func (d describer) rows(out *bytes.Buffer, prefix string, s *schemaValue) {
	for _, p := range s.Properties {
		path := prefix + p.key
		fallback := ""
		switch {
		case slices.Contains(s.Required, p.key):
			fallback = "required"
		case slices.ContainsFunc(s.OneOf, func(one *schemaValue) bool { return one.Required[0] == p.key }):
			fallback = "one of these"
		case p.value.Default != nil:
			fallback = fmt.Sprintf("`%v`", p.value.Default)
		}
		kind := p.value.kind()
		if items := p.value.Items; items != nil {
			kind += " of " + items.kind()
		}
		description := strings.NewReplacer(`\`, `\\`, "|", `\|`).Replace(p.value.Description)
		fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n", path, kind, fallback, description)
		switch below, isMap := p.value.AdditionalProperties.(*schemaValue); {
		case p.key == "profiles": // its keys are those above
		case isMap:
			d.rows(out, path+".<name>.", below)
		case p.value.Items != nil:
			d.rows(out, path+"[].", p.value.Items)
		default:
			d.rows(out, path+".", p.value)
		}
	}
}

// kind is the type in a word for people.
func (s *schemaValue) kind() string {
	first, isOne := s.Type.(string)
	if !isOne {
		first = s.Type.([]string)[0]
	}
	switch {
	case first == "string" && s.Items != nil:
		return "text, or list"
	case first == "string" && s.Maximum != nil && *s.Maximum > 0:
		return "integer or text"
	case first == "string" && s.Maximum != nil:
		return "duration"
	case first == "string":
		return "text"
	case first == "array":
		return "list"
	case first == "object":
		return "mapping"
	}
	return first
}

// schemaValue is a JSON schema.
type schemaValue struct {
	Version     string `json:"$schema,omitempty"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	Type        any    `json:"type,omitempty"` // string or []string
	Default     any    `json:"default,omitempty"`

	Enum                []any  `json:"enum,omitempty"` // text, and nil where the value can be null
	MinLength           int    `json:"minLength,omitempty"`
	MaxLength           int    `json:"maxLength,omitempty"`
	Pattern             string `json:"pattern,omitempty"`
	PatternErrorMessage string `json:"patternErrorMessage,omitempty"` // an extension that editors know
	Minimum             *int   `json:"minimum,omitempty"`
	Maximum             *int   `json:"maximum,omitempty"`

	Properties           properties     `json:"properties,omitempty"`
	PropertyNames        *schemaValue   `json:"propertyNames,omitempty"`
	Required             []string       `json:"required,omitempty"`
	OneOf                []*schemaValue `json:"oneOf,omitempty"`
	AdditionalProperties any            `json:"additionalProperties,omitempty"` // bool or *schemaValue
	MinItems             int            `json:"minItems,omitempty"`
	Items                *schemaValue   `json:"items,omitempty"`
}

type property struct {
	key   string
	value *schemaValue
}

// properties keep their order.
type properties []property

func (p properties) MarshalJSON() ([]byte, error) {
	out := bytes.NewBufferString("{")
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for i, e := range p {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := encoder.Encode(e.key); err != nil {
			return nil, err
		}
		out.WriteByte(':')
		if err := encoder.Encode(e.value); err != nil {
			return nil, err
		}
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// describer makes the schema of what decoder reads.
type describer struct {
	docs    map[string]string // "Image.Context": its comment
	partial bool
}

func (d describer) value(t reflect.Type, check string) *schemaValue {
	r := rules[check]
	rest := &schemaValue{Type: []string{"string", "number", "boolean", "null"}}
	switch reflect.New(t).Interface().(type) {
	case *string:
		s := &schemaValue{Type: "string", MinLength: 1, MaxLength: r.maxLength}
		for _, text := range r.oneOf {
			s.Enum, s.MinLength = append(s.Enum, text), 0
		}
		if r.pattern != nil {
			s.Pattern, s.PatternErrorMessage = r.pattern.String(), "must be "+r.is
		}
		if r.max > 0 {
			s.Type, s.Minimum, s.Maximum = []string{"string", "integer"}, &r.min, &r.max
		}
		return s
	case *bool:
		return &schemaValue{Type: "boolean"}
	case *int:
		return &schemaValue{Type: "integer", Minimum: &r.min, Maximum: &r.max}
	case *time.Duration:
		return &schemaValue{Type: []string{"string", "integer"}, // 0 needs no unit, and so no quotes
			Pattern: r.pattern.String(), PatternErrorMessage: "must be " + r.is, Minimum: new(int), Maximum: new(int)}
	case *Then:
		words := rules["then"]
		return &schemaValue{Type: []string{"string", "array"}, Pattern: words.pattern.String(),
			PatternErrorMessage: "must be " + words.is, Items: d.value(t.Elem(), "")}
	case *[]string:
		return &schemaValue{Type: "array", Items: d.value(t.Elem(), check)}
	case *map[string]string:
		s := &schemaValue{Type: "object", AdditionalProperties: rest}
		if check != "" {
			s.PropertyNames = d.value(t.Key(), check)
		}
		return s
	case *SetValues:
		return &schemaValue{Type: "object", PropertyNames: d.value(t.Key(), check), AdditionalProperties: rest}
	case *map[string]any:
		return &schemaValue{Type: "object", AdditionalProperties: true}
	case *map[string]Config:
		d.partial = true
		return &schemaValue{Type: "object", PropertyNames: d.value(t.Key(), check),
			AdditionalProperties: orNull(d.value(t.Elem(), ""))}
	}
	if t.Kind() == reflect.Slice {
		if key, ok := keyField(t.Elem()); ok {
			return &schemaValue{Type: "object", PropertyNames: d.value(key.Type, key.check),
				AdditionalProperties: orNull(d.value(t.Elem(), ""))}
		}
		d.partial = d.partial && len(identityKeys(t)) > 0
		return &schemaValue{Type: "array", Items: d.value(t.Elem(), "")}
	}
	return d.structure(t)
}

func (d describer) structure(t reflect.Type) *schemaValue {
	s := &schemaValue{Type: "object", AdditionalProperties: false}
	for _, f := range fields(t) {
		value := d.value(f.Type, f.check)
		switch {
		case f.choice, f.either && !d.partial:
			s.OneOf = append(s.OneOf, &schemaValue{Required: []string{f.key}})
		case f.required && (f.identity || !d.partial):
			s.Required = append(s.Required, f.key)
			if f.Type.Kind() == reflect.Slice {
				value.MinItems = 1
			}
		default:
			orNull(value)
		}
		if f.fallback != "" {
			_ = parseValue(f.fallback).Decode(&value.Default)
		}
		owner := t
		for _, i := range f.Index[:len(f.Index)-1] {
			owner = owner.Field(i).Type
		}
		value.Description = d.docs[owner.Name()+"."+f.Name]
		s.Properties = append(s.Properties, property{f.key, value})
	}
	return s
}

func orNull(s *schemaValue) *schemaValue {
	switch kind := s.Type.(type) {
	case string:
		s.Type = []string{kind, "null"}
	case []string:
		s.Type = append(kind, "null")
	}
	if s.Enum != nil {
		s.Enum = append(s.Enum, nil)
	}
	return s
}

// comments returns the first paragraph of the comment of each field in config.go.
func comments(t *testing.T) map[string]string {
	t.Helper()
	source, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	ast.Inspect(source, func(n ast.Node) bool {
		named, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if fields, ok := named.Type.(*ast.StructType); ok {
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					paragraph, _, _ := strings.Cut(f.Doc.Text(), "\n\n")
					docs[named.Name.Name+"."+name.Name] = strings.Join(strings.Fields(paragraph), " ")
				}
			}
		}
		return false
	})
	return docs
}

func TestEveryKeyIsDescribed(t *testing.T) {
	var at func(path string, s map[string]any)
	at = func(path string, s map[string]any) {
		for key, value := range s {
			inner, ok := value.(map[string]any)
			if !ok {
				continue
			}
			if strings.HasSuffix(path, ".properties") {
				if inner["description"] == "" || inner["description"] == nil {
					t.Errorf("%s.%s has no description: it has no comment in config.go", path, key)
				}
			}
			at(path+"."+key, inner)
		}
	}
	var top map[string]any
	if err := json.Unmarshal(Schema(), &top); err != nil {
		t.Fatal(err)
	}
	at("", top)
}

// TestEveryCheckIsARule keeps a typo in a tag from turning a check off.
func TestEveryCheckIsARule(t *testing.T) {
	for _, of := range []reflect.Type{reflect.TypeFor[file](), reflect.TypeFor[Image](), reflect.TypeFor[Release](),
		reflect.TypeFor[Health](), reflect.TypeFor[Cleanup](), reflect.TypeFor[Forward](), reflect.TypeFor[Timeouts](),
		reflect.TypeFor[Watch](), reflect.TypeFor[Hooks](), reflect.TypeFor[Hook](), reflect.TypeFor[Sync]()} {
		all := fields(of)
		if key, ok := keyField(of); ok {
			all = append(all, key)
		}
		for _, f := range all {
			if _, ok := rules[f.check]; f.check != "" && !ok {
				t.Errorf("%s.%s: there is no rule %q", of.Name(), f.Name, f.check)
			}
		}
	}
}

// TestSchemaOfThisRepository also holds the first line of devloop.yaml, which leads editors to the
// schema.
func TestSchemaOfThisRepository(t *testing.T) {
	path := filepath.Join("..", "..", FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^# yaml-language-server: \$schema=(.*)\n`).FindSubmatch(text)
	if line == nil {
		t.Fatalf("the first line of %s does not name the schema", path)
	}
	if string(line[1]) != "pkg/config/schema.json" {
		t.Errorf("%s names %s, which is not the schema", path, line[1])
	}
	if err := refusal(compiled(t), text); err != nil {
		t.Errorf("the schema refuses %s: %v", path, err)
	}
	if _, err := Load(Source{Files: []string{path}}); err != nil {
		t.Error(err)
	}
}

// unseen are the wrong files of wrong_test.go that the schema accepts, and why.
var unseen = map[string]string{
	"charts":                     "a pattern for URLs of three schemes and all paths is hard to read",
	"cycle":                      "for the editor's parser",
	"ports of pods":              "whether a port is one of a service or of a pod is said by another key",
	"the same address":           "for the whole of the file",
	"keys":                       "for the editor's parser: a key is there twice",
	"the same key far away":      "for the editor's parser",
	"images from images":         "they are text",
	"templates of inline values": "they are text",
	"hooks around all":           "templates are text",
	"aliases of two images":      "for the whole of the file",
	"verify and local":           "what is an image, and what is there, is for the whole of the file",
	"the release of a shell":     "what is a release is for the whole of the file",
	"too short":                  "durations have no order in JSON",
}

func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	for _, c := range wrong {
		root := (&tree.Report{}).Parse(&tree.Origin{}, []byte(c.text))
		if root == nil {
			continue // not YAML
		}
		_, accepted := unseen[c.name]
		accepted = accepted || len(c.want) == 0
		if err := s.Validate(plain(root)); accepted != (err == nil) {
			t.Errorf("%s: the schema accepts it: %t, should be %t: %v", c.name, !accepted, accepted, err)
		}
	}
}

// TestSchemaAgrees changes one value of a good file at a time: Load and the schema say the same of
// each.
func TestSchemaAgrees(t *testing.T) {
	s := compiled(t)
	t.Chdir(project(t))
	for path, values := range map[string]struct{ good, bad []string }{
		"apiVersion": {nil, []string{"devloop/v2", "[]", "null"}},
		"name": {[]string{"a", "a-1", strings.Repeat("a", 63)},
			[]string{"A", "a-", "''", "8", strings.Repeat("a", 64), "null"}},
		"kubeContext":   {[]string{"arn:x/y", "null"}, []string{"''", "true", "[]"}},
		"allowContexts": {[]string{"[]", "[a]", "null"}, []string{"a", "['']", "[1]", "[null]"}},
		"images": {[]string{"{}", "null"},
			[]string{"[]", "{ A: { dockerfile: values.yaml } }", "{ 'a:1': { dockerfile: values.yaml } }"}},
		"images.x": {[]string{"{ context: sub }"}, []string{"[]", "sub"}},
		"images.x.args": {[]string{"{ A: 1, B: true, C: , D: 1.5, E: 2024-01-02, F: .nan }"},
			[]string{"{ A: [] }", "[]"}},
		"images.x.platform": {[]string{"linux/arm/v7", "null"}, []string{"linux", "linux/arm/v7/x"}},
		"images.x.secrets": {[]string{"{}", "null", "{ a.b: { file: x } }", "{ a: { env: X } }"},
			[]string{"[]", "{ a: }", "{ a: { file: x, env: X } }", "{ 'a b': { env: X } }"}},
		"images.x.rollout": {[]string{"later", "now", "null"}, []string{"never", "''", "true", "[now]"}},
		"images.x.sync": {[]string{"[]", "null", "[{ from: src }]", "[{ from: ., to: , then: }]",
			"[{ from: 'a/**/*.py', to: /app/a, then: restart }, { from: 'a/*.p[yl]', to: ./b/, then: nothing }]",
			"[{ from: a, then: [kill, -HUP, '1'] }, { from: b, then: [restart] }, { from: c, then: [] }]"},
			[]string{"a", "{}", "[a]", "[{}]", "[{ from: }]", "[{ from: '' }]", "[{ from: [a] }]", "[{ from: a, to: '' }]",
				"[{ from: /a }]", "[{ from: ../a }]", "[{ from: a/../b }]", "[{ from: a, to: ../b }]",
				"[{ from: a, then: reload }]",
				"[{ from: a, then: kill 1 }]", "[{ from: a, then: '' }]", "[{ from: a, then: true }]",
				"[{ from: a, then: [8] }]", "[{ from: a, then: [''] }]", "[{ from: a, then: { command: [a] } }]"}},
		"images.x.ssh":     {[]string{"[]", "[default, 'a=b,c']"}, []string{"default", "['']", "['a=']"}},
		"keepImages":       {[]string{"1", "100", "null"}, []string{"0", "101", "'x'"}},
		"releases":         {[]string{"[]", "null"}, []string{"{}", "[{}]", "[null]"}},
		"releases[0].name": {[]string{"a.b"}, []string{"a_b", "null", strings.Repeat("a", 54)}},
		"releases[0]": {[]string{"{ name: r, chart: c, namespace: n, repo: 'https://h/x', version: ^1 }",
			"{ name: r, chart: 'oci://h/c', namespace: n, version: 1.x }"},
			[]string{"{ name: r, chart: c, namespace: n, repo: h }", "{ name: r, chart: c, namespace: n, repo: 'oci://h' }",
				"{ name: r, chart: 'oci://h/c', namespace: n, version: 1.2 }"}},
		"releases[0].chart": {[]string{"http://h/c.tgz", "'oci://h/c:1'", "deploy/dask-session"},
			[]string{"''", "null", "8"}},
		"releases[0].dependsOn": {[]string{"[]", "null"}, []string{"s", "[A]", "['']", "[8]", "[null]"}},
		"releases[0].inlineValues": {[]string{"{}", "null",
			"{ .a: { b.c: [1, { d: , e: 1.5 }], '': [] }, 8: true, f: 2024-01-02 }"}, []string{"[]", "a", "true"}},
		"releases[0].setString": {[]string{"{ a.b: 1, 'c\\.d[0]': null, e: '', f: 2024-01-02, g: .nan }", "null"},
			[]string{"{ .a: 1 }", "{ a: {} }", "{ a: [1] }", "[]"}},
		"releases[0].hooks": {[]string{"{}", "null", "{ before: , after: [] }"},
			[]string{"[]", "{ during: [] }", "{ before: {} }", "{ after: [~] }"}},
		"releases[0].hooks.after": {[]string{"[{ command: [a] }, { command: [b, '-c', '{ 8 }'], timeout: 1.5s }, " +
			"{ command: [c], timeout: }]"},
			[]string{"[{}]", "[{ command: }]", "[{ command: [] }]", "[{ command: a }]", "[{ command: [''] }]",
				"[{ command: [8] }]", "[{ command: [a], timeout: 1 }]", "[[a]]"}},
		"releases[0].onFailure": {[]string{"keep", "rollback", "null"}, []string{"''", "Keep", "true", "[keep]"}},
		"releases[0].sha256":    {[]string{"null", strings.Repeat("0a", 32)}, []string{strings.Repeat("0A", 32), "abc"}},
		"releases[0].set": {[]string{"{ a.b: 1, 'c\\.d[0]': null, e: '' }", "null"},
			[]string{"{ .a: 1 }", "{ a: {} }", "{ a: [1] }"}},
		"releases[0].values":   {[]string{"[values.yaml]"}, []string{"values.yaml"}},
		"health[0].deployment": {[]string{"'a=b,c in (d)'"}, []string{"''", "null"}},
		"cleanup":              {[]string{"{}", "null", "{ before: }"}, []string{"[]", "{ after: [] }", "{ before: [A] }"}},
		"forwards[0]": {[]string{"{ pod: a.b, namespace: n, port: 80, local: 0 }",
			"{ deployment: d, namespace: n, port: http, local: 1 }",
			"{ statefulset: s, namespace: n, port: '80', local: 1 }",
			"{ selector: 'a=b,!c', namespace: n, port: 80, local: 1 }"},
			[]string{"{ namespace: n, port: 80, local: 1 }", "{ pod: p, service: s, namespace: n, port: 80, local: 1 }",
				"{ pod: , namespace: n, port: 80, local: 1 }",
				"{ pod: , service: s, namespace: n, port: 80, local: 1 }", "{ pod: P, namespace: n, port: 80, local: 1 }",
				"{ pod: a..b, namespace: n, port: 80, local: 1 }",
				"{ selector: '', namespace: n, port: 80, local: 1 }", "{ deployment: " + strings.Repeat("a", 254) +
					", namespace: n, port: 80, local: 1 }"}},
		"forwards[0].port": {[]string{"1", "65535", "0x50", "'80'", "'65535'", "http", "8-0", "a--b", "'0a'",
			strings.Repeat("a", 63)},
			[]string{"0", "65536", "-1", "'0'", "'080'", "'65536'", "'99999999999999999999'", "8.5", "true", "[80]", "''",
				"Http", "-a", "a-", "8-", "a.b", "null", strings.Repeat("a", 64)}},
		"forwards[0].local": {[]string{"0", "65535"}, []string{"-1", "65536", "'80'", "http", "null"}},
		"forwards[0].bind": {[]string{"localhost", "127.0.0.1", "0.0.0.0", "'::'", "'::1'", "fe80::1", "'::ffff:10.0.0.1'",
			"null"},
			[]string{"''", "'*'", "Localhost", "example.com", "10.0.0", "127.0.0.1/8", "fe80::1%eth0", "'[::1]'", "8"}},
		"forwards[0].ready": {[]string{"/", "'/a?b=c'", "null"}, []string{"a", "/a b", "http://a"}},
		"forwards[0].hold": {[]string{"0", "0s", "1h30m", "1.5s", "100ms", "null"},
			[]string{"30", "-1s", "5min", "1 m", "true"}},
		"watch.quiet":      {[]string{"100ms", "null"}, []string{"5", "soon"}},
		"watch.limit":      {[]string{"1m", "null"}, []string{"5", "soon"}},
		"timeouts.rollout": {[]string{"1s", "null"}, []string{"5", "soon"}},
		"profiles": {[]string{"{}", "null", "{ a: , b: {} }"},
			[]string{"[]", "{ a: [] }", "{ 'a b': {} }", "{ a: { name: b } }"}},
		"profiles.p": {[]string{"{ releases: [{ name: r }] }", "{ kubeContext: , forwards: }",
			"{ forwards: [{ pod: p, namespace: n, port: 80 }] }"},
			[]string{"{ releases: [{}] }", "{ forwards: [{ service: s }] }", "{ forwards: [{ namespace: n, port: 80 }] }",
				"{ health: [{ namespace: n }] }"}},
		"other": {nil, []string{"1", "null"}},
	} {
		for i, value := range append(values.good, values.bad...) {
			text := strings.Replace(template(path), "@", value, 1)
			write(t, FileName, text)
			_, err := Load(Source{})
			if good := i < len(values.good); good != (err == nil) {
				t.Errorf("%s=%s: Load: %v", path, value, err)
			}
			if schemaErr := refusal(s, []byte(text)); (schemaErr == nil) != (err == nil) {
				t.Errorf("%s=%s: Load: %v; the schema: %v", path, value, err, schemaErr)
			}
		}
	}
}

// template returns a good file with @ as the value at path.
func template(path string) string {
	lines := map[string]string{
		"apiVersion": Version, "name": "p", "images.x": "{ context: sub }", "health[0].deployment": "a=b",
		"health[0].namespace": "n",
		"releases[0].name":    "r", "releases[0].chart": "chart.tgz", "releases[0].namespace": "n",
		"forwards[0].service": "s", "forwards[0].namespace": "n", "forwards[0].port": "80", "forwards[0].local": "8001",
	}
	for other := range lines {
		if rest, ok := strings.CutPrefix(other, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			delete(lines, other)
		}
	}
	lines[path] = "@"
	root := &tree.Node{Node: &yaml.Node{Kind: yaml.MappingNode}, Origin: &tree.Origin{}}
	for _, at := range slices.Sorted(maps.Keys(lines)) {
		root = assign(&tree.Report{}, root, Assignment{"", at + "=" + lines[at]}, 0)
	}
	return flow(root)
}

// flow returns n as YAML.
func flow(n *tree.Node) string {
	var parts []string
	switch {
	case n.IsMapping():
		for _, e := range n.Entries {
			parts = append(parts, e.Key.Value+": "+flow(e.Value))
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	case n.IsList():
		for _, item := range n.Items {
			parts = append(parts, flow(item))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return n.Value
}

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate checks text as an editor does: aliases and merged keys are followed, dates are text.
// Text that is not YAML passes: that is for the editor's parser.
func refusal(s *jsonschema.Schema, text []byte) error {
	root := (&tree.Report{}).Parse(&tree.Origin{}, text)
	if root == nil {
		return nil
	}
	return s.Validate(plain(root))
}

// plain returns n as encoding/json would.
func plain(n *tree.Node) any {
	switch {
	case n.IsMapping():
		m := map[string]any{}
		for _, e := range n.Entries {
			m[e.Key.Value] = plain(e.Value)
		}
		return m
	case n.IsList():
		list := []any{}
		for _, item := range n.Items {
			list = append(list, plain(item))
		}
		return list
	}
	var (
		truth bool
		other any
	)
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		if n.Decode(&truth) == nil {
			return truth
		}
	case "!!int", "!!float":
		if n.Decode(&other) == nil {
			if f, ok := other.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
				return 0.5 // JSON has no such number
			}
			return other
		}
	}
	return n.Value
}
