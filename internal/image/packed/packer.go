package packed

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Packer packs with gzip, as fast as it can.
type Packer struct {
	*gzip.Writer
	out *bufio.Writer
}

// NewPacker packs to w, which gets blocks: the library writes some 240 bytes at a time, and
// behind w is a system call and a digest for each write.
func NewPacker(w io.Writer) (*Packer, error) {
	out := bufio.NewWriterSize(w, 256<<10)
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	return &Packer{z, out}, nil
}

// Close writes the end. w is not closed.
func (p *Packer) Close() error { return errors.Join(p.Writer.Close(), p.out.Flush()) }
