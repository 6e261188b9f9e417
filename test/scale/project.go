package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	podsOfImage    = 5   // in one Deployment
	filesInFolder  = 100 // of the large context
	chartYAML      = "apiVersion: v2\nname: %s\nversion: 0.1.0\n"
	dockerfile     = "FROM scratch\nCOPY . /app/\n"
	deploymentYAML = `apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: main, image: %[1]s, readinessProbe: {tcpSocket: {port: 80}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s}
data: {greeting: hello}
---
`
)

// writeProject writes a repository of many small services, of which one has a large context, and
// returns its folder.
func (l *lab) writeProject(s size, registry string) (string, error) {
	dir := filepath.Join(l.dir, "project")
	write := func(text string, path ...string) error {
		file := filepath.Join(append([]string{dir}, path...)...)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(file, []byte(text), 0o644)
	}
	var images, releases strings.Builder
	charts := make([]strings.Builder, s.Releases)
	for i := range s.Images {
		name := imageName(i)
		fmt.Fprintf(&images, "  %s: {context: %s}\n", name, name)
		fmt.Fprintf(&charts[i*s.Releases/s.Images], deploymentYAML, name, podsOfImage)
		if err := write(dockerfile, name, "Dockerfile"); err != nil {
			return "", err
		}
		if err := write(name, name, "src", "main.txt"); err != nil {
			return "", err
		}
	}
	for i := range s.Files {
		if err := write(fmt.Sprint(i), imageName(0), fmt.Sprintf("folder-%04d", i/filesInFolder),
			fmt.Sprintf("file-%02d.txt", i%filesInFolder)); err != nil {
			return "", err
		}
	}
	for i := range charts {
		name := fmt.Sprintf("release-%02d", i)
		fmt.Fprintf(&releases, "  - {name: %[1]s, chart: ./charts/%[1]s, namespace: %s, createNamespace: true}\n",
			name, namespace)
		if err := write(fmt.Sprintf(chartYAML, name), "charts", name, "Chart.yaml"); err != nil {
			return "", err
		}
		if err := write(charts[i].String(), "charts", name, "templates", "all.yaml"); err != nil {
			return "", err
		}
	}
	const devloopYAML = "apiVersion: devloop/v1\nname: scale\npush: %s/scale\nimages:\n%sreleases:\n%s"
	return dir, write(fmt.Sprintf(devloopYAML, registry, images.String(), releases.String()), "devloop.yaml")
}

func imageName(i int) string { return fmt.Sprintf("service-%02d", i) }
