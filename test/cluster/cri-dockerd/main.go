// Cri-dockerd lets the kubelet run its pods in Docker, as on a minikube node whose runtime is docker. It is a module of
// its own, as it needs packages of an older Kubernetes than the one in ../kube; it is built only for a node of that runtime.
package main

import (
	"os"

	"github.com/Mirantis/cri-dockerd/cmd"
)

func main() {
	if err := cmd.NewDockerCRICommand(make(chan struct{})).Execute(); err != nil { // which logs the error; runs until it is killed
		os.Exit(1)
	}
}
