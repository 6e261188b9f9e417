package skaffold

// The templates of skaffold.yaml: what they say of images becomes a template of devloop.yaml, what they say of the
// environment is filled in when the file is read.

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode/utf8"

	"github.com/devloop/devloop/pkg/config/tree"
)

// piece is a part of a text: characters, or what a function of devloop's templates says of an image.
type piece struct {
	text            string
	function, image string
}

// digest stands for a function that devloop does not have: an image that is not pushed has no digest.
const digest = "digest"

// imageVariables are what skaffold's templates know of each image, by the function of devloop's templates that says it. The names of
// images follow, or their numbers.
var imageVariables = map[string]string{
	"IMAGE_FULLY_QUALIFIED": "image",
	"DIGEST":                "image", // which skaffold keeps for files of its first days
	"IMAGE_NAME":            "repository",
	"IMAGE_REPO":            "repository",
	"IMAGE_TAG":             "tag",
	"IMAGE_DIGEST":          digest,
	"IMAGE_DOMAIN":          "registry",
	"IMAGE_REPO_NO_DOMAIN":  "path",
}

var notInVariable = regexp.MustCompile(`[^A-Za-z0-9]`)

// variable is an image's name as it stands in the name of a variable.
func variable(image string) string { return notInVariable.ReplaceAllString(image, "_") }

// imageVariable returns what a variable says of which artifact; ok is false if it is none of an image's.
func (s *translator) imageVariable(name string) (function string, of *artifact, ok bool) {
	for prefix, function := range imageVariables {
		for i := range s.artifacts {
			a := &s.artifacts[i]
			if name == prefix+"_"+variable(a.name) || name == prefix+strconv.Itoa(i+1) && i > 0 || name == prefix && i == 0 {
				return function, a, true
			}
		}
	}
	return "", nil, false
}

// templateFunctions are those that skaffold's templates may call here, with the number of their arguments.
var templateFunctions = map[string]int{
	"default": 2, "quote": 1, "squote": 1, "upper": 1, "lower": 1, "trim": 1, "trimPrefix": 2, "trimSuffix": 2, "replace": 3, "env": 1, "cmd": -1,
}

var templatePrefix = regexp.MustCompile(`^template: set:\d+: `)

// expand reads the templates of text, which stands at n. ok is false if that was reported.
func (s *translator) expand(n *tree.Node, text string) (pieces []piece, ok bool) {
	if !strings.Contains(text, "{{") {
		return []piece{{text: text}}, true
	}
	functions := map[string]any{}
	for name := range templateFunctions {
		functions[name] = name
	}
	trees, err := parse.Parse("set", text, "", "", functions)
	if err != nil {
		s.Wrong(n, "%s; of functions, devloop knows default, env, lower, quote, replace, squote, trim, trimPrefix, trimSuffix and upper",
			templatePrefix.ReplaceAllString(err.Error(), ""))
		return nil, false
	}
	if trees["set"] == nil || trees["set"].Root == nil { // nothing but definitions
		return nil, true
	}
	for _, part := range trees["set"].Root.Nodes {
		more, err := s.part(part)
		if err != nil {
			s.Wrong(n, "%v", err)
			return nil, false
		}
		pieces = append(pieces, more...)
	}
	return s.undigested(n, joined(pieces)), true
}

// part evaluates one part of a template.
func (s *translator) part(part parse.Node) ([]piece, error) {
	switch part := part.(type) {
	case *parse.TextNode:
		return []piece{{text: string(part.Text)}}, nil
	case *parse.ActionNode:
		if len(part.Pipe.Decl) == 0 {
			value, err := s.pipe(part.Pipe)
			if err == nil && value.missing != "" {
				err = s.noVariable(value.missing)
			}
			return value.pieces, err
		}
	}
	return nil, fmt.Errorf("%s is not understood; devloop fills in variables, and no more", part)
}

// templateValue is what a part of a template stands for.
type templateValue struct {
	pieces  []piece
	missing string // the variable that is not there
}

func (s *translator) pipe(pipe *parse.PipeNode) (value templateValue, err error) {
	for i, command := range pipe.Cmds {
		var last []templateValue
		if i > 0 {
			last = []templateValue{value}
		}
		if value, err = s.command(command, last); err != nil {
			return value, err
		}
	}
	return value, nil
}

// command evaluates a variable, a constant, or a function of them; last is what stands before a |.
func (s *translator) command(command *parse.CommandNode, last []templateValue) (templateValue, error) {
	name, isFunction := command.Args[0].(*parse.IdentifierNode)
	if !isFunction {
		if len(command.Args) == 1 && last == nil {
			return s.operand(command.Args[0])
		}
		return templateValue{}, fmt.Errorf("%s is not understood; devloop fills in variables, and no more", command)
	}
	if name.Ident == "cmd" {
		return templateValue{}, fmt.Errorf("%s is not run while the file is read; put what it prints into a variable of the environment", command)
	}
	var args []templateValue
	for _, arg := range command.Args[1:] {
		value, err := s.operand(arg)
		if err != nil {
			return value, err
		}
		args = append(args, value)
	}
	args = append(args, last...)
	if len(args) != templateFunctions[name.Ident] {
		return templateValue{}, fmt.Errorf("%s takes %d values, and is given %d", name.Ident, templateFunctions[name.Ident], len(args))
	}
	return s.call(name.Ident, args)
}

func (s *translator) operand(arg parse.Node) (templateValue, error) {
	switch arg := arg.(type) {
	case *parse.FieldNode:
		if len(arg.Ident) == 1 {
			return s.lookUp(arg.Ident[0])
		}
	case *parse.StringNode:
		return templateValue{pieces: []piece{{text: arg.Text}}}, nil
	case *parse.NumberNode:
		return templateValue{pieces: []piece{{text: arg.Text}}}, nil
	case *parse.PipeNode:
		return s.pipe(arg)
	}
	return templateValue{}, fmt.Errorf("%s is not understood; devloop fills in variables, and no more", arg)
}

// call calls a function that has as many arguments as it needs.
func (s *translator) call(name string, args []templateValue) (templateValue, error) {
	last := args[len(args)-1]
	if name == "default" {
		if last.missing != "" || len(joined(last.pieces)) == 0 {
			return args[0], nil
		}
		return last, nil
	}
	texts := make([]string, len(args))
	for i, arg := range args {
		if arg.missing != "" {
			return arg, nil
		}
		for _, p := range arg.pieces {
			if p.function != "" {
				return templateValue{}, fmt.Errorf("%s cannot change what is known only when the image is built", name)
			}
			texts[i] += p.text
		}
	}
	result := ""
	switch name {
	case "env":
		return s.lookUp(texts[0])
	case "quote":
		result = strconv.Quote(texts[0])
	case "squote":
		result = "'" + texts[0] + "'"
	case "upper":
		result = strings.ToUpper(texts[0])
	case "lower":
		result = strings.ToLower(texts[0])
	case "trim":
		result = strings.TrimSpace(texts[0])
	case "trimPrefix":
		result = strings.TrimPrefix(texts[1], texts[0])
	case "trimSuffix":
		result = strings.TrimSuffix(texts[1], texts[0])
	case "replace":
		result = strings.ReplaceAll(texts[2], texts[0], texts[1])
	}
	return templateValue{pieces: []piece{{text: result}}}, nil
}

// lookUp returns what a variable holds: those of the images come before the environment.
func (s *translator) lookUp(name string) (templateValue, error) {
	if function, of, ok := s.imageVariable(name); ok {
		if of.image == "" {
			return templateValue{}, fmt.Errorf("image %q is built by %s, which devloop does not do: what is deployed would lack it", of.name, of.builder)
		}
		s.names[of.name] = true
		return templateValue{pieces: []piece{{function: function, image: of.image}}}, nil
	}
	text, found := s.lookupVariable(name)
	switch {
	case !found:
		return templateValue{missing: name}, nil
	case !utf8.ValidString(text):
		return templateValue{}, fmt.Errorf("the variable %s of the environment is no text", name)
	}
	if !slices.Contains(s.environment, name) {
		s.environment = append(s.environment, name)
	}
	return templateValue{pieces: []piece{{text: text}}}, nil
}

// noVariable says that a variable is not there, and what may have been meant.
func (s *translator) noVariable(name string) error {
	if !strings.HasPrefix(name, "IMAGE_") {
		return fmt.Errorf("the environment has no variable %q", name)
	}
	var known []string
	for prefix := range imageVariables {
		for _, a := range s.artifacts {
			known = append(known, prefix+"_"+variable(a.name))
		}
	}
	slices.Sort(known)
	return fmt.Errorf("no image has a variable %q, nor has the environment%s", name, tree.DidYouMean(name, known))
}

// joined puts neighbouring texts together, and drops empty ones.
func joined(pieces []piece) []piece {
	var list []piece
	for _, p := range pieces {
		switch {
		case p.function == "" && p.text == "":
		case p.function == "" && len(list) > 0 && list[len(list)-1].function == "":
			list[len(list)-1].text += p.text
		default:
			list = append(list, p)
		}
	}
	return list
}

// undigested drops digests, and the @ before them.
func (s *translator) undigested(n *tree.Node, pieces []piece) []piece {
	var list []piece
	for _, p := range pieces {
		if p.function != digest {
			list = append(list, p)
			continue
		}
		if len(list) > 0 {
			before := &list[len(list)-1]
			before.text = strings.TrimSuffix(before.text, "@")
		}
		s.inform(n, "the digest is left out: an image that is not pushed has none, and its tag is a hash of its content")
	}
	return joined(list)
}

// plain is expand for what no template of devloop.yaml may stand in.
func (s *translator) plain(n *tree.Node, text string) (filled string, ok bool) {
	pieces, ok := s.expand(n, text)
	for _, p := range pieces {
		if p.function != "" {
			s.Wrong(n, "names an image: what is known only when it is built cannot stand here")
			return "", false
		}
		filled += p.text
	}
	return filled, ok
}

// templated is a text with templates of devloop.yaml.
func templated(pieces []piece) string {
	var out strings.Builder
	for i, p := range pieces {
		if p.function != "" {
			fmt.Fprintf(&out, "{{ %s %q }}", p.function, p.image)
			continue
		}
		text, end := p.text, ""
		if i+1 < len(pieces) && strings.HasSuffix(strings.ReplaceAll(text, "{{", ""), "{") {
			text, end = text[:len(text)-1], `{{ "{" }}`
		}
		out.WriteString(escapedBraces(text) + end)
	}
	return out.String()
}

// escapedBraces is a text that means itself where templates are filled in.
func escapedBraces(text string) string { return strings.ReplaceAll(text, "{{", `{{ "{{" }}`) }

// letter is a character, or a piece that stands for an unknown number of them.
type letter struct {
	r     rune
	piece *piece
}

// assigned is one value that helm --set sets: a single one, or a list.
type assigned struct {
	path   string
	value  []piece
	isList bool
	list   [][]piece
}

// helmSet reads path=value as helm --set does: a comma begins another path=value, { } hold a list, and \ takes the meaning off the
// next character.
func helmSet(path string, value []piece) (set []assigned, err error) {
	var rest []letter
	for _, r := range path + "=" {
		rest = append(rest, letter{r: r})
	}
	for _, p := range value {
		if p.function != "" {
			rest = append(rest, letter{piece: &p})
			continue
		}
		for _, r := range p.text {
			rest = append(rest, letter{r: r})
		}
	}
	for len(rest) > 0 {
		var a assigned
		if a, rest, err = helmAssigned(rest); err != nil {
			return nil, err
		}
		set = append(set, a)
	}
	return set, nil
}

// helmAssigned takes the first path=value off.
func helmAssigned(rest []letter) (a assigned, left []letter, err error) {
	for i := 0; ; i++ {
		switch {
		case i == len(rest) || rest[i].piece == nil && rest[i].r == ',':
			return a, nil, fmt.Errorf("helm --set reads %q as a key without a value: a comma within a value is written \\,", a.path)
		case rest[i].piece != nil:
			return a, nil, fmt.Errorf("helm --set reads what is behind a comma as another key: a comma within a value is written \\,")
		case rest[i].r == '\\' && i+1 < len(rest) && rest[i+1].piece == nil:
			a.path += string(rest[i].r) + string(rest[i+1].r)
			i++
			continue
		case rest[i].r != '=':
			a.path += string(rest[i].r)
			continue
		}
		rest = rest[i+1:]
		break
	}
	if len(rest) == 0 || rest[0].piece != nil || rest[0].r != '{' {
		a.value, _, left = until(rest, ",")
		return a, left, nil
	}
	a.isList = true
	for rest = rest[1:]; ; {
		item, stop, after := until(rest, ",}")
		if stop == 0 {
			return a, nil, fmt.Errorf("helm --set reads { as the beginning of a list, which has no }: a { that begins a value is written \\{")
		}
		a.list = append(a.list, item)
		if rest = after; stop == '}' {
			break
		}
	}
	if len(rest) > 0 && rest[0].piece == nil && rest[0].r == ',' {
		rest = rest[1:]
	}
	return a, rest, nil
}

// until reads up to one of the characters of stops. stop is 0 if none comes.
func until(letters []letter, stops string) (read []piece, stop rune, rest []letter) {
	for i := 0; i < len(letters); i++ {
		l := letters[i]
		switch {
		case l.piece != nil:
			read = append(read, *l.piece)
			continue
		case l.r == '\\':
			if i++; i == len(letters) {
				return joined(read), 0, nil
			}
			if l = letters[i]; l.piece != nil {
				read = append(read, *l.piece)
				continue
			}
		case strings.ContainsRune(stops, l.r):
			return joined(read), l.r, letters[i+1:]
		}
		read = append(read, piece{text: string(l.r)})
	}
	return joined(read), 0, nil
}

// helmTyped is a value of helm --set with the type that Helm gives it: text that looks like a number is one.
func helmTyped(n *tree.Node, value []piece) *tree.Node {
	text := ""
	for _, p := range value {
		if p.function != "" {
			return scalar(n, templated(value))
		}
		text += p.text
	}
	switch {
	case strings.EqualFold(text, "true"), strings.EqualFold(text, "false"):
		return typed(n, "!!bool", strings.ToLower(text))
	case strings.EqualFold(text, "null"):
		return typed(n, "!!null", "null")
	}
	if number, err := strconv.ParseInt(text, 10, 64); err == nil && (text == "0" || text[0] != '0') {
		return typed(n, "!!int", strconv.FormatInt(number, 10))
	}
	return scalar(n, escapedBraces(text))
}
