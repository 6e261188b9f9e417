package filesync

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// maxGroup is how many files of a folder one command moves there: its arguments are limited.
const maxGroup = 400

// Written is how writing into a container went.
type Written struct {
	Container Container
	Files     map[string]State // what it holds now at the paths that were to be written
	Err       error            // a *Refusal, ErrGone, or a failure
}

// Write makes the containers hold the files: all of them, or none if one cannot be written. What is
// read from this machine is checked: if a file is no longer what its Digest says, nothing is
// written anywhere, and the error is transient.
func Write(ctx context.Context, shell Shell, containers []Container, wanted []File) ([]Written, error) {
	if err := checkCount(len(wanted)); err != nil {
		return nil, err
	}
	var all []Written
	for some := range slices.Chunk(containers, maxPaths/max(len(wanted), 1)) { // so that the answer is bounded
		written, err := write(ctx, shell, some, wanted)
		if err != nil {
			return nil, err
		}
		all = append(all, written...)
	}
	return all, nil
}

func write(ctx context.Context, shell Shell, containers []Container, wanted []File) ([]Written, error) {
	p, err := newPlan(containers, wanted)
	if err != nil {
		return nil, err
	}
	stdin, writer := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := event.Guard(func() error { return p.send(ctx, writer) })
		sent <- err
		_ = writer.CloseWithError(err)
	}()
	out, err := run(ctx, shell, containers, stdin, "write")
	_ = stdin.CloseWithError(io.ErrClosedPipe) // the script may not have read all of it
	if sendErr := <-sent; sendErr != nil && !errors.Is(sendErr, io.ErrClosedPipe) {
		return nil, sendErr
	}
	r := newReport(containers, p.paths)
	if err := r.take(out, err); err != nil {
		return nil, fmt.Errorf("write files into containers: %w", err)
	}
	listings := r.listings()
	all := make([]Written, len(containers))
	for i := range containers {
		all[i] = Written{containers[i], listings[i].Files, r.failed[i]}
		switch {
		case all[i].Err != nil:
		case !r.written[i]:
			all[i].Err = event.Transient(errors.New("write files: it did not say how it ended"))
		default:
			all[i].Err = listings[i].Err
		}
	}
	return all, nil
}

// plan is what the script is to do, and the files that it needs for that.
type plan struct {
	paths   []string
	text    strings.Builder
	regular []member
}

// member is a regular file in the archive.
type member struct {
	File
	name     string // in the archive
	modified time.Time
}

func newPlan(containers []Container, wanted []File) (*plan, error) {
	p := &plan{}
	text, err := containerLines(containers)
	if err != nil {
		return nil, err
	}
	p.text.WriteString(text)
	var size int64
	var absent, folders, others []File
	for _, file := range wanted {
		if err := file.check(); err != nil {
			return nil, err
		}
		p.paths = append(p.paths, file.Path)
		switch {
		case file.Absent:
			absent = append(absent, file)
		case file.Mode.IsDir():
			folders = append(folders, file)
		default:
			others = append(others, file)
			size += file.Size
		}
	}
	if size > maxSize {
		return nil, &Refusal{fmt.Sprintf("the files to sync have %d MiB, more than %d MiB", size>>20, maxSize>>20)}
	}
	byPath := func(a, b File) int { return strings.Compare(a.Path, b.Path) }
	slices.SortFunc(absent, func(a, b File) int { return -byPath(a, b) }) // what is in a folder, before it
	slices.SortFunc(folders, byPath)
	slices.SortFunc(others, func(a, b File) int {
		if byFolder := strings.Compare(path.Dir(a.Path), path.Dir(b.Path)); byFolder != 0 {
			return byFolder
		}
		return byPath(a, b)
	})
	for _, file := range p.paths {
		fmt.Fprintf(&p.text, "p\t%s\n", file)
	}
	for _, file := range absent {
		fmt.Fprintf(&p.text, "-\t%s\n", file.Path)
	}
	for _, file := range folders {
		fmt.Fprintf(&p.text, "d\t%04o\t%s\t%s\n", 0o777&^file.Mode.Perm(), file.owner(), file.Path)
	}
	group, inGroup, folder := -1, 0, ""
	for _, file := range others {
		if dir := path.Dir(file.Path); dir != folder || inGroup == maxGroup {
			group, inGroup, folder = group+1, 0, dir
		}
		inGroup++
		if file.Mode&fs.ModeSymlink != 0 {
			fmt.Fprintf(&p.text, "l\t%d\t%s\t%s\t%s\n", group, file.owner(), file.Link, file.Path)
			continue
		}
		info, err := os.Stat(file.Source)
		if err != nil {
			return nil, changed(file, err)
		}
		modified := info.ModTime().Truncate(time.Second) // as in an image, and in an archive
		fmt.Fprintf(&p.text, "f\t%d\t%s\t%d\t%s\n", group, file.owner(), modified.Unix(), file.Path)
		p.regular = append(p.regular, member{file, fmt.Sprintf("%d/%s", group, path.Base(file.Path)), modified})
	}
	p.text.WriteString(".\n")
	return p, nil
}

// send writes what the script reads. It ends in the middle if a file is not what it should be; then
// the script writes nothing.
func (p *plan) send(ctx context.Context, w io.Writer) error {
	if _, err := io.WriteString(w, p.text.String()); err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	for _, file := range p.regular {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: file.name, Size: file.Size, Mode: int64(file.Mode.Perm()),
			ModTime: file.modified, Format: tar.FormatGNU}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("%s: %w", file.Source, err)
		}
		sum := sha256.New()
		from, err := files.Open(file.Source)
		if err != nil {
			return changed(file.File, err)
		}
		n, err := io.Copy(io.MultiWriter(archive, sum), io.LimitReader(files.UntilDone(ctx, from), file.Size))
		if err == nil && n == file.Size { // it may have grown
			var more int
			if more, err = from.Read(make([]byte, 1)); more > 0 {
				n++
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
		}
		_ = from.Close() // only read
		switch {
		case err != nil:
			return fmt.Errorf("send %s: %w", file.Source, err)
		case n != file.Size || hex.EncodeToString(sum.Sum(nil)) != file.Digest:
			return changed(file.File, errors.New("it holds something else now"))
		}
	}
	end := &tar.Header{Typeflag: tar.TypeDir, Name: "end/", Mode: 0o700, Format: tar.FormatGNU}
	if err := archive.WriteHeader(end); err != nil {
		return err
	}
	return archive.Close()
}

// changed is the error of a file that is not what it was a moment ago: the save that changed it is
// about to be seen.
func changed(file File, err error) error {
	return event.Transient(fmt.Errorf("%s changed while it was synced: %w", file.Source, err))
}
