package main

import (
	"cmp"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/control"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/session"
	"github.com/devloop/devloop/pkg/skaffold"
)

// options are the flags that commands share, or the environment variables in their place.
type options struct {
	files       []string
	profiles    []string
	modules     []string // configurations of a skaffold.yaml
	command     string   // of skaffold, that this one stands for; "" for dev
	set         []string
	kubeContext string
	allow       []string // kube contexts
	verbose     bool
	quiet       bool
	logFormat   string
	logFile     string
	adopt       bool
	only        []string // names of releases

	variables map[string]string // by flag: the variable of the environment that is in its place

	printer *console.Printer
}

func (o *options) register(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringArrayVarP(&o.files, "file", "f", nil,
		"the configuration `file` (by default "+config.FileName+", or else skaffold.yaml, or the "+config.FileName+
			" of a folder above in the same git repository); "+
			"each further file is merged over those before it")
	flags.StringSliceVarP(&o.profiles, "profile", "p", nil, "merge a `profile` of the configuration over it; "+
		"-p -NAME leaves out one that applies by itself, as those of a skaffold.yaml may")
	flags.StringSliceVarP(&o.modules, "module", "m", nil,
		"of a skaffold.yaml, take the configuration with this `name` alone, and those that it requires")
	flags.StringArrayVar(&o.set, "set", nil,
		"set one value of the configuration: `path=value`, as in images.worker.target=dev")
	flags.StringVar(&o.kubeContext, "kube-context", "",
		"the kube `context` to use, instead of the configuration's or the current one")
	flags.StringArrayVar(&o.allow, "allow-context", nil,
		"a kube `context` that may be deployed to though nothing proves that its cluster is on this machine")
	flags.BoolVarP(&o.verbose, "verbose", "v", false,
		"log more: each build step, what was found unchanged, the causes of an error")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "log less: how each run ended, warnings and errors")
	flags.StringVar(&o.logFile, "log-file", "",
		"write the log to this `file` as well; at 10 MB it is rotated, and the newest three old ones stay")
	o.logFormat = console.FormatText
	flags.Var(choice[string]{&o.logFormat, "format", console.LogFormats}, "log-format",
		"text for people; logfmt or json for machines")
	completeFlag(root, "file", yamlFiles)
	completeFlag(root, "profile", inList(o.completeProfiles))
	completeFlag(root, "set", o.completeSet)
	completeFlag(root, "kube-context", completeContexts)
	completeFlag(root, "allow-context", completeContexts)
	completeFlag(root, "log-file", anyFile)
	completeFlag(root, "log-format", oneOf(console.LogFormats))
}

// registerAdopt adds the flag of the commands that deploy.
func (o *options) registerAdopt(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.adopt, "adopt", false, "take over releases that were made without devloop, by another "+
		"project, or by another user or machine; they are removed with the others")
}

// registerOnly adds the flag of the commands that take names of releases, and completes these.
func (o *options) registerOnly(cmd *cobra.Command, usage string) {
	cmd.Flags().StringSliceVar(&o.only, "only", nil, usage+"; the same as their names as arguments")
	completeFlag(cmd, "only", inList(o.completeReleases))
	cmd.Args, cmd.ValidArgsFunction = cobra.ArbitraryArgs, o.completeReleases
}

// selectReleases adds arguments to the releases of --only. What is no release may be a command.
func (o *options) selectReleases(cmd *cobra.Command, names []string) error {
	known := config.ReleaseNames(o.source())
	for _, name := range names {
		if slices.Contains(known, name) {
			continue
		}
		if o.verbose && slices.Contains(console.LogLevels, name) {
			return usageError("-v logs more, -q less", "-v takes no level, which skaffold's does")
		}
		if hint := skaffoldCommands[name]; hint != "" && cmd == cmd.Root() {
			return usageError(hint, "devloop has no command %q", name)
		}
		if hint := separateValue(cmd, name); hint != "" {
			return commandError(cmd, hint, "unknown argument %q", name)
		}
		if similar := similarCommand(cmd, name); similar != "" {
			return commandError(cmd, "did you mean: "+similar, "unknown release or command %q", name)
		}
	}
	o.only = append(o.only, names...)
	return nil
}

// settle takes flags that were not given from the environment, checks them, and opens the log.
func (o *options) settle(cmd *cobra.Command) error {
	if err := o.readEnvironment(cmd); err != nil {
		return err
	}
	o.files = o.configFiles()
	if name := cmd.CalledAs(); name == "run" || name == "deploy" {
		o.command = name
	}
	if o.quiet && o.verbose {
		quiet, verbose := o.variables["quiet"] == "", o.variables["verbose"] == "" // on the command line
		if quiet == verbose {
			return usageError("leave one of them out", "%s and %s contradict each other", o.from("quiet"), o.from("verbose"))
		}
		o.quiet, o.verbose = quiet, verbose
	}
	o.printer.Configure(o.logFormat, o.verbose, o.quiet)
	if o.logFile != "" && cmd.Annotations[observes] == "" {
		if err := o.printer.OpenFile(o.logFile, o.logFormat, o.verbose); err != nil {
			return console.EnvironmentError{Err: err}
		}
	}
	return nil
}

// readEnvironment sets each flag that was not given to its variable, if there is one.
func (o *options) readEnvironment(cmd *cobra.Command) (err error) {
	o.variables = map[string]string{}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		name := "DEVLOOP_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		text := os.Getenv(name)
		if text == "" || flag.Changed || flag.Name == "help" || flag.Name == "version" {
			return
		}
		o.variables[flag.Name] = name
		for _, value := range values(flag.Name, text) {
			if invalid := flag.Value.Set(value); invalid != nil && err == nil {
				err = valueError("environment variable "+name, flag, text, invalid, "; or unset "+name)
			}
		}
	})
	return err
}

// from returns the variable that is in the place of a flag, or else the flag.
func (o *options) from(flag string) string {
	return cmp.Or(o.variables[flag], "--"+flag)
}

// notBoth returns an error if two flags of a command were given that exclude each other.
func notBoth(cmd *cobra.Command, one, other string) error {
	if cmd.Flags().Changed(one) && cmd.Flags().Changed(other) {
		return commandError(cmd, "leave one of them out", "--%s and --%s exclude each other", one, other)
	}
	return nil
}

// observes annotates the commands that look at a devloop in another terminal: the log file is that
// one's.
const observes = "devloop.observes"

// values splits a variable for a flag that can be given more than once.
func values(flag, text string) []string {
	switch flag {
	case "file":
		return filepath.SplitList(text) // like KUBECONFIG
	case "set", "allow-context": // a line each: names of contexts may contain any separator
		return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
	}
	return []string{text}
}

// consent is which kube contexts the user allows.
func (o *options) consent() session.Consent {
	return session.Consent{Allow: o.allow, AllowFrom: o.from("allow-context"), Ask: o.printer.Ask}
}

// configFiles returns the files of --file, or else the devloop.yaml or the skaffold.yaml of this
// folder, or what skaffold would read here, or the devloop.yaml of a folder above in this
// repository.
func (o *options) configFiles() []string {
	if len(o.files) > 0 {
		return o.files
	}
	if _, err := os.Lstat(config.FileName); err != nil { // a broken link is reported
		if name := skaffold.FileIn("."); name != "" {
			return []string{name}
		}
		if above, ours := config.FileAbove("."); ours {
			return []string{above}
		}
	}
	return []string{config.FileName}
}

// skaffold is what a skaffold.yaml is read with.
func (o *options) skaffold() skaffold.Options {
	here, _ := filepath.Abs(".")       // else the folder of the file
	current, _ := kube.ReadContext("") // the session reports a missing context
	return skaffold.Options{Dir: here, Command: o.command, KubeContext: o.kubeContext, CurrentContext: current.Context,
		Modules: o.modules}
}

// source is what the configuration is read from.
func (o *options) source() config.Source {
	source := config.Source{Files: o.configFiles(), Profiles: o.profiles, Only: o.only,
		Translate: o.skaffold().Translate}
	if o.kubeContext != "" {
		source.Set = append(source.Set,
			config.Assignment{From: o.from("kube-context"), Text: "kubeContext=" + strconv.Quote(o.kubeContext)})
	}
	for _, assignment := range o.set {
		source.Set = append(source.Set, config.Assignment{From: o.from("set"), Text: assignment})
	}
	return source
}

// namingVariables adds to an error of the configuration which variables have chosen what was read:
// unlike a flag, one is easily forgotten.
func (o *options) namingVariables(err error) error {
	var set []string
	for _, flag := range []string{"file", "profile", "module", "only"} {
		if name := o.variables[flag]; name != "" {
			set = append(set, name)
		}
	}
	if len(set) == 0 {
		return err
	}
	hint := "set in the environment: " + strings.Join(set, ", ")
	if known := event.Hint(err); known != "" {
		hint = known + "; " + hint
	}
	return event.WithHint(err, hint)
}

// selection is the running devloop that the flags mean.
func (o *options) selection() control.Selection {
	return control.Selection{File: o.files[0], ByDefault: o.files[0] == config.FileName, KubeContext: o.kubeContext}
}

// dataOut is where a command writes what programs read.
func dataOut(cmd *cobra.Command) io.Writer { return console.ForPrograms(cmd.OutOrStdout()) }

// printJSON writes a value for programs.
func printJSON(cmd *cobra.Command, value any) error {
	encoder := json.NewEncoder(dataOut(cmd))
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
