// Kube is the part of a Kubernetes node that Debian does not package: the control plane, kubelet,
// kube-proxy, kubectl and a small cluster DNS, unmodified upstream commands linked into one binary
// so that they are compiled and linked once. As in busybox, the name that it is called by, or else its
// first argument, names the command.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var commands = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kube-proxy":              proxy.NewProxyCommand,
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
	"dns":                     newDNSCommand,
}

func main() {
	if name := filepath.Base(os.Args[0]); commands[name] == nil { // not called through a link of the command's name
		os.Args = os.Args[1:]
	}
	if len(os.Args) == 0 || commands[filepath.Base(os.Args[0])] == nil {
		names := slices.Sorted(maps.Keys(commands))
		fmt.Fprintln(os.Stderr, "usage: kube COMMAND [flags]; the commands are", names)
		os.Exit(2)
	}
	os.Exit(cli.Run(commands[filepath.Base(os.Args[0])]()))
}
