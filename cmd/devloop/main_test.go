package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/console"
)

func TestEveryCommandShowsAnExample(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if !strings.Contains(cmd.Example, "devloop") || cmd.Short == "" {
			t.Errorf("%s: example %q, in short %q", cmd.CommandPath(), cmd.Example, cmd.Short)
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(newRootCommand(&options{printer: console.NewPrinter(io.Discard)}))
}
