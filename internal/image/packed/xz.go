package packed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/ulikunitz/xz/lzma"
)

// maxDictionary is the largest dictionary of an xz block, bytes: that of xz -9. It is
// memory, and the file says how much: up to 4 GiB. Hence the container (The .xz File
// Format, 1.2.1) is read here, and LZMA2 alone by the library, whose own reader of the
// container takes what it is told.
const maxDictionary = 64 << 20

var errXZ = errors.New("not valid xz data")

func badXZ(what string) error { return fmt.Errorf("%w: %s", errXZ, what) }

const (
	xzMagic       = "\xfd7zXZ\x00"
	xzMagicEnd    = "YZ"
	xzCheckNone   = 0
	xzCheckCRC32  = 1
	xzCheckCRC64  = 4
	xzCheckSHA256 = 10
	xzLZMA2       = 0x21 // filter
)

// xzReader reads the content of xz streams, one after the other.
type xzReader struct {
	src     xzSource
	started bool // some stream was read
	flags   byte // of the stream that is being read: the kind of check
	open    bool // within a stream
	block   *lzma.Reader2
	check   hash.Hash // of the block's content
	began   int64     // where the block's header, or the index, begins
	data    int64     // where the block's data begins
	size    int64     // of its content so far
	said    [2]int64  // sizes that the header gives, packed and not; -1 = none
	blocks  int64     // of the stream so far
	made    int64     // bytes of content of all blocks
	taken   int64     // bytes of dictionaries of all blocks
	records hash.Hash // of their sizes, to be compared with the index
}

// xzSource counts what is read, and keeps why the source ended.
type xzSource struct {
	r   *bufio.Reader
	n   int64
	sum hash.Hash32 // of what is read, nil = of no use
	err error
}

func (s *xzSource) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.sum != nil {
		s.sum.Write(p[:n])
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// ReadByte implements io.ByteReader.
func (s *xzSource) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(s, b[:])
	return b[0], err
}

func newXZ(r *bufio.Reader) *xzReader { return &xzReader{src: xzSource{r: r}} }

// Read implements io.Reader. Errors: those of the source, io.ErrUnexpectedEOF, errXZ,
// errdefs.ErrResourceExhausted.
func (x *xzReader) Read(p []byte) (n int, err error) {
	defer func() {
		// The library says by panics that it contradicts itself. It runs in hulld, too (docker import).
		if r := recover(); r != nil {
			n, err = 0, badXZ(fmt.Sprint(r))
		}
	}()
	for n == 0 && len(p) > 0 {
		if x.block == nil {
			if err := x.advance(); err != nil {
				return 0, x.reason(err)
			}
		}
		n, err = x.block.Read(p)
		x.check.Write(p[:n])
		x.size += int64(n)
		x.made += int64(n)
		switch {
		case !errors.Is(err, io.EOF):
		case x.block.EOS():
			err = early(x.endBlock())
		default:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, x.reason(err)
		}
	}
	return n, nil
}

// reason gives the library's errors a kind, and prefers the source's.
func (x *xzReader) reason(err error) error {
	for _, kind := range []error{io.EOF, io.ErrUnexpectedEOF, errXZ, errdefs.ErrResourceExhausted} {
		if x.src.err == nil && errors.Is(err, kind) {
			return err
		}
	}
	if x.src.err != nil {
		return x.src.err
	}
	return badXZ(err.Error())
}

// early is err where the input must not end.
func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// advance goes to the next block. io.EOF: there is none.
func (x *xzReader) advance() error {
	for {
		if !x.open {
			if err := x.stream(); err != nil {
				return err
			}
		}
		x.began = x.src.n
		x.src.sum = crc32.NewIEEE()
		n, err := x.src.ReadByte()
		if err != nil {
			return early(err)
		}
		if n != 0 {
			return early(x.header(n))
		}
		if err := x.index(); err != nil {
			return early(err)
		}
	}
}

// stream reads a stream's header, and the padding before it.
func (x *xzReader) stream() error {
	x.src.sum = nil
	var h [12]byte
	for {
		if _, err := io.ReadFull(&x.src, h[:4]); err != nil {
			return err // io.EOF after the last one
		}
		if !x.started || h[0]|h[1]|h[2]|h[3] != 0 {
			break
		}
	}
	if _, err := io.ReadFull(&x.src, h[4:]); err != nil {
		return early(err)
	}
	if string(h[:6]) != xzMagic || h[6] != 0 || binary.LittleEndian.Uint32(h[8:]) != crc32.ChecksumIEEE(h[6:8]) {
		return badXZ("no header")
	}
	x.flags, x.open, x.started, x.blocks, x.records = h[7], true, true, 0, sha256.New()
	switch x.flags {
	case xzCheckNone:
		x.check = crc32.NewIEEE() // nobody asks for it
	case xzCheckCRC32:
		x.check = crc32.NewIEEE()
	case xzCheckCRC64:
		x.check = crc64.New(crc64.MakeTable(crc64.ECMA))
	case xzCheckSHA256:
		x.check = sha256.New()
	default:
		return badXZ(fmt.Sprintf("unknown check %#x", x.flags))
	}
	return nil
}

// checkSum reads the CRC32 of what was read since sum was set.
func (x *xzReader) checkSum() error {
	want := x.src.sum.Sum32()
	x.src.sum = nil
	var b [4]byte
	if _, err := io.ReadFull(&x.src, b[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b[:]) != want {
		return badXZ("checksum of a header or index")
	}
	return nil
}

// number reads a number of at most 63 bits.
func number(r io.ByteReader) (int64, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || n > 1<<62 {
		return 0, badXZ("number is too large")
	}
	return int64(n), err //nolint:gosec // compared above
}

// header reads the rest of a block's header, whose first byte is n.
func (x *xzReader) header(n byte) error {
	b := make([]byte, int(n)*4-1)
	if _, err := io.ReadFull(&x.src, b); err != nil {
		return err
	}
	if err := x.checkSum(); err != nil {
		return err
	}
	r := bytes.NewReader(b)
	flags, _ := r.ReadByte()
	for i, bit := range []byte{0x40, 0x80} {
		x.said[i] = -1
		if flags&bit != 0 {
			var err error
			if x.said[i], err = number(r); err != nil {
				return badXZ("sizes in a block's header")
			}
		}
	}
	id, err := number(r)
	if flags&0x3f != 0 || err != nil || id != xzLZMA2 {
		return badXZ("a block with a filter other than LZMA2, which is not read here")
	}
	props := make([]byte, 2)
	if _, err := io.ReadFull(r, props); err != nil || props[0] != 1 {
		return badXZ("filter in a block's header")
	}
	size, err := lzma.DecodeDictCap(props[1])
	if err != nil {
		return badXZ(err.Error())
	}
	if size > maxDictionary {
		return fmt.Errorf("xz with a dictionary of %d bytes, which is more than the %d of xz -9: %w", size, maxDictionary, errdefs.ErrResourceExhausted)
	}
	// Blocks of nothing would keep us clearing memory.
	if x.taken += size; x.taken > 16*(maxDictionary+x.made) {
		return fmt.Errorf("xz with too many small blocks of large dictionaries: %w", errdefs.ErrResourceExhausted)
	}
	for r.Len() > 0 {
		if b, _ := r.ReadByte(); b != 0 {
			return badXZ("padding of a block's header")
		}
	}
	x.check.Reset()
	x.size, x.data = 0, x.src.n
	x.block, err = lzma.Reader2Config{DictCap: int(size)}.NewReader2(&x.src)
	return err
}

// endBlock compares what follows a block with it.
func (x *xzReader) endBlock() error {
	x.block = nil
	end := x.src.n
	for i, n := range []int64{end - x.data, x.size} {
		if x.said[i] >= 0 && x.said[i] != n {
			return badXZ("sizes in a block's header")
		}
	}
	if err := x.padding(end - x.data); err != nil {
		return err
	}
	var sum []byte
	if x.flags != xzCheckNone {
		sum = x.check.Sum(nil)
	}
	if x.flags != xzCheckSHA256 {
		slices.Reverse(sum) // lowest byte first
	}
	said := make([]byte, len(sum))
	if _, err := io.ReadFull(&x.src, said); err != nil {
		return err
	}
	if !bytes.Equal(sum, said) {
		return badXZ("checksum of a block")
	}
	x.blocks++
	return binary.Write(x.records, binary.LittleEndian, []int64{end - x.began + int64(len(sum)), x.size})
}

// padding reads the zeros after n bytes.
func (x *xzReader) padding(n int64) error {
	for ; n%4 != 0; n++ {
		b, err := x.src.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return badXZ("padding")
		}
	}
	return nil
}

// index reads a stream's index, after its first byte, and footer.
func (x *xzReader) index() error {
	blocks, err := number(&x.src)
	if err != nil {
		return err
	}
	if blocks != x.blocks {
		return badXZ("the index is of other blocks")
	}
	records := sha256.New()
	for range blocks {
		var r [2]int64
		for j := range r {
			if r[j], err = number(&x.src); err != nil {
				return err
			}
		}
		if err := binary.Write(records, binary.LittleEndian, r[:]); err != nil {
			return err
		}
	}
	if !bytes.Equal(records.Sum(nil), x.records.Sum(nil)) {
		return badXZ("the index is of other blocks")
	}
	if err := x.padding(x.src.n - x.began); err != nil {
		return err
	}
	if err := x.checkSum(); err != nil {
		return err
	}
	size := x.src.n - x.began
	var f [12]byte
	if _, err := io.ReadFull(&x.src, f[:]); err != nil {
		return err
	}
	if string(f[10:]) != xzMagicEnd || f[8] != 0 || f[9] != x.flags || binary.LittleEndian.Uint32(f[:]) != crc32.ChecksumIEEE(f[4:10]) ||
		int64(binary.LittleEndian.Uint32(f[4:])+1)*4 != size {
		return badXZ("footer")
	}
	x.open = false
	return nil
}
