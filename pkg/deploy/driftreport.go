package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/devloop/devloop/pkg/event"
)

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
