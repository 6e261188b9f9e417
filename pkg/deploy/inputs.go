package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

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
	inputs string // their hash, which fits into a label
	name   string // of the chart, once it is loaded
}

// readInputs finds the chart, merges the values and hashes both, without asking the cluster.
func (d *Deployer) readInputs(ctx context.Context, stage event.Stage, r Release) (desired, error) {
	chart, err := d.charts.open(ctx, stage, r.source())
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
	sum := sha256.Sum256(inputs)
	return desired{Release: r, load: chart.load, inputs: hex.EncodeToString(sum[:16])}, nil
}
