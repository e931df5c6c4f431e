package logs

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hull/internal/logs/logfile"
	"io"
	"io/fs"
	"os"
)

// blockSize is how much of a file is read at once.
const blockSize = 64 << 10

// source is one opened file of a log.
type source struct {
	f    *os.File
	z    *gzip.Reader // nil = not compressed
	info os.FileInfo
	skip int // records to pass over
}

// openSource opens path, or path.gz when it is an old file; nil when neither
// exists.
func openSource(path string, old bool) (*source, error) {
	f, err := os.Open(path)
	gz := false
	if errors.Is(err, fs.ErrNotExist) && old {
		gz = true
		f, err = os.Open(path + ".gz")
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	s := &source{f: f}
	if s.info, err = f.Stat(); err == nil && gz {
		s.z, err = gzip.NewReader(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read log: %w", err), f.Close())
	}
	return s, nil
}

func (s *source) Read(p []byte) (int, error) {
	if s.z != nil {
		return s.z.Read(p)
	}
	return s.f.Read(p)
}

func (s *source) Close() error { return s.f.Close() }

func closeAll(all []*source) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// tail moves s to its last n records, or less if it has less, and returns how
// many that are.
func (s *source) tail(n int, log family) (int, error) {
	switch {
	case s.z != nil:
		return s.tailCompressed(n, log)
	case log.json:
		return s.tailLines(n)
	}
	return s.tailFrames(n)
}

// tailLines looks for line ends from the end of the file on.
func (s *source) tailLines(n int) (int, error) {
	end, err := s.f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return 0, err
	}
	buf := make([]byte, blockSize)
	found := 0
	for at := end; at > 0; {
		b := buf[:min(at, blockSize)]
		at -= int64(len(b))
		if _, err := s.f.ReadAt(b, at); err != nil {
			return 0, fmt.Errorf("read log: %w", err)
		}
		for i := len(b); ; {
			if i = bytes.LastIndexByte(b[:i], '\n'); i < 0 {
				break
			}
			if at+int64(i) == end-1 {
				continue // the end of the last line
			}
			if found++; found == n {
				_, err := s.f.Seek(at+int64(i)+1, io.SeekStart)
				return n, err
			}
		}
	}
	_, err = s.f.Seek(0, io.SeekStart)
	return found + 1, err
}

// tailFrames goes back from frame to frame by their trailing lengths.
func (s *source) tailFrames(n int) (int, error) {
	at, err := s.f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	found := 0
	var b [4]byte
	for found < n && at >= 8 {
		if _, err := s.f.ReadAt(b[:], at-4); err != nil {
			return 0, fmt.Errorf("read log: %w", err)
		}
		size := binary.BigEndian.Uint32(b[:])
		if size > logfile.MaxFrame || int64(size)+8 > at {
			break // damaged before here
		}
		at -= int64(size) + 8
		found++
	}
	if found < n {
		at = 0
	}
	_, err = s.f.Seek(at, io.SeekStart)
	return found, err
}

// tailCompressed counts, and notes how many records to pass over.
func (s *source) tailCompressed(n int, log family) (int, error) {
	d := log.decoder()
	buf := make([]byte, blockSize)
	total := 0
	for {
		k, err := s.z.Read(buf)
		total += d.count(buf[:k])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read log: %w", err)
		}
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if err := s.z.Reset(s.f); err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	s.skip = max(0, total-n)
	return min(total, n), nil
}
