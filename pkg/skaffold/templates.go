package skaffold

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
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

// templateFunctions are those of skaffold's functions that devloop knows, besides those of Go.
var templateFunctions = template.FuncMap{
	"quote":      strconv.Quote,
	"squote":     func(s string) string { return "'" + s + "'" },
	"upper":      strings.ToUpper,
	"lower":      strings.ToLower,
	"trim":       strings.TrimSpace,
	"trimPrefix": func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"replace":    func(old, by, s string) string { return strings.ReplaceAll(s, old, by) },
	"default": func(otherwise string, given any) any {
		if given == nil || given == "" {
			return otherwise
		}
		return given
	},
	"cmd": func(...string) (string, error) {
		return "", errors.New("commands are not run while the file is read; " +
			"put what it prints into a variable of the environment")
	},
}

const knownFunctions = "of functions, devloop knows default, env, lower, quote, replace, squote, trim, trimPrefix, " +
	"trimSuffix and upper"

var (
	templatePrefix = regexp.MustCompile(`^template: set:\d+(:\d+)?: (executing "set" at )?`)
	action         = regexp.MustCompile(`(?s)\{\{.*?\}\}`)
	loop           = regexp.MustCompile(`^\{\{-?\s*(range|template|block|define)\b`)
	field          = regexp.MustCompile(`\.([A-Za-z_]\w*)`)
)

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
	expanded, err := s.execute(text)
	if err != nil {
		s.Wrong(n, "%s", templatePrefix.ReplaceAllString(err.Error(), ""))
		return "", false
	}
	if d := s.placeholder(digest, ""); strings.Contains(expanded, d) {
		s.inform(n, "the digest is left out: an image that is not pushed has none, and its tag is a hash of its content")
		expanded = strings.ReplaceAll(strings.ReplaceAll(expanded, "@"+d, ""), d, "")
	}
	return expanded, true
}

// execute executes the templates of text.
func (s *translator) execute(text string) (string, error) {
	values, unset := map[string]string{}, ""
	var failed error
	look := func(name string) (string, bool) {
		value, found, err := s.lookUp(name)
		failed = errors.Join(failed, err)
		return value, found
	}
	for _, action := range action.FindAllString(text, -1) {
		if loop.MatchString(action) {
			return "", fmt.Errorf("%s is not understood: devloop fills in variables", action)
		}
		for _, name := range field.FindAllStringSubmatch(action, -1) {
			if value, found := look(name[1]); found {
				values[name[1]] = value
			} else if unset == "" {
				unset = name[1]
			}
		}
	}
	env := func(name string) string {
		value, _ := look(name)
		return value
	}
	parsed, err := template.New("set").Funcs(templateFunctions).Funcs(template.FuncMap{"env": env}).Parse(text)
	if err != nil {
		return "", fmt.Errorf("%w; %s", err, knownFunctions)
	}
	out, err := filled(parsed, values)
	switch {
	case failed != nil:
		return "", failed
	case unset != "" && (err != nil || strings.Contains(out, "<no value>")):
		return "", s.noVariable(unset)
	case err != nil:
		return "", err
	}
	// What is known only when an image is built must come out as it went in.
	samples := maps.Clone(values)
	for name, value := range values {
		samples[name] = s.sample(value)
	}
	if other, err := filled(parsed, samples); err != nil || other != s.sample(out) {
		return "", errors.New("a function cannot change what is known only when the image is built")
	}
	return out, nil
}

// filled executes a template. What it makes is bounded.
func filled(t *template.Template, values map[string]string) (string, error) {
	var out bounded
	err := t.Execute(&out, values)
	return out.String(), err
}

// bounded is a text of at most maxValue bytes.
type bounded struct{ strings.Builder }

func (b *bounded) Write(text []byte) (int, error) {
	if b.Len()+len(text) > maxValue {
		return 0, errors.New("the value has more than 1 MiB")
	}
	return b.Builder.Write(text)
}

// lookUp returns the value of a variable: those of images come before the environment.
func (s *translator) lookUp(name string) (value string, found bool, err error) {
	if value, isOwn := s.own[name]; isOwn {
		return value, true, nil
	}
	if function, of := s.imageVariable(name); of != nil && s.own == nil {
		switch {
		case of.image == "":
			return "", true, fmt.Errorf("devloop does not build the image %q", of.name)
		case function == digest:
			return s.placeholder(digest, ""), true, nil
		}
		return s.placeholder(function, of.image), true, nil
	}
	value, found = s.lookupVariable(name)
	switch {
	case !found:
		return "", false, nil
	case !utf8.ValidString(value) || strings.ContainsFunc(value, isPlaceholder):
		return "", true, fmt.Errorf("the variable %s of the environment is no text", name)
	}
	if !slices.Contains(s.environment, name) {
		s.environment = append(s.environment, name)
	}
	return value, true, nil
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

// filled returns a single value with its templates filled in, nil if it was reported.
func (s *translator) filled(n *tree.Node) *tree.Node {
	text := s.text(n)
	if text == "" {
		return nil
	}
	text, ok := s.plain(n, text)
	if ok && text == "" {
		s.Wrong(n, "must not be empty")
	}
	if text == "" {
		return nil
	}
	return scalar(n, text)
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
