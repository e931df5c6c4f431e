// Package inflate reads gzip streams (RFC 1952, RFC 1951), about twice as fast as the
// libraries at hand: unpacking layers is most of what a pull costs.
//
// What makes it fast: bits are read 8 bytes at a time into one register; a table entry
// holds two literals where two codes fit into its index; a symbol takes one look-up,
// extra bits included; matches are copied in words, beyond their end, into room that is
// overwritten next. None of that needs a slow twin for the ends of buffers, because both
// buffers have a margin: there is one loop.
//
// Input is hostile. Nothing here uses package unsafe: an index that were wrong would end
// the program and not reach other memory. What is accepted, and what comes of it, is
// what compress/gzip does (FuzzReader).
package inflate

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrFormat is the kind of each error that says that the input is no gzip stream, or a
// broken one. One that ends early is io.ErrUnexpectedEOF.
var ErrFormat = errors.New("not valid gzip data")

var (
	errHeader   = fmt.Errorf("%w: no header", ErrFormat)
	errChecksum = fmt.Errorf("%w: its checksum is another", ErrFormat)
	errCorrupt  = fmt.Errorf("%w: corrupt block", ErrFormat)
)

const (
	window  = 32 << 10 // how far back a match may reach, bytes
	inSize  = 64 << 10
	inPad   = 64 // zeros after the end of the input, for reading ahead
	inStep  = 24 // at most as many bytes does one round of the loop read
	outSize = window + 128<<10
	outPad  = 320 // at most as many bytes does one round of the loop write, and beyond its end
)

// Reader reads the unpacked bytes of a gzip stream of one or more members. It is for
// one goroutine. It reads its source to the end.
type Reader struct {
	src io.Reader
	err error // what Read says when everything before it was read

	in   [inSize + inPad]byte
	ip   int  // the next byte to take
	end  int  // of what was read from src
	last bool // src has no more

	bits  uint64 // lowest first; above count is what follows in the input, or zero
	count uint   // how many of them were taken from the input

	out  [outSize + outPad]byte
	op   int // the next byte to write
	rd   int // the next byte to hand out
	base int // where the member's bytes begin: no match reaches before

	next   func(*Reader) error // what comes next in the stream
	final  bool                // the block is the member's last
	stored int                 // bytes to come of a stored block
	sum    uint32
	size   uint32 // bytes of the member that sum has seen, modulo 2^32

	lens  [maxLit + maxDist]uint8
	lit   litTable
	dist  distTable
	fixed bool // lit and dist are those of fixed blocks
}

// NewReader reads the first member's header.
func NewReader(src io.Reader) (*Reader, error) {
	z := &Reader{src: src}
	if err := z.header(); err != nil {
		return nil, err
	}
	return z, nil
}

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	for z.rd == z.op {
		if z.err != nil {
			return 0, z.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		z.slide()
		for z.op == z.rd && z.err == nil {
			z.err = z.next(z)
		}
		if z.err != nil {
			z.op = z.rd // what a broken block made is nobody's
		}
		made := z.out[z.rd:z.op]
		z.sum = crc32.Update(z.sum, crc32.IEEETable, made)
		z.size += uint32(len(made)) //nolint:gosec // modulo 2^32, as the format has it
	}
	n := copy(p, z.out[z.rd:z.op])
	z.rd += n
	return n, nil
}

// slide makes room for output, all of which was handed out.
func (z *Reader) slide() {
	if z.op < outSize/2 {
		return
	}
	keep := min(z.op-z.base, window)
	copy(z.out[:], z.out[z.op-keep:z.op])
	z.base, z.rd, z.op = 0, keep, keep
}

// fill reads more input. Then inStep bytes can be read from ip: those that src does not
// have are zeros, and overrun tells.
func (z *Reader) fill() error {
	z.unread()
	if z.end-z.ip >= inStep || z.last {
		return nil
	}
	z.end = copy(z.in[:], z.in[z.ip:z.end])
	z.ip = 0
	for idle := 0; z.end < inStep && !z.last; {
		n, err := z.src.Read(z.in[z.end:inSize])
		z.end += n
		switch {
		case errors.Is(err, io.EOF):
			z.last = true
		case err != nil:
			return err
		case n > 0:
			idle = 0
		default:
			if idle++; idle > 100 {
				return io.ErrNoProgress
			}
		}
	}
	if z.last {
		clear(z.in[z.end : z.end+inPad])
	}
	return nil
}

// unread gives whole bytes back that were taken into bits.
func (z *Reader) unread() {
	z.ip -= int(z.count >> 3)
	z.count &= 7
	z.bits &= 1<<z.count - 1
}

// overrun says whether bits were used that the input does not have.
func (z *Reader) overrun() bool { return z.ip-int(z.count>>3) > z.end }

// take gives the next n bits, at most 16.
func (z *Reader) take(n uint) (uint, error) {
	if err := z.refill(); err != nil {
		return 0, err
	}
	v := uint(z.bits & (1<<n - 1))
	z.drop(n)
	if z.overrun() {
		return 0, io.ErrUnexpectedEOF
	}
	return v, nil
}

// refill has bits hold 32 of the input at least, or zeros behind its end.
func (z *Reader) refill() error {
	if z.count >= 32 {
		return nil
	}
	if z.end-z.ip < 8 {
		if err := z.fill(); err != nil {
			return err
		}
	}
	z.bits |= load(z.in[:], z.ip) << (z.count & 63)
	z.ip += int((63 - z.count) >> 3)
	z.count |= 56
	return nil
}

func (z *Reader) drop(n uint) {
	z.bits >>= n
	z.count -= n
}

// bytes gives the next whole bytes, at most 10. The slice holds until the next call.
func (z *Reader) bytes(n int) ([]byte, error) {
	if err := z.fill(); err != nil {
		return nil, err
	}
	if z.end-z.ip < n {
		if z.end == z.ip {
			return nil, io.EOF
		}
		return nil, io.ErrUnexpectedEOF
	}
	z.ip += n
	return z.in[z.ip-n : z.ip], nil
}
