package hull

// Verdict is how a finding stands to what hull needs.
type Verdict string

const (
	Fine    Verdict = "ok"
	Limited Verdict = "limited" // something that hull can do does not work here
	Broken  Verdict = "broken"  // containers do not start, or not as they should
)

// Finding is what an examination says about one thing of the host. The package that
// relies on the thing says it.
type Finding struct {
	Subject string // "cgroups", "nftables", ...
	Verdict Verdict
	Says    string // the fact
	Means   string // what does not work; "" for Fine
	Next    string // what the user can do about it; "" for Fine
}
