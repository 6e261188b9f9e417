package build

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// explain names the step that failed and why, and reports its last output. Failures of the network
// or of a full disk are transient.
func (p *progress) explain(err error, place Place) error {
	at := fmt.Sprintf("image %s: %s", p.input.Name, filepath.Base(p.input.Dockerfile))
	failure := fmt.Errorf("%s: %w", at, err)
	output, shown, hint := "", "", ""
	if p.failed != nil {
		output = string(p.failed.tail)
		shown = lastLines(output)
		failure = fmt.Errorf("%s: %s: %w", at, p.failed.name, err)
		if why := reason(output); why != "" {
			failure = fmt.Errorf("%s: %s failed: %s", at, p.failed.name, why)
		}
		if shown != "" {
			p.stage.Note(event.BuildStepFailed, event.Instruction{Image: event.Image{Name: event.Name(p.input.Name)},
				Step: p.failed.name, Output: shown})
		}
		hint = "fix it and save; what ran keeps running"
		if missing := p.missingInclude(output); missing != "" {
			hint = missing
		}
	}
	last := err.Error() + "\n" + shown // the step got over earlier errors
	switch {
	case containsAny(last, noRoom):
		failure, hint = event.Transient(failure), "make room where "+place.Name+" keeps its data: "+place.Prune
	case containsAny(last, noNetwork), strings.Contains(output, lastRetry) && containsAny(last, pipNoNetwork):
		failure, hint = event.Transient(failure), "check the network"
	case busyServer.MatchString(last):
		failure, hint = event.Transient(fmt.Errorf("%w: %w", ErrServerBusy, failure)), "it is asked again by itself"
	case slices.Contains([]codes.Code{codes.Unavailable, codes.Canceled}, status.Code(err)): // nobody here ended it
		failure, hint = event.Transient(fmt.Errorf("%w: %w", ErrBrokeOff, failure)), "look at the log of "+place.Name
	}
	if hint == "" {
		return failure
	}
	if p.output != nil {
		hint += "; the whole output is in " + p.output.Name()
	}
	return event.WithHint(failure, hint)
}

// missingInclude says which file pip did not find because the Dockerfile does not copy it, "" if
// that is not what failed.
func (p *progress) missingInclude(output string) string {
	dockerfile, err := files.Read(p.input.Dockerfile, maxFrontendFile)
	if err != nil || !containsAny(output, notIncluded) {
		return ""
	}
	for _, include := range missingIncludes(dockerfile, p.input.Context) {
		if strings.Contains(output, path.Base(include.missing)) {
			f := include.finding()
			return fmt.Sprintf("%s:%d: %s: %s", filepath.Base(p.input.Dockerfile), f.Line, f.Message, f.Hint)
		}
	}
	return ""
}

// What pip and uv print about a file that another one includes.
var notIncluded = []string{"Could not open requirements file", "Error parsing included file"}

func containsAny(text string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// What pip, uv, apt, curl, git and Docker print when the disk is full, or when the network or a
// server cannot be reached.
var (
	noRoom    = []string{"No space left on device", "no space left on device"}
	noNetwork = []string{
		"Temporary failure in name resolution", "Temporary failure resolving", "Could not resolve host",
		"Name or service not known",
		"Connection timed out", "Connection reset by peer", "Network is unreachable",
		"dial tcp", "i/o timeout", "TLS handshake timeout", "error sending request", "dns error", "operation timed out",
	}
)

// pip warns of each failed attempt, and then says that there is no such package.
var pipNoNetwork = []string{"NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError"}

// busyServer matches what BuildKit, apt, pip and curl print of a server that is busy or being
// restarted.
var busyServer = regexp.MustCompile(`\b(429 Too Many Requests|50[0234]\s+(Internal Server Error|Bad Gateway|` +
	`Service Unavailable|Service Temporarily Unavailable|Gateway Time-?out)|too many (429|50[0234]) error responses|` +
	`HTTP error (429|50[0234]) while getting|returned error: (429|50[0234]))\b`)

const lastRetry = "Retry(total=0"

const (
	reasonLines = 2
	reasonLine  = 300 // bytes: pip lists every version that it knows first
)

var errorLine = regexp.MustCompile(`(?i)^(error|e: |cause: )`)

// reason picks the lines of a failed step's output that say why: the last that call themselves
// errors, or else the last one.
func reason(output string) string {
	var errorLines []string
	last := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(event.Printable(line))
		if line == "" {
			continue
		}
		if len(line) > reasonLine {
			line = strings.ToValidUTF8(line[:reasonLine], "") + " …"
		}
		last = line
		if errorLine.MatchString(line) {
			errorLines = append(errorLines, line)
		}
	}
	if len(errorLines) == 0 {
		return last
	}
	return strings.Join(errorLines[max(0, len(errorLines)-reasonLines):], "; ")
}

// failureLines is how many lines of a failed step's output are shown.
const failureLines = 12

// lastLines returns the last lines that are not empty, short enough for a terminal.
func lastLines(output string) string {
	var lines []string
	for line := range strings.Lines(output) {
		line = line[strings.LastIndexByte(strings.TrimRight(line, "\r\n"), '\r')+1:] // a progress bar draws over itself
		if line = strings.TrimRight(event.Printable(line), " "); line != "" {
			lines = append(lines, ansi.Truncate(line, reasonLine, " …"))
		}
	}
	return strings.Join(lines[max(0, len(lines)-failureLines):], "\n")
}
