package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/devloop/devloop"
	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/event"
)

// ignoreName and its text keep passwords of a private package index out of Git.
const (
	ignoreName = ".gitignore"
	ignoreText = "# A private package index, maybe with passwords.\n/pip.conf\n/ca.pem\n\n/.venv/\n__pycache__/\n"
)

// ignoreFiles may be there already and list more than ours: they are kept.
var ignoreFiles = []struct{ name, lists string }{
	{ignoreName, "pip.conf, which may hold a package index's password"},
	{".dockerignore", "**/__pycache__, or an import of analysis on this machine changes the images"},
}

// daskNext is what a user does with the platform. The images have the same version of Python.
const daskNext = `start with: devloop (on a machine with two cores: devloop --profile small)
then, with the same libraries on this machine:
  python3.11 -m venv .venv && .venv/bin/pip install -r requirements.txt
  .venv/bin/python
  >>> from dask_gateway import Gateway
  >>> cluster = Gateway("http://localhost:8001").new_cluster()
  >>> cluster.scale(2)
  >>> client = cluster.get_client()
  >>> from analysis.robust import trimmed_mean
  >>> client.submit(trimmed_mean, [1, 2, 3, 400]).result()
after an edit of analysis/robust.py:
  >>> client.restart()`

// daskPlatform returns the files of the platform as a project with this name.
func daskPlatform(name string) (map[string][]byte, error) {
	files := map[string][]byte{schemaName: config.Schema(), ignoreName: []byte(ignoreText)}
	err := fs.WalkDir(devloop.Platform, ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files[filepath.FromSlash(path)], err = devloop.Platform.ReadFile(path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	title, err := yaml.Marshal(map[string]string{"name": name}) // in quotes where YAML needs them
	if err != nil {
		return nil, err
	}
	text := files[config.FileName]
	text = bytes.Replace(text, []byte("$schema=pkg/config/schema.json"), []byte("$schema="+schemaName), 1)
	text = bytes.Replace(text, []byte("\nname: dask-gateway\n"), append([]byte("\n"), title...), 1)
	files[config.FileName] = text
	return files, nil
}

// initDask writes the platform into this folder, all of it or nothing, and says to out what to do
// next. Only force replaces files that are there; links are replaced, not followed.
func initDask(out io.Writer, force bool) error {
	here, err := filepath.Abs(".")
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	files, err := daskPlatform(tree.Label(filepath.Base(here), "dask"))
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	kept := ""
	for _, file := range ignoreFiles {
		if _, err := os.Lstat(file.name); err == nil {
			delete(files, file.name)
			kept += "kept: " + file.name + "; it should list " + file.lists + "\n"
		}
	}
	names := slices.Sorted(maps.Keys(files))
	present, err := checkFree(names, force)
	if err != nil {
		return err
	}
	staging, err := os.MkdirTemp(".", "."+config.FileName+"-*")
	if err != nil {
		return cannotWrite(err)
	}
	defer func() { _ = os.RemoveAll(staging) }()
	for _, name := range names {
		path := filepath.Join(staging, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, files[name], 0o644)); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	if _, err := config.Load(config.Source{Files: []string{filepath.Join(staging, config.FileName)}}); err != nil {
		return event.WithHint(fmt.Errorf("init: the platform has no valid %s: %w", config.FileName, err),
			"this is a bug in devloop: please report it")
	}
	if err := moveInto(staging, names, present); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = fmt.Fprintln(out, "written: "+strings.Join(names, ", ")+"\n"+kept+daskNext)
	return err
}

// moveInto moves files from a folder into this one. If one cannot be moved, those that are new go
// again.
func moveInto(staging string, names []string, present map[string]bool) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, path := range slices.Backward(made) {
				_ = os.Remove(path)
			}
		}
	}()
	for _, name := range names {
		folder := "."
		for _, part := range strings.Split(filepath.Dir(name), string(filepath.Separator)) {
			folder = filepath.Join(folder, part)
			if err := os.Mkdir(folder, 0o755); err == nil {
				made = append(made, folder)
			} else if !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if err := os.Rename(filepath.Join(staging, name), name); err != nil {
			return err
		}
		if !present[name] {
			made = append(made, name)
		}
	}
	return nil
}
