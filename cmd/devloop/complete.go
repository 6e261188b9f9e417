package main

// What a shell offers when the user presses Tab, for arguments and for values of flags. What runs
// is known from the running devloop alone: to ask the cluster would take too long.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/status"
)

// completeWithin is how long the user waits for the running devloop after pressing Tab.
const completeWithin = 500 * time.Millisecond

// completeFlag tells shells how to complete a flag's value.
func completeFlag(cmd *cobra.Command, flag string, values cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, values); err != nil {
		panic(err) // there is no such flag
	}
}

func oneOf(values []string) cobra.CompletionFunc {
	return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
}

var (
	yamlFiles = cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt)
	anyFile   = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	folders   = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
)

// firstArgument offers for the first argument what all of these do, and nothing for the others.
func firstArgument(functions ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, word string) (all []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(given) == 0 {
			for _, complete := range functions {
				found, _ := complete(cmd, given, word)
				all = append(all, found...)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp
	}
}

// completePods offers the pods of the running devloop, and behind POD/ its containers.
func (o *options) completePods(cmd *cobra.Command, given []string, word string,
) (found []cobra.Completion, _ cobra.ShellCompDirective) {
	pod, _, inPod := strings.Cut(word, "/")
	for _, p := range o.running(cmd).Pods {
		switch {
		case !inPod && !slices.Contains(given, p.Name):
			found = append(found, cobra.CompletionWithDesc(p.Name, strings.TrimSpace(p.Release+" "+p.Group)))
		case inPod && p.Name == pod:
			for _, c := range p.Containers {
				found = append(found, cobra.CompletionWithDesc(pod+"/"+string(c.Name), string(c.Image)))
			}
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeClusters offers the Dask clusters that the running devloop sees.
func (o *options) completeClusters(cmd *cobra.Command, given []string, _ string,
) (found []cobra.Completion, _ cobra.ShellCompDirective) {
	state := o.running(cmd)
	for _, c := range state.Clusters {
		if c.Ended == nil && !slices.Contains(given, c.FullName()) {
			found = append(found, cobra.CompletionWithDesc(c.FullName(),
				fmt.Sprintf("of %s, %s", console.OrDash(c.Owner), c.Image)))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeReleases offers the releases of the configuration.
func (o *options) completeReleases(cmd *cobra.Command, given []string, word string,
) ([]cobra.Completion, cobra.ShellCompDirective) {
	_ = o.readEnvironment(cmd) // the command reports what is wrong with it
	return without(config.ReleaseNames(o.source()), given), cobra.ShellCompDirectiveNoFileComp
}

// completeProfiles offers the profiles of the configuration.
func (o *options) completeProfiles(cmd *cobra.Command, given []string, _ string,
) ([]cobra.Completion, cobra.ShellCompDirective) {
	_ = o.readEnvironment(cmd) // the command reports what is wrong with it
	return without(config.ProfileNames(o.source()), given), cobra.ShellCompDirectiveNoFileComp
}

// without returns the names that are not given yet.
func without(names, given []string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(given, name) })
}

// completeSet offers the beginnings of paths below images and releases.
func (o *options) completeSet(cmd *cobra.Command, _ []string, _ string,
) (found []cobra.Completion, _ cobra.ShellCompDirective) {
	_ = o.readEnvironment(cmd) // the command reports what is wrong with it
	source := o.source()
	source.Set = nil // it has what is being typed
	if c, err := config.Load(source); err == nil {
		for _, image := range c.Images {
			found = append(found, "images."+image.Name+".")
		}
		for _, release := range c.Releases {
			found = append(found, "releases["+release.Name+"].")
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeContexts offers the contexts of the kubeconfig.
func completeContexts(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return kube.ContextNames(), cobra.ShellCompDirectiveNoFileComp
}

// inList completes the last name of a list with commas.
func inList(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := word[:strings.LastIndex(word, ",")+1]
		found, directive := complete(cmd, strings.Split(before, ","), strings.TrimPrefix(word, before))
		for i := range found {
			found[i] = before + found[i]
		}
		return found, directive
	}
}

// running returns the state of the devloop that the command line means. It is empty if none runs,
// or none answers in time.
func (o *options) running(cmd *cobra.Command) status.State {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
	defer cancel()
	_ = o.readEnvironment(cmd) // the command reports what is wrong with it
	o.files = o.configFiles()
	state, err := readState(ctx, o)
	if err != nil {
		return status.State{}
	}
	return *state
}

// completeCommands offers the commands below the one that is named.
func completeCommands(cmd *cobra.Command, given []string, _ string,
) (found []cobra.Completion, _ cobra.ShellCompDirective) {
	if about, rest, err := cmd.Root().Find(given); err == nil && len(rest) == 0 {
		for _, below := range about.Commands() {
			if below.IsAvailableCommand() {
				found = append(found, cobra.CompletionWithDesc(below.Name(), below.Short))
			}
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
