package watch

import (
	"testing"
	"time"
)

func TestSlept(t *testing.T) {
	for _, c := range []struct {
		wall, monotonic time.Duration
		want            bool
	}{
		{2 * time.Second, 2 * time.Second, false},
		{time.Minute, time.Minute, false}, // stopped, or a busy machine
		{8 * time.Hour, 2 * time.Second, true},
		{-time.Hour, 2 * time.Second, false}, // the clock was set back
	} {
		if got := slept(c.wall, c.monotonic); got != c.want {
			t.Errorf("slept(%v, %v) = %v", c.wall, c.monotonic, got)
		}
	}
}

func TestEverything(t *testing.T) {
	eachMode(t, func(p *project) {
		p.write("ctx/f", "req.txt")
		p.watch("ctx", "req.txt", "missing")
		p.changed("nothing", func() {})
		got := p.w.everything("test")
		if len(got) != 4 {
			p.t.Errorf("every path: %q", got)
		}
		p.expect("it goes on", func() { p.write("ctx/f", "req.txt") }, "ctx/f", "req.txt")
	})
}
