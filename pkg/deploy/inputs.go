package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// maxScript is how much of a command's script counts, in bytes.
const maxScript = 4 << 20

// desired is a release with its inputs.
type desired struct {
	Release
	load   func(context.Context) (*chart.Chart, error)
	inputs string // the hash of all but the images, see inputsWith
	name   string // of the chart, once it is loaded
	around *around
	// takesOver tells whether some of its objects are there and not the release's yet.
	takesOver bool
	records   knownRecords // as they were before the write
}

// inputsWith returns the hash of the inputs of a release whose objects name these images. It fits
// into a label. Of the images that were built, only those count.
func (want *desired) inputsWith(named []ContainerImage) string {
	counts := map[string]bool{} // references
	for _, one := range named {
		counts[want.Images.built[repositoryOf(one.Image)]] = true
	}
	text := want.inputs
	for _, name := range slices.Sorted(maps.Keys(want.Images.refs)) { // a name that is no more counts, too
		if ref := want.Images.refs[name]; counts[ref] {
			text += " " + name + " " + ref
		}
	}
	if text == want.inputs {
		return text
	}
	return inputsHash([]byte(text))
}

func inputsHash(inputs []byte) string {
	sum := sha256.Sum256(inputs)
	return hex.EncodeToString(sum[:16])
}

// readInputs finds the chart, merges the values and hashes both, without asking the cluster.
func (d *Deployer) readInputs(ctx context.Context, stage event.Stage, r Release) (desired, error) {
	open := func() (chartRef, error) { return d.charts.open(ctx, stage, r.source()) }
	if r.isPlain() {
		open = func() (chartRef, error) { return d.openPlain(ctx, r) }
	}
	chart, err := open()
	if err != nil {
		return desired{}, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	merged, err := merge(r)
	if err != nil {
		return desired{}, fmt.Errorf("release %s: %w", r.ID(), err)
	}
	values, err := json.Marshal(typed(merged))
	if err != nil {
		return desired{}, fmt.Errorf("release %s: values: %w", r.ID(), err)
	}
	commands, err := json.Marshal([][]Command{r.Before, r.After})
	if err != nil {
		return desired{}, err
	}
	inputs := fmt.Appendf(nil, "devloop/2 %s %s %s %s", chart.digest, d.cluster.KubeVersion(), values, commands)
	for _, script := range r.scripts() {
		content := sha256.New()
		_, err := files.Copy(ctx, content, script, maxScript) // the command fails itself if it is missing
		inputs = fmt.Appendf(inputs, " %x %t", content.Sum(nil), err == nil)
	}
	return desired{Release: r, load: chart.load, inputs: inputsHash(inputs)}, nil
}
