package logs

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hull/internal/hull"
	"hull/internal/logs/logfile"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// maxRecord bounds a record; longer ones are not of our making and are skipped.
const maxRecord = 1 << 20

// errCorrupt says that the rest of a file cannot be made sense of.
var errCorrupt = errors.New("log file is damaged")

// decoder reads one file's records.
type decoder interface {
	// next decodes the record at the start of b. n is how many bytes are used up,
	// 0 when b does not hold a whole record; ok is false when they were no record.
	// line is valid until the next call and until b changes.
	next(b []byte) (line hull.LogLine, n int, ok bool, err error)
	// count counts the records in b, which begins anywhere; it is called with all
	// parts of a file in turn.
	count(b []byte) int
}

// jsonDecoder reads Docker's json-file.
type jsonDecoder struct {
	text []byte // the decoded log
	when []byte // the last time and what it means: lines come in batches
	at   time.Time
	raw  []byte // likewise attrs
	kv   map[string]string
}

func (d *jsonDecoder) count(b []byte) int { return bytes.Count(b, []byte{'\n'}) }

func (d *jsonDecoder) next(b []byte) (hull.LogLine, int, bool, error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) < maxRecord {
			return hull.LogLine{}, 0, false, nil
		}
		return hull.LogLine{}, len(b), false, nil
	}
	line, ok := d.fast(b[:end])
	if !ok {
		line, ok = d.slow(b[:end])
	}
	return line, end + 1, ok, nil
}

// fast reads what our own writer and Docker's write.
func (d *jsonDecoder) fast(b []byte) (line hull.LogLine, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(`{"log":"`))
	if !ok {
		return line, false
	}
	text, n, ok := d.unescape(b)
	if !ok {
		return line, false
	}
	line.Data = text
	b, ok = bytes.CutPrefix(b[n:], []byte(`,"stream":"std`))
	if !ok || len(b) < 4 || b[3] != '"' {
		return line, false
	}
	switch string(b[:3]) {
	case "out":
		line.Stream = "stdout"
	case "err":
		line.Stream = "stderr"
	default:
		return line, false
	}
	b = b[4:]
	if rest, has := bytes.CutPrefix(b, []byte(`,"attrs":`)); has {
		// The time is last and holds no quotes.
		at := bytes.LastIndex(rest, []byte(`,"time":"`))
		if at < 0 || !d.attrs(rest[:at]) {
			return line, false
		}
		line.Attrs, b = d.kv, rest[at:]
	}
	b, ok = bytes.CutPrefix(b, []byte(`,"time":"`))
	if !ok {
		return line, false
	}
	b, ok = bytes.CutSuffix(b, []byte(`"}`))
	if !ok || !d.time(b) {
		return line, false
	}
	line.Time = d.at
	return line, true
}

func (d *jsonDecoder) time(b []byte) bool {
	if bytes.Equal(b, d.when) {
		return true
	}
	at, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return false
	}
	d.when, d.at = append(d.when[:0], b...), at
	return true
}

func (d *jsonDecoder) attrs(b []byte) bool {
	if bytes.Equal(b, d.raw) {
		return true
	}
	var kv map[string]string
	if json.Unmarshal(b, &kv) != nil {
		return false
	}
	d.raw, d.kv = append(d.raw[:0], b...), kv
	return true
}

// slow reads any JSON with the right fields.
func (d *jsonDecoder) slow(b []byte) (hull.LogLine, bool) {
	var r struct {
		Log    *string           `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if json.Unmarshal(b, &r) != nil || r.Stream != "stdout" && r.Stream != "stderr" {
		return hull.LogLine{}, false
	}
	d.text = d.text[:0]
	if r.Log != nil {
		d.text = append(d.text, *r.Log...)
	}
	return hull.LogLine{Stream: r.Stream, Time: r.Time, Data: d.text, Attrs: r.Attrs}, true
}

// unescape decodes the inside of a JSON string that b begins with; n is what it
// takes of b, closing quote included. The result may be a part of b.
func (d *jsonDecoder) unescape(b []byte) (text []byte, n int, ok bool) {
	i := indexSpecial(b)
	if i < len(b) && b[i] == '"' {
		return b[:i], i + 1, true
	}
	out := append(d.text[:0], b[:i]...)
	defer func() { d.text = out }()
	for i < len(b) {
		switch c := b[i]; {
		case c == '"':
			return out, i + 1, true
		case c < ' ':
			return nil, 0, false
		case c == '\\':
			var used int
			if out, used = unescapeOne(out, b[i:]); used == 0 {
				return nil, 0, false
			}
			i += used
		}
		k := indexSpecial(b[i:])
		out = append(out, b[i:i+k]...)
		i += k
	}
	return nil, 0, false
}

// indexSpecial finds the first quote, backslash or control character; len(b) if
// there is none.
func indexSpecial(b []byte) int {
	for i, c := range b {
		if c == '"' || c == '\\' || c < ' ' {
			return i
		}
	}
	return len(b)
}

// unescapeOne appends what the escape at the start of b means; used 0 = none.
func unescapeOne(out, b []byte) (_ []byte, used int) {
	if len(b) < 2 {
		return out, 0
	}
	switch b[1] {
	case 'n':
		return append(out, '\n'), 2
	case '"', '\\', '/':
		return append(out, b[1]), 2
	case 't':
		return append(out, '\t'), 2
	case 'r':
		return append(out, '\r'), 2
	case 'b':
		return append(out, '\b'), 2
	case 'f':
		return append(out, '\f'), 2
	case 'u':
		r, ok := hexRune(b[2:])
		if !ok {
			return out, 0
		}
		used = 6
		if utf16.IsSurrogate(r) {
			low := rune(-1)
			if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
				low, _ = hexRune(b[8:])
			}
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				r, used = both, 12
			} else {
				r = utf8.RuneError
			}
		}
		return utf8.AppendRune(out, r), used
	}
	return out, 0
}

func hexRune(b []byte) (rune, bool) {
	var v [2]byte
	if len(b) < 4 {
		return 0, false
	}
	if _, err := hex.Decode(v[:], b[:4]); err != nil {
		return 0, false
	}
	return rune(binary.BigEndian.Uint16(v[:])), true
}

// localDecoder reads Docker's local format; see package logfile.
type localDecoder struct {
	text    []byte
	pending int64 // count: bytes to skip to the next frame
	partial []byte
}

// count walks the frames over parts of a file.
func (d *localDecoder) count(b []byte) int {
	n := 0
	for len(b) > 0 {
		if d.pending > 0 {
			skip := min(d.pending, int64(len(b)))
			d.pending -= skip
			b = b[skip:]
			continue
		}
		take := min(4-len(d.partial), len(b))
		d.partial = append(d.partial, b[:take]...)
		b = b[take:]
		if len(d.partial) < 4 {
			return n
		}
		d.pending = int64(binary.BigEndian.Uint32(d.partial)) + 4
		d.partial = d.partial[:0]
		n++
	}
	return n
}

func (d *localDecoder) next(b []byte) (line hull.LogLine, n int, ok bool, err error) {
	if len(b) < 4 {
		return line, 0, false, nil
	}
	size := binary.BigEndian.Uint32(b)
	if size > logfile.MaxFrame {
		return line, 0, false, errCorrupt
	}
	n = int(size) + 8
	if len(b) < n {
		return line, 0, false, nil
	}
	if binary.BigEndian.Uint32(b[n-4:]) != size {
		return line, 0, false, errCorrupt
	}
	line, ok = d.entry(b[4 : n-4])
	return line, n, ok, nil
}

// entry decodes a LogEntry. Unknown fields are skipped.
func (d *localDecoder) entry(b []byte) (line hull.LogLine, ok bool) {
	var text, meta []byte
	partial := false
	for len(b) > 0 {
		num, varint, data, n := field(b)
		if n == 0 {
			return line, false
		}
		b = b[n:]
		switch num {
		case 1:
			line.Stream = streamName(data)
		case 2:
			line.Time = time.Unix(0, int64(varint)).UTC() // #nosec: two's complement is the format
		case 3:
			text = data
		case 4:
			partial = varint != 0
		case 5:
			meta = data
		}
	}
	d.text = append(d.text[:0], text...)
	if !partial || lastPart(meta) {
		d.text = append(d.text, '\n')
	}
	line.Data = d.text
	return line, line.Stream != ""
}

func streamName(b []byte) string {
	switch string(b) {
	case "stdout":
		return "stdout"
	case "stderr":
		return "stderr"
	}
	return ""
}

// lastPart reads field 1 (last) of the metadata of a partial record.
func lastPart(b []byte) bool {
	for len(b) > 0 {
		num, varint, _, n := field(b)
		if n == 0 {
			return false
		}
		if num == 1 {
			return varint != 0
		}
		b = b[n:]
	}
	return false
}

// field reads one field of a protocol buffer; n = 0 when it is broken.
func field(b []byte) (num int, varint uint64, data []byte, n int) {
	key, k := binary.Uvarint(b)
	if k <= 0 {
		return 0, 0, nil, 0
	}
	num = int(key >> 3) // #nosec: compared with small numbers only
	rest := b[k:]
	switch key & 7 {
	case 0:
		v, m := binary.Uvarint(rest)
		if m <= 0 {
			return 0, 0, nil, 0
		}
		return num, v, nil, k + m
	case 1, 5:
		size := 8
		if key&7 == 5 {
			size = 4
		}
		if len(rest) < size {
			return 0, 0, nil, 0
		}
		return num, 0, rest[:size], k + size
	case 2:
		size, m := binary.Uvarint(rest)
		if m <= 0 || size > uint64(len(rest)-m) {
			return 0, 0, nil, 0
		}
		return num, 0, rest[m : m+int(size)], k + m + int(size)
	}
	return 0, 0, nil, 0
}
