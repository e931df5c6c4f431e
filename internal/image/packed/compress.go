// Package packed reads and writes archives as they are kept and sent: compressed, and
// named by a digest. What is in them is package archive's. It is apart from that because
// programs that need no compression, hull-guest above all, would start later for it.
package packed

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"hull/internal/image/inflate"
)

// Compression is how a layer is packed.
type Compression string

// The compressions that are read; gzip and zstd are also written.
const (
	None  Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	Bzip2 Compression = "bzip2"
	XZ    Compression = "xz"
)

// Detect tells the compression from the first bytes (six are enough).
func Detect(head []byte) Compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // a skippable frame comes first (estargz's zstd form)
	case bytes.HasPrefix(head, []byte("BZh")):
		return Bzip2
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return XZ
	}
	return None
}

// Decompress reads r unpacked, whatever it is packed with. Unpacking runs in a
// goroutine of its own, some blocks ahead of the reader. Close ends it; r is not
// closed.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, fmt.Errorf("read archive: %w", err)
	}
	kind := Detect(head)
	switch kind {
	case None:
		return io.NopCloser(br), kind, nil
	case Gzip:
		z, err := inflate.NewReader(br)
		if err != nil {
			return nil, kind, badArchive(err)
		}
		return ahead(z, func() error { return nil }), kind, nil
	case Zstd:
		// One worker and a bounded window: memory is per layer, and layers come
		// several at a time.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, kind, badArchive(err)
		}
		return ahead(z, func() error { z.Close(); return nil }), kind, nil
	case Bzip2:
		return ahead(bzip2.NewReader(br), func() error { return nil }), kind, nil
	default:
		return ahead(newXZ(br), func() error { return nil }), kind, nil
	}
}

func badArchive(err error) error {
	return fmt.Errorf("unpack archive: %w", errors.Join(err, errdefs.ErrInvalidArgument))
}

const (
	aheadBlock = 256 << 10
	aheadDepth = 3
)

// Ahead reads r in a goroutine, some blocks ahead of the caller. Close ends it
// once r returns; r is not closed.
func Ahead(r io.Reader) io.ReadCloser { return ahead(r, func() error { return nil }) }

// reader hands over blocks that a goroutine filled.
type reader struct {
	full, free chan []byte
	err        error // of the source; set before full is closed
	cur, rest  []byte
	stop       chan struct{}
	once       sync.Once
	done       chan struct{}
	closeSrc   func() error
}

func ahead(src io.Reader, closeSrc func() error) *reader {
	r := &reader{
		full: make(chan []byte, aheadDepth), free: make(chan []byte, aheadDepth),
		stop: make(chan struct{}), done: make(chan struct{}), closeSrc: closeSrc,
	}
	for range aheadDepth {
		r.free <- make([]byte, aheadBlock)
	}
	go r.run(src)
	return r
}

func (r *reader) run(src io.Reader) {
	defer close(r.done)
	defer close(r.full)
	for {
		var b []byte
		select {
		case b = <-r.free:
		case <-r.stop:
			return
		}
		n, err := io.ReadFull(src, b[:aheadBlock])
		if n > 0 {
			select {
			case r.full <- b[:n]:
			case <-r.stop:
				return
			}
		}
		if err != nil {
			// ReadFull says ErrUnexpectedEOF both for a short last block, which is
			// the end, and for a source that broke off. One more read tells.
			if errors.Is(err, io.ErrUnexpectedEOF) {
				if _, err = src.Read(b[:1]); err == nil {
					err = io.ErrNoProgress
				}
			}
			r.err = err
			return
		}
	}
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.cur != nil {
			r.free <- r.cur[:aheadBlock]
			r.cur = nil
		}
		b, ok := <-r.full
		if !ok {
			if r.err == nil || errors.Is(r.err, io.EOF) {
				return 0, io.EOF
			}
			return 0, r.sourceError()
		}
		r.cur, r.rest = b, b
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// sourceError tells broken data from a source that failed.
func (r *reader) sourceError() error {
	if errors.Is(r.err, inflate.ErrFormat) || errors.Is(r.err, errXZ) || errors.Is(r.err, io.ErrUnexpectedEOF) {
		return badArchive(r.err)
	}
	return fmt.Errorf("unpack archive: %w", r.err)
}

// Close waits for the goroutine.
func (r *reader) Close() error {
	r.once.Do(func() { close(r.stop) })
	<-r.done
	return r.closeSrc()
}
