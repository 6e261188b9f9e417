package deploy

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"

	"github.com/devloop/devloop/pkg/event"
)

const (
	maxRecord = corev1.MaxSecretSize // Helm keeps a record in a secret
	// recordRest is about what a record has besides what is counted: statuses of hooks and the like.
	recordRest = 4 << 10
)

// recorded returns the chart for Helm's record. That of plain manifests needs no templates: the
// record has what they are rendered to.
func (made rendered) recorded(r Release) *chart.Chart {
	if !r.isPlain() {
		return made.chart
	}
	kept := *made.chart
	kept.Templates = nil
	return &kept
}

// checkRecordSize returns an error if Kubernetes would refuse Helm's record of the release, which
// is compressed.
func (made rendered) checkRecordSize(want *desired) error {
	var manifest strings.Builder
	for _, m := range made.manifests {
		fmt.Fprintf(&manifest, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	record, err := json.Marshal(release.Release{Name: want.Name, Namespace: want.Namespace, Info: &release.Info{},
		Chart: made.recorded(want.Release), Config: made.values, Manifest: manifest.String(), Hooks: made.hooks})
	if err != nil {
		return fmt.Errorf("release %s: Helm's record of it: %w", want.ID(), err)
	}
	if base64.StdEncoding.EncodedLen(len(record)+recordRest) <= maxRecord {
		return nil
	}
	var packed bytes.Buffer
	writer, err := gzip.NewWriterLevel(&packed, gzip.BestCompression) // as Helm does
	if err != nil {
		return err
	}
	_, _ = writer.Write(record) // neither fails for a buffer
	_ = writer.Close()
	size := base64.StdEncoding.EncodedLen(packed.Len() + recordRest)
	if size <= maxRecord {
		return nil
	}
	err = fmt.Errorf("release %s: Helm's record of it would have %.1f MB, and Kubernetes allows %.1f MB; "+
		"the largest of its parts, before compression: %s", want.ID(), float64(size)/1e6, float64(maxRecord)/1e6,
		strings.Join(made.largest(want), ", "))
	hint := "split it into several releases, or keep large data out of its manifests: in an image or in a volume"
	if !want.isPlain() {
		hint += "; .helmignore can leave out files that the chart does not need"
	}
	return event.WithHint(err, hint)
}

// largest names what takes the most room in a record.
func (made rendered) largest(want *desired) (names []string) {
	type part struct {
		name string
		size int
	}
	var parts []part
	for _, m := range made.manifests {
		for _, o := range decodeObjects(m.Name, m.Content) {
			text, _ := json.Marshal(o.Object) // it was decoded
			name := fmt.Sprintf("%s in %s", o.in(want.Namespace), want.file(m.Name))
			parts = append(parts, part{name, len(text)})
		}
	}
	for _, file := range slices.Concat(made.chart.Templates, made.chart.Files) {
		if name := made.chart.ChartFullPath() + "/" + file.Name; !want.isPlain() || strings.HasPrefix(file.Name, "crds/") {
			parts = append(parts, part{want.file(name), len(file.Data)})
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.size, a.size) })
	for _, p := range parts[:min(3, len(parts))] {
		names = append(names, fmt.Sprintf("%s (%.1f MB)", p.name, float64(p.size)/1e6))
	}
	return names
}
