package logfile

import (
	"bytes"
	"encoding/binary"
	"hull/internal/hull"
	"slices"
	"strconv"
	"strings"
	"time"
)

// journalSocket is where systemd-journald listens.
const journalSocket = "/run/systemd/journal/socket"

// journal speaks journald's native protocol: one datagram of KEY=value lines.
// The keys are those of Docker's journald driver.
type journal struct {
	path  string
	fixed []byte // fields that are the same for every message
}

func newJournal(t hull.LogTarget) *journal {
	j := &journal{path: journalSocket}
	if p := t.Options[OptAddress]; p != "" {
		j.path = p
	}
	add := func(k, v string) { j.fixed = appendField(j.fixed, k, []byte(v)) }
	add("CONTAINER_ID", t.ContainerID[:min(12, len(t.ContainerID))])
	add("CONTAINER_ID_FULL", t.ContainerID)
	add("CONTAINER_NAME", t.ContainerName)
	add("CONTAINER_TAG", t.Options[OptTag])
	add("IMAGE_NAME", t.ImageName)
	add("SYSLOG_IDENTIFIER", t.Options[OptTag])
	keys := make([]string, 0, len(t.Attrs))
	for k := range t.Attrs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if name := fieldName(k); name != "" {
			add(name, t.Attrs[k])
		}
	}
	return j
}

func (j *journal) packet() bool { return true }

func (j *journal) dial() (int, error) { return dialSocket("unixgram", j.path) }

func (j *journal) format(dst []byte, m message) []byte {
	priority := "6" // info
	if m.stream == Stderr {
		priority = "3" // error
	}
	dst = appendField(dst, "PRIORITY", []byte(priority))
	dst = append(dst, j.fixed...)
	dst = appendField(dst, "SYSLOG_TIMESTAMP", m.at.UTC().AppendFormat(nil, time.RFC3339Nano))
	if m.part > 0 {
		if !m.last {
			dst = appendField(dst, "CONTAINER_PARTIAL_MESSAGE", []byte("true"))
		}
		dst = appendField(dst, "CONTAINER_PARTIAL_ORDINAL", strconv.AppendInt(nil, int64(m.part), 10))
		dst = appendField(dst, "CONTAINER_PARTIAL_LAST", strconv.AppendBool(nil, m.last))
	}
	return appendField(dst, "MESSAGE", m.line)
}

// appendField appends one field. A value with a newline goes with its length in
// front, so that it cannot smuggle in fields of its own.
func appendField(dst []byte, key string, value []byte) []byte {
	dst = append(dst, key...)
	if bytes.IndexByte(value, '\n') < 0 {
		dst = append(dst, '=')
		dst = append(dst, value...)
		return append(dst, '\n')
	}
	dst = append(dst, '\n')
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(value)))
	dst = append(dst, value...)
	return append(dst, '\n')
}

// fieldName makes a name that journald accepts: A-Z, 0-9 and _, no leading
// digit or underscore (those it reserves for itself).
func fieldName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
	s = strings.TrimLeft(s, "_0123456789")
	return s[:min(64, len(s))]
}
