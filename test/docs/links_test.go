package docs

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	external = regexp.MustCompile(`^[a-z]+:`)
	named    = regexp.MustCompile(`\b(?:docs/[\w./-]+\.(?:md|png)|README\.md|ARCHITECTURE\.md)(?:#[\w-]+)?`)
)

// Every relative link of a page leads to a file, and to a heading in it; so does every page that
// code names, in a hint or a comment. Every page and picture in docs is linked from somewhere.
func TestLinks(t *testing.T) {
	pages := read(t)
	reached := map[string]bool{}
	for _, page := range pages {
		for _, link := range page.Links {
			if external.MatchString(link) {
				continue
			}
			target, anchor, _ := strings.Cut(link, "#")
			if target = path.Join(path.Dir(page.Path), target); strings.HasPrefix(link, "#") {
				target = page.Path
			}
			if target != page.Path {
				reached[target] = true
			}
			if err := leads(pages, target, anchor); err != nil {
				t.Errorf("%s: a link to %s: %v", page.Path, link, err)
			}
		}
	}
	err := walk(root, func(name string) error {
		if path.Dir(name) == "docs" && !reached[name] {
			t.Errorf("%s: no page links to it", name)
		}
		if !slices.Contains([]string{".go", ".sh", ".yaml", ".yml"}, path.Ext(name)) {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		for _, link := range named.FindAllString(string(text), -1) {
			target, anchor, _ := strings.Cut(link, "#")
			if err := leads(pages, target, anchor); err != nil {
				t.Errorf("%s: it names %s: %v", name, link, err)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leads tells what is wrong with a link to a file of the repository.
func leads(pages []Page, target, anchor string) error {
	if _, err := os.Stat(filepath.Join(root, target)); err != nil {
		return err
	}
	if anchor == "" {
		return nil
	}
	for _, page := range pages {
		if page.Path == target && slices.Contains(anchors(page.Headings), anchor) {
			return nil
		}
	}
	return fmt.Errorf("%s has no heading #%s", target, anchor)
}

var linkTarget = regexp.MustCompile(`\]\([^)]*\)`)

// anchors returns the anchors that GitHub gives the headings of a page.
func anchors(headings []string) (found []string) {
	seen := map[string]int{}
	for _, text := range headings {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, linkTarget.ReplaceAllString(text, "]"))
		if seen[anchor]++; seen[anchor] > 1 {
			anchor = fmt.Sprintf("%s-%d", anchor, seen[anchor]-1)
		}
		found = append(found, anchor)
	}
	return found
}

func TestAnchors(t *testing.T) {
	got := anchors([]string{"One `word`, two", "A [link](x.md)", "One word, two"})
	if want := []string{"one-word-two", "a-link", "one-word-two-1"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}
