package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/devloop/devloop/pkg/event"
)

// browserTimeout is how long a program that opens a browser may take to fail. Some end once the
// browser has the address, others with the browser.
const browserTimeout = 2 * time.Second

// openBrowser opens an address of devloop in the user's browser. The libraries for that know no
// $BROWSER, wait for a browser to end, and start a text browser over the log where there is no
// display.
func openBrowser(ctx context.Context, address string) error {
	if err := checkAddress(address); err != nil {
		return err
	}
	commands, err := browsers(os.Getenv, runtime.GOOS)
	if err != nil {
		return err
	}
	for _, command := range commands {
		if err = startBrowser(ctx, command, address); !errors.Is(err, exec.ErrNotFound) {
			return err
		}
	}
	return event.WithHint(fmt.Errorf("no program opens a browser: %w", err), "set BROWSER to one that does")
}

// checkAddress returns an error unless an address is one of this machine: parts of it come from the
// cluster.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	ip, _ := netip.ParseAddr(u.Hostname()) // else the zero value
	if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Hostname() != "localhost" && !ip.IsLoopback() {
		return fmt.Errorf("%q is no address of a web server on this machine, so it is not opened", address)
	}
	return nil
}

// browsers returns the commands that open a browser, the one to try first first.
func browsers(getenv func(string) string, system string) ([]string, error) {
	if set := getenv("BROWSER"); set != "" {
		return strings.Split(set, ":"), nil // as for xdg-open, and Python's webbrowser
	}
	remote := getenv("SSH_CONNECTION") != "" || getenv("SSH_TTY") != ""
	windows := getenv("WSL_DISTRO_NAME") != "" // of which the browser is
	display := getenv("DISPLAY")+getenv("WAYLAND_DISPLAY") != ""
	switch {
	case system == "darwin" && !remote:
		return []string{"open"}, nil
	case system != "darwin" && windows:
		return []string{"wslview", "xdg-open", "explorer.exe"}, nil
	case system != "darwin" && display:
		return []string{"xdg-open", "x-www-browser"}, nil
	case remote:
		return nil, event.WithHint(errors.New("over ssh, no browser can be opened"),
			"open the address on your own machine, with the port forwarded: ssh -L")
	}
	return nil, event.WithHint(errors.New("there is no display to open a browser on"),
		"set BROWSER to a program that opens one")
}

// startBrowser starts one command of $BROWSER, in which %s stands for the address. It runs on after
// devloop and does not get devloop's Ctrl+C.
func startBrowser(ctx context.Context, command, address string) error {
	words := strings.Fields(command)
	if len(words) == 0 {
		return fmt.Errorf("BROWSER: %w", exec.ErrNotFound)
	}
	placed := false
	for i, word := range words[1:] {
		if strings.Contains(word, "%s") {
			words[i+1], placed = strings.ReplaceAll(word, "%s", address), true
		}
	}
	if !placed {
		words = append(words, address)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), words[0], words[1:]...) //nolint:gosec // the user's own
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil && words[0] != "explorer.exe" { // which reports that it failed whatever it did
			return fmt.Errorf("%s: %w", words[0], err)
		}
		return nil
	case <-time.After(browserTimeout):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
