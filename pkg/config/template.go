package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"

	"github.com/devloop/devloop/pkg/config/tree"
)

// functions are what templates may call, each with the name of an image in
// quotes. They return a part of the image's reference. Templates know nothing else: so each names
// an image that exists, or is an error when the file is read, and none renders "<no value>".
var functions = map[string]any{
	"image":      func(ref string) string { return ref },
	"repository": repositoryOf,
	"tag":        func(ref string) string { return strings.TrimPrefix(undigested(ref)[len(repositoryOf(ref)):], ":") },
	"registry":   func(ref string) string { registry, _ := splitRegistry(ref); return registry },
	"path":       func(ref string) string { _, path := splitRegistry(ref); return path },
}

const usage = `a template is {{ image "name" }}, {{ repository "name" }}, {{ tag "name" }}, ` +
	`{{ registry "name" }} or {{ path "name" }}`

// splitRegistry splits the repository at its first slash: charts that ask for a registry join the
// two parts again.
func splitRegistry(ref string) (registry, path string) {
	if registry, path, found := strings.Cut(repositoryOf(ref), "/"); found {
		return registry, path
	}
	return "", repositoryOf(ref)
}

func repositoryOf(ref string) string {
	ref = undigested(ref)
	return ref[:tagColon(ref)]
}

// undigested is a reference without its digest: charts put tags into labels, which take no digest.
func undigested(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	return ref
}

// tagColon returns where the tag begins, len(ref) if there is none: a colon before the last slash
// belongs to a port.
func tagColon(ref string) int {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return i
	}
	return len(ref)
}

// Resolve returns a copy of r with the templates of its values and hooks filled in. images has the
// full reference of each image by its name, "worker:3fa9…", with its digest if it was pushed.
// Values without a template keep their type; a template makes a string.
func (r Release) Resolve(images map[string]string) (Release, error) {
	return r.fill(func(image string) (string, error) {
		if ref := images[image]; ref != "" {
			return ref, nil
		}
		return "", fmt.Errorf("image %q has not been built", image)
	})
}

// Resolve returns a copy of h with its templates filled in, as that of a Release.
func (h Hooks) Resolve(images map[string]string) (Hooks, error) {
	filled, err := Release{Hooks: h}.Resolve(images)
	return filled.Hooks, err
}

// Images returns the names of the images in the values and hooks of r, sorted.
func (r Release) Images() []string {
	var names []string
	_, _ = r.fill(func(image string) (string, error) { // a template that cannot be parsed names none
		names = append(names, image)
		return image, nil
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// fill returns a copy of r with its templates filled in; reference returns that of an image.
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
			return mapSlice(v, value)
		case map[string]any:
			return mapValues(v, value)
		}
		return v
	}
	r.InlineValues, r.Set = mapValues(r.InlineValues, value), mapValues(r.Set, value)
	r.SetString = mapValues(r.SetString, text)
	r.Hooks = r.Hooks.fill(text)
	return r, failed
}

// fill returns a copy of h in which text has filled in the templates.
func (h Hooks) fill(text func(string) string) Hooks {
	hook := func(h Hook) Hook {
		h.Command = mapSlice(h.Command, text)
		return h
	}
	return Hooks{Before: mapSlice(h.Before, hook), After: mapSlice(h.After, hook)}
}

// ResolveArgs returns the build arguments of i with their templates filled in. reference returns
// that of an image.
func (i Image) ResolveArgs(reference func(image string) string) map[string]string {
	return mapValues(i.Args, func(text string) string {
		filled, _ := render(text, func(image string) (string, error) { // it was checked when the file was read
			return reference(image), nil
		})
		return filled
	})
}

// Bases returns the names of the images that i is built from: those in its build arguments, sorted.
func (i Image) Bases() []string {
	var names []string
	for _, arg := range i.Args {
		names = append(names, imagesIn(arg)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// imagesIn returns the names of the images in the templates of text.
func imagesIn(text string) (names []string) {
	_, _ = render(text, func(image string) (string, error) { // a template that cannot be parsed names none
		names = append(names, image)
		return image, nil
	})
	return names
}

// mapSlice returns a copy of the list with change applied to each item.
func mapSlice[T any](list []T, change func(T) T) []T {
	list = slices.Clone(list)
	for i, item := range list {
		list[i] = change(item)
	}
	return list
}

// mapValues returns a copy of the map with change applied to each value.
func mapValues[M ~map[string]V, V any](m M, change func(V) V) M {
	m = maps.Clone(m)
	for key, v := range m {
		m[key] = change(v)
	}
	return m
}

// checkTemplate returns why the templates of text cannot be filled in with these images, or nil.
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
		function, argument, ok := call(node)
		if !ok {
			return "", fmt.Errorf("%s is not understood; %s", node, usage)
		}
		if function == "" {
			out.WriteString(argument)
			continue
		}
		ref, err := reference(argument)
		if err != nil {
			return "", err
		}
		out.WriteString(functions[function].(func(string) string)(ref))
	}
	return out.String(), nil
}

// call parses {{ function "image" }}, or {{ "text" }} without a function: that is how a value may
// hold a {{ of its own.
func call(node parse.Node) (function, argument string, ok bool) {
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 || len(action.Pipe.Cmds) != 1 {
		return "", "", false
	}
	args := action.Pipe.Cmds[0].Args
	if name, isName := args[0].(*parse.IdentifierNode); isName {
		function, args = name.Ident, args[1:]
	}
	if len(args) != 1 {
		return "", "", false
	}
	text, ok := args[0].(*parse.StringNode)
	if !ok {
		return "", "", false
	}
	return function, text.Text, true
}
