package docs

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/skaffold"
)

const root = "../.."

func read(t *testing.T) []Page {
	t.Helper()
	pages, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 10 {
		t.Fatalf("only %d pages", len(pages))
	}
	return pages
}

// checks has one for each language that a block may be in. Shell is run: by cmd/devloop, and by the
// end-to-end tests.
var checks = map[string]func(t *testing.T, block Code) error{
	"sh":         func(*testing.T, Code) error { return nil },
	"text":       func(*testing.T, Code) error { return nil }, // what a program prints
	"mermaid":    func(*testing.T, Code) error { return nil }, // a diagram
	"yaml":       checkYAML,
	"ini":        checkINI,
	"python":     checkPython,
	"dockerfile": checkDockerfile,
	"json": func(_ *testing.T, block Code) error {
		return json.Unmarshal([]byte(block.Text), new(any))
	},
	"go": func(_ *testing.T, block Code) error {
		_, err := format.Source([]byte(block.Text))
		return err
	},
}

// Every block says what language it is in, and is right in it.
func TestBlocks(t *testing.T) {
	count := map[string]int{}
	for _, page := range read(t) {
		if !page.HasIntro {
			t.Errorf("%s: no paragraph below the title says what the page is about, and for whom", page.Path)
		}
		for _, row := range page.Loose {
			t.Errorf("%s: a row of a table without the rest of it: %s", row, row.Text)
		}
		for _, block := range page.Blocks {
			count[block.Language]++
			check := checks[block.Language]
			if check == nil {
				t.Errorf("%s: no rule for a block in %q: see \"Code in the documentation\" in test/README.md", block,
					block.Language)
				continue
			}
			t.Run(block.String(), func(t *testing.T) {
				if err := check(t, block); err != nil {
					t.Errorf("%s: %v\n%s", block, err, block.Text)
				}
			})
		}
	}
	t.Log(count)
}

// checkYAML loads a block as what it is: by default a devloop.yaml, or some keys of one. The files
// that it names are made up.
func checkYAML(t *testing.T, block Code) error {
	var content map[string]any // of the first document
	decoder := yaml.NewDecoder(strings.NewReader(block.Text))
	if err := decoder.Decode(&content); err != nil {
		return err
	}
	for {
		if err := decoder.Decode(new(any)); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	t.Chdir(t.TempDir())
	format, _ := content["apiVersion"].(string)
	switch {
	case strings.HasPrefix(format, "skaffold/"):
		makeFiles(t, content)
		write(t, "skaffold.yaml", block.Text)
		_, err := config.Load(config.Source{Files: []string{"skaffold.yaml"}, Translate: skaffold.Options{}.Translate})
		return err
	case block.Where == "config.yaml": // the user's own settings
		write(t, "config.yaml", block.Text)
		_, err := config.LoadSettings("config.yaml")
		return err
	case block.Where != "" || format != "" && content["kind"] != nil:
		return nil // another program's
	}
	files := []string{"devloop.yaml"}
	if format == "" { // some keys, below those that every file has
		const images = "images:\n  worker: { dockerfile: Dockerfile }\n  daskclient: { dockerfile: Dockerfile }\n"
		write(t, "base.yaml", "apiVersion: devloop/v1\nname: example\n"+images)
		write(t, "Dockerfile", "FROM scratch\n")
		files = []string{"base.yaml", "devloop.yaml"}
	}
	makeFiles(t, content)
	write(t, "devloop.yaml", block.Text)
	_, err := config.Load(config.Source{Files: files})
	return err
}

// makeFiles makes up the files and folders that a configuration names.
func makeFiles(t *testing.T, content map[string]any) {
	t.Helper()
	images, _ := content["images"].(map[string]any)
	for _, image := range images {
		keys, _ := image.(map[string]any)
		folder := filepath.FromSlash(str(keys["context"]))
		name := str(keys["dockerfile"])
		if name == "" {
			name = filepath.Join(folder, "Dockerfile")
		}
		if err := os.MkdirAll(filepath.Join(".", folder), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, name, "FROM scratch\n")
	}
	releases, _ := content["releases"].([]any)
	for _, release := range releases {
		keys, _ := release.(map[string]any)
		if chart := str(keys["chart"]); chart != "" && keys["repo"] == nil && !strings.Contains(chart, "://") {
			write(t, filepath.Join(chart, "Chart.yaml"), "")
		}
		for _, name := range list(keys["values"]) {
			write(t, name, "")
		}
		for _, name := range list(keys["manifests"]) {
			if strings.HasSuffix(name, "/") {
				name += "*.yaml"
			}
			write(t, strings.ReplaceAll(name, "*", "example"), "")
		}
		if folder := str(keys["kustomize"]); folder != "" {
			write(t, filepath.Join(folder, "kustomization.yaml"), "")
		}
	}
	local, _ := content["local"].(map[string]any)
	if name := str(local["requirements"]); name != "" {
		write(t, name, "")
	}
}

func str(value any) string {
	text, _ := value.(string)
	return text
}

func list(value any) (texts []string) {
	values, _ := value.([]any)
	for _, value := range values {
		texts = append(texts, str(value))
	}
	return texts
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkPython compiles a block. The end-to-end tests run those on the platform, too.
func checkPython(t *testing.T, block Code) error {
	return inPython(t, block, "import sys; compile(sys.stdin.read(), sys.argv[1], 'exec')")
}

// checkINI reads a block as pip does a pip.conf.
func checkINI(t *testing.T, block Code) error {
	return inPython(t, block, "import sys, configparser; configparser.RawConfigParser().read_file(sys.stdin, sys.argv[1])")
}

func inPython(t *testing.T, block Code, program string) error {
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", program, block.Page)
	cmd.Stdin = strings.NewReader(block.Text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// checkDockerfile lints a whole Dockerfile, and parses a part of one.
func checkDockerfile(t *testing.T, block Code) error {
	result, err := parser.Parse(strings.NewReader(block.Text))
	if err != nil {
		return err
	}
	if first := strings.ToUpper(result.AST.Children[0].Value); first != "FROM" && first != "ARG" {
		return nil
	}
	t.Chdir(t.TempDir())
	write(t, "Dockerfile", block.Text)
	findings, err := build.Lint(t.Context(), build.Image{Name: "example", Dockerfile: "Dockerfile", Context: "."})
	for _, finding := range findings {
		err = errors.Join(err, fmt.Errorf("line %d: %s: %s", finding.Line, finding.Message, finding.Hint))
	}
	return err
}

// sourcePath is a path of the repository's own, and not of an example: deploy/ may be both.
var sourcePath = regexp.MustCompile(`^(cmd|pkg|test|docs)/[\w./-]*\w$`)

// The repository's own files and make's targets that inline code names are there.
func TestNames(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	made := strings.Split(string(ignored), "\n") // by programs
	for _, page := range read(t) {
		for _, span := range page.Spans {
			first, rest, _ := strings.Cut(span.Text, " ")
			if sourcePath.MatchString(first) && !slices.Contains(made, "/"+first) {
				if _, err := os.Stat(filepath.Join(root, first)); err != nil {
					t.Errorf("%s: `%s`: %v", span, span.Text, err)
				}
			}
			if target, _, _ := strings.Cut(rest, " "); first == "make" && target != "" {
				if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(makefile) {
					t.Errorf("%s: `%s`: the Makefile has no target %s", span, span.Text, target)
				}
			}
		}
	}
}

var keyPath = regexp.MustCompile(`^([a-z]\w*)[.[][\w.<>[\]-]+$`)

// The keys of a devloop.yaml that inline code names by their path are in the list of all.
func TestKeys(t *testing.T) {
	var keys []*regexp.Regexp
	sections := map[string]bool{}
	pages := read(t)
	for _, page := range pages {
		if page.Path != "pkg/config/keys.md" {
			continue
		}
		for _, span := range page.Spans {
			pattern := strings.NewReplacer(`<name>`, `[\w<>-]+`, `\[\]`, `(\[[^]]*\])?`).Replace(regexp.QuoteMeta(span.Text))
			keys = append(keys, regexp.MustCompile("^"+pattern+"$"))
			if match := keyPath.FindStringSubmatch(span.Text); match != nil {
				sections[match[1]] = true
			}
		}
	}
	if len(sections) < 5 {
		t.Fatalf("keys.md has only the sections %v", sections)
	}
	others := []string{"local.push"} // skaffold's, below build
	for _, page := range pages {
		for _, span := range page.Spans {
			match := keyPath.FindStringSubmatch(span.Text)
			if match == nil || !sections[match[1]] || strings.HasSuffix(span.Text, ".go") || slices.Contains(others, span.Text) {
				continue
			}
			if !slices.ContainsFunc(keys, func(key *regexp.Regexp) bool { return key.MatchString(span.Text) }) {
				t.Errorf("%s: devloop.yaml has no key %s", span, span.Text)
			}
		}
	}
}

// What programs make is no page, and may lie in the repository: the README has its readers make a
// .venv in it.
func TestRead(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"a.md", "more/b.md", ".venv/lib/c.md", "bin/d.md", "pkg/x/testdata/e.md"} {
		write(t, name, "# Title\n")
	}
	pages, err := Read(".")
	if err != nil || len(pages) != 2 || pages[0].Path != "a.md" || pages[1].Path != "more/b.md" {
		t.Errorf("%+v, %v", pages, err)
	}
}

func TestParse(t *testing.T) {
	const source = "# Title\n\n" +
		"Text with `a\nb`, [a link](other.md#x) and `[none](here)`.\n\n" +
		"| x |\n| --- |\n| `c \\| d` |\n\n" +
		"1. A list:\n   ```sh not-run: a reason\n   one\n     two\n   ```\n\n" +
		"## More\n\n    indented\n\n~~~\nplain\n~~~\n\n| y |\n\n| --- |\n"
	got := parse("page.md", []byte(source))
	want := Page{Path: "page.md", HasIntro: true,
		Headings: []string{"Title", "More"}, Links: []string{"other.md#x"},
		Blocks: []Code{
			{Page: "page.md", Line: 12, Language: "sh", Where: "not-run: a reason", Text: "one\n  two\n"},
			{Page: "page.md", Line: 18, Text: "indented\n"},
			{Page: "page.md", Line: 21, Text: "plain\n"},
		},
		Spans: []Code{{Page: "page.md", Line: 3, Text: "a b"}, {Page: "page.md", Line: 4, Text: "[none](here)"},
			{Page: "page.md", Line: 8, Text: "c | d"}},
		Loose: []Code{{Page: "page.md", Line: 24, Text: "| y |"}, {Page: "page.md", Line: 26, Text: "| --- |"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%#v\nnot %#v", got, want)
	}
}

func TestCommands(t *testing.T) {
	got, err := Commands("a 'b c' \"$D\" && x --set='y[z]' 2> >(jq .) # no\n$(e) | f $(g h)\n")
	want := `[["a" "b c" "$D"] ["x" "--set=y[z]"] ["jq" "."] ["..."] ["e"] ["f" "..."] ["g" "h"]]`
	if err != nil || fmt.Sprintf("%q", got) != want {
		t.Errorf("%q (%v), not %s", got, err, want)
	}
	if _, err := Commands("a | "); err == nil {
		t.Error("a pipe into nothing is no command")
	}
}
