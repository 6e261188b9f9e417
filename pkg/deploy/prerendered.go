// Helm renders a chart by itself when it writes a release: in this process, where nothing can stop
// a template that has no end. So Helm's actions get a chart whose templates are constants: what the
// process for templates has made of the user's.
package deploy

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
)

// prerendered is a chart for one action of Helm. Until Helm has rendered it, it consists of output only.
// After that it is the user's chart, which Helm's record of the revision is to contain.
type prerendered struct {
	chart *chart.Chart
	users *chart.Chart
}

// newPrerendered returns a chart of which Helm's engine makes these files, byte for byte; they are what
// it made of loaded before. The caller gives loaded away.
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

// asTemplate returns a template that prints text. It is a single constant: nothing in it is special
// to templates, and however many braces there are, the template has one node.
func asTemplate(text string) []byte {
	return []byte("{{" + strconv.Quote(text) + "}}")
}

// Run makes literal a postrender.PostRenderer: Helm calls it after it has rendered the chart, and
// before it writes its record.
func (l prerendered) Run(manifests *bytes.Buffer) (*bytes.Buffer, error) {
	*l.chart = *l.users
	return manifests, nil
}
