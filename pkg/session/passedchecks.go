package session

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// The newest images are remembered, and of each the newest checks.
	checkedImages, checksOfOneImage = 100, 100

	maxPassedChecks = 1 << 20 // bytes
)

// passedChecks remembers which checks images have passed on one cluster, also in an earlier
// devloop. A tag is the hash of what an image is made of; what is built anew is checked anew.
type passedChecks struct {
	path    string // of the file that has them
	cluster string // and its version: a check may depend on both
	stage   event.Stage

	mu     sync.Mutex
	images []checkedImage // the newest last
}

// checkedImage is an image with the checks that it has passed.
type checkedImage struct {
	Ref    string   `json:"ref"`
	Checks []string `json:"checks"` // their hashes
}

// passedOn is what the file holds.
type passedOn struct {
	Cluster string         `json:"cluster"`
	Images  []checkedImage `json:"images"`
}

// readPassedChecks reads what an earlier devloop has remembered. What cannot be read is forgotten:
// these images are checked once more.
func readPassedChecks(path, cluster string, stage event.Stage) *passedChecks {
	p := &passedChecks{path: path, cluster: cluster, stage: stage}
	var known passedOn
	content, err := files.Read(path, maxPassedChecks)
	if err == nil && json.Unmarshal(content, &known) == nil && known.Cluster == cluster {
		p.images = known.Images
	}
	return p
}

func (p *passedChecks) has(pod deploy.CheckPod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.index(pod.Image)
	return i >= 0 && slices.Contains(p.images[i].Checks, checkHash(pod))
}

// add remembers that an image has passed a check.
func (p *passedChecks) add(pod deploy.CheckPod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := checkedImage{Ref: pod.Image}
	if i := p.index(pod.Image); i >= 0 {
		now = p.images[i]
		p.images = slices.Delete(p.images, i, i+1)
	}
	now.Checks = append(now.Checks[max(0, len(now.Checks)+1-checksOfOneImage):], checkHash(pod))
	p.images = append(p.images[max(0, len(p.images)+1-checkedImages):], now)
	if err := p.write(); err != nil {
		p.stage.Warn("the next start checks an image once more", err, "image", event.Name(pod.Image))
	}
}

// forget is called before another image gets a tag. After an error, a later devloop would take it
// for the one that has passed.
func (p *passedChecks) forget(tag name.Tag) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.index(tag.String())
	if i < 0 {
		return nil
	}
	p.images = slices.Delete(p.images, i, i+1)
	return p.write()
}

func (p *passedChecks) index(ref string) int {
	return slices.IndexFunc(p.images, func(image checkedImage) bool { return image.Ref == ref })
}

// write replaces the file as a whole.
func (p *passedChecks) write() error {
	err := files.Replace(p.path, func(w io.Writer) error {
		return json.NewEncoder(w).Encode(passedOn{p.cluster, p.images})
	})
	if err != nil {
		return fmt.Errorf("remember which checks images have passed: %w", err)
	}
	return nil
}

func checkHash(pod deploy.CheckPod) string {
	sum := sha256.Sum256([]byte(checkKey(pod.Namespace, pod.Command, pod.Args)))
	return hex.EncodeToString(sum[:16])
}
