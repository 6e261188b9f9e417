package status

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// History is a file with the runs that ended, as lines of JSON, the newest last. Nothing else of a
// State outlives the process.
type History struct {
	path string
	runs []Run
}

const (
	runLength     = 4 << 20          // bytes of a line: several hundred bars and an error
	historyLength = keptRuns << 20   // bytes that are read, from the end of the file
	longestRun    = 10 * 365 * 86400 // seconds; more is a mistake
	longestWord   = 40               // bytes of an outcome
	keptChanges   = 20               // files that changed, and lines of one
)

// OpenHistory reads the runs of earlier processes. With an error, too, it returns a History of what
// it could read: a forgotten run does no harm.
func OpenHistory(path string) (*History, error) {
	h := &History{path: path}
	file, err := files.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read the last runs: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err == nil && info.Size() > historyLength {
		_, err = file.Seek(-historyLength, io.SeekEnd)
	}
	if err != nil {
		return h, fmt.Errorf("read the last runs in %s: %w", path, err)
	}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, runLength+1)
	lines.Split(runLines)
	for lines.Scan() {
		var run Run
		if json.Unmarshal(lines.Bytes(), &run) == nil && run.sanitize() {
			h.runs = append(h.runs, run)
			h.runs = h.runs[max(0, len(h.runs)-keptRuns):]
		}
	}
	if err := lines.Err(); err != nil {
		return h, fmt.Errorf("read the last runs in %s: %w", path, err)
	}
	return h, nil
}

// runLines splits a file into lines. It cuts a line that is too long into parts, which are not
// valid runs, so that the lines behind it can be read.
func runLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, token, err = bufio.ScanLines(data, atEOF)
	if advance == 0 && len(data) >= runLength {
		return len(data), data, nil
	}
	return advance, token, err
}

// sanitize makes a run that was read fit to be shown, and reports whether it could: another version
// of devloop, or an editor, may have written anything. Unknown outcomes and stages stay.
func (r *Run) sanitize() bool {
	took := func(seconds float64) bool { return seconds >= 0 && seconds <= longestRun }
	if r.Number < 1 || r.Started.IsZero() || !took(r.Seconds) ||
		r.Outcome == "" || r.Outcome == Running || len(r.Outcome) > longestWord {
		return false
	}
	r.Bytes = max(0, r.Bytes)
	r.Changes = slices.DeleteFunc(slices.Clone(r.Changes), func(c event.FileChange) bool { return c.File == "" })
	r.Changes = r.Changes[:min(len(r.Changes), keptChanges)]
	for i := range r.Changes {
		file := &r.Changes[i]
		file.More = max(0, file.More)
		if more := len(file.Lines) - keptChanges; more > 0 {
			file.Lines, file.More = file.Lines[:keptChanges], file.More+more
		}
	}
	r.Stages = slices.DeleteFunc(append([]Stage{}, r.Stages...),
		func(s Stage) bool { return s.Name == "" || !took(s.Seconds) })
	r.Stages = r.Stages[:min(len(r.Stages), 2*len(Stages))]
	r.Spans = slices.DeleteFunc(append([]Span{}, r.Spans...),
		func(s Span) bool { return s.Stage == "" || !took(s.Seconds) || s.Started.IsZero() })
	r.Spans = r.Spans[:min(len(r.Spans), keptSpans)]
	for i := range r.Spans {
		span := &r.Spans[i]
		span.Bytes = max(0, span.Bytes)
		if span.Outcome == "" || span.Outcome == Running || len(span.Outcome) > longestWord {
			span.Outcome = r.Outcome
		}
	}
	return true
}

// Runs returns the runs that were read, the newest last.
func (h *History) Runs() []Run { return h.runs }

// Follow writes the runs of board to the file as they end, until ctx ends. It returns the first
// error; the runs stay on the board all the same.
func (h *History) Follow(ctx context.Context, board *Board) (err error) {
	last := ""
	if n := len(h.runs); n > 0 {
		last = h.runs[n-1].id()
	}
	for {
		changed, over := board.Changed(), ctx.Err() != nil
		if runs := board.State().Runs; len(runs) > 0 && runs[len(runs)-1].id() != last {
			last = runs[len(runs)-1].id()
			err = cmp.Or(err, h.write(runs))
		}
		if over {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done(): // and look once more
		}
	}
}

// id is unique among the runs of all processes.
func (r Run) id() string { return fmt.Sprint(r.Number, r.Started.UnixNano()) }

// write replaces the file as a whole.
func (h *History) write(runs []Run) error {
	// It is for its owner: errors may quote what others need not read.
	err := files.Replace(h.path, func(w io.Writer) error {
		encoder := json.NewEncoder(w)
		for _, run := range runs {
			if err := encoder.Encode(run); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep the last runs: %w", err)
	}
	return nil
}
