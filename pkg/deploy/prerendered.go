package deploy

// Helm renders a chart itself when it writes a release, in this process, where nothing can stop an
// endless template. So it gets a chart whose templates are constants: what the render process has
// made of the user's.

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
)

// prerendered is a chart for one action of Helm. Until Helm has rendered it, it has only output as
// templates; then it becomes the user's chart, for Helm's record.
type prerendered struct {
	chart *chart.Chart
	users *chart.Chart
}

// newPrerendered returns a chart that Helm renders to exactly these files, which were rendered from
// loaded. It takes ownership of loaded.
func newPrerendered(loaded *chart.Chart, files map[string]string) (prerendered, error) {
	output := &chart.Chart{Metadata: &chart.Metadata{Name: loaded.Name()}} // no schema and no charts below it
	for name, text := range files {
		inside, ok := strings.CutPrefix(name, loaded.ChartFullPath()+"/")
		if !ok {
			return prerendered{}, fmt.Errorf("template %s is outside of its chart %s", name, loaded.ChartFullPath())
		}
		output.Templates = append(output.Templates, &chart.File{Name: inside, Data: asTemplate(text)})
	}
	return prerendered{output, loaded}, nil
}

// asTemplate returns a template that prints text: a single constant, in which nothing is special to
// templates.
func asTemplate(text string) []byte {
	return []byte("{{" + strconv.Quote(text) + "}}")
}

// Run makes prerendered a postrender.PostRenderer: Helm calls it between rendering and its record.
func (l prerendered) Run(manifests *bytes.Buffer) (*bytes.Buffer, error) {
	*l.chart = *l.users
	return manifests, nil
}
