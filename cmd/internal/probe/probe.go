// Package probe is what hull-probe, inside of an instance, and "hull compare" beside it
// agree on.
package probe

// Port is the TCP port that the probe answers on. A connection's first byte chooses.
const Port = 7007

// First bytes of a connection.
const (
	Echo     = 'e' // sends back what comes, in pieces of Frame bytes
	Download = 'd' // sends zeros for as long as they are taken
)

// Frame is the size of an echoed message, bytes.
const Frame = 64

// Up begins the line that the probe prints first; the kernel that it sees follows.
const Up = "up "

// Figures are what the probe measures and prints as JSON.
type Figures struct {
	SyscallNS   float64 `json:"syscall_ns"`   // one getppid(2)
	FileWrite   float64 `json:"file_write"`   // MiB/s into a new file, with fsync
	FileRead    float64 `json:"file_read"`    // MiB/s of it again, from the cache
	FilesPerS   float64 `json:"files_per_s"`  // small files made, looked up and removed
	ProcessMS   float64 `json:"process_ms"`   // to start a program and wait for its end
	Processors  int     `json:"processors"`   // that it may use
	MemoryTotal uint64  `json:"memory_total"` // MiB that the kernel says there is
}
