package api

// DoctorPath is the route of the engine's findings about its host (GET, an array of
// Finding).
const DoctorPath = "/hull/v1/doctor"

// Finding is one thing that the engine looked at.
type Finding struct {
	Subject string // "cgroups", "nftables", ...
	Verdict string // "ok", "limited" or "broken"
	Says    string // the fact
	Means   string `json:",omitempty"` // what does not work
	Next    string `json:",omitempty"` // what to do about it
}
