package logfile

import (
	"bytes"
	"time"
)

// splitter cuts one stream into lines of at most MaxLine bytes. It keeps what
// came after the last newline.
type splitter struct {
	rest  []byte
	spent bool // rest was handed out by next and is free now

	// Of the line that is being written in parts; ordinal 0 = none.
	ordinal int32
	since   time.Time // when its first part came
}

// next takes the next line off p. n is how many bytes of p are used up; line has
// no newline and is valid until the next call; last is false when the line goes
// on. ok is false when p has no complete line any more (then all of it is kept).
func (s *splitter) next(p []byte) (line []byte, n int, last, ok bool) {
	if s.spent {
		s.rest, s.spent = s.rest[:0], false
	}
	room := MaxLine - len(s.rest)
	window := p[:min(len(p), room)]
	i := bytes.IndexByte(window, '\n')
	switch {
	case i >= 0:
		line, n, last = p[:i], i+1, true
	case len(p) >= room:
		line, n = p[:room], room
	default:
		s.rest = append(s.rest, p...)
		return nil, len(p), false, false
	}
	if len(s.rest) > 0 {
		s.rest = append(s.rest, line...)
		line, s.spent = s.rest, true
	}
	return line, n, last, true
}

// part notes that a part of a line was handed out at now. It returns when the
// line began and the part's number, 0 for a whole line.
func (s *splitter) part(last bool, now time.Time) (time.Time, int32) {
	if last && s.ordinal == 0 {
		return now, 0
	}
	if s.ordinal == 0 {
		s.since = now
	}
	s.ordinal++
	at, n := s.since, s.ordinal
	if last {
		s.ordinal = 0
	}
	return at, n
}

// end gives what is left when the stream ends.
func (s *splitter) end() []byte {
	if s.spent {
		return nil
	}
	return s.rest
}
