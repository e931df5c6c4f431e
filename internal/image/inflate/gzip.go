package inflate

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// Flags of a member's header.
const (
	hasCRC     = 1 << 1
	hasExtra   = 1 << 2
	hasName    = 1 << 3
	hasComment = 1 << 4
	maxText    = 512 // of name and comment, bytes: what compress/gzip takes
)

// header reads what comes before a member's first block. io.EOF: there is no member.
func (z *Reader) header() error {
	h, err := z.bytes(10)
	if err != nil {
		return err
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return errHeader
	}
	flags := h[3]
	sum := crc32.ChecksumIEEE(h)
	more := func(n int) ([]byte, error) {
		b, err := z.bytes(n)
		sum = crc32.Update(sum, crc32.IEEETable, b)
		return b, early(err)
	}
	if flags&hasExtra != 0 {
		b, err := more(2)
		if err != nil {
			return err
		}
		for n := binary.LittleEndian.Uint16(b); n > 0; n-- {
			if _, err := more(1); err != nil {
				return err
			}
		}
	}
	for _, text := range []byte{hasName, hasComment} {
		for n := 0; flags&text != 0; n++ {
			if n == maxText {
				return errHeader
			}
			b, err := more(1)
			if err != nil {
				return err
			}
			if b[0] == 0 {
				break
			}
		}
	}
	if flags&hasCRC != 0 {
		b, err := z.bytes(2)
		if err != nil {
			return early(err)
		}
		if binary.LittleEndian.Uint16(b) != uint16(sum) { //nolint:gosec // its lower half is what is there
			return errHeader
		}
	}
	z.base, z.sum, z.size = z.op, 0, 0
	z.next = (*Reader).block
	return nil
}

// trailer compares what a member says of its content, and goes on to the next member.
func (z *Reader) trailer() error {
	z.unread()
	z.drop(z.count) // the rest of the block's last byte
	b, err := z.bytes(8)
	if err != nil {
		return early(err)
	}
	if binary.LittleEndian.Uint32(b) != z.sum || binary.LittleEndian.Uint32(b[4:]) != z.size {
		return errChecksum
	}
	return z.header()
}

// early is err where the input must not end.
func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
