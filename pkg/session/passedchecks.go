package session

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/devloop/devloop/pkg/deploy"
	"github.com/devloop/devloop/pkg/files"
)

const (
	// How many images are remembered, and how many checks of each.
	checkedImages, checksOfOneImage = 100, 100

	maxPassedChecks = 1 << 20 // bytes
)

// passedChecks remembers which checks images have passed on one cluster, also in an earlier
// devloop. A tag is the hash of what an image is made of; what is built anew is checked anew.
type passedChecks struct {
	path string // of the file that has them

	mu     sync.Mutex
	images []checkedImage // the newest last
}

// checkedImage is an image with the checks that it has passed.
type checkedImage struct {
	Ref    string   `json:"ref"`
	Checks []string `json:"checks"` // their hashes
}

// readPassedChecks reads what an earlier devloop has remembered. What cannot be read is forgotten:
// these images are checked once more.
func readPassedChecks(path string) *passedChecks {
	p := &passedChecks{path: path}
	content, err := files.Read(path, maxPassedChecks)
	if err != nil || json.Unmarshal(content, &p.images) != nil {
		p.images = nil
	}
	return p
}

func (p *passedChecks) has(pod deploy.CheckPod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.images, func(image checkedImage) bool {
		return image.Ref == pod.Image && slices.Contains(image.Checks, checkHash(pod))
	})
}

// add remembers that an image has passed a check. The error is that of writing it down.
func (p *passedChecks) add(pod deploy.CheckPod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := checkedImage{Ref: pod.Image}
	if i := p.index(pod.Image); i >= 0 {
		now = p.images[i]
		p.images = slices.Delete(p.images, i, i+1)
	}
	now.Checks = append(now.Checks[max(0, len(now.Checks)+1-checksOfOneImage):], checkHash(pod))
	p.images = append(p.images[max(0, len(p.images)+1-checkedImages):], now)
	return p.write()
}

// forget is called before an image is built: what has passed is another one then.
func (p *passedChecks) forget(ref string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.index(ref)
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
	content, err := json.Marshal(p.images)
	if err == nil {
		err = files.Replace(p.path, func(w io.Writer) error {
			_, err := w.Write(content)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("remember which checks images have passed: %w", err)
	}
	return nil
}

func checkHash(pod deploy.CheckPod) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %q", pod.Namespace, pod.Command, pod.Args))
	return hex.EncodeToString(sum[:16])
}
