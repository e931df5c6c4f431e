package inflate

import (
	"encoding/binary"
	"io"
)

// block reads a block's header.
func (z *Reader) block() error {
	h, err := z.take(3)
	if err != nil {
		return err
	}
	z.final = h&1 == 1
	switch h >> 1 {
	case 0:
		return z.plain()
	case 1:
		z.fixedCodes()
	case 2:
		if err := z.dynamicCodes(); err != nil {
			return err
		}
	default:
		return errCorrupt
	}
	z.next = (*Reader).codes
	return nil
}

// endBlock goes on behind a block.
func (z *Reader) endBlock() {
	z.next = (*Reader).block
	if z.final {
		z.next = (*Reader).trailer
	}
}

// plain begins a block of bytes as they are.
func (z *Reader) plain() error {
	z.unread()
	z.drop(z.count)
	b, err := z.bytes(4)
	if err != nil {
		return early(err)
	}
	n := binary.LittleEndian.Uint16(b)
	if n != ^binary.LittleEndian.Uint16(b[2:]) {
		return errCorrupt
	}
	z.stored = int(n)
	z.next = (*Reader).copyPlain
	return nil
}

// copyPlain copies what is here of such a block.
func (z *Reader) copyPlain() error {
	if z.stored == 0 {
		z.endBlock()
		return nil
	}
	if z.ip == z.end {
		if err := z.fill(); err != nil {
			return err
		}
		if z.ip == z.end {
			return io.ErrUnexpectedEOF
		}
	}
	n := copy(z.out[z.op:outSize], z.in[z.ip:min(z.end, z.ip+z.stored)])
	z.op += n
	z.ip += n
	z.stored -= n
	return nil
}

// fixedCodes are those that the format gives.
func (z *Reader) fixedCodes() {
	if z.fixed {
		return
	}
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	build(z.lit[:], litRoot, lens[:], lengthEntry)
	z.lit.pair()
	var dists [32]uint8
	for i := range dists {
		dists[i] = 5
	}
	build(z.dist[:], distRoot, dists[:], distEntry)
	z.fixed = true
}

// codeOrder is the order in which the lengths of the codes for lengths come.
const codeOrder = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// dynamicCodes reads the codes of a block.
func (z *Reader) dynamicCodes() error {
	h, err := z.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, ncode := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if nlit > maxLit || ndist > maxDist {
		return errCorrupt
	}
	var order [len(codeOrder)]uint8
	for i := range ncode {
		n, err := z.take(3)
		if err != nil {
			return err
		}
		order[codeOrder[i]] = uint8(n) //nolint:gosec // 3 bits
	}
	const root = 7
	var table [1 << root]entry
	if !build(table[:], root, order[:], func(sym int) entry { return isLiteral | entry(sym)<<16 }) {
		return errCorrupt
	}
	if err := z.lengths(&table, nlit+ndist); err != nil {
		return err
	}
	z.fixed = false
	if !build(z.lit[:], litRoot, z.lens[:nlit], lengthEntry) || !build(z.dist[:], distRoot, z.lens[nlit:nlit+ndist], distEntry) {
		return errCorrupt
	}
	z.lit.pair()
	return nil
}

// lengths reads the first n lens.
func (z *Reader) lengths(table *[128]entry, n int) error {
	for i := 0; i < n; {
		e, err := z.symbol(table)
		if err != nil {
			return err
		}
		repeat, of, extra := 3, uint8(0), uint(3)
		switch sym := uint8(e >> 16); sym { //nolint:gosec // at most 18
		case 16:
			if i == 0 {
				return errCorrupt
			}
			of, extra = z.lens[i-1], 2
		case 17:
		case 18:
			repeat, extra = 11, 7
		default:
			z.lens[i] = sym
			i++
			continue
		}
		more, err := z.take(extra)
		if err != nil {
			return err
		}
		repeat += int(more)
		if i+repeat > n {
			return errCorrupt
		}
		for range repeat {
			z.lens[i] = of
			i++
		}
	}
	return nil
}

// symbol reads one code for lengths.
func (z *Reader) symbol(table *[128]entry) (entry, error) {
	if err := z.refill(); err != nil {
		return 0, err
	}
	e := table[z.bits&127]
	if e&isLiteral == 0 {
		return 0, errCorrupt
	}
	z.drop(uint(e & 63))
	if z.overrun() {
		return 0, io.ErrUnexpectedEOF
	}
	return e, nil
}

func load(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8 : i+8]) }

func store(b []byte, i int, v uint64) { binary.LittleEndian.PutUint64(b[i:i+8:i+8], v) }

// codes unpacks what follows of a block while there is input, and room for output.
func (z *Reader) codes() error {
	if err := z.fill(); err != nil {
		return err
	}
	limit := z.end - inStep
	if z.last {
		limit = z.end + inPad - inStep
	}
	in, out := z.in[:], z.out[:]
	lit, dist := &z.lit, &z.dist
	ip, op, bits, count := z.ip, z.op, z.bits, z.count
	base := z.base
	var err error
	done := false

loop:
	for ip <= limit && op < outSize {
		bits |= load(in, ip) << (count & 63)
		ip += int((63 - count) >> 3)
		count |= 56
		e := lit[bits&(1<<litRoot-1)]
		if e&isLiteral != 0 {
			bits >>= e & 63
			count -= uint(e & 63)
			binary.LittleEndian.PutUint16(out[op:op+2:op+2], uint16(e>>16))
			op += int(e >> 8 & 3)
			e = lit[bits&(1<<litRoot-1)]
			if e&isLiteral != 0 {
				bits >>= e & 63
				count -= uint(e & 63)
				binary.LittleEndian.PutUint16(out[op:op+2:op+2], uint16(e>>16))
				op += int(e >> 8 & 3)
				e = lit[bits&(1<<litRoot-1)]
				if e&isLiteral != 0 {
					bits >>= e & 63
					count -= uint(e & 63)
					binary.LittleEndian.PutUint16(out[op:op+2:op+2], uint16(e>>16))
					op += int(e >> 8 & 3)
					continue
				}
			}
			bits |= load(in, ip) << (count & 63)
			ip += int((63 - count) >> 3)
			count |= 56
		}
		if e&isMore != 0 {
			if e&(isEnd|isNone) == 0 {
				bits >>= litRoot
				count -= litRoot
				e = lit[(uint64(e>>16)+bits&(1<<(e>>8&15)-1))&uint64(len(lit)-1)]
				if e&isLiteral != 0 {
					bits >>= e & 63
					count -= uint(e & 63)
					out[op] = byte(e >> 16)
					op++
					continue
				}
			}
			if e&isMore != 0 {
				if e&isEnd == 0 {
					err = errCorrupt
					break loop
				}
				bits >>= e & 63
				count -= uint(e & 63)
				done = true
				break loop
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		count -= uint(e & 63)

		d := dist[bits&(1<<distRoot-1)]
		if d&isMore != 0 {
			if d&isNone == 0 {
				bits >>= distRoot
				count -= distRoot
				d = dist[(uint64(d>>16)+bits&(1<<(d>>8&15)-1))&uint64(len(dist)-1)]
			}
			if d&isMore != 0 {
				err = errCorrupt
				break loop
			}
		}
		back := int(d>>16) + int(bits&(1<<(d&63)-1)>>(d>>8&15))
		bits >>= d & 63
		count -= uint(d & 63)

		from := op - back
		if from < base {
			err = errCorrupt
			break loop
		}
		to := op + length
		switch {
		case back >= 8:
			store(out, op, load(out, from))
			store(out, op+8, load(out, from+8))
			for op += 16; op < to; op += 8 {
				from += 8
				store(out, op, load(out, from+8))
			}
		case back == 1:
			v := uint64(out[from]) * 0x0101010101010101
			for ; op < to; op += 8 {
				store(out, op, v)
			}
		default:
			for ; op < to; op += back {
				store(out, op, load(out, from))
				from += back
			}
		}
		op = to
	}
	z.ip, z.op, z.bits, z.count = ip, op, bits, count
	if z.overrun() {
		return io.ErrUnexpectedEOF
	}
	if done {
		z.endBlock()
	}
	return err
}
