package proof

import (
	"fmt"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// findingsOf are those of a platform whose images each run in five pods.
func findingsOf(images int) (f Findings) {
	for i := range images {
		name, tag := fmt.Sprintf("service-%d", i), "0123456789abcdef"
		ref := "registry.example/team/" + name + ":" + tag
		f.Images = append(f.Images, Image{Name: name, Ref: ref, Hash: tag,
			Names:  []string{name, "registry.example/team/" + name},
			Stores: []Store{{Place: event.AtRegistry, IDs: []string{"sha256:" + name}}}})
		f.Named = append(f.Named, Named{Name: name, In: "demo/web deployment/" + name, Image: ref})
		for pod := range 5 {
			f.Containers = append(f.Containers, Container{Image: ref, ID: "sha256:" + name, ContainerRef: event.ContainerRef{
				PodRef: event.PodRef{Pod: event.Name(fmt.Sprintf("%s-%d", name, pod))}, Container: "main"}})
		}
	}
	f.Answers = []Answer{{From: "localhost:8000", Image: "daskgateway/dask-worker:latest"}}
	return f
}

// Allocations stand for the work: they are the same on every machine.
func TestChainGrowsWithWhatRuns(t *testing.T) {
	allocations := func(images int) float64 {
		f := findingsOf(images)
		if links := Chain(f); len(links) != images*(1+1+1+5) || Broken(links) != nil {
			t.Fatalf("%d links of %d images: %v", len(links), images, Broken(links))
		}
		return testing.AllocsPerRun(3, func() { Chain(f) })
	}
	if few, many := allocations(20), allocations(80); many > 5*few {
		t.Errorf("four times as much takes %.0f allocations instead of %.0f", many, few)
	}
}

func BenchmarkChain(b *testing.B) {
	for _, images := range []int{25, 50, 100} {
		f := findingsOf(images)
		b.Run(fmt.Sprintf("%d images", images), func(b *testing.B) {
			for b.Loop() {
				Chain(f)
			}
		})
	}
}
