package watch

import (
	"os"
	"testing"
	"time"
)

func TestPollSeesAnOlderFile(t *testing.T) {
	p := open(t, Options{Mode: Poll, Quiet: 30 * time.Millisecond}, nil)
	p.write("ctx/f", "req.txt")
	old := time.Now().Add(-time.Hour)
	p.watch("ctx", "req.txt")
	p.expect("the same size, an earlier time", func() {
		p.must(os.Chtimes(p.path("ctx/f"), old, old))
		p.must(os.Chtimes(p.path("req.txt"), old, old))
	}, "ctx/f", "req.txt")
	p.expect("the same size and time", func() {
		for _, name := range []string{"ctx/f", "req.txt"} {
			p.write(name)
			p.must(os.Chtimes(p.path(name), old, old))
		}
	}, "ctx/f", "req.txt")
	p.expect("chmod +x", func() { p.must(os.Chmod(p.path("ctx/f"), 0o755)) }, "ctx/f")
	p.expect("another link", func() { p.remove("req.txt"); p.link("ctx/f", "req.txt") }, "req.txt")
}

// Where time is kept in whole seconds, a second save within one of them may change nothing that can
// be seen.
func TestPollDoubtsWholeSeconds(t *testing.T) {
	p := open(t, Options{Mode: Poll, Quiet: 30 * time.Millisecond}, nil)
	p.write("req.txt")
	p.watch("req.txt")
	second := time.Now().Truncate(time.Second)
	p.must(os.Chtimes(p.path("req.txt"), second, second))
	p.next("req.txt")
	p.next("req.txt") // once the second is over
	p.expect("no more", func() {})
}
