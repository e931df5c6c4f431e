package logfile

import (
	"fmt"
	"hull/internal/hull"
	"os"
	"strconv"
	"strings"
	"time"
)

// Severities and the default facility, RFC 5424 section 6.2.1.
const (
	severityError  = 3
	severityInfo   = 6
	facilityDaemon = 3
)

// syslogger speaks syslog, in Docker's formats.
type syslogger struct {
	network, address string
	style            string
	facility         int
	host, tag, pid   string
}

func newSyslog(t hull.LogTarget) (*syslogger, error) {
	s := &syslogger{
		network: t.Options[OptNetwork], address: t.Options[OptAddress], style: t.Options[OptFormat],
		host: t.Options[OptHostname], tag: clean(t.Options[OptTag]), facility: facilityDaemon,
		pid: strconv.Itoa(os.Getpid()),
	}
	if f := t.Options[OptFacility]; f != "" {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || n > 23 {
			return nil, fmt.Errorf("open log: syslog facility %q is no number from 0 to 23", f)
		}
		s.facility = n
	}
	return s, nil
}

func (s *syslogger) packet() bool { return s.network != "tcp" && s.network != "unix" }

func (s *syslogger) dial() (int, error) {
	if s.network != "" {
		return dialSocket(s.network, s.address)
	}
	var err error
	for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
		var fd int
		if fd, err = dialSocket("unixgram", path); err == nil {
			return fd, nil
		}
	}
	return -1, err
}

func (s *syslogger) format(dst []byte, m message) []byte {
	severity := severityInfo
	if m.stream == Stderr {
		severity = severityError
	}
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(s.facility*8+severity), 10)
	dst = append(dst, '>')
	str := func(parts ...string) {
		for _, p := range parts {
			dst = append(dst, p...)
		}
	}
	switch s.style {
	case "rfc5424", "rfc5424micro":
		layout := time.RFC3339
		if s.style == "rfc5424micro" {
			layout = "2006-01-02T15:04:05.000000Z07:00"
		}
		str("1 ")
		dst = m.at.AppendFormat(dst, layout)
		str(" ", s.host, " ", s.tag, " ", s.pid, " ", s.tag, " - ")
	case "rfc3164":
		dst = m.at.AppendFormat(dst, time.Stamp)
		str(" ", s.host, " ", s.tag, "[", s.pid, "]: ")
	default: // as the C library writes it to the local socket
		dst = m.at.AppendFormat(dst, time.Stamp)
		if s.network == "udp" || s.network == "tcp" {
			str(" ", s.host)
		}
		str(" ", s.tag, "[", s.pid, "]: ")
	}
	dst = append(dst, m.line...)
	return append(dst, '\n')
}

// clean takes out of a tag what would begin another syslog field.
func clean(tag string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, tag)
}
