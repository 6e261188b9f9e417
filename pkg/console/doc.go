// Package console is what a terminal shows: the log, progress, keys, and the error that devloop
// ends with. It also writes the log as logfmt or JSON, for programs, and to a file.
package console
