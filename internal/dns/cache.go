package dns

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// What a pod's cache holds at most.
const (
	maxCached      = 256
	maxCachedBytes = 128 << 10
	longestCached  = 5 * time.Minute
	longestDenied  = 30 * time.Second // that a name does not exist
)

// cache keeps upstream's answers. A question's key is its bytes without the id:
// the same question, to the last flag, has the same answer.
type cache struct {
	mu      sync.Mutex
	entries map[string]cached
	bytes   int
}

type cached struct {
	msg  []byte
	ttls []int // where in msg
	at   time.Time
	ends time.Time
}

func cacheKey(msg []byte) string { return string(msg[2:]) }

// get is the answer to a question, with its id and times as they are now.
func (c *cache) get(q question, msg []byte, now time.Time) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[cacheKey(msg)]
	if !ok || !now.Before(e.ends) || len(e.msg) > q.limit {
		return nil
	}
	out := append([]byte(nil), e.msg...)
	binary.BigEndian.PutUint16(out, q.id)
	age := uint32(now.Sub(e.at) / time.Second) //nolint:gosec // minutes
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(out[at:])
		binary.BigEndian.PutUint32(out[at:], ttl-min(ttl, age))
	}
	return out
}

// put remembers an answer as long as its records allow.
func (c *cache) put(question, answer []byte, now time.Time) {
	ttls, keep := lifetimes(answer)
	if keep <= 0 || len(question)+len(answer) > maxCachedBytes/8 {
		return
	}
	key := cacheKey(question)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[string]cached{}
	}
	c.drop(key)
	c.bytes += len(key) + len(answer)
	c.entries[key] = cached{append([]byte(nil), answer...), ttls, now, now.Add(keep)}
	if len(c.entries) > maxCached || c.bytes > maxCachedBytes {
		c.makeRoom(key, now)
	}
}

// makeRoom drops what is over, then anything but key. It needs mu.
func (c *cache) makeRoom(key string, now time.Time) {
	for k, e := range c.entries {
		if !now.Before(e.ends) {
			c.drop(k)
		}
	}
	for k := range c.entries {
		if len(c.entries) <= maxCached*3/4 && c.bytes <= maxCachedBytes*3/4 {
			return
		}
		if k != key {
			c.drop(k)
		}
	}
}

// drop needs mu.
func (c *cache) drop(key string) {
	if e, ok := c.entries[key]; ok {
		c.bytes -= len(key) + len(e.msg)
		delete(c.entries, key)
	}
}

// lifetimes finds the times to live in an answer, and how long it may be kept: 0 =
// not at all.
func lifetimes(msg []byte) (ttls []int, keep time.Duration) {
	if len(msg) < headerLen || isTruncated(msg) {
		return nil, 0
	}
	code := dnsmessage.RCode(msg[3] & 0x0f)
	answers := int(binary.BigEndian.Uint16(msg[6:]))
	denied := code == dnsmessage.RCodeNameError || answers == 0
	if code != dnsmessage.RCodeSuccess && code != dnsmessage.RCodeNameError {
		return nil, 0
	}
	at := headerLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		if at = skipName(msg, at); at < 0 || at+4 > len(msg) {
			return nil, 0
		}
		at += 4
	}
	shortest := uint32(longestCached / time.Second)
	soa := false
	records := answers + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for range records {
		const fixed = 10 // type, class, time to live, length
		if at = skipName(msg, at); at < 0 || at+fixed > len(msg) {
			return nil, 0
		}
		kind := dnsmessage.Type(binary.BigEndian.Uint16(msg[at:]))
		size := int(binary.BigEndian.Uint16(msg[at+8:]))
		ttlAt := at + 4
		if at += fixed + size; at > len(msg) {
			return nil, 0
		}
		if kind == dnsmessage.TypeOPT {
			continue
		}
		ttls = append(ttls, ttlAt)
		shortest = min(shortest, binary.BigEndian.Uint32(msg[ttlAt:]))
		if kind == dnsmessage.TypeSOA && size >= 4 {
			soa = true
			shortest = min(shortest, binary.BigEndian.Uint32(msg[at-4:])) // RFC 2308
		}
	}
	keep = time.Duration(shortest) * time.Second
	if denied {
		if !soa {
			return nil, 0
		}
		keep = min(keep, longestDenied)
	}
	return ttls, keep
}

// skipName is the place after the name at at, -1 when there is no whole one.
func skipName(msg []byte, at int) int {
	for at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		case n >= 0x40:
			return -1
		default:
			at += 1 + n
		}
	}
	return -1
}
