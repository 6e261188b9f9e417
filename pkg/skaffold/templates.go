package skaffold

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode/utf8"

	"github.com/devloop/devloop/pkg/config/tree"
)

// imageVariables are skaffold's variables of an image, and the functions of devloop's templates for
// them. In skaffold.yaml, "_" and the image's name follows, or the image's number.
var imageVariables = map[string]string{
	"IMAGE_FULLY_QUALIFIED": "image",
	"DIGEST":                "image", // of skaffold's first days
	"IMAGE_NAME":            "repository",
	"IMAGE_REPO":            "repository",
	"IMAGE_TAG":             "tag",
	"IMAGE_DIGEST":          digest,
	"IMAGE_DOMAIN":          "registry",
	"IMAGE_REPO_NO_DOMAIN":  "path",
}

var notInVariable = regexp.MustCompile(`[^A-Za-z0-9]`)

// variable returns an image's name as it is part of a variable's name.
func variable(image string) string { return notInVariable.ReplaceAllString(image, "_") }

// imageVariable returns what a variable says about which artifact, nil if it is of no image.
func (s *translator) imageVariable(name string) (function string, of *artifact) {
	for prefix, function := range imageVariables {
		for i, a := range s.artifacts {
			if name == prefix+"_"+variable(a.name) || name == prefix+strconv.Itoa(i+1) && i > 0 || name == prefix && i == 0 {
				return function, &a
			}
		}
	}
	return "", nil
}

// templateFunction is a function of skaffold's templates.
type templateFunction struct {
	arguments int
	call      func(a []string) string
}

var templateFunctions = map[string]templateFunction{
	"quote":      {1, func(a []string) string { return strconv.Quote(a[0]) }},
	"squote":     {1, func(a []string) string { return "'" + a[0] + "'" }},
	"upper":      {1, func(a []string) string { return strings.ToUpper(a[0]) }},
	"lower":      {1, func(a []string) string { return strings.ToLower(a[0]) }},
	"trim":       {1, func(a []string) string { return strings.TrimSpace(a[0]) }},
	"trimPrefix": {2, func(a []string) string { return strings.TrimPrefix(a[1], a[0]) }},
	"trimSuffix": {2, func(a []string) string { return strings.TrimSuffix(a[1], a[0]) }},
	"replace":    {3, func(a []string) string { return strings.ReplaceAll(a[2], a[0], a[1]) }},
	"default":    {2, nil}, // these three depend on more than text
	"env":        {1, nil},
	"cmd":        {-1, nil},
}

var parserPrefix = regexp.MustCompile(`^template: set:\d+: `)

const knownFunctions = "of functions, devloop knows default, env, lower, quote, replace, squote, trim, trimPrefix, " +
	"trimSuffix and upper"

// expand fills in the templates of text, a value at n: the environment at once, images as
// placeholders. ok is false if something was reported.
func (s *translator) expand(n *tree.Node, text string) (expanded string, ok bool) {
	if strings.ContainsFunc(text, isPlaceholder) {
		s.Wrong(n, "has a character that text cannot have")
		return "", false
	}
	if !strings.Contains(text, "{{") {
		return text, true
	}
	template := parse.New("set")
	template.Mode = parse.SkipFuncCheck
	template, err := template.Parse(text, "", "", map[string]*parse.Tree{})
	if err != nil {
		s.Wrong(n, "%s; %s", parserPrefix.ReplaceAllString(err.Error(), ""), knownFunctions)
		return "", false
	}
	for _, part := range template.Root.Nodes {
		value, err := s.eval(part)
		if p, found := s.findPlaceholder(value, unset); found && err == nil {
			err = s.noVariable(p.name)
		}
		if err != nil {
			s.Wrong(n, "%v", err)
			return "", false
		}
		expanded += value
	}
	if d := s.placeholder(digest, ""); strings.Contains(expanded, d) {
		s.inform(n, "the digest is left out: an image that is not pushed has none, and its tag is a hash of its content")
		expanded = strings.ReplaceAll(strings.ReplaceAll(expanded, "@"+d, ""), d, "")
	}
	return expanded, true
}

func notUnderstood(node parse.Node) error {
	return fmt.Errorf("%s is not understood; devloop fills in variables, and no more", node)
}

// eval evaluates a node of a template.
func (s *translator) eval(node parse.Node) (string, error) {
	switch node := node.(type) {
	case *parse.TextNode:
		return string(node.Text), nil
	case *parse.StringNode:
		return node.Text, nil
	case *parse.NumberNode:
		return node.Text, nil
	case *parse.FieldNode:
		if len(node.Ident) == 1 {
			return s.lookUp(node.Ident[0])
		}
	case *parse.ActionNode:
		if len(node.Pipe.Decl) == 0 {
			return s.eval(node.Pipe)
		}
	case *parse.PipeNode:
		var before []string
		for _, command := range node.Cmds {
			value, err := s.command(command, before)
			if err != nil {
				return "", err
			}
			before = []string{value}
		}
		return before[0], nil
	}
	return "", notUnderstood(node)
}

// command evaluates a variable, a constant, or a function of them; before has the value before a |.
func (s *translator) command(command *parse.CommandNode, before []string) (string, error) {
	name, isFunction := command.Args[0].(*parse.IdentifierNode)
	switch {
	case !isFunction && len(command.Args) == 1 && before == nil:
		return s.eval(command.Args[0])
	case !isFunction:
		return "", notUnderstood(command)
	case templateFunctions[name.Ident].arguments == 0:
		return "", fmt.Errorf("function %q not defined; %s", name.Ident, knownFunctions)
	case name.Ident == "cmd":
		return "", fmt.Errorf("%s is not run while the file is read; "+
			"put what it prints into a variable of the environment", command)
	}
	var args []string
	for _, arg := range command.Args[1:] {
		value, err := s.eval(arg)
		if err != nil {
			return "", err
		}
		args = append(args, value)
	}
	args = append(args, before...)
	if function := templateFunctions[name.Ident]; len(args) != function.arguments {
		return "", fmt.Errorf("%s takes %d values, and is given %d", name.Ident, function.arguments, len(args))
	}
	return s.call(name.Ident, args)
}

// call calls a function with as many arguments as it needs.
func (s *translator) call(name string, args []string) (string, error) {
	if name == "default" {
		if _, isUnset := s.findPlaceholder(args[1], unset); isUnset || args[1] == "" {
			return args[0], nil
		}
		return args[1], nil
	}
	for _, arg := range args {
		p, found := s.findPlaceholder(arg)
		switch {
		case found && p.function == unset:
			return arg, nil
		case found:
			return "", fmt.Errorf("%s cannot change what is known only when the image is built", name)
		}
	}
	if name == "env" {
		return s.lookUp(args[0])
	}
	return templateFunctions[name].call(args), nil
}

// lookUp returns the value of a variable: those of images come before the environment.
func (s *translator) lookUp(name string) (string, error) {
	if value, isOwn := s.own[name]; isOwn {
		return value, nil
	}
	if function, of := s.imageVariable(name); of != nil && s.own == nil {
		if of.image == "" {
			return "", fmt.Errorf("devloop does not build the image %q", of.name)
		}
		if function == digest {
			return s.placeholder(digest, ""), nil
		}
		return s.placeholder(function, of.image), nil
	}
	text, found := s.lookupVariable(name)
	switch {
	case !found:
		return s.placeholder(unset, name), nil
	case !utf8.ValidString(text) || strings.ContainsFunc(text, isPlaceholder):
		return "", fmt.Errorf("the variable %s of the environment is no text", name)
	}
	if !slices.Contains(s.environment, name) {
		s.environment = append(s.environment, name)
	}
	return text, nil
}

// noVariable says that a variable is not set, and which one may have been meant.
func (s *translator) noVariable(name string) error {
	if !strings.HasPrefix(name, "IMAGE_") {
		return fmt.Errorf("the environment has no variable %q", name)
	}
	var known []string
	for _, prefix := range slices.Sorted(maps.Keys(imageVariables)) {
		for _, a := range s.artifacts {
			known = append(known, prefix+"_"+variable(a.name))
		}
	}
	return fmt.Errorf("no image has a variable %q, nor has the environment%s", name, tree.DidYouMean(name, known))
}

// plain is expand for a value that cannot hold a template of devloop.yaml.
func (s *translator) plain(n *tree.Node, text string) (filled string, ok bool) {
	filled, ok = s.expand(n, text)
	if _, found := s.findPlaceholder(filled); found {
		s.Wrong(n, "names an image: what is known only when it is built cannot stand here")
		return "", false
	}
	return filled, ok
}
