// Package logfile writes a container's output to its log. It runs in the
// monitor, so it is small: no reflection, no encoding/json, no net.
//
// Formats: json-file as Docker writes it, byte for byte; local, Docker's framed
// protocol buffers; journald's and syslog's wire formats; none.
//
// A chunk that was read from the container becomes one write(2), however many
// lines it has, so a follower sees a line as soon as the container has written
// it and a flood costs one system call per buffer.
package logfile

import (
	"fmt"
	"hull/internal/hull"
	"time"
)

// Stream says where output came from.
type Stream byte

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

// String is the stream's name in a log.
func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// MaxLine is the longest line written as one record, in bytes. A longer one is
// split into partial records, as Docker does.
const MaxLine = 16 << 10

// Driver names.
const (
	JSONFile = "json-file"
	Local    = "local"
	Journald = "journald"
	Syslog   = "syslog"
	None     = "none"
)

// Options of a hull.LogTarget, resolved by the logs package: what the writers of
// remote drivers need.
const (
	OptTag      = "tag"      // text that identifies the container
	OptNetwork  = "network"  // syslog: udp, tcp, unix, unixgram; "" = the host's own syslog
	OptAddress  = "address"  // syslog: ip:port or path
	OptFacility = "facility" // syslog: number
	OptFormat   = "format"   // syslog: "", rfc3164, rfc5424, rfc5424micro
	OptHostname = "hostname" // syslog
)

// Writer takes output. It is safe for concurrent use.
type Writer interface {
	// Write logs p, which was read from stream at now, and does not keep it. Output
	// that cannot be written (full disk, syslog gone) is counted, dropped and noted
	// in the log once writing works again: the container never waits for it. The
	// error is the first of such a loss, for the monitor's own log.
	Write(stream Stream, p []byte, now time.Time) error
	// Close writes what is left of unfinished lines.
	Close() error
}

// Open makes the writer for a target. A remote driver's output also goes to
// files at Path in the local format, if Path is set: they can be read back. An existing file is continued; what a crash
// left of a half-written record is repaired.
func Open(t hull.LogTarget) (Writer, error) {
	switch t.Driver {
	case None, "":
		return none{}, nil
	case JSONFile:
		return openFile(t, newJSONEncoder(t.Attrs), repairLines)
	case Local:
		return openFile(t, newLocalEncoder(), repairFrames)
	case Journald:
		return openRemote(t, newJournal(t))
	case Syslog:
		s, err := newSyslog(t)
		if err != nil {
			return nil, err
		}
		return openRemote(t, s)
	}
	return nil, fmt.Errorf("open log: no log driver named %q", t.Driver)
}

type none struct{}

func (none) Write(Stream, []byte, time.Time) error { return nil }
func (none) Close() error                          { return nil }
