package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/devloop/devloop/pkg/event"
)

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
	sum := sha256.Sum256(
		fmt.Appendf(nil, "devloop/2 %s %s %s %s", chart.digest, d.cluster.KubeVersion(), values, commands))
	return desired{Release: r, load: chart.load, inputs: hex.EncodeToString(sum[:16])}, nil
}
