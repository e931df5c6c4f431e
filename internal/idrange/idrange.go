// Package idrange gives every container a range of the host's user and group ids
// of its own: id n in the container is first+n on the host, and nobody else's.
//
// Which ids the administrator sets aside for hull is in /etc/subuid and
// /etc/subgid, in the entry "hull" (START:COUNT). Without one, a part of the id
// space is used that no distribution gives to anybody: 0x70000000 to 0x7ffdffff,
// between what systemd-nspawn takes for its containers and the signed 32-bit
// limit (systemd, docs/UIDS-GIDS.md); what others' entries claim of it is left out.
//
// What is taken is kept by the owners' records: after a restart of the engine
// they are claimed again.
package idrange

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Size is how many ids a range has: all that images use.
const Size = 65536

// The part of the id space used without an entry of ours.
const (
	areaFirst = 0x70000000
	areaEnd   = 0x7ffe0000
)

// Config says where ranges come from.
type Config struct {
	SubUID, SubGID string // "" = /etc/subuid, /etc/subgid
	User           string // whose entries are ours; "" = hull
	// InUse lists first host ids of other live user namespaces on this machine, to
	// be left alone: another engine's, say. It is asked once, before the first
	// range is given. nil = nobody to ask.
	InUse func() []uint32
}

// span is a run of free-for-us ids.
type span struct{ first, count uint64 }

// Ranges is the ranges of one engine.
type Ranges struct {
	uid, gid []span
	own      bool // of an entry in /etc/subuid
	inUse    func() []uint32

	mu     sync.Mutex
	total  uint64
	next   uint64 // ranges are given in a circle: one that was given back rests
	refs   map[hull.IDRange]int
	others []uint32
}

// New reads what the administrator has set aside. errdefs.ErrInvalidArgument for
// an entry that cannot be read or holds no range.
func New(cfg Config) (*Ranges, error) {
	if cfg.User == "" {
		cfg.User = "hull"
	}
	r := &Ranges{inUse: cfg.InUse, refs: map[hull.IDRange]int{}}
	files := []struct {
		path string
		to   *[]span
	}{{firstOf(cfg.SubUID, "/etc/subuid"), &r.uid}, {firstOf(cfg.SubGID, "/etc/subgid"), &r.gid}}
	var mine [2]bool
	var others []span
	for i, f := range files {
		ours, rest, err := readSub(f.path, cfg.User)
		if err != nil {
			return nil, err
		}
		*f.to, mine[i], others = ours, len(ours) > 0, append(others, rest...)
	}
	if mine[0] != mine[1] {
		return nil, fmt.Errorf("%s has an entry in only one of %s and %s; add the other: %w", cfg.User, files[0].path, files[1].path, errdefs.ErrInvalidArgument)
	}
	r.own = mine[0]
	if !r.own {
		r.uid = without(span{areaFirst, areaEnd - areaFirst}, others)
		r.gid = r.uid
	}
	r.total = min(ranges(r.uid), ranges(r.gid))
	if r.total == 0 {
		return nil, fmt.Errorf("the entry of %s in %s or %s has no room for one range of %d ids: %w", cfg.User, files[0].path, files[1].path, Size, errdefs.ErrInvalidArgument)
	}
	if !r.own {
		r.next = rand.Uint64N(r.total) //nolint:gosec // not a secret: two engines shall seldom meet
	}
	return r, nil
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// readSub reads a file like /etc/subuid: our spans and everybody else's. A missing
// file has none.
func readSub(path, user string) (ours, others []span, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	const most = 4 << 20
	s := bufio.NewScanner(io.LimitReader(f, most))
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		p := strings.Split(line, ":")
		var x span
		var e1, e2 error
		if len(p) == 3 {
			x.first, e1 = strconv.ParseUint(p[1], 10, 32)
			x.count, e2 = strconv.ParseUint(p[2], 10, 33)
		}
		bad := len(p) != 3 || e1 != nil || e2 != nil || x.count == 0 || x.first+x.count > 1<<32-1 // the last id means "none"
		switch {
		case p[0] != user && !bad:
			others = append(others, x)
		case p[0] != user: // somebody else's mistake
		case bad || x.first == 0:
			return nil, nil, fmt.Errorf("%s: invalid entry %q, want %s:START:COUNT: %w", path, line, user, errdefs.ErrInvalidArgument)
		default:
			ours = append(ours, x)
		}
	}
	return ours, others, s.Err()
}

// without cuts what others have out of s.
func without(s span, others []span) []span {
	out := []span{s}
	for _, o := range others {
		var rest []span
		for _, x := range out {
			if o.first+o.count <= x.first || x.first+x.count <= o.first {
				rest = append(rest, x)
				continue
			}
			if o.first > x.first {
				rest = append(rest, span{x.first, o.first - x.first})
			}
			if end, oend := x.first+x.count, o.first+o.count; end > oend {
				rest = append(rest, span{oend, end - oend})
			}
		}
		out = rest
	}
	return out
}

func ranges(s []span) (n uint64) {
	for _, x := range s {
		n += x.count / Size
	}
	return n
}

// nth is the first id of the nth range.
func nth(s []span, n uint64) uint32 {
	for _, x := range s {
		if have := x.count / Size; n >= have {
			n -= have
			continue
		}
		return uint32(x.first + n*Size) //nolint:gosec // below 2^32 by construction
	}
	return 0
}

// Take gives a range that nobody has. errdefs.ErrResourceExhausted when there is
// none left. Give is its reverse.
func (r *Ranges) Take() (hull.IDRange, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inUse != nil {
		r.others, r.inUse = r.inUse(), nil
	}
	for range r.total {
		x := hull.IDRange{UID: nth(r.uid, r.next), GID: nth(r.gid, r.next), Size: Size}
		r.next = (r.next + 1) % r.total
		if !r.taken(x) {
			r.refs[x] = 1
			return x, nil
		}
	}
	return hull.IDRange{}, fmt.Errorf("all %d id ranges are in use: enlarge hull's entry in /etc/subuid and /etc/subgid, or run with --userns host: %w", r.total, errdefs.ErrResourceExhausted)
}

// taken compares with all that live: after a change of /etc/subuid their ranges
// need not lie where ours would.
func (r *Ranges) taken(x hull.IDRange) bool {
	meet := func(a, b uint32) bool { return uint64(a) < uint64(b)+Size && uint64(b) < uint64(a)+Size }
	for o := range r.refs {
		if meet(o.UID, x.UID) || meet(o.GID, x.GID) {
			return true
		}
	}
	for _, o := range r.others {
		if meet(o, x.UID) || meet(o, x.GID) {
			return true
		}
	}
	return false
}

// Claim adds a user of a range that is in use: one more container in the same user
// namespace, or one found after a restart. The zero range is nobody's.
func (r *Ranges) Claim(x hull.IDRange) {
	if x.Size == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refs[x]++
}

// Give ends one use; the range is free after the last.
func (r *Ranges) Give(x hull.IDRange) {
	if x.Size == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refs[x]--; r.refs[x] <= 0 {
		delete(r.refs, x)
	}
}

// String says where ranges come from, for hull info.
func (r *Ranges) String() string {
	where := "the free ids from " + strconv.Itoa(areaFirst)
	if r.own {
		where = "the entry in /etc/subuid"
	}
	return fmt.Sprintf("%d ranges of %d ids, of %s", r.total, Size, where)
}
