package status

import (
	"slices"

	"github.com/devloop/devloop/pkg/event"
)

// keptClusters is how many Dask clusters that are gone stay, to be looked at.
const keptClusters = 5

func (s State) clusterSeen(c event.DaskCluster) State {
	s.Clusters = slices.Clone(s.Clusters)
	at := s.cluster(c.Namespace, c.Name)
	if at < 0 {
		at = len(s.Clusters)
		s.Clusters = append(s.Clusters, DaskCluster{})
	}
	s.Clusters[at] = DaskCluster{DaskCluster: c}
	return s.clustersCompared()
}

func (s State) clusterGone(e event.Event, end event.DaskClusterEnd) State {
	at := s.cluster(end.Namespace, end.Name)
	if at < 0 {
		return s
	}
	s.Clusters = slices.Clone(s.Clusters)
	gone := s.Clusters[at]
	gone.Ended, gone.Reason, gone.Output = &e.Time, end.Reason, end.Output
	gone.Phase, gone.Running, gone.Workers, gone.Hint, gone.Dashboard = "", 0, 0, "", ""
	s.Clusters = append(slices.Delete(s.Clusters, at, at+1), gone)
	ended := 0
	for i := len(s.Clusters) - 1; i >= 0; i-- {
		if s.Clusters[i].Ended == nil {
			continue
		}
		if ended++; ended > keptClusters {
			s.Clusters = slices.Delete(s.Clusters, i, i+1)
		}
	}
	return s
}

// clustersCompared marks the clusters that run an older image.
func (s State) clustersCompared() State {
	s.Clusters = slices.Clone(s.Clusters)
	for i, c := range s.Clusters {
		s.Clusters[i].Old = slices.ContainsFunc(s.Old, func(old event.DaskCluster) bool {
			return old.Namespace == c.Namespace && old.Name == c.Name
		})
	}
	return s
}

func (s State) cluster(namespace, name event.Name) int {
	return slices.IndexFunc(s.Clusters, func(c DaskCluster) bool { return c.Namespace == namespace && c.Name == name })
}
