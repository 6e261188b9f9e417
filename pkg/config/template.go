package config

// The templates of values and hooks. They know five functions, each of them takes the name of an image, and text in
// quotes, and nothing else: so a template either names an image that exists or is an error when the file is read, and none renders
// "<no value>".

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/devloop/devloop/pkg/config/tree"
)

// functions maps what a template may call to the part of an image's reference that it returns.
var functions = map[string]any{
	"image":      func(ref string) string { return ref },
	"repository": func(ref string) string { return undigested(ref)[:tagColon(undigested(ref))] },
	"tag":        func(ref string) string { return strings.TrimPrefix(undigested(ref)[tagColon(undigested(ref)):], ":") },
	"registry":   func(ref string) string { registry, _ := halves(ref); return registry },
	"path":       func(ref string) string { _, path := halves(ref); return path },
}

const usage = `a template is {{ image "name" }}, {{ repository "name" }}, {{ tag "name" }}, {{ registry "name" }} or {{ path "name" }}`

// halves are what charts that ask for a registry put together again, with a slash: the repository up to its first slash,
// and the rest.
func halves(ref string) (registry, path string) {
	repository := undigested(ref)[:tagColon(undigested(ref))]
	if registry, path, found := strings.Cut(repository, "/"); found {
		return registry, path
	}
	return "", repository
}

// undigested is a reference without its digest: charts put tags into labels, which take no digest.
func undigested(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	return ref
}

// tagColon returns where the tag begins, len(ref) if there is none: a colon before the last slash is a port's.
func tagColon(ref string) int {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return i
	}
	return len(ref)
}

// Resolve returns a copy of r whose values and hooks have their templates filled in. images maps the name of an image to
// its full reference, "worker:3fa9…", with its digest behind that if it was pushed. Values that are no template keep their type; what a template gives is a string.
func (r Release) Resolve(images map[string]string) (Release, error) {
	return r.fill(func(image string) (string, error) {
		if ref := images[image]; ref != "" {
			return ref, nil
		}
		return "", fmt.Errorf("image %q has not been built", image)
	})
}

// Images returns the names of those images that the values or hooks of r name.
func (r Release) Images() []string {
	var names []string
	_, _ = r.fill(func(image string) (string, error) { // what cannot be understood names none
		if !slices.Contains(names, image) {
			names = append(names, image)
		}
		return image, nil
	})
	slices.Sort(names)
	return names
}

// fill returns a copy of r whose templates are filled in; reference returns that of an image.
func (r Release) fill(reference func(image string) (string, error)) (Release, error) {
	var failed error
	text := func(text string) string {
		filled, err := render(text, reference)
		if err != nil {
			failed = fmt.Errorf("release %s: %w", r.Name, err)
		}
		return filled
	}
	var value func(v any) any
	value = func(v any) any {
		switch v := v.(type) {
		case string:
			return text(v)
		case []any:
			return each(v, value)
		case map[string]any:
			return under(v, value)
		}
		return v
	}
	hook := func(h Hook) Hook {
		h.Command = each(h.Command, text)
		return h
	}
	r.InlineValues, r.Set, r.SetString = under(r.InlineValues, value), under(r.Set, value), under(r.SetString, text)
	r.Hooks = Hooks{Before: each(r.Hooks.Before, hook), After: each(r.Hooks.After, hook)}
	return r, failed
}

// each returns a copy of the list, of what change makes of each item.
func each[T any](list []T, change func(T) T) []T {
	list = slices.Clone(list)
	for i, item := range list {
		list[i] = change(item)
	}
	return list
}

// under returns a copy of the map, of what change makes of each value.
func under[M ~map[string]V, V any](m M, change func(V) V) M {
	m = maps.Clone(m)
	for key, v := range m {
		m[key] = change(v)
	}
	return m
}

// checkTemplate returns why the templates of text cannot be filled in once these images are built, or nil.
func checkTemplate(text string, images []string) error {
	_, err := render(text, func(image string) (string, error) {
		if slices.Contains(images, image) {
			return image + ":tag", nil
		}
		return "", fmt.Errorf("no image is called %q%s", image, tree.DidYouMean(image, images))
	})
	return err
}

var parserPrefix = regexp.MustCompile(`^template: set:\d+: `)

// render fills in the templates of text; reference returns that of an image.
func render(text string, reference func(image string) (string, error)) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	trees, err := parse.Parse("set", text, "", "", functions)
	if err != nil {
		return "", fmt.Errorf("%s; %s", parserPrefix.ReplaceAllString(err.Error(), ""), usage)
	}
	var out strings.Builder
	for _, node := range trees["set"].Root.Nodes {
		if plain, ok := node.(*parse.TextNode); ok {
			out.Write(plain.Text)
			continue
		}
		if text, ok := constant(node); ok {
			out.WriteString(text)
			continue
		}
		function, image, ok := call(node)
		if !ok {
			return "", fmt.Errorf("%s is not understood; %s", node, usage)
		}
		ref, err := reference(image)
		if err != nil {
			return "", err
		}
		out.WriteString(functions[function].(func(string) string)(ref))
	}
	return out.String(), nil
}

// constant takes {{ "text" }} apart: so a value may hold what would begin a template, {{ "{{" }}.
func constant(node parse.Node) (text string, ok bool) {
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 || len(action.Pipe.Cmds) != 1 || len(action.Pipe.Cmds[0].Args) != 1 {
		return "", false
	}
	plain, ok := action.Pipe.Cmds[0].Args[0].(*parse.StringNode)
	if !ok {
		return "", false
	}
	return plain.Text, true
}

// call takes {{ function "image" }} apart.
func call(node parse.Node) (function, image string, ok bool) {
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 || len(action.Pipe.Cmds) != 1 || len(action.Pipe.Cmds[0].Args) != 2 {
		return "", "", false
	}
	name, isName := action.Pipe.Cmds[0].Args[0].(*parse.IdentifierNode)
	text, isText := action.Pipe.Cmds[0].Args[1].(*parse.StringNode)
	if !isName || !isText {
		return "", "", false
	}
	return name.Ident, text.Text, true
}
