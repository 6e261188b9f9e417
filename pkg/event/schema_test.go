package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the payloads in schema.json anew")

// schemaEnd is where the part of schema.json begins that the payloads make.
const schemaEnd = ",\n  \"allOf\": ["

// TestSchemaHasThePayloads: of each message, the schema says which fields it has.
func TestSchemaHasThePayloads(t *testing.T) {
	content, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(content), schemaEnd)
	docs := comments(t, "payload.go", "proof.go")
	defs := map[string]any{}
	var rules []any
	for _, message := range slices.Sorted(maps.Keys(vocabulary)) {
		word := vocabulary[message]
		if word.payload == nil {
			continue
		}
		then := schemaOf(reflect.TypeOf(word.payload), docs, defs)
		if word.start != nil {
			then = map[string]any{"anyOf": []any{then, schemaOf(reflect.TypeOf(word.start), docs, defs)}}
		}
		rules = append(rules, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"msg": map[string]any{"const": message}}},
			"then": map[string]any{"properties": map[string]any{"fields": then}},
		})
	}
	var lines, types []string
	for _, rule := range rules {
		lines = append(lines, "\n    "+compact(t, rule))
	}
	for _, name := range slices.Sorted(maps.Keys(defs)) {
		types = append(types, "\n    \""+name+"\": "+compact(t, defs[name]))
	}
	want := head + schemaEnd + strings.Join(lines, ",") + "\n  ],\n  \"$defs\": {" + strings.Join(types, ",") +
		"\n  }\n}\n"
	if *update {
		if err := os.WriteFile("schema.json", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(content) {
		t.Error("schema.json is not what payload.go says; renew it: go test ./pkg/event -update")
	}
}

func compact(t *testing.T, value any) string {
	t.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(out.String(), "\n")
}

// schemaOf returns the schema of a type, and adds structs in it to defs.
func schemaOf(of reflect.Type, docs map[string]string, defs map[string]any) map[string]any {
	simple := func(kind string) map[string]any { return map[string]any{"type": kind} }
	switch {
	case of == reflect.TypeFor[Image](), of == reflect.TypeFor[time.Time](), of.Kind() == reflect.String:
		return simple("string")
	case of.Kind() == reflect.Float64:
		return simple("number")
	case of.Kind() == reflect.Int, of.Kind() == reflect.Int64:
		return simple("integer")
	case of.Kind() == reflect.Bool:
		return simple("boolean")
	case of == reflect.TypeFor[Timings]():
		return map[string]any{"type": "object", "additionalProperties": simple("number")}
	case of.Kind() == reflect.Slice:
		return map[string]any{"type": []string{"array", "null"}, "items": schemaOf(of.Elem(), docs, defs)}
	}
	if defs[of.Name()] == nil {
		properties := map[string]any{}
		for _, field := range reflect.VisibleFields(of) {
			key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if field.Anonymous || key == "-" || key == "" {
				continue
			}
			owner := of
			for _, i := range field.Index[:len(field.Index)-1] {
				owner = owner.Field(i).Type
			}
			property := schemaOf(field.Type, docs, defs)
			if doc := docs[owner.Name()+"."+field.Name]; doc != "" {
				property["description"] = doc
			}
			properties[key] = property
		}
		defs[of.Name()] = map[string]any{"type": "object", "description": docs[of.Name()], "properties": properties}
	}
	return map[string]any{"$ref": "#/$defs/" + of.Name()}
}

// comments returns those of the types in files, and of their fields.
func comments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	docs := map[string]string{}
	text := func(groups ...*ast.CommentGroup) string {
		all := ""
		for _, group := range groups {
			all += " " + group.Text()
		}
		return strings.Join(strings.Fields(all), " ")
	}
	for _, file := range files {
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(source, func(n ast.Node) bool {
			if group, ok := n.(*ast.GenDecl); ok && len(group.Specs) == 1 {
				if named, ok := group.Specs[0].(*ast.TypeSpec); ok {
					docs[named.Name.Name] = text(group.Doc)
				}
			}
			if named, ok := n.(*ast.TypeSpec); ok {
				if named.Doc != nil {
					docs[named.Name.Name] = text(named.Doc)
				}
				if fields, ok := named.Type.(*ast.StructType); ok {
					for _, f := range fields.Fields.List {
						for _, name := range f.Names {
							docs[named.Name.Name+"."+name.Name] = text(f.Doc, f.Comment)
						}
					}
				}
			}
			return true
		})
	}
	for name, doc := range docs { // "Pod is a pod of …"
		doc = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSuffix(doc, "."), name+" is "), name+" are ")
		docs[name] = doc
	}
	return docs
}
