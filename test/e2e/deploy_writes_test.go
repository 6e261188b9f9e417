//go:build e2e

// What Helm cannot complete ends before anything is written; where a write had begun, the error
// says what was written.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/devloop/devloop/pkg/event"
)

func testWrites(t *testing.T, cluster kubernetes.Interface) {
	p := newProject(t, "deploy/writes")
	d := p.start(t)
	d.await(t, 0, ready)
	deployment := func() *appsv1.Deployment {
		t.Helper()
		found, err := cluster.AppsV1().Deployments(p.name).Get(t.Context(), "web", metav1.GetOptions{})
		must(t, err)
		return found
	}
	job := func() *batchv1.Job {
		t.Helper()
		found, err := cluster.BatchV1().Jobs(p.name).Get(t.Context(), "migrate", metav1.GetOptions{})
		must(t, err)
		return found
	}
	const records2 = "superseded deployed"
	recreated := on("recreated, since it cannot be changed in place").with("object", "^job/migrate$").
		with("changed", `^spec\.template\.spec\.containers\[0\]\.command\[1\]$`)

	step(t, "a job is recreated, in the write that changes the deployment", func(t *testing.T) {
		first := job()
		p.edit(t, "objects.yaml", "migrated once", "migrated twice")
		c := d.replace(t, "values.yaml", "# one", "; echo two")
		c.happens(t, recreated)
		c.arrives(t)
		now := job()
		if now.UID == first.UID || now.Spec.Template.Spec.Containers[0].Command[1] != "migrated twice" {
			t.Errorf("the job is %s of %s, at first %s", now.Spec.Template.Spec.Containers[0].Command, now.UID, first.UID)
		}
		if got := records(t, cluster, p.name)["web"]; got != records2 {
			t.Errorf("Helm's records: %s", got)
		}
	})

	step(t, "what cannot be changed ends the run before anything is written", func(t *testing.T) {
		kubectl(t, "create", "configmap", "theirs", "--namespace", p.name)
		written := deployment().Generation
		whole := p.read(t, "objects.yaml")
		d.save(t, "objects.yaml", whole+"  - { apiVersion: v1, kind: ConfigMap }\n").ends(t, failed)
		d.replace(t, "values.yaml", "two", "three").ends(t, failed) // from now on there is something to write
		fails := func(old, now, message, hint string) {
			t.Helper()
			c := d.save(t, "objects.yaml", strings.Replace(whole, old, now, 1))
			c.ends(t, failed)
			end := c.happens(t, failed)
			text := strings.ReplaceAll(end.Err.Error(), p.name, "NAME")
			if !strings.Contains(text, message) || len(text) > 600 {
				t.Errorf("it does not say %s:\n%s", message, text)
			}
			said := strings.ReplaceAll(event.Hint(end.Err), p.name, "NAME")
			if !strings.Contains(said, hint) || !strings.HasSuffix(said, "; nothing of the release was written") {
				t.Errorf("the hint of %s is %s", message, said)
			}
		}
		const there = " is there, and cannot be changed in "
		fails("matchLabels: { app: selector }", "matchLabels: { alias: other }",
			`deployment/selector`+there+`spec.selector.matchLabels.alias: none → "other"`,
			"kubectl delete deployment/selector -n NAME and save")
		fails("storage: 1Mi", "storage: 2Mi",
			`statefulset/claims`+there+`spec.volumeClaimTemplates[0].spec.resources.requests.storage: "1Mi" → "2Mi"`,
			"kubectl delete statefulset/claims -n NAME --cascade=orphan and save")
		fails("serviceName: claims", "serviceName: others",
			`statefulset/claims`+there+`spec.serviceName: "claims" → "others"`, "--cascade=orphan")
		fails("spec: { ports: [{ port: 80 }] }", "spec: { ports: [{ port: 80 }], clusterIP: None }",
			`service/address`+there+`spec.clusterIP: none → "None"`, "kubectl delete service/address -n NAME")
		fails("immutable: true, data: { text: first }", "immutable: true, data: { text: second }",
			`configmap/fixed`+there+`data.text: "first" → "second"`, "give it another name")
		fails("top-secret", "other-secret", `secret/sealed`, "give it another name")
		fails("kind: ClusterRole, name: view", "kind: ClusterRole, name: edit",
			`rolebinding/role`+there+`roleRef.name: "view" → "edit"`,
			"kubectl delete rolebinding.rbac.authorization.k8s.io/role -n NAME")
		fails("name: guarded", "name: theirs", "configmap/theirs is there already, and no release made it",
			"kubectl delete configmap/theirs -n NAME")
		if strings.Contains(d.text(), "other-secret") {
			t.Error("the log has the secret")
		}
		if got := records(t, cluster, p.name)["web"]; got != records2 || deployment().Generation != written {
			t.Errorf("Helm's records: %s, generation %d of the deployment, before %d", got, deployment().Generation, written)
		}
		kubectl(t, "delete", "configmap", "theirs", "--namespace", p.name)
		d.save(t, "objects.yaml", whole).arrives(t)
	})

	step(t, "a write that fails in the middle says what it has written, and is taken back", func(t *testing.T) {
		// A policy that a dry run does not see.
		policy := strings.ReplaceAll(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: { name: NAME }
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{ apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [configmaps] }]
  validations:
    - expression: request.dryRun || object.metadata.name != "guarded" || object.data == oldObject.data
      message: nobody changes it
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: { name: NAME }
spec:
  policyName: NAME
  validationActions: [Deny]
  matchResources: { namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: NAME } } }
`, "NAME", p.name)
		file := filepath.Join(t.TempDir(), "policy.yaml")
		must(t, os.WriteFile(file, []byte(policy), 0o600))
		kubectl(t, "apply", "--filename", file)
		remove := once(func() { kubectl(t, "delete", "--filename", file) })
		defer remove()
		eventually(t, "the policy is in force", func() bool {
			return exec.CommandContext(t.Context(), "kubectl", "patch", "configmap", "guarded", "--namespace", p.name,
				"--type", "merge", "--patch", `{"data":{"probe":"`+unique()+`"}}`).Run() != nil
		})

		p.edit(t, "values.yaml", "three", "four")
		p.edit(t, "objects.yaml", "migrated twice", "migrated in vain")
		c := d.replace(t, "objects.yaml", "name: guarded }, data: { text: first }", "name: guarded }, data: { text: second }")
		c.fails(t, `(?s)nobody changes it.*`+
			`before that, devloop deleted job/migrate; changed deployment/web; created job/migrate\s+`+
			`not written: configmap/guarded\s+rolled back to revision 3`)
		c.happens(t, on(event.ReleaseRolledBack).with("revision", "^3$"))
		if command := job().Spec.Template.Spec.Containers[0].Command[1]; command != "migrated twice" {
			t.Errorf("after the rollback, the job has %q", command)
		}
		remove()
		d.again(t).arrives(t)
	})

	step(t, "so does a hook that fails after all else", func(t *testing.T) {
		p.edit(t, "values.yaml", "four", "five")
		c := d.replace(t, "values.yaml", "hooks: []", `hooks: [{ "on": post-upgrade, run: "echo no; exit 1" }]`)
		c.fails(t, `(?s)post-upgrade hooks failed.*before that, devloop changed deployment/web; created job/web-hook0\s+`+
			`rolled back to revision `)
		d.replace(t, "values.yaml", "exit 1", "exit 0").arrives(t)
	})
	d.stop(t)
	p.gone(t)
}
