package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
)

// complete returns what a shell gets for a command line whose last word is not ended, and the
// directive behind it.
func complete(t *testing.T, line ...string) (offered []string, directive cobra.ShellCompDirective) {
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand(&options{printer: console.NewPrinter(io.Discard)})
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, line...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := len(lines) - 1
	number, err := strconv.Atoi(strings.TrimPrefix(lines[last], ":"))
	if err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	return lines[:last], cobra.ShellCompDirective(number)
}

// TestNoFileNames walks over every argument and every flag of every command: a shell offers names
// of files only where one is meant.
func TestNoFileNames(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	meant := map[string]cobra.ShellCompDirective{
		"--file": cobra.ShellCompDirectiveFilterFileExt, "--from": cobra.ShellCompDirectiveFilterFileExt,
		"--log-file": cobra.ShellCompDirectiveDefault, "devloop man": cobra.ShellCompDirectiveFilterDirs,
	}
	check := func(what string, line ...string) {
		t.Helper()
		want, isFile := meant[what]
		if !isFile {
			want = cobra.ShellCompDirectiveNoFileComp
		}
		if _, got := complete(t, line...); got&^cobra.ShellCompDirectiveNoSpace != want {
			t.Errorf("%s (%s): directive %d, not %d", what, strings.Join(line, " "), got, want)
		}
	}
	var visit func(cmd *cobra.Command, path []string)
	visit = func(cmd *cobra.Command, path []string) {
		for _, given := range [][]string{{""}, {"a", ""}, {"--", ""}} {
			check(cmd.CommandPath(), slices.Concat(path, given)...)
		}
		flags := func(flag *pflag.Flag) {
			check("--"+flag.Name, slices.Concat(path, []string{"--" + flag.Name + "="})...)
			if flag.NoOptDefVal == "" {
				check("--"+flag.Name, slices.Concat(path, []string{"--" + flag.Name, ""})...)
			}
		}
		cmd.LocalFlags().VisitAll(flags)
		cmd.InheritedFlags().VisitAll(flags)
		for _, sub := range cmd.Commands() {
			visit(sub, slices.Concat(path, []string{sub.Name()}))
		}
	}
	visit(newRootCommand(&options{printer: console.NewPrinter(io.Discard)}), nil)
}

func TestCompletion(t *testing.T) {
	s := show(t, "", &options{}, devOptions{pagePort: -1})
	folder := filepath.Dir(s.file)
	for name, content := range map[string]string{
		s.file: "apiVersion: devloop/v1\nname: demo\nprofiles: { small: {}, large: {} }\n" +
			"images: { worker: { context: . } }\nreleases:\n" +
			"  - { name: web, namespace: demo, manifests: [web.yaml] }\n" +
			"  - { name: api, namespace: demo, manifests: [web.yaml] }\n",
		filepath.Join(folder, "Dockerfile"): "FROM scratch\n",
		filepath.Join(folder, "web.yaml"):   "{ apiVersion: v1, kind: ConfigMap, metadata: { name: web } }",
		os.Getenv("KUBECONFIG"): "apiVersion: v1\nkind: Config\ncontexts:\n" +
			"  - { name: minikube, context: { cluster: a } }\n  - { name: kind-dev, context: { cluster: a } }\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	for _, e := range []event.Event{
		{Stage: event.PodStage, Message: event.PodChanged, Payload: event.Pod{Release: "web",
			PodRef:     event.PodRef{Namespace: "demo", Pod: "web-5d9c"},
			Containers: event.Containers{{Name: "app"}, {Name: "proxy"}}}},
		{Stage: event.PodStage, Message: event.PodChanged, Payload: event.Pod{Group: "1",
			PodRef: event.PodRef{Namespace: "demo", Pod: "dask-scheduler-1"}}},
		{Stage: "dask", Message: event.ClusterSeen, Payload: event.DaskCluster{Namespace: "demo", Name: "1", Owner: "ada"}},
		{Stage: "dask", Message: event.ClusterSeen, Payload: event.DaskCluster{Namespace: "demo", Name: "2"}},
		{Stage: "dask", Message: event.ClusterGone, Payload: event.DaskClusterEnd{Namespace: "demo", Name: "2"}},
	} {
		e.Time, e.Phase = time.Now(), event.Noted
		s.sink(e)
	}
	for line, want := range map[string]string{
		"run ":                       "web api",
		"run web ":                   "api",
		"run --only ":                "web api",
		"run --only web,":            "web,api",
		"diff ":                      "web api",
		"render ":                    "web api",
		"delete ":                    "web api",
		"--set ":                     "images.worker. releases[web]. releases[api].",
		"--profile ":                 "small large",
		"--profile small,":           "small,large",
		"logs ":                      "dask-scheduler-1 web-5d9c",
		"logs web-5d9c ":             "dask-scheduler-1",
		"logs web-5d9c/":             "web-5d9c/app web-5d9c/proxy",
		"logs --level ":              "debug info warn error",
		"clusters stop ":             "demo.1",
		"clusters stop demo.1 ":      "",
		"clusters restart ":          "demo.1",
		"--kube-context ":            "kind-dev minikube",
		"--allow-context ":           "kind-dev minikube",
		"status --wait ":             strings.Join(healths, " "),
		"help clusters ":             "restart stop",
		"-f ":                        "yaml yml",
		"-f none.yaml run ":          "",
		"-f none.yaml logs ":         "",
		"--kube-context other logs ": "",
		"completion ":                "bash zsh fish",
		"init --from ":               "yaml yml",
		"--log-format ":              "text logfmt json",
	} {
		if offered, _ := complete(t, strings.Split(line, " ")...); strings.Join(offered, " ") != want {
			t.Errorf("devloop %s: %q", line, offered)
		}
	}
	t.Setenv("DEVLOOP_FILE", "none.yaml")
	if offered, _ := complete(t, "logs", ""); len(offered) > 0 {
		t.Errorf("of another file: %q", offered)
	}
}
