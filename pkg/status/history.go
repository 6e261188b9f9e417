package status

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// History is a file with the runs that ended, one a line of JSON, the newest last. Of a State nothing else outlives the process.
type History struct {
	path string
	runs []Run
}

// runLength is how long a line may be, in bytes: several hundred bars and an error.
const runLength = 4 << 20

// OpenHistory reads the runs of earlier processes. There is a History also with an error, of what could be read: a run that is forgotten does no harm.
func OpenHistory(path string) (*History, error) {
	h := &History{path: path}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("read the last runs: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, runLength)
	for lines.Scan() {
		var run Run
		if json.Unmarshal(lines.Bytes(), &run) == nil {
			h.runs = append(h.runs, run)
		}
	}
	h.runs = h.runs[max(0, len(h.runs)-keptRuns):]
	if err := lines.Err(); err != nil {
		return h, fmt.Errorf("read the last runs in %s: %w", path, err)
	}
	return h, nil
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
