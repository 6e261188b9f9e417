package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/test/docs"
)

const repository = "../.."

func documentation(t *testing.T) []docs.Page {
	t.Helper()
	pages, err := docs.Read(repository)
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

// elsewhere are the words behind "sh" that say where a block runs, if not in TestDocumentedShell,
// and the file that runs it.
var elsewhere = map[string]string{
	"cluster":  "test/e2e/docs_test.go",
	"platform": "test/e2e/platform_test.go",
	"install":  "test/dist",
}

// TestDocumentedShell runs the shell blocks of the documentation that need no cluster, each in a
// copy of this repository's platform, on a machine on which nothing else was ever used.
func TestDocumentedShell(t *testing.T) {
	for _, block := range docs.Blocks(documentation(t), "sh") {
		t.Run(block.String(), func(t *testing.T) {
			reason, isNotRun := strings.CutPrefix(block.Where, "not-run:")
			switch {
			case isNotRun:
				if strings.TrimSpace(reason) == "" {
					t.Error("not-run: without a reason")
				}
			case block.Where == "":
				runBlock(t, block)
			case elsewhere[block.Where] == "":
				t.Errorf("there is no word %q for where it runs: see test/README.md", block.Where)
			case block.Where == "install": // of the pages that it names
				script, err := os.ReadFile(filepath.Join(repository, elsewhere[block.Where]))
				if err != nil || !strings.Contains(string(script), "/"+block.Page) {
					t.Errorf("%s does not read %s (%v)", elsewhere[block.Where], block.Page, err)
				}
			}
		})
	}
}

func runBlock(t *testing.T, block docs.Code) {
	t.Helper()
	dir, home := t.TempDir(), t.TempDir()
	const files = "Makefile devloop.yaml deploy analysis requirements.txt .dockerignore Dockerfile.worker " +
		"Dockerfile.client"
	for _, name := range strings.Fields(files) {
		if out, err := exec.Command("cp", "-R", filepath.Join(repository, name), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euxo", "pipefail", "-c", block.Text)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home,
		"DOCKER_HOST=unix://" + filepath.Join(home, "docker.sock"), "MAKEFLAGS=n"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s\nsaid, with the command after each +:\n%s", block, err, block.Text, out)
	}
}

// TestDocumentedCommands parses each command line of devloop's in the documentation: its command,
// its flags, the values that these may have, and its arguments. A release must be in an example.
func TestDocumentedCommands(t *testing.T) {
	pages := documentation(t)
	releases := exampleReleases(t, pages)
	seen := 0
	check := func(code docs.Code, text string) {
		commands, err := docs.Commands(text)
		if err != nil {
			t.Errorf("%s: bash cannot read it: %v\n%s", code, err, text)
			return
		}
		for _, words := range commands {
			if words[0] != "devloop" {
				continue
			}
			seen++
			if err := parseCommand(words[1:], releases); err != nil {
				t.Errorf("%s: %s: %v", code, strings.Join(words, " "), err)
			}
		}
	}
	for _, block := range docs.Blocks(pages, "sh") {
		check(block, block.Text)
	}
	for _, block := range docs.Blocks(pages, "text") { // what is typed, and what is then printed
		for line := range strings.Lines(block.Text) {
			if typed, ok := strings.CutPrefix(line, "$ "); ok {
				check(block, typed)
			}
		}
	}
	for _, page := range pages {
		for _, span := range page.Spans {
			switch first, _, _ := strings.Cut(span.Text, " "); first {
			case "devloop", "kubectl", "make", "helm", "docker":
				check(span, span.Text)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d command lines", seen)
	}
}

var releaseName = regexp.MustCompile(`\bname: *([\w-]+)`)

// exampleReleases returns the names in the documentation's examples, and in this repository's own
// devloop.yaml.
func exampleReleases(t *testing.T, pages []docs.Page) (names []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "devloop.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range append(docs.Blocks(pages, "yaml"), docs.Code{Text: string(text)}) {
		for _, match := range releaseName.FindAllStringSubmatch(block.Text, -1) {
			names = append(names, match[1])
		}
	}
	return names
}

// parseCommand checks a command line as far as that goes without running it.
func parseCommand(args, releases []string) error {
	root := newRootCommand(&options{printer: console.NewPrinter(os.Stderr)})
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	if cmd.Flags().Lookup("only") != nil {
		for _, name := range cmd.Flags().Args() {
			if !slices.Contains(releases, name) && !isPlaceholder(name) {
				return fmt.Errorf("neither a command, nor a release of an example: %s", name)
			}
		}
	}
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		complete, ok := cmd.GetFlagCompletionFunc(flag.Name)
		if !ok {
			return
		}
		values, directive := complete(cmd, nil, "")
		if value := flag.Value.String(); directive == cobra.ShellCompDirectiveNoFileComp && len(values) > 0 &&
			!slices.Contains(values, value) && !isPlaceholder(value) {
			err = errors.Join(err, fmt.Errorf("--%s: %q is none of %s", flag.Name, value, strings.Join(values, ", ")))
		}
	})
	return err
}

// isPlaceholder tells whether a word stands for what the reader puts there: NAME..., [release...].
func isPlaceholder(word string) bool {
	return strings.HasPrefix(word, "[") || word == strings.ToUpper(word)
}

var (
	variableName = regexp.MustCompile(`\bDEVLOOP_[A-Z_]*[A-Z]\b`)
	flagName     = regexp.MustCompile(`^--([a-z][a-z-]*)`)
)

// othersFlags are those of other programs that the documentation names without the program.
var othersFlags = []string{
	"atomic",                          // helm
	"extra-index-url", "no-cache-dir", // pip
	"port-forward", "status-check", // skaffold
}

// TestDocumentedFlags looks for each flag and each variable of devloop's that a page names by
// itself: a variable belongs to a flag, or is in the code.
func TestDocumentedFlags(t *testing.T) {
	flags, variables := map[string]bool{}, map[string]bool{}
	add := func(flag *pflag.Flag) {
		flags[flag.Name] = true
		variables["DEVLOOP_"+strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))] = true
	}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		cmd.Flags().VisitAll(add)
		cmd.PersistentFlags().VisitAll(add)
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	root := newRootCommand(&options{printer: console.NewPrinter(os.Stderr)})
	root.InitDefaultVersionFlag()
	visit(root)
	for _, folder := range []string{"cmd", "pkg"} {
		err := filepath.WalkDir(filepath.Join(repository, folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, name := range variableName.FindAllString(string(text), -1) {
				variables[name] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, page := range documentation(t) {
		for _, code := range slices.Concat(page.Blocks, page.Spans) {
			for _, name := range variableName.FindAllString(code.Text, -1) {
				if !variables[name] {
					t.Errorf("%s: no flag has the variable %s, and no code reads it", code, name)
				}
			}
		}
		for _, span := range page.Spans {
			name := flagName.FindStringSubmatch(span.Text)
			if name != nil && !flags[name[1]] && !slices.Contains(othersFlags, name[1]) {
				t.Errorf("%s: no command has the flag %s", span, span.Text)
			}
		}
	}
}
