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
	"os"
	"path/filepath"
	"slices"

	"github.com/devloop/devloop/pkg/files"
)

// History is a file with the runs that ended, one a line of JSON, the newest last. Of a State nothing else outlives the process.
type History struct {
	path string
	runs []Run
}

const (
	runLength     = 4 << 20          // of a line that is read, in bytes: several hundred bars and an error
	historyLength = keptRuns << 20   // of what is read of the file, in bytes; the newest runs stand at its end
	longestRun    = 10 * 365 * 86400 // seconds; more is a mistake
	longestWord   = 40               // bytes of an outcome
)

// OpenHistory reads the runs of earlier processes. There is a History also with an error, of what could be read: a run that is forgotten does no harm.
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
		if json.Unmarshal(lines.Bytes(), &run) == nil && run.mend() {
			h.runs = append(h.runs, run)
			h.runs = h.runs[max(0, len(h.runs)-keptRuns):]
		}
	}
	if err := lines.Err(); err != nil {
		return h, fmt.Errorf("read the last runs in %s: %w", path, err)
	}
	return h, nil
}

// runLines splits a file into lines. One that is too long is cut into parts, which are no runs:
// those behind it can be read.
func runLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, token, err = bufio.ScanLines(data, atEOF)
	if advance == 0 && len(data) >= runLength {
		return len(data), data, nil
	}
	return advance, token, err
}

// mend makes a run that was read one that can be shown, or reports that it cannot be: a devloop
// that is older or newer, or somebody's editor, may have written anything. An outcome or a stage
// that this devloop does not know is left as it is.
func (r *Run) mend() bool {
	took := func(seconds float64) bool { return seconds >= 0 && seconds <= longestRun }
	if r.Number < 1 || r.Started.IsZero() || !took(r.Seconds) ||
		r.Outcome == "" || r.Outcome == Running || len(r.Outcome) > longestWord {
		return false
	}
	r.Bytes = max(0, r.Bytes)
	r.Stages = slices.DeleteFunc(append([]Stage{}, r.Stages...),
		func(s Stage) bool { return s.Name == "" || !took(s.Seconds) })
	r.Stages = r.Stages[:min(len(r.Stages), 2*len(Stages))]
	r.Spans = slices.DeleteFunc(append([]Span{}, r.Spans...),
		func(s Span) bool { return s.Stage == "" || !took(s.Seconds) || s.Started.IsZero() })
	r.Spans = r.Spans[:min(len(r.Spans), keptSpans)]
	for i := range r.Spans {
		span := &r.Spans[i]
		span.Bytes = max(0, span.Bytes)
		// Nothing of a run that ended is under way.
		if span.Outcome == "" || span.Outcome == Running || len(span.Outcome) > longestWord {
			span.Outcome = r.Outcome
		}
	}
	return true
}

// Runs are those that are kept, the newest last.
func (h *History) Runs() []Run { return h.runs }

// Follow writes down the runs of board that end, until ctx does. It returns what went wrong; the runs are shown all the same.
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

// id tells a run from those of other processes, too.
func (r Run) id() string { return fmt.Sprint(r.Number, r.Started.UnixNano()) }

// write replaces the file: half of it is never seen.
func (h *History) write(runs []Run) error {
	if err := os.MkdirAll(filepath.Dir(h.path), 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(h.path), filepath.Base(h.path)+".*") // 0600: errors may quote what others need not read
	if err != nil {
		return err
	}
	out := bufio.NewWriter(file)
	encoder := json.NewEncoder(out)
	for _, run := range runs {
		err = errors.Join(err, encoder.Encode(run))
	}
	err = errors.Join(err, out.Flush(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), h.path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("keep the last runs: %w", err)
	}
	return nil
}
