package dns

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
)

// A zone is lines of three words, divided by tabs and sorted by their bytes:
//
//	web <tab> 4 <tab> 172.18.0.2       an address of a name, in lower case
//	web <tab> 6 <tab> fd00::2
//	172.18.0.2 <tab> P <tab> web       the name of an address
const (
	kind4   = '4'
	kind6   = '6'
	kindPTR = 'P'
)

// Zone is the names of one network, kept sorted. The zero value is empty. It is
// not safe for concurrent use.
type Zone struct {
	lines []string
	count map[string]int // of lines that were added more than once
}

// Add gives addresses names. The first name is what the addresses are called.
func (z *Zone) Add(names []string, addrs ...netip.Addr) {
	for _, l := range zoneLines(names, addrs) {
		i, there := slices.BinarySearch(z.lines, l)
		if !there {
			z.lines = slices.Insert(z.lines, i, l)
			continue
		}
		if z.count == nil {
			z.count = map[string]int{}
		}
		z.count[l]++
	}
}

// Remove takes back what Add gave with the same arguments.
func (z *Zone) Remove(names []string, addrs ...netip.Addr) {
	for _, l := range zoneLines(names, addrs) {
		if z.count[l] > 0 {
			z.count[l]--
			continue
		}
		if i, there := slices.BinarySearch(z.lines, l); there {
			z.lines = slices.Delete(z.lines, i, i+1)
		}
	}
}

// Bytes is the zone as its file has it.
func (z *Zone) Bytes() []byte {
	n := 0
	for _, l := range z.lines {
		n += len(l)
	}
	b := make([]byte, 0, n)
	for _, l := range z.lines {
		b = append(b, l...)
	}
	return b
}

func zoneLines(names []string, addrs []netip.Addr) []string {
	var out []string
	first := true
	for _, n := range names {
		if n = canonical(n); n == "" {
			continue
		}
		for _, a := range addrs {
			if !a.IsValid() {
				continue
			}
			kind := "\t6\t"
			if a.Is4() {
				kind = "\t4\t"
			}
			out = append(out, n+kind+a.String()+"\n")
			if first {
				out = append(out, a.String()+"\tP\t"+n+"\n")
			}
		}
		first = false
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// canonical is a name as zones have it: lower case, without the dot at its end;
// "" when no question can have it.
func canonical(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > 253 || strings.ContainsAny(name, "\t\r\n\x00 ") {
		return ""
	}
	return name
}

// record is one line's kind and last word.
type record struct {
	kind  byte
	value string
}

// search yields the records of key in a zone's text, which may be damaged: then
// it yields less. found says whether there was any.
func search(text []byte, key string, yield func(record)) (found bool) {
	// Lines in [lo, hi) may have the key; both are beginnings of lines.
	lo, hi := 0, len(text)
	for lo < hi {
		mid := lo + (hi-lo)/2
		begin := bytes.LastIndexByte(text[lo:mid], '\n') + 1 + lo
		end := bytes.IndexByte(text[mid:hi], '\n')
		if end < 0 {
			return false
		}
		end += mid + 1
		if compareKey(text[begin:end], key) < 0 {
			lo = end
		} else {
			hi = begin
		}
	}
	for lo < len(text) && compareKey(text[lo:], key) == 0 {
		end := bytes.IndexByte(text[lo:], '\n')
		if end < 0 {
			return found
		}
		rest := text[lo+len(key)+1 : lo+end]
		lo += end + 1
		if len(rest) > 2 && rest[1] == '\t' {
			found = true
			yield(record{rest[0], string(rest[2:])})
		}
	}
	return found
}

// compareKey compares a line's first word with key, in the order of the lines.
func compareKey(line []byte, key string) int {
	for i := range len(key) {
		if i >= len(line) {
			return -1
		}
		if c := int(line[i]) - int(key[i]); c != 0 {
			return c
		}
	}
	if len(line) == len(key) {
		return -1
	}
	return int(line[len(key)]) - '\t'
}
