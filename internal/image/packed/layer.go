package packed

import (
	"bufio"
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"os"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"hull/internal/image/archive"
)

// Layer unpacks a layer as archive.Unpack does, and gives the digest of its tar. With
// o.Packed it finds out how r is compressed.
func Layer(ctx context.Context, r io.Reader, root *os.File, o archive.Options) (archive.Result, digest.Digest, error) {
	if o.Packed {
		in := &counter{r: r}
		dec, kind, err := Decompress(in)
		if err != nil {
			return archive.Result{}, "", err
		}
		defer dec.Close()
		if kind != None {
			o.Compressed = in.n.Load
		}
		r = dec
	}
	sum := newHasher()
	// The tar reader asks for 512 bytes at a time; the hasher is to get blocks.
	res, err := archive.Unpack(ctx, bufio.NewReaderSize(io.TeeReader(r, sum), 128<<10), root, o)
	return res, sum.digest(), err
}

// counter counts what was read.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// hasher computes a SHA-256 digest in a goroutine of its own, so that hashing and
// unpacking share the work between cores.
type hasher struct {
	h    hash.Hash
	full chan []byte
	free chan []byte
	done chan struct{}
}

func newHasher() *hasher {
	h := &hasher{h: sha256.New(), full: make(chan []byte, 4), free: make(chan []byte, 4), done: make(chan struct{})}
	for range 4 {
		h.free <- nil
	}
	go func() {
		defer close(h.done)
		for b := range h.full {
			h.h.Write(b)
			h.free <- b[:0]
		}
	}()
	return h
}

func (h *hasher) Write(p []byte) (int, error) {
	b := <-h.free
	h.full <- append(b, p...)
	return len(p), nil
}

// digest ends the goroutine and gives the sum. It is called once.
func (h *hasher) digest() digest.Digest {
	close(h.full)
	<-h.done
	return digest.NewDigest(digest.SHA256, h.h)
}
