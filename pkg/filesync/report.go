package filesync

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// report is what the script says about containers and paths. Names of files in it are those of
// containers, which may be anything.
type report struct {
	containers []Container
	paths      []string

	alive   []bool
	written []bool
	failed  []error
	files   []map[string]State // by path
}

func newReport(containers []Container, paths []string) *report {
	r := &report{containers: containers, paths: paths, alive: make([]bool, len(containers)),
		written: make([]bool, len(containers)), failed: make([]error, len(containers))}
	for range containers {
		r.files = append(r.files, map[string]State{})
	}
	return r
}

var errReport = errors.New("the output of the script for files in containers cannot be read")

// measured is a regular file, by its name on the node.
type measured struct {
	container int
	path      string
	name      string
	mode      fs.FileMode
}

// take takes what the script printed, or why it did not run. A Refusal is of all containers.
func (r *report) take(out string, err error) error {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		for i := range r.failed {
			r.failed[i] = refusal
		}
		return nil
	case err != nil && strings.Contains(err.Error(), noSpace):
		return event.Transient(event.WithHint(err, "make room on the node"))
	case err != nil:
		return err
	}
	return r.read(out)
}

// noSpace is how tools say that a disk is full.
const noSpace = "No space left on device"

func (r *report) read(out string) error {
	var batch []*measured // those of which no measures were read
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		fields := strings.Split(lines[i], "\t")
		if len(fields) == 1 { // what ls prints, then what sha256sum does
			modes, more := untilDot(lines[i:])
			digests, _ := untilDot(lines[i+more:])
			r.measure(batch, modes, digests)
			i += more + len(digests)
			batch = nil
			continue
		}
		c, err := strconv.Atoi(fields[1])
		if err != nil || c < 0 || c >= len(r.containers) {
			return errReport
		}
		if ok, err := r.about(c, fields); ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		p := -1
		if len(fields) > 2 {
			p, err = strconv.Atoi(fields[2])
		}
		if err != nil || p < 0 || p >= len(r.paths) {
			return errReport
		}
		state, ok := stateOf(fields)
		switch {
		case fields[0] == "f" && len(fields) == 4:
			batch = append(batch, &measured{container: c, path: r.paths[p], name: fields[3]})
		case ok:
			r.files[c][r.paths[p]] = state
		default:
			return errReport
		}
	}
	return nil
}

// about takes a line about a container as a whole.
func (r *report) about(c int, fields []string) (ok bool, err error) {
	switch fields[0] {
	case "v":
		r.alive[c] = true
	case "w":
		r.written[c] = true
	case "e":
		if len(fields) < 4 {
			return false, errReport
		}
		r.failed[c] = failure(fields[2], strings.Join(fields[3:], " "))
	default:
		return false, nil
	}
	return true, nil
}

// stateOf returns what a line says is at a path, of anything but a regular file.
func stateOf(fields []string) (State, bool) {
	switch fields[0] {
	case "a":
		return State{Absent: true}, true
	case "d":
		return State{Mode: fs.ModeDir}, true
	case "o":
		return State{Mode: fs.ModeIrregular}, true
	case "l":
		if len(fields) != 5 {
			return State{}, false
		}
		mode := fs.ModeSymlink
		if fields[3] == "d" {
			mode |= fs.ModeDir
		}
		return State{Mode: mode, Link: fields[4]}, true
	}
	return State{}, false
}

// untilDot returns the lines before one with a dot, and how many to skip.
func untilDot(lines []string) (before []string, skip int) {
	end := slices.Index(lines, ".")
	if end < 0 {
		end = len(lines)
	}
	return lines[:end], min(end+1, len(lines))
}

// measure takes the modes and digests of files. A file that was gone in between has none: then it
// is not known which of the others ls means.
func (r *report) measure(batch []*measured, modes, digests []string) {
	if len(modes) != len(batch) {
		return
	}
	slices.SortFunc(batch, func(a, b *measured) int { return strings.Compare(a.name, b.name) }) // as ls does
	for i, file := range batch {
		mode, ok := modeOf(modes[i])
		if !ok {
			return
		}
		file.mode = mode
	}
	byName := map[string]string{}
	for _, line := range digests {
		line, escaped := strings.CutPrefix(line, `\`)
		digest, name, ok := strings.Cut(line, " ")
		if !ok || len(digest) != 64 || name == "" {
			continue
		}
		name = name[1:] // a space, or * for binary
		if escaped {
			name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
		}
		byName[name] = digest
	}
	for _, file := range batch {
		if digest, ok := byName[file.name]; ok {
			r.files[file.container][file.path] = State{Mode: file.mode, Digest: digest}
		}
	}
}

// modeOf reads the mode of a regular file as ls prints it.
func modeOf(line string) (fs.FileMode, bool) {
	if len(line) < 10 || line[0] != '-' {
		return 0, false
	}
	var mode fs.FileMode
	for i, c := range []byte(line[1:10]) {
		bit := fs.FileMode(0o400) >> i
		switch c {
		case '-':
		case 'r', 'w', 'x':
			mode |= bit
		case 's', 'S', 't', 'T':
			mode |= []fs.FileMode{fs.ModeSetuid, fs.ModeSetgid, fs.ModeSticky}[i/3]
			if c == 's' || c == 't' {
				mode |= bit
			}
		default:
			return 0, false
		}
	}
	return mode, true
}

// failure is the error of a container into which nothing could be written.
func failure(kind, text string) error {
	text = event.Printable(text[:min(len(text), maxText)])
	switch {
	case kind == "gone":
		return ErrGone
	case kind == "refused":
		return &Refusal{text}
	case strings.Contains(text, "Read-only file system"):
		return &Refusal{"its file system is read-only"}
	case strings.Contains(text, "Permission denied"), strings.Contains(text, "Operation not permitted"):
		return &Refusal{"it may not: " + text}
	case strings.Contains(text, "not found"):
		return &Refusal{"a tool is missing: " + text}
	}
	err := fmt.Errorf("write files: %s", text)
	if strings.Contains(text, noSpace) {
		err = event.Transient(event.WithHint(err, "make room on the node"))
	}
	return err
}
