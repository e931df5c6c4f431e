package inflate

import "math/bits"

const (
	maxLit  = 286 // literals, the end of a block, lengths
	maxDist = 30
	maxBits = 15 // of a code

	litRoot  = 11
	distRoot = 9
)

// An entry of a table says what the bits that are its index begin with:
//
//	literals   bits 0-5 what they take; bit 7 set; bits 8-9 how many, 1 or 2; the bytes from bit 16
//	a length   bits 0-5 what code and extra bits take; bits 8-11 what the code takes; its base from bit 16
//	a distance the same
//	more       bit 6 set; bit 12: the end of the block, which takes bits 0-5; bit 13: no code at all;
//	           else bits 0-5 what is left out; bits 8-11 how many bits index the table that begins at what is from bit 16
type entry = uint32

const (
	isMore    entry = 1 << 6
	isLiteral entry = 1 << 7
	isEnd     entry = 1 << 12
	isNone    entry = 1 << 13
)

// The tables behind the first one: each has 1<<(maxBits-root) entries or fewer, and two
// codes at least, for a code is complete. Rounded up to what a mask gives.
type (
	litTable  [8 << 10]entry // 1<<11 + 144<<4 are used
	distTable [2 << 10]entry // 1<<9 + 16<<6 are used
)

// lengths and distances: base and extra bits of a symbol.
func lengthEntry(sym int) entry {
	switch {
	case sym < 256:
		return isLiteral | 1<<8 | entry(sym)<<16
	case sym == 256:
		return isMore | isEnd
	case sym < 265:
		return entry(sym-257+3) << 16
	case sym < 285:
		extra := (sym - 261) / 4
		return entry(3+(4+(sym-265)%4)<<extra)<<16 | entry(extra)
	case sym == 285:
		return 258 << 16
	}
	return isMore | isNone
}

func distEntry(sym int) entry {
	switch {
	case sym < 4:
		return entry(sym+1) << 16
	case sym < maxDist:
		extra := (sym - 2) / 2
		return entry(1+(2+sym%2)<<extra)<<16 | entry(extra)
	}
	return isMore | isNone
}

// build fills a table for codes of these lengths, 0 = a symbol that has none. meaning
// gives a symbol's entry with the number of its extra bits in bits 0-5. It is false for
// lengths that make no code. As everywhere a single code of one bit is accepted, and none at all, for which
// every index means isNone.
func build(table []entry, root uint, lens []uint8, meaning func(int) entry) bool {
	var number, first [maxBits + 1]int
	longest := 0
	for _, n := range lens {
		number[n]++
		longest = max(longest, int(n))
	}
	number[0] = 0
	code := 0
	for n := 1; n <= longest; n++ {
		code <<= 1
		first[n] = code
		code += number[n]
	}
	single := longest == 1 && code == 1
	if longest > 0 && code != 1<<longest && !single {
		return false
	}
	if longest == 0 || single {
		for i := range table[:1<<root] {
			table[i] = isMore | isNone
		}
	}
	free := 1 << root // where the next table begins
	sub := max(longest-int(root), 0)
	if sub > 0 {
		clear(table[:1<<root]) // 0: none begins there yet
	}
	for sym, n := range lens {
		if n == 0 {
			continue
		}
		at := int(bits.Reverse16(uint16(first[n])) >> (16 - n)) //nolint:gosec // below 1<<15
		first[n]++
		e := meaning(sym)
		left := uint(n) // bits of the code in the table that holds it
		to := table[:1<<root]
		if uint(n) > root {
			head := at & (1<<root - 1)
			if table[head] == 0 {
				table[head] = isMore | entry(root) | entry(sub)<<8 | entry(free)<<16 //nolint:gosec // small
				free += 1 << sub
			}
			start := int(table[head] >> 16)
			to = table[start : start+1<<sub]
			at >>= root
			left -= root
		}
		e = e&^63 | e&63 + entry(left)
		if e&(isLiteral|isMore) == 0 {
			e |= entry(left) << 8
		}
		for ; at < len(to); at += 1 << left {
			to[at] = e
		}
	}
	return true
}

// pair has the entries of literals whose codes leave room in the index say what literal
// comes next, too. From the top, so that what an entry looks at is still single.
func (t *litTable) pair() {
	for i := 1<<litRoot - 1; i >= 0; i-- {
		e := t[i]
		if e&isLiteral == 0 {
			continue
		}
		n := e & 63
		if f := t[i>>n]; f&isLiteral != 0 && n+f&63 <= litRoot {
			t[i] = isLiteral | 2<<8 | (n + f&63) | e&0xff0000 | f&0xff0000<<8
		}
	}
}
