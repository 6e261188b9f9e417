package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
)

// schemaName is the schema of devloop.yaml, for editors.
const schemaName = "devloop.schema.json"

func newInitCommand(o *options) *cobra.Command {
	force, from := false, ""
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a devloop.yaml from the Dockerfiles and charts of this folder",
		Long: `Writes devloop.yaml, and ` + schemaName + ` for your editor, from the Dockerfiles and Helm charts in this
folder and below; without a chart, from its kustomization for development, or its manifests. Charts need no
values for images that are built here and that their containers name; other values that name one are set to it.
Services are forwarded. Look it over before you start devloop: the output says what was guessed. With --from,
the file does what a skaffold.yaml does, with these profiles; comments say what devloop does differently or not
at all.`,
		Example: `  devloop init
  devloop init --from skaffold.yaml --profile local`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, flag := range []string{"file", "profile", "module", "set", "kube-context"} {
				if cmd.Flags().Changed(flag) && (flag != "profile" && flag != "module" || from == "") {
					return usageError("devloop init --help", "init: --%s has no meaning here: a new %s is written into this folder",
						flag, config.FileName)
				}
			}
			var text string
			var notes []string
			var err error
			if from != "" {
				text, notes, err = o.fromSkaffold(from)
			} else {
				text, notes, err = survey(cmd.Context(), ".")
			}
			if err != nil {
				return err
			}
			if err = writeConfig(text, force); err == nil {
				notes = append(notes, "written: "+config.FileName+" and "+schemaName+"; start with: devloop")
			}
			for _, note := range notes {
				_, _ = fmt.Fprintln(cmd.OutOrStdout(), note)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a "+config.FileName+" and a "+schemaName+" that are there")
	cmd.Flags().StringVar(&from, "from", "", "write what this skaffold.yaml does")
	completeFlag(cmd, "from", yamlFiles)
	return cmd
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
	return "# yaml-language-server: $schema=" + schemaName + "\n" + string(yaml), notes, nil
}

// writeConfig writes devloop.yaml and its schema into this folder, after checking that devloop can
// read them. Only force replaces what has one of the names; a link is replaced, not followed.
func writeConfig(text string, force bool) error {
	for _, name := range []string{config.FileName, schemaName} {
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("init: %w", err)
		case info.IsDir():
			return usageError("move it away", "init: %s is a folder", name)
		case !force:
			return usageError("devloop init --force replaces it", "init: there is a %s already", name)
		}
	}
	schema, err := writeBeside(schemaName, config.Schema())
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer func() { _ = os.Remove(schema) }() // unless it was renamed
	file, err := writeBeside(config.FileName, []byte(text))
	if err != nil {
		return fmt.Errorf("init: %w", err)
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
