package api

const (
	// StartHeader is sent, with the value "1", with POST /containers/{id}/exec by a
	// client that wants the exec started at once on the same connection, beside
	// "Upgrade: tcp". The engine answers as to /exec/{id}/start, with the exec's id in
	// ExecHeader; one that does not know the header answers 201 as ever.
	StartHeader = "Hull-Start"
	// ExecHeader is the id of an exec that was started at once.
	ExecHeader = "Hull-Exec"
	// UntilExit, as the query of GET /exec/{id}/json, has the answer wait for the
	// exec's end.
	UntilExit = "until=exit"
)
