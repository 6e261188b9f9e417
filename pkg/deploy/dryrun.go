package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/devloop/devloop/pkg/event"
)

// Validate finds mistakes in the releases before anything is written: unavailable charts, values
// that a schema forbids, failing templates, invalid YAML, objects that the API server rejects. It
// skips releases that are up to date, and those whose dependencies are not installed yet, since
// their charts may need what these bring. An API server that is away is no mistake.
func (d *Deployer) Validate(ctx context.Context, sink event.Sink, releases []Release) error {
	stage := sink.Stage("deploy")
	err := d.cluster.Ping(ctx)
	if err == nil {
		err = d.cluster.Refresh(ctx)
	}
	if err != nil {
		stage.Detail("charts could not be validated yet", "reason", err.Error())
		return nil //nolint:nilerr // applying reports it
	}
	errs := make([]error, len(releases))
	var group sync.WaitGroup
	for i, r := range releases {
		group.Go(func() {
			err := markBusy(stage.Guard("validation of a chart",
				func() error { return d.validate(ctx, stage, r, releases) }))
			if event.IsTransient(err) {
				stage.Detail("chart could not be validated yet", "release", event.Name(r.Name), "reason", err.Error())
				return
			}
			errs[i] = err
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (d *Deployer) validate(ctx context.Context, stage event.Stage, r Release, all []Release) error {
	want, err := d.readInputs(ctx, stage, r)
	if err != nil {
		return err
	}
	last, err := d.last(ctx, r)
	if err != nil || d.upToDate(last, want) {
		return err
	}
	if err := d.mayWrite(r, last); err != nil {
		return err
	}
	for _, other := range all {
		if !slices.Contains(r.DependsOn, other.Name) {
			continue
		}
		if there, err := d.last(ctx, other); err != nil || !there.exists() {
			return err
		}
	}
	made, err := d.render(ctx, &want, last)
	if err != nil {
		return err
	}
	return d.dryRun(ctx, stage, &want, made)
}

// dryRun asks the API server whether it would accept the objects of a release: a rejection in the
// middle of a Helm write leaves half a revision. Each object is tried as a new one, so only its
// content counts.
func (d *Deployer) dryRun(ctx context.Context, stage event.Stage, want *desired, made rendered) error {
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	for _, m := range made.manifests {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(m.Content), &u.Object); err != nil || u.GetKind() == "" || u.IsList() {
			continue // Helm reads it its own way
		}
		o := object{kind: u.GroupVersionKind(), namespace: cmp.Or(u.GetNamespace(), want.Namespace), name: u.GetName()}
		api, err := d.resource(o)
		if err != nil {
			continue // of a kind that the release itself adds
		}
		group.Go(func() error {
			options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
			_, err := api.Create(ctx, u, options)
			if err != nil && strings.Contains(err.Error(), "strict decoding error") { // Helm ignores it, but it is mostly a typo
				_, unknown, _ := strings.Cut(err.Error(), "strict decoding error: ")
				stage.Warn("the API server will ignore some fields", errors.New(unknown),
					"release", event.Name(want.Name), "template", want.file(m.Name), "object", o.String())
				options.FieldValidation = metav1.FieldValidationIgnore
				_, err = api.Create(ctx, u, options)
			}
			if err == nil || !isMistake(err, o) {
				return nil
			}
			return event.WithHint(fmt.Errorf("release %s: %s: %s %s: the API server does not take it: %w", want.ID(),
				want.file(m.Name), o.kind.Kind, o.name, err),
				hintChart)
		})
	}
	return group.Wait()
}

// isMistake tells whether an object was rejected for its content. It may exist already; a service's
// ports and addresses may be its own; admission webhooks and policies consider more than the
// object; not every API supports dry runs.
func isMistake(err error, o object) bool {
	text := strings.ToLower(err.Error())
	if strings.Contains(text, "admission") || strings.Contains(text, "webhook") || strings.Contains(text, "dry run") ||
		strings.Contains(text, "dryrun") {
		return false
	}
	return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) && o.kind.Kind != "Service"
}
