// Look prints what is in folders, for a test that compares them: a line for who owns it, and one
// for each file, folder and link. Without a folder it waits to be stopped, for a container in
// which there is nothing else.
package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
)

func main() {
	if len(os.Args) == 1 {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		return
	}
	for _, folder := range os.Args[1:] {
		if err := look(folder); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func look(folder string) error {
	owners := map[string]bool{}
	var lines []string
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		owners[fmt.Sprintf("%d:%d", owner.Uid, owner.Gid)] = true
		content := ""
		switch info.Mode().Type() {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%d bytes %.8x", len(data), sha256.Sum256(data))
		case fs.ModeSymlink:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		name, err := filepath.Rel(folder, path)
		lines = append(lines, fmt.Sprintf("%q %s %s", name, info.Mode(), content))
		return err
	})
	fmt.Println(slices.Sorted(maps.Keys(owners)))
	for _, line := range lines {
		fmt.Println(line)
	}
	return err
}
