package config

// The templates of set values. They know three functions, each of them takes the name of an image, and nothing else: so
// a template either names an image that exists or is an error when the file is read, and none renders "<no value>".

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template/parse"
)

// functions maps what a template may call to the part of an image's reference that it returns.
var functions = map[string]any{
	"image":      func(ref string) string { return ref },
	"repository": func(ref string) string { return ref[:tagColon(ref)] },
	"tag":        func(ref string) string { return strings.TrimPrefix(ref[tagColon(ref):], ":") },
}

const usage = `a template is {{ image "name" }}, {{ repository "name" }} or {{ tag "name" }}`

// tagColon returns where the tag begins, len(ref) if there is none: a colon before the last slash is a port's.
func tagColon(ref string) int {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return i
	}
	return len(ref)
}

// Resolve returns the values of r.Set with their templates filled in. images maps the name of an image to its full
// reference, "worker:3fa9…". Values that are no template keep their type; what a template gives is a string.
func (r Release) Resolve(images map[string]string) (map[string]any, error) {
	resolved := make(map[string]any, len(r.Set))
	for key, v := range r.Set {
		text, ok := v.(string)
		if !ok {
			resolved[key] = v
			continue
		}
		filled, err := render(text, func(image string) (string, error) {
			if ref := images[image]; ref != "" {
				return ref, nil
			}
			return "", fmt.Errorf("image %q has not been built", image)
		})
		if err != nil {
			return nil, fmt.Errorf("release %s: value %s: %w", r.Name, key, err)
		}
		resolved[key] = filled
	}
	return resolved, nil
}

// checkTemplate returns why the templates of text cannot be filled in once these images are built, or nil.
func checkTemplate(text string, images []string) error {
	_, err := render(text, func(image string) (string, error) {
		if slices.Contains(images, image) {
			return image + ":tag", nil
		}
		return "", fmt.Errorf("no image is called %q%s", image, didYouMean(image, images))
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
