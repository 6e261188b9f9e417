package deploy

// Drift is what others have changed in the objects of a release since it was applied. It is looked
// for in a release that is up to date, and reverted object by object, from Helm's record: rendering
// again would change random values, and a new revision would run hooks.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"helm.sh/helm/v3/pkg/chartutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/kube"
)

const (
	// maxRestores is how often a field that an unknown program changes is reverted. A program that
	// then sets it again is taken for a controller.
	maxRestores = 2
	// maxConflicts is how often an object may change while it is compared or reverted.
	maxConflicts = 5
	// maxShown limits the fields that a message names.
	maxShown = 5
)

// drift is an object that is not as its release was applied.
type drift struct {
	object
	comparison *comparison
	live       *unstructured.Unstructured // nil if it is gone
	ending     bool                       // it is being deleted
	restored   *unstructured.Unstructured // what has to be written
	result     *unstructured.Unstructured // what would come of that write, if the API server can tell
	changes    []change
	refused    error    // why the API server rejects it
	unmarked   bool     // it no longer has the marks of the release
	mayScale   bool     // an autoscaler may scale it: that could not be found out
	fields     []string // IDs of the fields that were compared
}

// change is a field that was changed.
type change struct {
	difference
	by []fieldManager
}

// isGone tells whether the object has to be created again.
func (f drift) isGone() bool { return f.live == nil || f.ending }

// comparison compares the objects of one revision with the live ones.
type comparison struct {
	*Deployer
	stage    event.Stage
	release  Release
	revision revision
	released time.Time       // what people's tools did until then is part of the release
	only     map[string]bool // fields that count, nil for all

	mu     sync.Mutex
	scaled map[string]func() (map[string]bool, error) // by namespace, what autoscalers scale
}

// drifts returns what others have changed in the objects of a release since its last revision was
// applied.
func (d *Deployer) drifts(ctx context.Context, stage event.Stage, r Release, last revision) ([]drift, error) {
	return d.compare(ctx, &comparison{Deployer: d, stage: stage, release: r, revision: last, released: last.settled.Time})
}

// driftsLeft returns what a new revision has left of the changes that were found before.
func (d *Deployer) driftsLeft(ctx context.Context, stage event.Stage, r Release, now revision, before []drift,
) ([]drift, error) {
	c := &comparison{Deployer: d, stage: stage, release: r, revision: now, only: map[string]bool{}}
	for _, one := range before {
		c.released = one.comparison.released
		for _, field := range one.fields {
			c.only[field] = true
		}
	}
	found, err := d.compare(ctx, c)
	return slices.DeleteFunc(found, func(f drift) bool { return len(f.changes) == 0 }), err
}

func (d *Deployer) compare(ctx context.Context, c *comparison) ([]drift, error) {
	r, last := c.release, c.revision
	made, err := d.contentsOf(ctx, r, last.version)
	if err != nil {
		return nil, err
	}
	c.scaled = map[string]func() (map[string]bool, error){}
	if !made.hooks && len(r.Before)+len(r.After) == 0 {
		c.released = time.Time{}
	}
	all := make([]*drift, len(made.objects))
	group, ctx := event.NewGroup(ctx)
	group.SetLimit(maxRequests)
	for i, o := range made.objects {
		group.Go(func() (err error) {
			if all[i], err = c.compareOne(ctx, o); err != nil {
				return fmt.Errorf("release %s: compare %s with what was applied: %w", r.ID(), o, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var found []drift
	for _, one := range all {
		if one != nil {
			found = append(found, *one)
		}
	}
	return found, nil
}

// compareOne returns the drift of an object, nil if there is none.
func (c *comparison) compareOne(ctx context.Context, o object) (*drift, error) {
	api, err := c.resource(o)
	if meta.IsNoMatchError(err) { // its kind is gone
		return &drift{object: o, comparison: c}, nil
	}
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		live, err := api.Get(ctx, o.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) && o.expires:
			return nil, nil
		case apierrors.IsNotFound(err):
			return &drift{object: o, comparison: c}, nil
		case err != nil:
			return nil, err
		case live.GetDeletionTimestamp() != nil:
			return c.ending(o, live), nil
		case o.definition, c.isClean(o, live):
			return nil, nil
		}
		found := c.wanted(ctx, o, live)
		intended := ownersOf(live, c.released).differences(nil, live.Object, found.restored.Object)
		if len(intended) == 0 {
			c.markClean(found)
			return nil, nil
		}
		found.result, err = api.Update(ctx, found.restored,
			metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager})
		switch {
		case (apierrors.IsConflict(err) || apierrors.IsNotFound(err)) && try < maxConflicts:
			continue
		case refuses(err) && !withoutDryRun(err):
			found.refused = err
		case err != nil && !withoutDryRun(err):
			return nil, err
		}
		return c.confirm(found, intended), nil
	}
}

// wanted returns an object with what it should be.
func (c *comparison) wanted(ctx context.Context, o object, live *unstructured.Unstructured) *drift {
	found := &drift{object: o, comparison: c, live: live}
	manifest := withOwner(c.release, o.content)
	if !belongsTo(live, c.release) && !wasStripped(live) {
		manifest, found.unmarked = o.content, true
	}
	r := restoration{ownersOf(live, c.released), func(path fieldpath.Path, set []fieldManager) bool {
		field := fieldID(o, path)
		if c.only != nil && !c.only[field] || c.leftToOthers(o, path, set) {
			return true
		}
		if path.String() == ".spec.replicas" {
			scaled, err := c.isScaled(ctx, o)
			found.mayScale = err != nil
			if scaled || err != nil { // there may be an autoscaler
				return true
			}
		}
		found.fields = append(found.fields, field)
		return false
	}}
	found.restored = r.restored(live, withEncodedData(manifest))
	return found
}

// wasStripped tells whether an object that devloop wrote has lost the marks of its release, as by
// kubectl replace. Who makes an object anew starts with an empty list of managers.
func wasStripped(live *unstructured.Unstructured) bool {
	return live.GetAnnotations()[kube.AnnotationRelease] == "" && slices.ContainsFunc(live.GetManagedFields(),
		func(entry metav1.ManagedFieldsEntry) bool { return entry.Manager == kube.FieldManager })
}

// confirm returns the drift if the API server would change at least one of the intended fields.
// Values may differ only in their form, and webhooks may set them again.
func (c *comparison) confirm(found *drift, intended []difference) *drift {
	owners := ownersOf(found.live, c.released)
	for _, one := range intended {
		set := owners.of(one.path)
		if found.result != nil {
			one.was = owners.walk(found.result.Object, one.path)
			if same := owners.differences(one.path, one.live, one.was); len(same) == 0 {
				continue
			}
		} else if !by(set, person) {
			continue // the API server does not say what it would make of it: only people are held to that
		}
		found.changes = append(found.changes, change{one, set})
	}
	marks := found.live.GetAnnotations()
	switch {
	case len(found.changes) == 0:
		c.markClean(found)
		return nil
	case found.unmarked && marks[kube.AnnotationRelease] != "":
		c.stage.Warn("object is left as it is: another release owns it now", nil, "release", event.Name(c.release.Name),
			"object", found.String(), "owner", marks[kube.AnnotationReleaseNamespace]+"/"+marks[kube.AnnotationRelease])
		return nil
	}
	return found
}

// ending returns the drift of an object that is being deleted. A volume claim that is in use stays
// until its pods end.
func (c *comparison) ending(o object, live *unstructured.Unstructured) *drift {
	if o.expires {
		return nil
	}
	if o.kind.Kind == "PersistentVolumeClaim" {
		c.stage.Warn("volume claim is being deleted: it goes when the pods that use it end", nil,
			"release", event.Name(c.release.Name), "object", o.String())
		return nil
	}
	return &drift{object: o, comparison: c, live: live, ending: true}
}

// leftToOthers tells whether a field is left to a program that set it again each time it was
// reverted.
func (c *comparison) leftToOthers(o object, path fieldpath.Path, set []fieldManager) bool {
	if by(set, person) {
		return false
	}
	field := fieldID(o, path)
	c.Deployer.mu.Lock()
	times := c.restores[field]
	if times == maxRestores {
		c.restores[field]++
	}
	c.Deployer.mu.Unlock()
	if times == maxRestores {
		c.stage.Note("field is left as it is: it changes again each time it is reverted",
			"release", event.Name(c.release.Name), "object", o.String(), "field", fieldText(path), "by", managerNames(set))
	}
	return times >= maxRestores
}

// isScaled tells whether an autoscaler sets the object's replicas, whoever wrote them last.
func (c *comparison) isScaled(ctx context.Context, o object) (bool, error) {
	c.mu.Lock()
	targets := c.scaled[o.namespace]
	if targets == nil {
		targets = sync.OnceValues(func() (map[string]bool, error) {
			list, err := c.cluster.Client.AutoscalingV2().HorizontalPodAutoscalers(o.namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, err
			}
			found := map[string]bool{}
			for _, scaler := range list.Items {
				found[scaler.Spec.ScaleTargetRef.Kind+"/"+scaler.Spec.ScaleTargetRef.Name] = true
			}
			return found, nil
		})
		c.scaled[o.namespace] = targets
	}
	c.mu.Unlock()
	found, err := targets()
	return found[o.kind.Kind+"/"+o.name], err
}

// isClean tells whether that version of the object was compared before, without finding drift.
func (c *comparison) isClean(o object, live *unstructured.Unstructured) bool {
	c.Deployer.mu.Lock()
	defer c.Deployer.mu.Unlock()
	return c.clean[c.cleanID(o)] == versionOf(live)
}

func (c *comparison) markClean(found *drift) {
	if c.only != nil || found.mayScale {
		return
	}
	c.Deployer.mu.Lock()
	defer c.Deployer.mu.Unlock()
	c.clean[c.cleanID(found.object)] = versionOf(found.live)
}

func (c *comparison) cleanID(o object) string {
	return revisionID(c.release, c.revision.version) + " " + objectID(o)
}

func versionOf(live *unstructured.Unstructured) string {
	return string(live.GetUID()) + "@" + live.GetResourceVersion()
}

func objectID(o object) string {
	return o.kind.GroupKind().String() + " " + o.namespace + "/" + o.name
}

func fieldID(o object, path fieldpath.Path) string { return objectID(o) + " " + path.String() }

// withEncodedData returns a secret as the API server stores it.
func withEncodedData(manifest *unstructured.Unstructured) *unstructured.Unstructured {
	plain, found, _ := unstructured.NestedStringMap(manifest.Object, "stringData")
	if !found || manifest.GetKind() != "Secret" {
		return manifest
	}
	encoded := manifest.DeepCopy()
	data, _, _ := unstructured.NestedMap(encoded.Object, "data")
	if data == nil {
		data = map[string]any{}
	}
	for name, text := range plain {
		data[name] = base64.StdEncoding.EncodeToString([]byte(text))
	}
	encoded.Object["data"] = data
	delete(encoded.Object, "stringData")
	return encoded
}

// refuses tells whether the API server, or a policy, does not take a write for what it is.
func refuses(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
}

// withoutDryRun tells whether a webhook does not take part in dry runs.
func withoutDryRun(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "dry run") || strings.Contains(text, "dryrun")
}

// restore reverts drift, and says so. It interrupts no write: a canceled ctx only keeps the next
// one from starting.
func (d *Deployer) restore(ctx context.Context, stage event.Stage, r Release, last revision, found []drift) error {
	done, err := d.revert(ctx, stage, r, last, found)
	d.report(ctx, stage, r, last, done)
	return err
}

// revert is restore without the report. It returns what it has reverted.
func (d *Deployer) revert(ctx context.Context, stage event.Stage, r Release, last revision, found []drift,
) ([]drift, error) {
	if slices.ContainsFunc(found, func(f drift) bool { return f.definition }) {
		for _, one := range found {
			if one.definition && one.ending {
				if err := d.awaitEnd(ctx, stage, one); err != nil {
					return nil, err
				}
			}
		}
		record, err := d.record(ctx, r, last.version)
		if err != nil {
			return nil, err
		}
		if err := d.applyCRDs(ctx, stage, r, crdsOf(record), &writeLog{}); err != nil {
			return nil, err
		}
	}
	for i, one := range found {
		if ctx.Err() != nil {
			return found[:i], context.Cause(ctx)
		}
		if err := d.restoreOne(ctx, stage, one); err != nil {
			return found[:i], err
		}
	}
	return found, nil
}

// restoreOne reverts one object. If it changes in the meantime, it is compared again.
func (d *Deployer) restoreOne(ctx context.Context, stage event.Stage, one drift) error {
	r := one.comparison.release
	for try := 1; ; try++ {
		err := d.writeOne(ctx, stage, one)
		changes := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
		if changes && try < maxConflicts && ctx.Err() == nil {
			var again *drift
			if again, err = one.comparison.compareOne(ctx, one.object); again != nil {
				one = *again
				continue
			}
			if err == nil {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("release %s: revert %s: %w", r.ID(), one.object, err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, change := range one.changes {
			d.restores[fieldID(one.object, change.path)]++
		}
		return nil
	}
}

func (d *Deployer) writeOne(ctx context.Context, stage event.Stage, one drift) error {
	r := one.comparison.release
	switch {
	case one.definition:
		return nil // applied before
	case one.unmarked:
		return event.WithHint(fmt.Errorf("it differs from what was applied (%s), and is no longer marked as the release's",
			one.fieldNames()), d.recreateHint(one, "give yours another name"))
	case one.refused != nil:
		return event.WithHint(fmt.Errorf("the API server rejects it (%s): %w", one.fieldNames(),
			briefly(one.refused, one.kind.Kind)), d.recreateHint(one, "write the change into the chart"))
	case one.ending:
		if err := d.awaitEnd(ctx, stage, one); err != nil {
			return err
		}
	}
	api, err := d.resource(one.object)
	if meta.IsNoMatchError(err) {
		return event.WithHint(fmt.Errorf("the cluster no longer knows its kind: %w", err),
			"reinstall what provides that kind")
	}
	if err != nil {
		return err
	}
	write := context.Background() // never interrupted; each request has a deadline
	if !one.isGone() {
		_, err = api.Update(write, one.restored, //nolint:contextcheck // see above
			metav1.UpdateOptions{FieldManager: kube.FieldManager})
		return err
	}
	_, err = api.Create(write, withOwner(r, one.content), //nolint:contextcheck // see above
		metav1.CreateOptions{FieldManager: kube.FieldManager})
	if err == nil && one.kind.Kind == "CustomResourceDefinition" {
		d.cluster.InvalidateCapabilities()
		err = d.awaitKind(ctx, one.content)
	}
	return err
}

// recreateHint says what to do about an object that cannot be reverted. It never suggests deleting
// what holds more than the chart does.
func (d *Deployer) recreateHint(one drift, instead string) string {
	switch one.kind.Kind {
	case "PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition":
		return instead
	}
	return instead + "; or, if it can go, delete it and run again to recreate it as the chart has it: " +
		kubectlDelete(one.object, d.isNamespaced(one.object), "")
}

// awaitEnd waits until an object that is being deleted is gone.
func (d *Deployer) awaitEnd(ctx context.Context, stage event.Stage, one drift) error {
	stage.Note("waiting for an object that is being deleted, to recreate it",
		"release", event.Name(one.comparison.release.Name), "object", one.String())
	ctx, cancel := context.WithTimeoutCause(ctx, goneTimeout, fmt.Errorf("still being deleted after %s", goneTimeout))
	defer cancel()
	look := func() ([]ending, error) { return d.terminating(ctx, []object{one.object}) }
	return d.awaitGone(ctx, stage, look, "release", event.Name(one.comparison.release.Name))
}

// withoutKept leaves out what is as it was found: the chart has it by now.
func (d *Deployer) withoutKept(ctx context.Context, found []drift) (left []drift) {
	for _, one := range found {
		api, err := d.resource(one.object)
		if err != nil {
			continue
		}
		live, err := api.Get(ctx, one.name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		owners := ownersOf(one.live, one.comparison.released)
		one.changes = slices.DeleteFunc(one.changes, func(c change) bool {
			return len(owners.differences(c.path, c.live, owners.walk(live.Object, c.path))) == 0
		})
		if len(one.changes) > 0 {
			left = append(left, one)
		}
	}
	return left
}

// report says what was changed, and by whom.
func (d *Deployer) report(ctx context.Context, stage event.Stage, r Release, last revision, found []drift) {
	secret := d.secretTexts(ctx, r, last, found)
	for _, one := range found {
		about := []any{"release", event.Name(r.Name), "object", one.String()}
		if one.isGone() {
			stage.Note("object was missing, recreated", about...)
			continue
		}
		about = append(about, "changes", one.text(secret))
		if name, at := one.who(); name != "" {
			about = append(about, "by", name)
			if !at.IsZero() {
				about = append(about, "at", at.Local().Format(time.TimeOnly))
			}
		}
		if one.byHand() {
			stage.Note("changed by hand, reverted", about...)
		} else {
			stage.Note("changed by another program, reverted", about...)
		}
	}
}

// line says the same in one line.
func (f drift) line(secret []string) string {
	if f.isGone() {
		return "missing: " + f.String()
	}
	text := fmt.Sprintf("changed by hand: %s %s", f, f.text(secret))
	switch {
	case f.unmarked:
		text = fmt.Sprintf("no longer marked as the release's, and not overwritten: %s %s", f, f.text(secret))
	case f.refused != nil:
		text = fmt.Sprintf("changed by hand, and the API server rejects reverting it: %s %s", f, f.text(secret))
	case !f.byHand():
		text = fmt.Sprintf("changed by another program: %s %s", f, f.text(secret))
	}
	switch name, at := f.who(); {
	case name == "":
		return text
	case at.IsZero():
		return fmt.Sprintf("%s (%s)", text, name)
	default:
		return fmt.Sprintf("%s (%s, %s)", text, name, at.Local().Format(time.DateTime))
	}
}

// byHand tells whether a person's tool made one of the changes. Who has removed a field is not
// known: programs rarely do.
func (f drift) byHand() bool {
	return slices.ContainsFunc(f.changes, func(c change) bool { return by(c.by, person) || len(c.by) == 0 })
}

// who returns who has made the changes, and when the last one was.
func (f drift) who() (names string, last time.Time) {
	var all []fieldManager
	for _, change := range f.changes {
		for _, m := range change.by {
			if m.writer != releaseWriter {
				all = append(all, m)
				if m.time.After(last) {
					last = m.time
				}
			}
		}
	}
	return managerNames(all), last
}

func managerNames(managers []fieldManager) string {
	var names []string
	for _, m := range managers {
		names = append(names, m.name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// text lists the changes: .spec.replicas 1 → 3. Values that hold a secret are left out.
func (f drift) text(secret []string) string {
	var texts []string
	for i, change := range f.changes {
		if i == maxShown {
			texts = append(texts, fmt.Sprintf("%d more", len(f.changes)-i))
			break
		}
		field, was, live := fieldText(change.path), shown(change.was), shown(change.live)
		hides := func(text string) bool {
			return strings.Contains(was, text) || strings.Contains(live, text)
		}
		switch {
		case change.was == nil:
			texts = append(texts, field+" added")
		case change.live == nil:
			texts = append(texts, field+" removed")
		case was == "" || live == "" || f.kind.Kind == "Secret" || slices.ContainsFunc(secret, hides):
			texts = append(texts, field+" changed")
		default:
			texts = append(texts, field+" "+was+" → "+live)
		}
	}
	return strings.Join(texts, ", ")
}

// fieldNames lists the changed fields without their values.
func (f drift) fieldNames() string {
	var names []string
	for i, change := range f.changes {
		if i == maxShown {
			names = append(names, fmt.Sprintf("%d more", len(f.changes)-i))
			break
		}
		names = append(names, fieldText(change.path))
	}
	return strings.Join(names, ", ")
}

// shown returns a value for a line of text, "" if it is too long for that.
func shown(value any) string {
	text, isText := value.(string)
	if !isText {
		content, err := json.Marshal(value)
		if err != nil {
			return ""
		}
		text = string(content)
	} else if text == "" {
		text = `""`
	}
	if len(text) > shownValue || strings.ContainsFunc(text, unicode.IsControl) {
		return ""
	}
	return text
}

// fieldText is a path as people write it: .spec.containers[web].env[LEVEL].value.
func fieldText(path fieldpath.Path) string {
	var text strings.Builder
	for _, step := range path {
		switch {
		case step.FieldName != nil && strings.ContainsAny(*step.FieldName, "./ []"):
			fmt.Fprintf(&text, "[%s]", *step.FieldName)
		case step.FieldName != nil:
			text.WriteString("." + *step.FieldName)
		case step.Key != nil:
			var values []string
			for _, field := range *step.Key {
				values = append(values, fmt.Sprint(field.Value.Unstructured()))
			}
			fmt.Fprintf(&text, "[%s]", strings.Join(values, "/"))
		default:
			text.WriteString(step.String())
		}
	}
	return text.String()
}

// secretTexts hides the release's secret values from now on, and returns them. A release that is up
// to date was not rendered, which does that otherwise.
func (d *Deployer) secretTexts(ctx context.Context, r Release, last revision, found []drift) (texts []string) {
	if len(r.SecretValues) == 0 || !slices.ContainsFunc(found, func(f drift) bool { return len(f.changes) > 0 }) {
		return nil
	}
	record, err := d.record(ctx, r, last.version)
	if err != nil {
		return []string{""} // which every value holds
	}
	values, err := chartutil.CoalesceValues(record.Chart, record.Config)
	if err != nil {
		return []string{""}
	}
	for _, path := range r.SecretValues {
		if value, found := valueAt(values, splitPath(path)); found {
			texts = append(texts, leaves(value)...)
		}
	}
	if d.options.Secret != nil {
		d.options.Secret(texts...)
	}
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}
