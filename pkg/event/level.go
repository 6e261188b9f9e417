package event

// Level is how much a line of the log matters.
type Level string

// The levels.
const (
	Debug   Level = "debug" // shown with -v
	Info    Level = "info"
	Warning Level = "warn"
	Error   Level = "error"
)

// Level returns the event's. A failed step is an error where the whole run failed by it, and a
// detail on the way there. So is what was reported before. A chain that breaks after its run, and a
// bug in devloop, are errors by themselves.
func (e Event) Level() Level {
	ofRun := e.Stage == "loop"
	switch {
	case e.Repeated:
		return Debug
	case e.Phase == Noted, e.Phase == Succeeded:
		return Info
	case e.Phase == Warned:
		return Warning
	case e.Phase == Failed &&
		(ofRun || e.Message == InternalError || e.Stage == "devloop" || e.Stage == "proof" && e.Run == 0):
		return Error
	case (e.Phase == Superseded || e.Phase == Interrupted) && ofRun:
		return Info
	}
	return Debug
}
