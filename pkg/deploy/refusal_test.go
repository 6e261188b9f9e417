package deploy

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/devloop/devloop/pkg/event"
)

// invalid is how the API server refuses an object for these fields and reasons.
func invalid(causes ...string) error {
	details := &metav1.StatusDetails{}
	var text []string
	for i := 0; i < len(causes); i += 2 {
		details.Causes = append(details.Causes, metav1.StatusCause{Field: causes[i], Message: causes[i+1]})
		text = append(text, causes[i]+": "+causes[i+1])
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 422,
		Reason: metav1.StatusReasonInvalid, Message: `Thing "web" is invalid: ` + strings.Join(text, ", "), Details: details}}
}

var bigStruct = `v1.LabelSelector{MatchLabels:map[string]string{"app":"` + strings.Repeat("x", 2000) + `"}}`

// The API server's words on objects that exist, in its own form.
func TestImmutableChange(t *testing.T) {
	const secret = "c2VjcmV0"
	for name, test := range map[string]struct {
		before, target string
		cause          error
		want, hint     string
	}{
		"a selector": {
			"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n" +
				"spec: {replicas: 1, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}}}",
			"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n" +
				"spec: {replicas: 2, selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: b}}}}",
			invalid("spec.selector", "Invalid value: "+bigStruct+": field is immutable"),
			`deployment/web is there, and cannot be changed in spec.selector.matchLabels.app: "a" → "b"`,
			"kubectl delete deployment/web -n demo and save",
		},
		"a claim template": {
			"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: web}\nspec: {replicas: 1, serviceName: a, " +
				"volumeClaimTemplates: [{metadata: {name: data}, spec: {resources: {requests: {storage: 1Gi}}}}]}",
			"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: web}\nspec: {replicas: 2, serviceName: b, " +
				"volumeClaimTemplates: [{metadata: {name: data}, spec: {resources: {requests: {storage: 2Gi}}}}]}",
			invalid("spec", "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', "+
				"'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "+
				"'minReadySeconds' are forbidden"),
			`statefulset/web is there, and cannot be changed in spec.serviceName: "a" → "b", ` +
				`spec.volumeClaimTemplates[0].spec.resources.requests.storage: "1Gi" → "2Gi"`,
			"kubectl delete statefulset/web -n demo --cascade=orphan and save",
		},
		"an address": {
			"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}",
			"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 81}], clusterIP: None}",
			invalid("spec.clusterIPs[0]", `Invalid value: []string{"None"}: may not change once set`),
			`service/web is there, and cannot be changed in spec.clusterIP: none → "None"`,
			"kubectl delete service/web -n demo",
		},
		"a role": {
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: web}\nroleRef: {name: a}",
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: web}\nroleRef: {name: b}",
			invalid("roleRef", "Invalid value: "+bigStruct+": cannot change roleRef"),
			`rolebinding/web is there, and cannot be changed in roleRef.name: "a" → "b"`,
			"kubectl delete rolebinding.rbac.authorization.k8s.io/web -n demo",
		},
		"a secret's values are hidden": {
			"apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nimmutable: true\ndata: {key: " + secret + "}",
			"apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nimmutable: true\ndata: {key: " + secret + secret + "}",
			invalid("data", "Forbidden: field is immutable when `immutable` is set"),
			`secret/web is there, and cannot be changed in data.key: (hidden) → (hidden)`,
			"give it another name",
		},
		"a rule of a CRD": {
			"apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: web}\nspec: {size: 1, color: red}",
			"apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: web}\nspec: {size: 2, color: red}",
			invalid("spec.size", `Invalid value: 2: size stays as it is`),
			"gadget/web is there, and cannot be changed in spec.size: 1 → 2: spec.size: Invalid value: 2: size stays as it is",
			"kubectl delete gadget.example.com/web -n demo",
		},
		"many and long values": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n" +
				"data: {a: a, b: b, c: c, d: " + strings.Repeat("d", 99) + "}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {b: x, c: x, d: x, e: e}",
			invalid("data", "Forbidden: field is immutable when `immutable` is set"),
			`configmap/web is there, and cannot be changed in data.a: "a" → none, data.b: "b" → "x", ` +
				`data.c: "c" → "x", and 2 more`,
			"give it another name",
		},
		"fields that the manifests do not tell": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {a: a}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {a: b}",
			invalid("immutable", "Forbidden: field is immutable when `immutable` is set"),
			"configmap/web cannot be changed in data.a: immutable: Forbidden: field is immutable when `immutable` is set",
			"give it another name",
		},
	} {
		t.Run(name, func(t *testing.T) {
			before, target := yamlObject(t, test.before), yamlObject(t, test.target)
			change := immutableChange{object: manifestObject{Unstructured: target}.in("demo"), cause: test.cause,
				changed: changedFields(before, target)}
			if got := change.Error(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if change.fields() == "" {
				t.Error("no field is named")
			}
			if hint := change.hint(true); !strings.Contains(hint, test.hint) {
				t.Errorf("hint %s", hint)
			}
		})
	}
}

func TestBrieflyWithoutValues(t *testing.T) {
	for _, test := range []struct {
		kind string
		err  error
		want string
	}{
		{"Deployment", invalid("spec.template", "Invalid value: "+bigStruct+": field is immutable"),
			"spec.template: field is immutable"},
		{"Deployment", invalid("spec.replicas", "Invalid value: -1: must be greater than or equal to 0"),
			"spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"PersistentVolumeClaim", invalid("spec", "Forbidden: spec is immutable\n@@ -6,7 +6,7 @@\n"+
			"-   \"storage\": \"1Gi\"\n"),
			"spec: Forbidden: spec is immutable"},
		{"Secret", invalid("data", `Invalid value: "a: \"b": not base64`), "data: not base64"},
		{"Job", errors.New(`cannot patch "migrate" with kind Job: Job.batch "migrate" is invalid: spec.template: ` +
			"Invalid value: " + bigStruct + ": field is immutable"),
			`cannot patch "migrate" with kind Job: Job.batch "migrate" is invalid: spec.template: field is immutable`},
	} {
		if got := briefly(test.err, test.kind); got.Error() != test.want || !errors.Is(got, test.err) {
			t.Errorf("%s: %v", test.want, got)
		}
	}
}

// A refusal that a dry run cannot know is none.
func TestMistakes(t *testing.T) {
	admission := func(text string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonInvalid, Message: text}}
	}
	policy := admission(`ValidatingAdmissionPolicy 'demo' with binding 'demo' denied request: no`)
	own := attempt{objects: []manifestObject{{Unstructured: yamlObject(t,
		"apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {name: demo}")}}}
	for _, test := range []struct {
		attempt attempt
		err     error
		want    bool
	}{
		{attempt{}, invalid("spec", "Required value"), true},
		{attempt{}, policy, true},
		{own, policy, false},
		{attempt{}, admission(`admission webhook "a.b.c" denied the request: no`), false},
		{attempt{}, apierrors.NewBadRequest(`admission webhook "a.b.c" does not support dry run`), false},
		{attempt{}, invalid("spec.ports[0].nodePort", "Invalid value: 30000: provided port is already allocated"), false},
		{attempt{}, apierrors.NewInternalError(errors.New("etcd")), false},
		{attempt{}, apierrors.NewTooManyRequests("busy", 1), false},
	} {
		if got := test.attempt.isMistake(test.err); got != test.want {
			t.Errorf("%v: %t", test.err, got)
		}
	}
}

func TestWriteLog(t *testing.T) {
	cause := event.WithHint(errors.New("refused"), "fix it")
	w := &writeLog{}
	const nothing = "fix it; nothing of the release was written"
	if err := w.explain(cause); err.Error() != "refused" || event.Hint(err) != nothing {
		t.Errorf("%v, hint %s", err, event.Hint(err))
	}
	w.add("ran", "make migrate")
	w.add("changed", "deployment/web")
	w.add("deleted", "job/old")
	w.add("changed", "service/web")
	w.leave("job/migrate")
	const want = "refused\nbefore that, devloop ran make migrate; changed deployment/web service/web; deleted job/old" +
		"\nnot written: job/migrate"
	if err := w.explain(cause); err.Error() != want || event.Hint(err) != "fix it" || !errors.Is(err, cause) {
		t.Errorf("%v, hint %s", err, event.Hint(err))
	}
	if w.explain(nil) != nil {
		t.Error("an error of nothing")
	}
}
