package kube

// FieldManager is devloop's name in the managed fields of objects, and its value of LabelManagedBy.
const FieldManager = "devloop"

// Labels and annotations that Helm, its charts' helpers, and devloop put on objects.
const (
	LabelManagedBy             = "app.kubernetes.io/managed-by"
	LabelInstance              = "app.kubernetes.io/instance"
	AnnotationHook             = "helm.sh/hook"
	AnnotationRelease          = "meta.helm.sh/release-name"
	AnnotationReleaseNamespace = "meta.helm.sh/release-namespace"
	LabelCheckPod              = "devloop.trial" // what a check pod is for
)

// Label is a key of an object's labels with its value.
type Label struct{ Key, Value string }
