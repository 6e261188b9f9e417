package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/draft"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/session"
)

// schemaName is the schema of devloop.yaml, for editors.
const schemaName = "devloop.schema.json"

// schemaComment names it to editors.
const schemaComment = "# yaml-language-server: $schema=" + schemaName + "\n"

func newInitCommand(o *options) *cobra.Command {
	force, dask, from := false, false, ""
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a devloop.yaml from the Dockerfiles and charts of this folder",
		Long: `Writes devloop.yaml, and ` + schemaName + ` for your editor, from the Dockerfiles, Helm charts, manifests,
kustomizations and the chartpress.yaml in this folder and below. Charts need no values for images that are built
here and that their containers name; other values that name one are set to it. Services are forwarded. What is
not needed is commented out, and comments say what was guessed: look it over before you start devloop. Charts that
your charts depend on are downloaded if they are not on this machine. With --from, the file does what a
skaffold.yaml does, with these profiles; comments say what devloop does differently or not at all. With --dask, a
whole platform is written into this folder, ready to run: Dask Gateway, Dockerfiles for its workers and a client, a
requirements.txt for both.`,
		Example: `  devloop init
  devloop init --from skaffold.yaml --profile local
  mkdir platform && cd platform && devloop init --dask && devloop`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notBoth(cmd, "dask", "from"); err != nil {
				return err
			}
			if _, err := os.Getwd(); err != nil {
				return console.EnvironmentError{Err: event.WithHint(errors.New("init: the current folder is gone"),
					"cd into one that there is")}
			}
			for _, flag := range []string{"file", "profile", "module", "set", "kube-context"} {
				if cmd.Flags().Changed(flag) && (flag != "profile" && flag != "module" || from == "") {
					return usageError("devloop init --help", "init: --%s has no meaning here: a new %s is written into this folder",
						flag, config.FileName)
				}
			}
			if dask {
				return initDask(cmd.OutOrStdout(), force)
			}
			if _, err := checkFree([]string{config.FileName, schemaName}, force); err != nil {
				return err
			}
			var text string
			var notes []string
			var err error
			if from != "" {
				text, notes, err = o.fromSkaffold(from)
			} else {
				text, notes, err = survey(cmd.Context())
			}
			if err != nil {
				return err
			}
			if err = writeConfig(text); err == nil {
				notes = append(notes, "written: "+config.FileName+" and "+schemaName+
					"; next: devloop doctor checks what it needs, devloop starts it")
			}
			for _, note := range notes {
				_, unsaid := fmt.Fprintln(cmd.OutOrStdout(), note)
				err = cmp.Or(err, unsaid)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace files that are there")
	cmd.Flags().StringVar(&from, "from", "", "write what this skaffold.yaml `file` does")
	cmd.Flags().BoolVar(&dask, "dask", false, "write a Dask Gateway platform, ready to run")
	completeFlag(cmd, "from", yamlFiles)
	return cmd
}

// survey returns a devloop.yaml made from what is in this folder, and notes for the user.
func survey(ctx context.Context) (text string, notes []string, err error) {
	cache, err := session.CacheDir()
	if err != nil {
		return "", nil, console.EnvironmentError{Err: err}
	}
	text, notes, err = draft.Survey(ctx, filepath.Join(cache, "charts"))
	if errors.Is(err, draft.ErrNothing) {
		here, _ := filepath.Abs(".") // else it is not said
		return "", nil, usageError("go to the folder of your project", "init: %w in %s", err, here)
	}
	if above, _ := config.FileAbove("."); err == nil && above != "" {
		notes = append(notes, "there is a "+above+", too: in this folder, the new file counts")
	}
	return schemaComment + text, notes, err
}

// fromSkaffold returns a devloop.yaml for this folder that does what a skaffold.yaml does here, and
// notes for the user.
func (o *options) fromSkaffold(from string) (text string, notes []string, err error) {
	c, err := config.Load(config.Source{Files: []string{from}, Profiles: o.profiles, Translate: o.skaffold().Translate})
	switch {
	case err != nil:
		return "", nil, err
	case c.Format == "":
		return "", nil, console.UsageError{Err: fmt.Errorf("init: %s is a %s already", from, config.FileName)}
	}
	yaml, err := c.Text()
	if err != nil {
		return "", nil, fmt.Errorf("init: %w", err)
	}
	for _, note := range c.Notes {
		notes = append(notes, note.String())
	}
	return schemaComment + string(yaml), notes, nil
}

// checkFree returns which of the files there are. It is an error if they must not be replaced, or
// if something else stands where a file or its folder belongs.
func checkFree(names []string, force bool) (present map[string]bool, err error) {
	present = map[string]bool{}
	var blocked []string
	for _, name := range names {
		for folder := filepath.Dir(name); folder != "."; folder = filepath.Dir(folder) {
			if info, err := os.Lstat(folder); err == nil && !info.IsDir() && !slices.Contains(blocked, folder) {
				blocked = append(blocked, folder)
			}
		}
		info, err := os.Lstat(name)
		switch {
		case err != nil && len(blocked) > 0 || errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("init: %w", err)
		case info.IsDir():
			blocked = append(blocked, name)
		default:
			present[name] = true
		}
	}
	switch {
	case len(blocked) > 0:
		return nil, usageError("move it away", "init: in the way: %s", strings.Join(blocked, ", "))
	case len(present) > 0 && !force:
		return nil, usageError("--force replaces what is there", "init: already here: %s",
			strings.Join(slices.Sorted(maps.Keys(present)), ", "))
	}
	return present, nil
}

// writeConfig writes devloop.yaml and its schema into this folder, after checking that devloop can
// read them. It replaces what has one of the names; a link is not followed.
func writeConfig(text string) error {
	schema, err := writeBeside(schemaName, config.Schema())
	if err != nil {
		return cannotWrite(err)
	}
	defer func() { _ = os.Remove(schema) }() // unless it was renamed
	file, err := writeBeside(config.FileName, []byte(text))
	if err != nil {
		return cannotWrite(err)
	}
	defer func() { _ = os.Remove(file) }()
	if _, err := config.Load(config.Source{Files: []string{file}}); err != nil {
		return event.WithHint(fmt.Errorf("init: this folder gives no valid %s: %w", config.FileName, err),
			"this is a bug in devloop: please report it, and write the file by hand")
	}
	if err := errors.Join(os.Rename(schema, schemaName), os.Rename(file, config.FileName)); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// cannotWrite is the error of a temporary file, whose name says nothing to the user.
func cannotWrite(err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		err = failed.Err
	}
	here, _ := filepath.Abs(".") // else it is not said
	return fmt.Errorf("init: %s cannot be written to: %w", here, err)
}

// writeBeside writes a temporary file that will be renamed to name.
func writeBeside(name string, content []byte) (temporary string, err error) {
	file, err := os.CreateTemp(".", "."+name+"-*")
	if err != nil {
		return "", err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return file.Name(), nil
}
