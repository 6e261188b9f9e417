package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/devloop/devloop/pkg/console"
)

// wrongTexts are values that the flags of a type do not take.
var wrongTexts = map[string][]string{
	"bool":     {"", "perhaps", "2"},
	"port":     {"", "x", "-1", "65536", "99999", "80%", "1.5", "0x50"},
	"lines":    {"", "x", "-1", "1.5", "10%", "4294967296"},
	"duration": {"", "soon", "5", "-5s", "0", "10%", "30 s"},
	"format":   {"", "xml", "JSON"},
	"mode":     {"", "pol"},
	"level":    {"", "loud", "WARN"},
	"state":    {"", "helthy"},
	"pattern":  {"", "[", "(a", "*"},
	// Any text is right until the configuration is read.
	"string": {"", "--verbose"}, "stringArray": {"", "--verbose"}, "stringSlice": {"", "a,,b", "--verbose", `a"b`},
}

var goWords = regexp.MustCompile(`strconv|pflag|shorthand|invalid syntax|(^|\s)(time|yaml|json):|listen tcp|` +
	`unmarshal|%!|\bnil\b|error parsing|parse error|stringArray|stringSlice|devloop: devloop`)

// complaint returns what devloop prints about a command line that it refuses, and the exit code.
func complaint(args ...string) (text string, code int) {
	var out bytes.Buffer
	o := &options{printer: console.NewPrinter(&out)}
	root := newRootCommand(o)
	root.SetArgs(args)
	root.SetOut(io.Discard)
	err := root.Execute()
	code = exitCode(err)
	o.printer.PrintError(err, code)
	return out.String(), code
}

// refused checks that devloop refuses a command line in a line that has some words, and a second
// one that says what to do, which it returns.
func refused(t *testing.T, args []string, words ...string) (hint string) {
	t.Helper()
	text, code := complaint(args...)
	problem, rest, _ := strings.Cut(text, "\n  → ")
	hint, after, _ := strings.Cut(rest, "\n")
	switch {
	case code != exitInput, !strings.HasPrefix(problem, "devloop: "), strings.Contains(problem, "\n"), hint == "",
		after != "":
		t.Errorf("%q: not one line with a hint, but with exit code %d:\n%s", args, code, text)
	case goWords.MatchString(text):
		t.Errorf("%q: %q is not for users:\n%s", args, goWords.FindString(text), text)
	}
	for _, word := range words {
		if !strings.Contains(problem, word) {
			t.Errorf("%q: does not name %s:\n%s", args, word, text)
		}
	}
	return hint
}

// emptyMachine is one on which nothing runs and nothing was ever used.
func emptyMachine(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, filepath.Join(dir, "home"))
	}
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(dir, "none"))
}

// eachFlag calls check for every flag of every command.
func eachFlag(check func(cmd *cobra.Command, line []string, flag *pflag.Flag)) {
	eachCommand(func(cmd *cobra.Command, line []string) {
		visit := func(flag *pflag.Flag) { check(cmd, line, flag) }
		cmd.LocalFlags().VisitAll(visit)
		cmd.InheritedFlags().VisitAll(visit)
	})
}

// eachCommand calls check for every command with the words that call it.
func eachCommand(check func(cmd *cobra.Command, line []string)) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		check(cmd, strings.Fields(cmd.CommandPath())[1:])
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(newRootCommand(&options{printer: console.NewPrinter(io.Discard)}))
}

func TestWrongValuesOfFlags(t *testing.T) {
	emptyMachine(t)
	eachFlag(func(_ *cobra.Command, line []string, flag *pflag.Flag) {
		texts := wrongTexts[flag.Value.Type()]
		if texts == nil {
			t.Errorf("--%s: no wrong values of type %q are known", flag.Name, flag.Value.Type())
		}
		for _, text := range texts {
			quoted := text
			if !strings.HasPrefix(text, "--") && text != "" {
				quoted = strconv.Quote(text)
			}
			refused(t, slices.Concat(line, []string{"--" + flag.Name + "=" + text}), "--"+flag.Name, quoted)
		}
		if flag.NoOptDefVal == "" {
			refused(t, slices.Concat(line, []string{"--" + flag.Name}), "--"+flag.Name, "missing")
		}
		if flag.Shorthand != "" && flag.NoOptDefVal == "" {
			refused(t, slices.Concat(line, []string{"-" + flag.Shorthand}), "--"+flag.Name, "missing")
		}
	})
}

func TestWrongVariables(t *testing.T) {
	emptyMachine(t)
	eachFlag(func(_ *cobra.Command, line []string, flag *pflag.Flag) {
		name := "DEVLOOP_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		if flag.Name == "help" || flag.Name == "version" || strings.HasPrefix(flag.Value.Type(), "string") {
			return
		}
		for _, text := range wrongTexts[flag.Value.Type()] {
			if text == "" {
				continue // as if it were not set
			}
			t.Setenv(name, text)
			hint := refused(t, slices.Concat(line, required(line)), name, strconv.Quote(text))
			if !strings.Contains(hint, "unset "+name) {
				t.Errorf("%s: the hint does not name it: %s", name, hint)
			}
		}
		if err := os.Unsetenv(name); err != nil {
			t.Error(err)
		}
	})
}

// required are the arguments without which a command does nothing.
func required(line []string) []string {
	switch strings.Join(line, " ") {
	case "man":
		return []string{"."}
	case "completion":
		return []string{"bash"}
	}
	return nil
}

func TestMisspeltFlags(t *testing.T) {
	emptyMachine(t)
	eachFlag(func(cmd *cobra.Command, line []string, flag *pflag.Flag) {
		for _, word := range misspelt(flag.Name) {
			if slices.Contains(flagNames(cmd), word) || skaffoldFlags[word] != "" || flagOwners(cmd)[word] != nil {
				continue
			}
			hint := refused(t, slices.Concat(line, []string{"--" + word}), "--"+word)
			if hint != "did you mean --"+flag.Name+"?" {
				t.Errorf("%v --%s: %s", line, word, hint)
			}
		}
		if hint := refused(t, slices.Concat(line, []string{"-" + flag.Name}), "-"+flag.Name); !strings.HasSuffix(hint,
			"two dashes: --"+flag.Name) && hint != skaffoldFlags[flag.Name] {
			t.Errorf("%v -%s: %s", line, flag.Name, hint)
		}
	})
}

// misspelt returns a word with a typo: a letter that is missing, wrong or there twice, two that
// changed places, and a capital.
func misspelt(word string) (all []string) {
	for i := 1; i < len(word); i++ {
		all = append(all, word[:i]+word[i+1:], word[:i]+word[i:i+1]+word[i:], word[:i]+"x"+word[i+1:])
		if word[i-1] != word[i] {
			all = append(all, word[:i-1]+word[i:i+1]+word[i-1:i]+word[i+1:])
		}
		if word[i] == '-' {
			all = append(all, word[:i]+"_"+word[i+1:], word[:i]+strings.ToUpper(word[i+1:i+2])+word[i+2:])
		}
	}
	return append(all, strings.ToUpper(word[:1])+word[1:])
}

func TestFlagsOfOthers(t *testing.T) {
	emptyMachine(t)
	eachCommand(func(cmd *cobra.Command, line []string) {
		for name, owners := range flagOwners(cmd) {
			hint := refused(t, slices.Concat(line, []string{"--" + name}), "--"+name)
			if want := skaffoldFlags[name]; hint != want && hint != "--"+name+" is a flag of "+strings.Join(owners, ", ") {
				t.Errorf("%v --%s: %s", line, name, hint)
			}
		}
		for name, want := range skaffoldFlags {
			if len(name) > 1 && cmd.Flags().Lookup(name) == nil && cmd.InheritedFlags().Lookup(name) == nil {
				if hint := refused(t, slices.Concat(line, []string{"--" + name}), "--"+name); hint != want {
					t.Errorf("%v --%s: %s", line, name, hint)
				}
			}
		}
	})
}

func TestWrongArguments(t *testing.T) {
	emptyMachine(t)
	for _, c := range []struct{ line, problem, hint string }{
		{"delte", `unknown release or command "delte"`, "did you mean: devloop delete"},
		{"build web", `build: unknown argument "web"`, "devloop build --help"},
		{"build --json false", `build: unknown argument "false"`, "write --json=false"},
		{"--cleanup false", `unknown argument "false"`, "write --cleanup=false"},
		{"clusters stpo", `clusters: unknown command "stpo"`, "did you mean: devloop clusters stop"},
		{"clusters x", `clusters: unknown argument "x"`, "devloop clusters --help"},
		{"clusters stop", `clusters stop: say which, by --stale or by their names`, "devloop clusters shows them"},
		{"completion", `completion: takes the name of one shell: bash, zsh or fish`, "devloop completion --help"},
		{"completion bash zsh", `completion: takes the name of one shell: bash, zsh or fish`, "devloop completion --help"},
		{"man", `man: takes the directory to write to`, "devloop man --help"},
		{"exec", "exec: takes a pod, and after -- a command", "devloop exec POD -- COMMAND"},
		{"shell a b", "shell: takes one release or pod", "a command in a pod: devloop exec POD -- COMMAND"},
		{"open a b", "open: opens one thing at a time", "devloop open --help"},
		{"help clusters stpo", `help: there is no command "stpo"`, "did you mean: devloop clusters stop"},
		{"help x y", `help: there is no command "x"`, "devloop --help"},
		{"logs [", `logs: "[" is not a valid regular expression: missing closing ] in [`,
			"use a regular expression, like dask-.*|gateway"},
		{"status --chain --wait healthy", "status: --chain and --wait exclude each other", "leave one of them out"},
		{"init --dask --from x", "init: --dask and --from exclude each other", "leave one of them out"},
		{"-q -v", "--quiet and --verbose contradict each other", "leave one of them out"},
		{"--=x", "bad flag syntax: --=x", "devloop --help"},
		{"-v -json", "unknown flag: -json",
			"--json is a flag of devloop build, devloop skew, devloop status, devloop version"},
		{"-profile=ci", "unknown flag: -profile", "a long flag has two dashes: --profile"},
		{"--no-page", "unknown flag: --no-page", "write --page=false"},
		{"--port-foward", "unknown flag: --port-foward", "skaffold's --port-forward: " + skaffoldFlags["port-forward"]},
		{"build --page-prot 1", "unknown flag: --page-prot", "did you mean --page-port? It is a flag of devloop"},
	} {
		if hint := refused(t, strings.Fields(c.line), "devloop: "+c.problem); hint != c.hint {
			t.Errorf("%s: %s", c.line, hint)
		}
	}
}

// A variable that is not set must not choose the pod that is meant without a name.
func TestEmptyNamesOfPods(t *testing.T) {
	emptyMachine(t)
	refused(t, []string{"exec", "", "--", "true"}, "devloop: exec: the name of the pod is empty")
	refused(t, []string{"shell", ""}, "devloop: shell: the name is empty")
}

// TestArgumentsOfNoMeaning is about what each command says of them, whatever it takes.
func TestArgumentsOfNoMeaning(t *testing.T) {
	emptyMachine(t)
	eachCommand(func(_ *cobra.Command, line []string) {
		text, code := complaint(slices.Concat(line, []string{"one", "two", "three", "four"})...)
		if code != exitInput && code != exitEnvironment || goWords.MatchString(text) {
			t.Errorf("%v: exit code %d, %s", line, code, text)
		}
	})
}

// TestAFlagWinsOverAVariable is about flags that contradict each other.
func TestAFlagWinsOverAVariable(t *testing.T) {
	emptyMachine(t)
	t.Setenv("DEVLOOP_QUIET", "true")
	o := &options{printer: console.NewPrinter(io.Discard)}
	root := newRootCommand(o)
	root.SetArgs([]string{"version", "-v"})
	root.SetOut(io.Discard)
	if err := root.Execute(); err != nil || o.quiet || !o.verbose {
		t.Errorf("quiet %t, verbose %t: %v", o.quiet, o.verbose, err)
	}
}

func TestWrongAssignments(t *testing.T) {
	emptyMachine(t)
	const file = "apiVersion: devloop/v1\nname: demo\nforwards: [{ service: s, namespace: n, port: 80, local: 8001 }]\n"
	if err := os.WriteFile("devloop.yaml", []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"nonsense", "=x", "[=1", "forwards=1", "forwards[=1", "forwards[0=1", "forwards[0].local=x",
		"forwards[0].local=99999", "forwards[0].local=-1", "forwards[x].local=1", "forwards[9].local=1", "forwards[0].port=0",
		"forwards.local=1",
		"name.x=1", "name=", "name=A B", "nmae=x", "timeouts.rollout=5", "timeouts.rollout=10%", "timeout.rollout=5m",
		"page.port=99999", "images.web.args=[", "keepImages=many", "buildIn=cluster", "images.web.platform=arm",
	} {
		got, code := complaint("build", "--set", text)
		problem, _, _ := strings.Cut(got, "\n  → ")
		problem = strings.TrimSpace(problem)
		if code != exitInput || !strings.HasPrefix(problem, "--set "+text+": ") || strings.Contains(problem, "\n") ||
			goWords.MatchString(got) {
			t.Errorf("--set %s: exit code %d, %s", text, code, got)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	eachCommand(func(cmd *cobra.Command, line []string) {
		help := cmd.Long + "\n" + cmd.UsageString()
		if found := regexp.MustCompile(`4294967295|default -1|stringArray|\bstrings\b`).FindString(help); found != "" {
			t.Errorf("%v: %q in its help", line, found)
		}
		for _, text := range strings.Split(help, "\n") {
			if limit := 100; len(text) > limit || len(text) > helpColumns && !strings.HasPrefix(text, "  ") {
				t.Errorf("%v: %d columns: %s", line, len(text), text)
			}
		}
		for _, flags := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
			for _, text := range strings.Split(flags.FlagUsagesWrapped(helpColumns), "\n") {
				if len(text) > helpColumns {
					t.Errorf("%v: %d columns: %s", line, len(text), text)
				}
			}
		}
	})
}
