package session

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/devloop/devloop/pkg/build"
	"github.com/devloop/devloop/pkg/files"
	"github.com/devloop/devloop/pkg/filesync"
)

// What is remembered of an image: as many inputs of each Rest, and as many of these.
const (
	keptTags   = 50
	keptRests  = 10
	keptPaths  = 20_000
	keptInputs = 4 << 20 // bytes, of all images
)

// knownInputs remembers which tags of an image have the same Rest, also those of an earlier
// devloop: a Dask cluster may run for days.
type knownInputs struct {
	path string // of the file that has them

	mu     sync.Mutex
	images map[string][]sameRest // by their names, the newest last
}

// sameRest are inputs of an image that differ by synced files alone.
type sameRest struct {
	Rest string   `json:"rest"`
	Tags []string `json:"tags"` // the newest last
	// Paths that these files ever had in the image, and the rule that each comes from. A container may
	// hold a file that is on the disk no more.
	Paths map[string]int `json:"paths"`
}

// readKnownInputs reads what an earlier devloop has remembered. What cannot be read is forgotten.
func readKnownInputs(path string) *knownInputs {
	k := &knownInputs{path: path}
	content, err := files.Read(path, keptInputs)
	if err != nil || json.Unmarshal(content, &k.images) != nil {
		k.images = nil
	}
	if k.images == nil {
		k.images = map[string][]sameRest{}
	}
	return k
}

// add remembers the inputs of an image, and returns all that have the same Rest. The error is that
// of writing them down.
func (k *knownInputs) add(image string, tags []string, synced *build.Synced) (same sameRest, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.images[image]
	isSame := func(s sameRest) bool { return s.Rest == synced.Rest }
	same.Rest = synced.Rest
	if at := slices.IndexFunc(before, isSame); at >= 0 {
		same = before[at]
	}
	now := sameRest{same.Rest, slices.Clone(same.Tags), map[string]int{}}
	for _, tag := range tags {
		now.Tags = append(slices.DeleteFunc(now.Tags, func(known string) bool { return known == tag }), tag)
	}
	now.Tags = now.Tags[max(0, len(now.Tags)-keptTags):]
	if len(same.Paths) <= keptPaths {
		maps.Copy(now.Paths, same.Paths)
	}
	for _, file := range synced.Files {
		now.Paths[file.Path] = file.Rule
	}
	maps.DeleteFunc(now.Paths, func(path string, _ int) bool { return !filesync.CanHold(path) }) // nothing was put there
	if slices.Equal(now.Tags, same.Tags) && maps.Equal(now.Paths, same.Paths) {
		return now, nil
	}
	list := append(slices.DeleteFunc(slices.Clone(before), isSame), now)
	k.images[image] = list[max(0, len(list)-keptRests):]
	return now, k.write()
}

// write replaces the file as a whole. If there is too much, the oldest inputs are left out.
func (k *knownInputs) write() error {
	content, err := json.Marshal(k.images)
	for len(content) > keptInputs && k.dropOldest() {
		content, err = json.Marshal(k.images)
	}
	if err != nil {
		return err
	}
	err = files.Replace(k.path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	if err != nil {
		return fmt.Errorf("remember synced files: %w", err)
	}
	return nil
}

// dropOldest forgets the oldest inputs of each image that has several.
func (k *knownInputs) dropOldest() (dropped bool) {
	for image, list := range k.images {
		if len(list) > 1 {
			k.images[image], dropped = list[1:], true
		}
	}
	return dropped
}
