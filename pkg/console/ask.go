package console

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/muesli/cancelreader"
)

// maxReply is how much is read of what the user types, in bytes.
const maxReply = 256

// Ask prints a question and reports whether the user typed "yes". It ends with ctx.
func (p *Printer) Ask(ctx context.Context, in *os.File, question string) (yes bool, err error) {
	reader, err := cancelreader.NewReader(in)
	if err != nil {
		return false, fmt.Errorf("read an answer: %w", err)
	}
	defer func() { _ = reader.Close() }() // the library's own descriptors
	defer context.AfterFunc(ctx, func() { reader.Cancel() })()
	p.locked(func() { _, err = io.WriteString(p.out, question) })
	if err != nil {
		return false, fmt.Errorf("ask a question: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(reader, maxReply)).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil && !errors.Is(err, io.EOF): // Ctrl+D is a no
		return false, fmt.Errorf("read an answer: %w", err)
	}
	return strings.TrimSpace(line) == "yes", nil
}
