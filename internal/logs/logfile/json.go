package logfile

import (
	"encoding/binary"
	"slices"
	"time"
	"unicode/utf8"
)

// encoder turns lines into records. begin comes before the lines it is for.
type encoder interface {
	begin(s Stream, at time.Time)
	// append adds one record. part is the number of a part of a line, 0 = the
	// line is whole.
	append(dst, line []byte, last bool, part int32) []byte
	// overhead is at least what a record takes beyond its escaped line.
	overhead() int
}

// jsonEncoder writes Docker's json-file lines:
//
//	{"log":"text\n","stream":"stdout","attrs":{...},"time":"2026-01-02T15:04:05.999999999Z"}
//
// The log of a part of a longer line has no \n.
type jsonEncoder struct {
	attrs []byte // `,"attrs":{...}` or empty
	tail  []byte // what follows the text, for the present stream and time
}

func newJSONEncoder(attrs map[string]string) *jsonEncoder {
	e := &jsonEncoder{}
	if len(attrs) == 0 {
		return e
	}
	keys := make([]string, 0, len(attrs))
	for k := range attrs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	e.attrs = append(e.attrs, `,"attrs":{`...)
	for i, k := range keys {
		if i > 0 {
			e.attrs = append(e.attrs, ',')
		}
		e.attrs = append(e.attrs, '"')
		e.attrs = appendEscaped(e.attrs, []byte(k))
		e.attrs = append(e.attrs, `":"`...)
		e.attrs = appendEscaped(e.attrs, []byte(attrs[k]))
		e.attrs = append(e.attrs, '"')
	}
	e.attrs = append(e.attrs, '}')
	return e
}

func (e *jsonEncoder) overhead() int { return len(e.attrs) + 96 }

func (e *jsonEncoder) begin(s Stream, at time.Time) {
	t := append(e.tail[:0], `","stream":"`...)
	t = append(t, s.String()...)
	t = append(t, '"')
	t = append(t, e.attrs...)
	t = append(t, `,"time":"`...)
	t = at.UTC().AppendFormat(t, time.RFC3339Nano)
	e.tail = append(t, '"', '}', '\n')
}

func (e *jsonEncoder) append(dst, line []byte, last bool, _ int32) []byte {
	dst = append(dst, `{"log":"`...)
	dst = appendEscaped(dst, line)
	if last {
		dst = append(dst, '\\', 'n')
	}
	return append(dst, e.tail...)
}

// Eight bytes at a time: ones has the lowest bit of each set, highs the highest.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// escapes has a high bit set if one of the eight bytes of x needs escaping; the
// other bits mean nothing. A byte of a difference has its high bit set if it is
// negative, if the byte of x has (which is reason enough), or if one below it borrowed
// and so is negative: "any high bit set" is exact.
func escapes(x uint64) uint64 {
	control := (x ^ 0x02*ones) - 0x21*ones // < 0 where < 0x20 or '"' (0x22)
	and := (x ^ '&'*ones) - ones
	angle := ((x | 0x02*ones) ^ 0x3e*ones) - ones // < 0 where '<' (0x3c) or '>' (0x3e)
	slash := (x ^ '\\'*ones) - ones
	return x | control | and | angle | slash
}

// plain is the length of a beginning of s that needs no escaping, in steps of
// eight bytes.
func plain(s []byte) int {
	n := len(s)
	for len(s) >= 32 { // four at once keep the processor's units busy
		a, b := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[8:])
		c, d := binary.LittleEndian.Uint64(s[16:]), binary.LittleEndian.Uint64(s[24:])
		if (escapes(a)|escapes(b)|escapes(c)|escapes(d))&highs != 0 {
			break
		}
		s = s[32:]
	}
	for len(s) >= 8 && escapes(binary.LittleEndian.Uint64(s))&highs == 0 {
		s = s[8:]
	}
	return n - len(s)
}

// special says which bytes appendEscaped must look at.
func special(b byte) bool {
	return b < 0x20 || b >= utf8.RuneSelf || b == '"' || b == '\\' || b == '<' || b == '>' || b == '&'
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends s as the inside of a JSON string, escaped as Docker's
// json-file does: valid JSON for any bytes, invalid UTF-8 becomes U+FFFD.
func appendEscaped(dst, s []byte) []byte {
	i := 0
	for {
		from := i
		i += plain(s[i:])
		for i < len(s) && !special(s[i]) {
			i++
		}
		dst = append(dst, s[from:i]...)
		if i == len(s) {
			return dst
		}
		i += escapeOne(&dst, s[i:])
	}
}

// escapeOne appends the first character of s, which is special, and returns its
// length in s.
func escapeOne(dst *[]byte, s []byte) int {
	d := *dst
	switch b := s[0]; {
	case b == '"' || b == '\\':
		d = append(d, '\\', b)
	case b == '\n':
		d = append(d, '\\', 'n')
	case b == '\r':
		d = append(d, '\\', 'r')
	case b < utf8.RuneSelf:
		d = append(d, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
	default:
		r, n := utf8.DecodeRune(s)
		switch {
		case r == utf8.RuneError && n == 1:
			d = append(d, `\ufffd`...)
		case r == '\u2028' || r == '\u2029': // JavaScript ends a line there
			d = append(d, `\u202`...)
			d = append(d, hexDigits[r&15])
		default:
			d = append(d, s[:n]...)
		}
		*dst = d
		return n
	}
	*dst = d
	return 1
}
