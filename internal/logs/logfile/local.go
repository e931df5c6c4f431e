package logfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"
)

// MaxFrame bounds the length a reader of the local format believes, in bytes.
const MaxFrame = 1 << 20

// localEncoder writes Docker's local format: a big-endian length, a protocol
// buffer, and the length again, so that it can be read backwards.
//
//	LogEntry { string source = 1; int64 time_nano = 2; bytes line = 3; bool partial = 4;
//	           Partial { bool last = 1; string id = 2; int32 ordinal = 3 } meta = 5 }
type localEncoder struct {
	head []byte // fields 1 and 2 for the present stream and time
	id   string // of the present partial line
	meta []byte
}

func newLocalEncoder() *localEncoder { return &localEncoder{} }

func (e *localEncoder) overhead() int { return 128 }

func (e *localEncoder) begin(s Stream, at time.Time) {
	h := append(e.head[:0], 1<<3|2, 6)
	h = append(h, s.String()...)
	h = append(h, 2<<3)
	e.head = binary.AppendUvarint(h, uint64(at.UnixNano())) // #nosec: two's complement is the format
}

func (e *localEncoder) append(dst, line []byte, last bool, part int32) []byte {
	meta := e.partial(last, part)
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, e.head...)
	dst = append(dst, 3<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(line)))
	dst = append(dst, line...)
	dst = append(dst, meta...)
	n := uint32(len(dst) - start - 4) // #nosec: bounded by MaxLine
	binary.BigEndian.PutUint32(dst[start:], n)
	return binary.BigEndian.AppendUint32(dst, n)
}

// partial is fields 4 and 5 of a part of a line.
func (e *localEncoder) partial(last bool, part int32) []byte {
	if part == 0 {
		return nil
	}
	if part == 1 || e.id == "" {
		// Unique, not secret: crypto/rand would be the only user of its module here.
		e.id = fmt.Sprintf("%016x%016x%016x%016x", rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64())
	}
	m := e.meta[:0]
	m = append(m, 4<<3, 1, 5<<3|2, 0)
	at := len(m)
	if last {
		m = append(m, 1<<3, 1)
	}
	m = append(m, 2<<3|2, byte(len(e.id)))
	m = append(m, e.id...)
	m = append(m, 3<<3)
	m = binary.AppendUvarint(m, uint64(part)) // #nosec: positive
	m[at-1] = byte(len(m) - at)               // < 128
	e.meta = m
	return m
}

// repairFrames cuts off a frame that a crash left incomplete.
func repairFrames(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return err
	}
	if whole, err := endsWithFrame(f, size); err != nil || whole {
		return err
	}
	var good int64
	for {
		n, err := frameAt(f, good, size)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		good += n
	}
	if err := f.Truncate(good); err != nil {
		return fmt.Errorf("repair log: %w", err)
	}
	return nil
}

func endsWithFrame(f *os.File, size int64) (bool, error) {
	var b [4]byte
	if size < 8 {
		return false, nil
	}
	if _, err := f.ReadAt(b[:], size-4); err != nil {
		return false, fmt.Errorf("repair log: %w", err)
	}
	n, err := frameAt(f, size-8-int64(binary.BigEndian.Uint32(b[:])), size)
	return n != 0, err
}

// frameAt is the length of the complete frame at off, 0 when there is none.
func frameAt(f *os.File, off, size int64) (int64, error) {
	var b [4]byte
	if off < 0 || off+8 > size {
		return 0, nil
	}
	if _, err := f.ReadAt(b[:], off); err != nil {
		return 0, fmt.Errorf("repair log: %w", err)
	}
	n := binary.BigEndian.Uint32(b[:])
	end := off + 4 + int64(n)
	if n > MaxFrame || end+4 > size {
		return 0, nil
	}
	if _, err := f.ReadAt(b[:], end); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("repair log: %w", err)
	}
	if binary.BigEndian.Uint32(b[:]) != n {
		return 0, nil
	}
	return int64(n) + 8, nil
}

// repairLines ends a line that a crash left incomplete, so that the next record
// is not lost with it.
func repairLines(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], size-1); err != nil {
		return fmt.Errorf("repair log: %w", err)
	}
	if b[0] == '\n' {
		return nil
	}
	if _, err := f.Write([]byte{'\n'}); err != nil {
		return fmt.Errorf("repair log: %w", err)
	}
	return nil
}
