package event

// Comparison is what came of comparing places.
type Comparison struct {
	Places      []string    `json:"places"`
	Libraries   int         `json:"libraries"` // that were compared
	Differences Differences `json:"differences"`
}

// Same tells that nothing differs.
func (c Comparison) Same() bool { return len(c.Differences) == 0 }
