package hull

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"
)

// ErrNotModified says that there was nothing to do: already started, already
// stopped. Docker answers it with 304.
var ErrNotModified = errors.New("not modified")

// StopRequest: nil/"" = the container's own.
type StopRequest struct {
	Signal  string
	Timeout *int // seconds, -1 = wait for ever
}

// RemoveRequest says how to remove a container.
type RemoveRequest struct {
	Force   bool // kill it when it runs
	Volumes bool // and its anonymous volumes
}

// UpdateRequest changes a container. nil = leave.
type UpdateRequest struct {
	Resources *Resources // only its non-zero fields are applied
	Restart   *RestartPolicy
}

// WaitCondition is when Wait answers.
type WaitCondition string

// Wait conditions.
const (
	WaitNotRunning WaitCondition = "not-running"
	WaitNextExit   WaitCondition = "next-exit"
	WaitRemoved    WaitCondition = "removed"
)

// LogsRequest selects log lines.
type LogsRequest struct {
	Stdout, Stderr bool
	Since, Until   time.Time // zero = unbounded
	Tail           int       // -1 = all
	Follow         bool
}

// LogLine is one line (or a part of one longer than 16 KiB) of a log.
type LogLine struct {
	Stream string // stdout, stderr
	Time   time.Time
	Data   []byte // with the newline, valid until the next call
	Attrs  map[string]string
}

// LogReader yields lines until io.EOF; Close ends a follow.
type LogReader interface {
	Next() (LogLine, error)
	io.Closer
}

// ExecSpec is a process to run in a running container.
type ExecSpec struct {
	Args                  []string
	Env                   []string
	WorkDir               string
	User                  string
	Privileged            bool
	TTY                   bool
	Stdin, Stdout, Stderr bool
	DetachKeys            string
	ConsoleSize           [2]uint // height, width
}

// Exec is an exec's state.
type Exec struct {
	ID          string
	ContainerID string
	Spec        ExecSpec
	Running     bool
	Started     bool
	ExitCode    *int
	Pid         int
	CanRemove   bool
}

// Change is one path that differs from the image. Kind: 0 modified, 1 added, 2 deleted.
type Change struct {
	Path string
	Kind int
}

// PathStat describes a file in a container.
type PathStat struct {
	Name       string
	Size       int64
	Mode       os.FileMode
	Mtime      time.Time
	LinkTarget string
}

// CopyFromRequest is what is read of a container.
type CopyFromRequest struct {
	Path string
	As   string  // the path as the user wrote it, from which the tar's names come; "" = Path
	IDs  IDRange // of the user namespace in which it is seen; the tar has the container's
}

// FileOwner is who owns what is unpacked, in the container's ids.
type FileOwner struct{ UID, GID int }

// CopyToRequest unpacks a tar below Path.
type CopyToRequest struct {
	Path                 string
	NoOverwriteDirNonDir bool
	// CopyUIDGID: in a container, what is unpacked belongs to the container's user (of
	// an image without one, to whom the tar says, as it does without CopyUIDGID); in
	// a volume, to whom the tar says, and to root without CopyUIDGID.
	CopyUIDGID bool
	Owner      *FileOwner // of everything; nil = whom the tar says. The engine's to set.
	// IDs are those of the user namespace in which the destination is seen: who owns
	// what in the tar is said in the container's ids.
	IDs IDRange
}

// Stats is one sample of a container's use of the machine. Bytes, nanoseconds.
type Stats struct {
	Read       time.Time
	CPU        CPUStats
	Memory     MemoryStats
	Pids       PidsStats
	Blkio      []BlkioEntry
	Networks   map[string]NetStats // by interface in the container
	CgroupV2   bool
	OnlineCPUs int
	SystemCPU  uint64 // ns of all CPUs of the host
}

// CPUStats in ns.
type CPUStats struct {
	Total, User, System                      uint64
	PerCPU                                   []uint64
	Periods, ThrottledPeriods, ThrottledTime uint64
}

// MemoryStats in bytes. Raw is the kernel's memory.stat.
type MemoryStats struct {
	Usage, MaxUsage, Limit, Failcnt uint64
	Raw                             map[string]uint64
}

// PidsStats counts tasks. Limit 0 = none.
type PidsStats struct{ Current, Limit uint64 }

// BlkioEntry is one counter of one block device. Kind: service_bytes, serviced.
type BlkioEntry struct {
	Kind         string
	Major, Minor uint64
	Op           string
	Value        uint64
}

// NetStats counts one interface.
type NetStats struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// CommitRequest makes an image of a container.
type CommitRequest struct {
	Ref     string // "" = untagged
	Author  string
	Comment string
	Pause   bool
	Changes []string        // Dockerfile instructions
	Config  json.RawMessage // Docker container config to override with, or nil
}

// Event is something that happened. Type: container, image, network, volume,
// daemon. Action as Docker's ("start", "health_status: healthy").
type Event struct {
	Type, Action string
	Actor        string // id
	Attrs        map[string]string
	Scope        string
	Time         time.Time
}

// PruneReport says what prune removed.
type PruneReport struct {
	Deleted   []string
	Reclaimed int64 // bytes
}
