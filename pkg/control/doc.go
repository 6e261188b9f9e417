// Package control lets the user see and steer a running devloop from outside: through its page in a
// browser, and through its socket, whose client other commands use.
package control
