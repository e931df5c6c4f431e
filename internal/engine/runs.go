package engine

// runs is filled in by the engine's own files.
type runs struct{}
