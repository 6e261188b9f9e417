// What a RUN installs: just enough of the shell, and of the programs that install, to tell an installation, where it keeps what it
// downloads, and from which files it installs. What is not recognised is taken for something else, so that no advice is given on it.
package build

import (
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// installer is a way to install: a program, and what it is asked for.
type installer struct {
	program string
	verbs   []string // any of them; none: whatever the program is asked for
	caches  []cache
	off     []string // options and variables that have it keep no cache
	files   []string // what it installs from where its arguments name no packages; none: what its options name
}

// cache is a folder for what was downloaded or compiled.
type cache struct {
	path string // for root, in the official images
	word string // by which a mount at another path is recognised
}

// installers are asked in this order. What apt and apk download, the official images delete themselves.
func installers() []installer {
	var (
		pip    = []cache{{"/root/.cache/pip", "pip"}}
		uv     = []cache{{"/root/.cache/uv", "uv"}}
		npm    = []cache{{"/root/.npm", "npm"}}
		yarn   = []cache{{"/usr/local/share/.cache/yarn", "yarn"}}
		pnpm   = []cache{{"/root/.local/share/pnpm/store", "pnpm"}}
		module = cache{"/go/pkg/mod", "mod"}
		object = cache{"/root/.cache/go-build", "go-build"}
		cargo  = []cache{{"/usr/local/cargo/registry", "cargo"}}
		maven  = []cache{{"/root/.m2", "m2"}}
		gradle = []cache{{"/root/.gradle", "gradle"}}
	)
	pipOff, uvOff := []string{"--no-cache-dir", "PIP_NO_CACHE_DIR"}, []string{"--no-cache", "UV_NO_CACHE"}
	return []installer{
		{"pip", []string{"install", "download", "wheel"}, pip, pipOff, nil},
		{"uv", []string{"pip install", "pip sync", "add", "tool install"}, uv, uvOff, nil},
		{"uv", []string{"sync"}, uv, uvOff, []string{"pyproject.toml", "uv.lock"}},
		{"npm", []string{"ci", "clean-install", "install", "i"}, npm, nil, []string{"package.json", "package-lock.json", "npm-shrinkwrap.json"}},
		{"yarn", []string{"", "install"}, yarn, nil, []string{"package.json", "yarn.lock"}},
		{"yarn", []string{"add", "global add"}, yarn, nil, nil},
		{"pnpm", []string{"install", "i"}, pnpm, nil, []string{"package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml"}},
		{"pnpm", []string{"add", "fetch"}, pnpm, nil, nil},
		{"go", []string{"mod download"}, []cache{module}, nil, []string{"go.mod", "go.sum"}},
		{"go", []string{"build", "install", "test", "run", "get"}, []cache{object, module}, nil, nil},
		{"cargo", []string{"build", "install", "fetch", "test", "run", "check", "chef cook"}, cargo, nil, nil},
		{"mvn", []string{"dependency:go-offline", "dependency:resolve"}, maven, nil, []string{"pom.xml"}},
		{"mvn", nil, maven, nil, nil},
		{"gradle", nil, gradle, nil, nil},
	}
}

// installation is one command of a RUN.
type installation struct {
	by      installer
	command string   // "pip install"
	off     string   // what has it keep no cache, where the command itself says so
	files   []string // that it installs from: absolute, or relative to the working directory
}

// installations returns what a RUN installs.
func installations(run *instructions.RunCommand) []installation {
	var commands [][]string
	switch {
	case !run.PrependShell: // an exec form
		commands = [][]string{run.CmdLine}
	case len(run.CmdLine) > 0:
		commands = splitCommands(run.CmdLine[0])
	}
	if len(commands) > 0 && len(commands[0]) > 0 {
		first := commands[0][0]
		if strings.HasPrefix(first, "<<") || isShell(first) { // a heredoc is a script for it
			for _, file := range run.Files {
				commands = append(commands, splitCommands(file.Data)...)
			}
		}
	}
	return recognise(commands)
}

func isShell(program string) bool {
	return slices.Contains([]string{"sh", "bash", "ash", "dash", "zsh"}, path.Base(program))
}

// isShort tells whether an argument ends in a short option, as -lc does in -c.
func isShort(arg, option string) bool {
	return strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && strings.HasSuffix(arg, option)
}

// recognise finds the installations among commands that a shell runs one after the other.
func recognise(commands [][]string) (found []installation) {
	dir := ""
	for _, words := range commands {
		var set []string // variables, for this command alone
		for len(words) > 0 {
			name, _, assigned := strings.Cut(words[0], "=")
			if assigned {
				set = append(set, name)
			} else if !slices.Contains([]string{"if", "then", "else", "do", "while", "!", "{", "exec", "time", "env", "sudo", "command"}, words[0]) {
				break
			}
			words = words[1:]
		}
		if len(words) == 0 {
			continue
		}
		args := words[1:]
		switch {
		case words[0] == "cd" && len(args) == 1:
			if path.IsAbs(args[0]) {
				dir = ""
			}
			dir = path.Join(dir, args[0])
		case isShell(words[0]):
			option := slices.IndexFunc(args, func(arg string) bool { return isShort(arg, "c") })
			if option >= 0 && option+1 < len(args) {
				found = append(found, recognise(splitCommands(args[option+1]))...)
			}
		default:
			if i, ok := installationBy(words[0], args); ok {
				for _, off := range i.by.off {
					if slices.Contains(args, off) || slices.Contains(set, off) {
						i.off = off
					}
				}
				for n, file := range i.files {
					if !path.IsAbs(file) {
						i.files[n] = path.Join(dir, file)
					}
				}
				found = append(found, i)
			}
		}
	}
	return found
}

// installationBy tells what a program with these arguments installs.
func installationBy(program string, args []string) (installation, bool) {
	program = strings.TrimRight(path.Base(program), "0123456789.") // pip3.11
	if program == "python" && len(args) > 1 && args[0] == "-m" {
		program, args = args[1], args[2:]
	}
	if program == "mvnw" || program == "gradlew" { // what a repository brings along
		program = strings.TrimSuffix(program, "w")
	}
	if slices.ContainsFunc(args, func(arg string) bool { return arg == "--version" || arg == "--help" || arg == "--no-index" }) {
		return installation{}, false
	}
	var plain []string // no options, though maybe their values
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			plain = append(plain, arg)
		}
	}
	for _, i := range installers() {
		if i.program != program {
			continue
		}
		verb, ok := verbOf(plain, i.verbs)
		if !ok {
			continue
		}
		named := plain[len(strings.Fields(verb)):]
		found := installation{by: i, command: strings.TrimSpace(program + " " + verb)}
		switch {
		case verb == "pip sync":
			found.files = slices.Clone(named)
		case len(i.files) > 0 && len(named) == 0 && !slices.Contains(args, "-g") && !slices.Contains(args, "--global"):
			found.files = slices.Clone(i.files)
		case len(i.files) == 0:
			found.files = requirements(args)
		}
		return found, true
	}
	return installation{}, false
}

// verbOf returns which of the verbs the arguments begin with, or the first argument if any will do.
func verbOf(plain, verbs []string) (string, bool) {
	if len(verbs) == 0 {
		return strings.Join(plain[:min(1, len(plain))], ""), len(plain) > 0
	}
	for _, verb := range verbs {
		words := strings.Fields(verb)
		if len(words) == 0 && len(plain) == 0 || len(words) > 0 && len(plain) >= len(words) && slices.Equal(plain[:len(words)], words) {
			return verb, true
		}
	}
	return "", false
}

// requirements are the files of pip's options -r, also as in -qr and -rfile.
func requirements(args []string) (files []string) {
	for i, arg := range args {
		long, isLong := strings.CutPrefix(arg, "--requirement")
		long = strings.TrimPrefix(long, "s") // uv's
		short, _ := strings.CutPrefix(arg, "-r")
		switch {
		case isLong && strings.HasPrefix(long, "="):
			files = append(files, long[1:])
		case short != arg && short != "":
			files = append(files, short)
		case isLong && long == "", isShort(arg, "r"):
			if i+1 < len(args) {
				files = append(files, args[i+1])
			}
		}
	}
	return files
}

// splitCommands splits a shell script at its operators into commands, and these into words without their quotes. Variables stay as
// they are written.
func splitCommands(script string) (commands [][]string) {
	var (
		words                    []string
		word                     strings.Builder
		inWord, escaped, comment bool
		quote                    rune
	)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	for _, r := range script {
		switch {
		case comment && r != '\n':
		case escaped:
			escaped = false
			if r != '\n' { // else the line goes on
				word.WriteRune(r)
				inWord = true
			}
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			comment = true
		case strings.ContainsRune("\n;&|()`", r):
			comment = false
			endCommand()
		case unicode.IsSpace(r):
			endWord()
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	endCommand()
	return commands
}
