package skaffold

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/devloop/devloop/pkg/config"
)

// platform is the file for the Dask Gateway platform.
const platformFile = `apiVersion: devloop/v1
name: dask-gateway
images:
  worker:     { dockerfile: Dockerfile.worker }
  daskclient: { dockerfile: Dockerfile.client }
releases:
  - name: dask-gateway
    chart: https://helm.dask.org/dask-gateway-2024.1.0.tgz
    namespace: dask-gateway
    createNamespace: true
    values: [deploy/dask-gateway/values.yaml]
    set:
      gateway.backend.image.name: '{{ repository "worker" }}'
      gateway.backend.image.tag: '{{ tag "worker" }}'
      traefik.service.type: ClusterIP
  - name: dask-session
    chart: deploy/dask-session
    namespace: dask-gateway
    set:
      dask.image: '{{ image "daskclient" }}'
      dask.workerImage: '{{ image "worker" }}'
      dask.gatewayURL: http://traefik-dask-gateway.dask-gateway.svc.cluster.local:80
health:
  - { deployment: 'app.kubernetes.io/name=dask-gateway', namespace: dask-gateway }
cleanup:
  before: [daskclusters.gateway.dask.org]
forwards:
  - { service: traefik-dask-gateway, namespace: dask-gateway, port: 80, local: 8001, ready: /api/health }
`

// project makes the files that platformFile names, and some more.
func project(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{
		"Dockerfile.worker", "Dockerfile.client", "sub/Dockerfile", "values.yaml", "chart.tgz",
		"deploy/dask-gateway/values.yaml", "deploy/dask-session/Chart.yaml",
		"k8s/app.yaml", "kustomization.yaml", "overlay/kustomization.yaml", "more/x.yaml",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load writes text as devloop.yaml into dir, and loads it there.
func load(t testing.TB, dir, text string) (*config.Config, error) {
	t.Helper()
	t.Chdir(dir)
	write(t, config.FileName, text)
	return config.Load(config.Source{})
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const aPort = `a port: a number from 1 to 65535, or a name of up to 63 of a-z, 0-9 and -, ` +
	`with a letter or digit at both ends`
