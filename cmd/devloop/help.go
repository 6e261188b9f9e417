package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// helpColumns is how wide help is: as a terminal that nobody has resized.
const helpColumns = 80

// fitHelp makes the help of all commands fit into a terminal.
func fitHelp(root *cobra.Command) {
	wrapped := fmt.Sprintf(".FlagUsagesWrapped %d", helpColumns)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", wrapped))
	var fit func(*cobra.Command)
	fit = func(cmd *cobra.Command) {
		paragraphs := strings.Split(cmd.Long, "\n\n")
		for i, text := range paragraphs {
			paragraphs[i] = wrap(text, helpColumns)
		}
		cmd.Long = strings.Join(paragraphs, "\n\n")
		for _, sub := range cmd.Commands() {
			fit(sub)
		}
	}
	fit(root)
}

// wrap breaks a paragraph into lines.
func wrap(text string, columns int) string {
	var out strings.Builder
	width := 0
	for _, word := range strings.Fields(text) {
		switch {
		case width == 0:
		case width+1+len(word) > columns:
			out.WriteByte('\n')
			width = 0
		default:
			out.WriteByte(' ')
			width++
		}
		out.WriteString(word)
		width += len(word)
	}
	return out.String()
}
