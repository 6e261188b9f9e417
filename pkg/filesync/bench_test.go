//go:build linux

package filesync

import (
	"fmt"
	"testing"
)

// BenchmarkSync is a save of one file of 20, in 1 and 20 containers of a node, without the network.
func BenchmarkSync(b *testing.B) {
	for _, count := range []int{1, 20} {
		var ids []Container
		var files []File
		var paths []string
		for i := range 20 {
			files = append(files, source(b, fmt.Sprintf("/app/mod%d.py", i), fmt.Sprint("x = ", i), 0o644))
			paths = append(paths, files[i].Path)
		}
		image := map[string]string{}
		for _, path := range paths {
			image[path] = "old"
		}
		for range count {
			ids = append(ids, startContainer(b, image).Container)
		}
		n := nodes(b)["dash"]
		b.Run(fmt.Sprintf("look/%d", count), func(b *testing.B) {
			for b.Loop() {
				if _, err := Look(b.Context(), n, ids, paths); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("write/%d", count), func(b *testing.B) {
			for b.Loop() {
				if _, err := Write(b.Context(), n, ids, files[:1]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
