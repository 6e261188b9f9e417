package deploy

import (
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

func TestMissingReplicas(t *testing.T) {
	for _, test := range []struct {
		want, all, updated, available int32
		text                          string
	}{
		{2, 2, 2, 2, ""},
		{0, 0, 0, 0, ""},
		{2, 2, 1, 2, "1 of 2 replicas updated"},
		{2, 3, 2, 2, "1 old replicas are ending"},
		{2, 2, 2, 1, "1 of 2 replicas available"},
	} {
		if got := missingReplicas(test.want, test.all, test.updated, test.available); got != test.text {
			t.Errorf("%+v: %q", test, got)
		}
	}
}

// A pod whose first probe is delayed, or whose startup probe is asked every 10 s, as Kubernetes
// does by itself, keeps each save waiting. A readiness probe is asked as soon as its container
// runs.
func TestTheRepositorysPodsAreReadySoon(t *testing.T) {
	loaded, err := loader.Load("../../deploy/dask-session")
	if err != nil {
		t.Fatal(err)
	}
	dask := map[string]any{"workerImage": "worker:1", "gatewayURL": "http://web"}
	values := map[string]any{"dask": dask}
	given, err := chartutil.ToRenderValues(loaded, values, chartutil.ReleaseOptions{Name: "web"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(loaded, given)
	if err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict([]byte(files["dask-session/templates/deployment.yaml"]), &deployment); err != nil {
		t.Fatal(err)
	}
	for _, c := range deployment.Spec.Template.Spec.Containers {
		if c.ReadinessProbe == nil && c.StartupProbe == nil {
			t.Errorf("container %s has no probe: devloop watches it for %s", c.Name, steadyAfter)
		}
		if probe := c.ReadinessProbe; probe != nil && probe.InitialDelaySeconds != 0 {
			t.Errorf("the readiness probe of container %s: %s", c.Name, probe)
		}
		if probe := c.StartupProbe; probe != nil && probe.InitialDelaySeconds+probe.PeriodSeconds != 1 {
			t.Errorf("the startup probe of container %s: %s", c.Name, probe)
		}
	}
}
