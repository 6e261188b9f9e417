package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/devloop/devloop/pkg/config/tree"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
)

// usageError is about a wrong command line.
func usageError(hint, format string, args ...any) error {
	return console.UsageError{Err: event.WithHint(fmt.Errorf(format, args...), hint)}
}

// commandError is a usageError that begins with the command's name, unless that is devloop itself.
func commandError(cmd *cobra.Command, hint, format string, args ...any) error {
	if name, isBelow := strings.CutPrefix(cmd.CommandPath(), cmd.Root().Name()+" "); isBelow {
		format, args = "%s: "+format, append([]any{name}, args...)
	}
	return usageError(hint, format, args...)
}

// flagError says what is wrong with the flags of a command line, in place of pflag's words.
func flagError(cmd *cobra.Command, err error) error {
	var wrong *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &wrong):
		return valueError("--"+wrong.GetFlag().Name, wrong.GetFlag(), wrong.GetValue(), wrong.Unwrap(), "")
	case errors.As(err, &missing):
		return usageError(allowed(missing.GetFlag()), "--%s: its value is missing", missing.GetFlag().Name)
	case errors.As(err, &unknown):
		return unknownFlag(cmd, unknown)
	}
	return usageError(cmd.CommandPath()+" --help", "%w", err) // --=x
}

// valueError is about a text that a flag does not take. from is where it was given, and more adds
// to what the user can do.
func valueError(from string, flag *pflag.Flag, text string, cause error, more string) error {
	problem := fmt.Sprintf("%q cannot be read", text)
	if _, own := flag.Value.(limited); own {
		problem = cause.Error()
	} else if flag.Value.Type() == "bool" {
		problem = fmt.Sprintf("%q is neither true nor false", text)
	}
	return usageError(allowed(flag)+more, "%s: %s", from, problem)
}

// allowed says what a flag takes.
func allowed(flag *pflag.Flag) string {
	if own, ok := flag.Value.(limited); ok {
		return own.allowed()
	}
	if flag.Value.Type() == "bool" {
		return fmt.Sprintf("write --%s, or --%s=false", flag.Name, flag.Name)
	}
	name, usage := pflag.UnquoteUsage(flag)
	usage, _, _ = strings.Cut(usage, ";")
	return fmt.Sprintf("write --%s %s: %s", flag.Name, strings.ToUpper(name), usage)
}

// unknownFlag says which flag may have been meant.
func unknownFlag(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	name, letters := unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames()
	if letters == "" {
		return usageError(cmp.Or(flagHint(cmd, name), cmd.CommandPath()+" --help"), "unknown flag: --%s", name)
	}
	for _, word := range singleDash(cmd, letters) {
		if hint := flagHint(cmd, word); hint != "" {
			return usageError(hint, "unknown flag: -%s", word)
		}
	}
	return usageError(cmp.Or(flagHint(cmd, name), cmd.CommandPath()+" --help"), "unknown flag: -%s", name)
}

// singleDash returns the names of long flags that may have been meant by letters after a single
// dash. pflag has taken those before them for short flags.
func singleDash(cmd *cobra.Command, letters string) (words []string) {
	letters, _, _ = strings.Cut(letters, "=")
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if flag.Shorthand != "" {
			words = append(words, flag.Shorthand+letters)
		}
	})
	words = slices.DeleteFunc(append(words, letters), func(word string) bool { return len(word) < 3 })
	owners := flagOwners(cmd)
	exact := slices.IndexFunc(words, func(word string) bool {
		return cmd.Flags().Lookup(word) != nil || owners[word] != nil
	})
	return words[max(0, exact):]
}

// flagHint says which flag is meant by a word that is none of cmd's flags after two dashes.
func flagHint(cmd *cobra.Command, word string) string {
	if hint := skaffoldFlagHint(word); hint != "" {
		return hint
	}
	if cmd.Flags().Lookup(word) != nil {
		return "a long flag has two dashes: --" + word
	}
	if positive, isNegated := strings.CutPrefix(word, "no-"); isNegated {
		if flag := cmd.Flags().Lookup(positive); flag != nil && flag.Value.Type() == "bool" {
			return fmt.Sprintf("write --%s=false", positive)
		}
	}
	owners := flagOwners(cmd)
	if commands := owners[word]; commands != nil {
		return fmt.Sprintf("--%s is a flag of %s", word, strings.Join(commands, ", "))
	}
	if len(word) == 1 {
		return ""
	}
	if similar := tree.Similar(word, flagNames(cmd)); similar != "" {
		return fmt.Sprintf("did you mean --%s?", similar)
	}
	if similar := tree.Similar(word, slices.Sorted(maps.Keys(owners))); similar != "" {
		return fmt.Sprintf("did you mean --%s? It is a flag of %s", similar, strings.Join(owners[similar], ", "))
	}
	if similar := tree.Similar(word, slices.Sorted(maps.Keys(skaffoldFlags))); len(similar) > 2 {
		return fmt.Sprintf("skaffold's --%s: %s", similar, skaffoldFlags[similar])
	}
	return ""
}

func flagNames(cmd *cobra.Command) (names []string) {
	cmd.Flags().VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	return names
}

// flagOwners returns the flags that cmd does not have, with the commands that have each.
func flagOwners(cmd *cobra.Command) map[string][]string {
	owners := map[string][]string{}
	var visit func(*cobra.Command)
	visit = func(other *cobra.Command) {
		other.LocalNonPersistentFlags().VisitAll(func(flag *pflag.Flag) {
			if cmd.Flags().Lookup(flag.Name) == nil {
				owners[flag.Name] = append(owners[flag.Name], other.CommandPath())
			}
		})
		for _, sub := range other.Commands() {
			if !sub.Hidden {
				visit(sub)
			}
		}
	}
	visit(cmd.Root())
	return owners
}

// checkFlagsFirst has all commands look at the values of their flags before they look at their
// arguments, which a flag may have taken.
func checkFlagsFirst(cmd *cobra.Command) {
	checkArguments := cmd.Args
	if checkArguments == nil {
		checkArguments = cobra.ArbitraryArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := checkFlags(cmd); err != nil {
			return err
		}
		return checkArguments(cmd, args)
	}
	for _, sub := range cmd.Commands() {
		checkFlagsFirst(sub)
	}
}

// checkFlags finds texts that pflag takes for values, but nobody means as such: nothing at all,
// another flag, and the rest of a long flag's name after a single dash.
func checkFlags(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		all := texts(flag)
		for _, text := range all {
			name, _, _ := strings.Cut(strings.TrimPrefix(text, "--"), "=")
			switch {
			case err != nil:
			case text == "" && len(all) > 1:
				err = usageError(allowed(flag), "--%s: a value is empty: %q", flag.Name, strings.Join(all, ","))
			case text == "":
				err = usageError(allowed(flag), "--%s: its value is empty", flag.Name)
			case strings.HasPrefix(text, "--") && cmd.Flags().Lookup(name) != nil:
				err = usageError(allowed(flag), "--%s: its value is missing before %s", flag.Name, text)
			case flag.Shorthand != "" && len(name) > 1 && cmd.Flags().Lookup(flag.Shorthand+name) != nil:
				long := flag.Shorthand + name
				err = usageError("a long flag has two dashes: --"+long, "unknown flag: -%s", long)
			}
		}
	})
	return err
}

// texts are the values of a flag that takes any text, nil for another one.
func texts(flag *pflag.Flag) []string {
	switch value := flag.Value.(type) {
	case pflag.SliceValue:
		if list := value.GetSlice(); len(list) > 0 {
			return list
		}
		return []string{""}
	default:
		if value.Type() == "string" || value.Type() == new(podPattern).Type() {
			return []string{value.String()}
		}
	}
	return nil
}

// separateValue says how to write what may be the value of a flag that stands without one: --json
// false.
func separateValue(cmd *cobra.Command, argument string) (hint string) {
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if flag.Value.Type() == "bool" && (argument == "true" || argument == "false") {
			hint = fmt.Sprintf("write --%s=%s", flag.Name, argument)
		}
	})
	return hint
}
