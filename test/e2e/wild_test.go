//go:build e2e

// Real editors, as Debian has them, and those that it has not by what they do to files: opening a
// file and closing it again is nothing, and a save is one revision with the new content, whatever
// lies beside the file meanwhile and afterwards.
package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
	pty "github.com/devloop/devloop/test/terminal"
)

// What a wild project is made from. Each file has one word that shows up where it is used.
const (
	wildTemplate     = "chart/templates/shown.yaml"
	wildChartValues  = "chart/values.yaml"
	wildValues       = "values.yaml"
	wildConfig       = "devloop.yaml"
	wildDockerfile   = "app/Dockerfile"
	wildPage         = "app/index.html"
	wildRequirements = "app/requirements.txt"
)

func TestWild(t *testing.T) {
	t.Parallel()
	cluster := kubernetesClient(t)
	p := newProject(t, "wild")
	words := map[string]string{}
	for _, file := range []string{wildTemplate, wildChartValues, wildValues, wildConfig, wildDockerfile, wildPage,
		wildRequirements} {
		words[file] = "first"
	}
	d := p.start(t)
	d.await(t, 0, ready)
	saves := 0
	// saved checks what became of a save of a file: one revision more, and its word where it is used.
	saved := func(t *testing.T, c change, file, word string) {
		t.Helper()
		c.arrives(t)
		p.awaitWord(t, file, word)
		words[file] = word
		if saves++; p.wildRevision(t, cluster) != 1+saves {
			t.Errorf("revision %d after %d saves", p.wildRevision(t, cluster), saves)
		}
	}

	step(t, "values are what they are for helm", func(t *testing.T) {
		for file, word := range words {
			p.awaitWord(t, file, word)
		}
		if got := p.shown(t, "{.data.enabled}, {.data.version}"); got != "bool false, string 1.10" {
			t.Errorf("enabled: no, and version: 1.10 by set, are %s", got)
		}
	})

	step(t, "opened and closed", func(t *testing.T) {
		quiet, password := d.next(), p.password(t)
		for _, e := range editors {
			for file, word := range words {
				if e.discard != nil {
					e.discard(p.open(t, e, file), word)
				}
			}
		}
		for _, folder := range []string{".", "chart"} { // IDEs keep their settings beside what they open
			must(t, os.MkdirAll(filepath.Join(p.dir, folder, ".idea"), 0o755))
			must(t, os.MkdirAll(filepath.Join(p.dir, folder, ".vscode"), 0o755))
			must(t, os.WriteFile(filepath.Join(p.dir, folder, ".idea/workspace.xml"), []byte("<project/>\n"), 0o644))
			replaceFile(t, filepath.Join(p.dir, folder, ".vscode/settings.json"), ".vsctmp", "", "{}\n")
		}
		pass(t, time.Second)
		if revision := p.wildRevision(t, cluster); revision != 1 || p.password(t) != password {
			t.Errorf("revision %d, the password is the same: %v", revision, p.password(t) == password)
		}
		word := unique()
		saved(t, d.replace(t, wildValues, "first", word), wildValues, word)
		run := quiet.happens(t, on(event.RunStarts)) // the first one since
		if files := run.field("files"); files != "values.yaml" || quiet.counts(on(event.RunStarts)) != 1 ||
			quiet.counts(building) != 0 {
			t.Errorf("%d runs, the first one for %q, and %d builds", quiet.counts(on(event.RunStarts)), files,
				quiet.counts(building))
		}
	})

	for _, way := range []struct{ editor, file string }{
		{"emacs", wildTemplate}, {"vim", wildTemplate}, {"jetbrains", wildTemplate}, {"vscode", wildTemplate},
		{"nano", wildChartValues}, {"vim, backupcopy", wildChartValues}, {"emacs", wildChartValues},
		{"sed", wildValues}, {"vim, no backup", wildValues}, {"vscode, atomic", wildValues}, {"emacs", wildConfig},
		{"vim", wildDockerfile}, {"jetbrains", wildRequirements}, {"emacs", wildPage}, {"vscode", wildPage},
	} {
		step(t, way.editor+" saves "+way.file, func(t *testing.T) {
			word, c := unique(), d.next()
			e := editorNamed(t, way.editor)
			if e.open != nil {
				e.replace(p.open(t, e, way.file), words[way.file], word)
			} else {
				e.save(t, filepath.Join(p.dir, way.file), words[way.file], word)
			}
			saved(t, c, way.file, word)
		})
	}

	for _, file := range []string{wildTemplate, wildChartValues, wildPage} {
		if _, err := os.Stat(filepath.Join(p.dir, file+"~")); err != nil {
			t.Errorf("no editor has left a backup: %v", err) // else nothing was shown here
		}
	}

	step(t, "a save while emacs has a template open", func(t *testing.T) {
		window := p.open(t, editorNamed(t, "emacs"), wildTemplate)
		window.press(words[wildTemplate], "x")
		lock := filepath.Join(p.dir, filepath.Dir(wildTemplate), ".#"+filepath.Base(wildTemplate))
		eventually(t, "emacs has locked the file", func() bool {
			_, err := os.Lstat(lock)
			return err == nil
		})
		word := unique()
		saved(t, d.replace(t, wildChartValues, words[wildChartValues], word), wildChartValues, word)
		window.press("", "\x18\x03")
		window.leaveEmacs()
	})

	d.stop(t)
	p.gone(t)
}

// awaitWord waits until a file's word has arrived where it is used.
func (p *project) awaitWord(t *testing.T, file, word string) {
	t.Helper()
	keys := map[string]string{wildTemplate: "template", wildChartValues: "chart", wildValues: "file", wildConfig: "inline"}
	pages := map[string]string{wildDockerfile: "made", wildPage: "", wildRequirements: "requirements.txt"}
	eventually(t, file+" has arrived with "+word, func() bool {
		if key, isValue := keys[file]; isValue {
			return p.shown(t, "{.data."+key+"}") == word
		}
		answer, err := get(p.url() + pages[file])
		return err == nil && strings.TrimSpace(answer) == word
	})
}

// shown returns what the chart shows of what it was made from.
func (p *project) shown(t *testing.T, path string) string {
	t.Helper()
	return kubectl(t, "get", "configmap", "shown", "--namespace", p.name, "--output", "jsonpath="+path)
}

// password is a random one, another one in each revision.
func (p *project) password(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "secret", "random", "--namespace", p.name, "--output", "jsonpath={.data.password}")
}

// wildRevision returns the newest revision of the release.
func (p *project) wildRevision(t *testing.T, cluster kubernetes.Interface) int {
	t.Helper()
	all := helmRecords(t, cluster, p.name)["wild"]
	return all[len(all)-1].version
}

// editor is a way to edit a file: a program in a terminal, or what one does to files.
type editor struct {
	name    string
	open    []string                         // the command line, which the file's name ends
	discard func(w *window, word string)     // types a letter and leaves without a save
	replace func(w *window, old, new string) // replaces a word, saves and leaves

	save func(t *testing.T, file, old, new string) // of an editor without a terminal
}

// editors start without the user's own settings, and make all the files that they can make.
var editors = []editor{
	vim("vim", "writebackup backup"), // a new file, the old one is renamed and stays
	vim("vim, backupcopy", "writebackup backupcopy=yes"),
	vim("vim, no backup", "nowritebackup backupcopy=no"),
	{
		name: "emacs",
		// By itself it makes no backups of files below /tmp, where this one is.
		open: []string{"emacs", "-nw", "-Q", "--eval", "(setq backup-enable-predicate (lambda (_) t))"},
		discard: func(w *window, word string) {
			w.press(word, "x\x1bxdo-auto-save\r\x18\x03")
			w.leaveEmacs()
		},
		replace: func(w *window, old, new string) {
			w.press(old, "\x1bxreplace-string\r"+old+"\r"+new+"\r\x18\x13")
			w.press("Wrote", "\x18\x03")
			w.closed()
		},
	},
	{
		name: "nano",
		open: []string{"nano", "--ignorercfiles", "--backup", "--locking"},
		discard: func(w *window, word string) {
			w.press(word, "x\x18")
			w.press("modified buffer", "N")
			w.closed()
		},
		replace: func(w *window, old, new string) {
			w.press(old, "\x1c")
			w.press("to replace", old+"\r")
			w.press("Replace with", new+"\r")
			w.press("this instance", "A")
			w.press("1 occ", "\x0f")
			w.press("Write", "\r")
			w.press("Wrote", "\x18")
			w.closed()
		},
	},
	{name: "sed", save: func(t *testing.T, file, old, new string) {
		_, err := command(t.Context(), os.Environ(), "sed", "-i", "s/"+old+"/"+new+"/", file)
		must(t, err)
	}},
	{name: "jetbrains", save: func(t *testing.T, file, old, new string) { // its safe write
		replaceFile(t, file, "___jb_tmp___", "___jb_old___", replaced(t, file, old, new))
	}},
	{name: "vscode", save: func(t *testing.T, file, old, new string) { // in place: it is empty for a moment
		content := replaced(t, file, old, new)
		must(t, os.Truncate(file, 0))
		must(t, os.WriteFile(file, []byte(content), 0o644))
	}},
	{name: "vscode, atomic", save: func(t *testing.T, file, old, new string) {
		replaceFile(t, file, ".vsctmp", "", replaced(t, file, old, new))
	}},
}

func vim(name, settings string) editor {
	return editor{
		name: name,
		open: []string{"vim", "--clean", "-c", "set " + settings},
		discard: func(w *window, word string) {
			w.press(word, "ix\x1b:q!\r")
			w.closed()
		},
		replace: func(w *window, old, new string) {
			w.press(old, ":%s/"+old+"/"+new+"/\r:w\r:q\r")
			w.closed()
		},
	}
}

func editorNamed(t *testing.T, name string) editor {
	t.Helper()
	for _, e := range editors {
		if e.name == name {
			return e
		}
	}
	t.Fatalf("there is no editor %s", name)
	return editor{}
}

// replaced returns what a file holds, with another word.
func replaced(t *testing.T, file, old, new string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	return strings.Replace(string(content), old, new, 1)
}

// replaceFile saves by a new file beside the old one, which gets out of the way first if it has
// another name for that time.
func replaceFile(t *testing.T, file, newSuffix, oldSuffix, content string) {
	t.Helper()
	must(t, os.WriteFile(file+newSuffix, []byte(content), 0o644))
	if oldSuffix != "" {
		must(t, os.Rename(file, file+oldSuffix))
		defer func() { must(t, os.Remove(file+oldSuffix)) }()
	}
	must(t, os.Rename(file+newSuffix, file))
}

// window is a terminal with an editor in it.
type window struct {
	t    *testing.T
	cmd  *exec.Cmd
	keys *os.File

	mu    sync.Mutex
	shown strings.Builder // since the last key was pressed
}

// open opens a file of the project in an editor.
func (p *project) open(t *testing.T, e editor, file string) *window {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longEnough)
	t.Cleanup(cancel)
	master, terminal := pty.Open(t, 80)
	w := &window{t: t, keys: master, cmd: exec.CommandContext(ctx, e.open[0], append(e.open[1:], file)...)}
	w.cmd.Dir = p.dir
	w.cmd.Env = append(os.Environ(), "TERM=vt100", "HOME="+p.cache) // of a terminal that is asked nothing
	w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = terminal, terminal, terminal
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, w.cmd.Start())
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, err := master.Read(buffer)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.shown.Write(buffer[:n])
			w.mu.Unlock()
		}
	}()
	return w
}

// press hits keys once the terminal shows a text since the last ones.
func (w *window) press(text, keys string) {
	w.t.Helper()
	last := ""
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%s shows %q", w.cmd.Args[0], last)
		}
	}()
	eventually(w.t, w.cmd.Args[0]+" shows "+text, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if last = w.shown.String(); !strings.Contains(last, text) {
			return false
		}
		w.shown.Reset()
		return true
	})
	_, err := w.keys.WriteString(keys)
	must(w.t, err)
}

// leaveEmacs answers what Emacs asks about a change that was not saved.
func (w *window) leaveEmacs() {
	w.t.Helper()
	w.press("Save file", "n")
	w.press("exit anyway", "yes\r")
	w.closed()
}

// closed waits until the editor has ended.
func (w *window) closed() {
	w.t.Helper()
	must(w.t, w.cmd.Wait())
}
