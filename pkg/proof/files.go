package proof

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// Files are the synced files of a container, compared with those on the disk.
type Files struct {
	event.ContainerRef
	Image string // in devloop.yaml
	Is    string // a hash of what the container holds, "" if nobody could look
	Want  string // what it should be, "" if it is that
	// Differ are the paths that differ, and how.
	Differ []string
	// Refused says that files cannot be written there. A volume may cover them, which is the chart's
	// business in a container of the image that was made from the inputs.
	Refused bool
}

// How a path differs, after the path.
const (
	isMissing  = " missing"
	isChanged  = " changed"
	isLeftOver = " left over"
)

// differingPath returns the path of an element of Files.Differ.
func differingPath(differing string) string {
	for _, how := range []string{isMissing, isChanged, isLeftOver} {
		if path, ok := strings.CutSuffix(differing, how); ok {
			return path
		}
	}
	return differing
}

// CompareFiles compares what is at each path in a container with what should be there, both as
// texts that have all that counts: type, permissions, content. Nothing is there if a path has none.
func CompareFiles(container event.ContainerRef, image string, is, want map[string]string) Files {
	files := Files{ContainerRef: container, Image: image, Is: hashFiles(is)}
	if wanted := hashFiles(want); wanted != files.Is {
		files.Want = wanted
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		switch {
		case want[path] == "" || is[path] == want[path]:
		case is[path] == "":
			files.Differ = append(files.Differ, path+isMissing)
		default:
			files.Differ = append(files.Differ, path+isChanged)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(is)) {
		if is[path] != "" && want[path] == "" {
			files.Differ = append(files.Differ, path+isLeftOver)
		}
	}
	return files
}

func hashFiles(files map[string]string) string {
	h := sha256.New() // to which writing never fails
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if files[path] != "" {
			_, _ = fmt.Fprintf(h, "%q %q\n", path, files[path])
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// keptDiffering is how many paths a link has.
const keptDiffering = 10

// filesLink is what is said of the files of a container.
func filesLink(f Files) event.Link {
	link := event.Link{Image: event.Name(f.Image), Place: event.AtFiles, Name: f.FullName(),
		Is: cmp.Or(f.Is, event.Unknown), Want: f.Want, Container: f.ContainerRef}
	link.Differ, link.More = firstDiffering(f.Differ)
	return link
}

func firstDiffering(differ []string) (first []string, more int) {
	kept := min(len(differ), keptDiffering)
	return slices.Clone(differ[:kept]), len(differ) - kept
}

// right reports whether the container is known to hold the files on the disk.
func (f Files) right() bool { return f.Is != "" && f.Want == "" }

// filesOf returns what is known of the synced files of a container.
func (i Image) filesOf(c Container, all []Files) (files Files, looked bool) {
	at := slices.IndexFunc(all, func(f Files) bool { return f.Image == i.Name && f.ContainerRef == c.ContainerRef })
	if at < 0 {
		return Files{}, false
	}
	return all[at], true
}

// filesOnDisk returns the hash of the image's synced files on the disk, "" without a container to
// compare.
func (i Image) filesOnDisk(all []Files) string {
	for _, f := range all {
		if onDisk := cmp.Or(f.Want, f.Is); f.Image == i.Name && onDisk != "" {
			return onDisk
		}
	}
	return ""
}
