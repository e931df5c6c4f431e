// Package firewall is the one nftables table of an engine instance: address
// translation of published ports, masquerading of what leaves, and the isolation
// of networks from each other.
//
// The rules are constant. What changes are elements of sets and maps: a network
// costs a few elements, a published port (or a whole range of them, when the
// container's ports have the same numbers) one per address family.
//
// The table stands beside those of the host's own firewall and never overrides
// them: in nftables a packet must be accepted by every chain of a hook, so what
// the host drops stays dropped, and nothing here accepts for others. No rule of
// anybody else is ever read or changed.
package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
)

// Network is what the table knows of a network.
type Network struct {
	Bridge   string // interface name
	Hidden4  bool   // hide its IPv4 addresses behind the host's when leaving
	Hidden6  bool
	Routed4  bool // its addresses are known outside: published ports are let in, and ICMP
	Routed6  bool
	Open     bool // its members' own addresses may be reached at any port (nat-unprotected)
	Internal bool // nothing enters or leaves
	Isolated bool // its own members do not reach each other either (enable_icc=false)
	Subnet4  netip.Prefix
	Subnet6  netip.Prefix
}

// Forward sends one port, or a range, of the host to a container.
type Forward struct {
	Proto       string       // tcp, udp, sctp
	Host        netip.Prefix // the host's addresses: one, or all (0.0.0.0/0, ::/0)
	First, Last uint16       // host ports
	To          netip.Addr
	ToPort      uint16 // where First goes; Last > First only when ToPort == First
	// Routed lets First to Last of To itself in, and translates nothing; the rest is
	// not looked at.
	Routed bool
}

// Table is an instance's table. It is made lazily, and made again when somebody
// has flushed it. Safe for concurrent use.
type Table struct {
	name string

	mu       sync.Mutex
	conn     *nftables.Conn
	look     *nl.NetlinkSocket // for asking for the generation
	checked  bool              // the kernel's table was right at gen
	gen      uint32            // generation of the kernel's whole rule set
	made     bool              // the table should be there; its absence is damage
	queued   bool              // the next flush changes something
	networks map[string]Network
	forwards map[Forward]struct{}
	uplinks  map[string]struct{}
	noLoop6  bool // ::1 is not translated
}

// Open prepares a table by name in the network namespace of the calling thread.
// It changes nothing in the kernel.
func Open(name string) (*Table, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	look, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), netlinkNetfilter)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open nftables: %w", err), conn.CloseLasting())
	}
	return &Table{
		name: name, conn: conn, look: look,
		networks: map[string]Network{}, forwards: map[Forward]struct{}{}, uplinks: map[string]struct{}{},
	}, nil
}

// Close closes the connection to the kernel. The table stays.
func (t *Table) Close() error {
	t.look.Close()
	return t.conn.CloseLasting()
}

// Delete removes the table with everything in it.
func (t *Table) Delete() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.networks)
	clear(t.forwards)
	clear(t.uplinks)
	t.checked = false
	return t.drop()
}

func (t *Table) drop() error {
	switch there, err := t.exists(); {
	case err != nil:
		return err
	case !there:
		return nil
	}
	t.conn.DelTable(t.table())
	t.queued, t.made = true, false
	return t.flush("delete")
}

// Apply adds and removes networks and forwards in one transaction: all of it is
// in effect afterwards, or nothing of it. Adding what is there and removing what
// is not there is no error. It reports whether the kernel's table had to be
// repaired first.
func (t *Table) Apply(c Change) (repaired bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holds(c) && t.checked && t.current() {
		return false, nil
	}
	old := state{maps.Clone(t.networks), maps.Clone(t.forwards), maps.Clone(t.uplinks), t.noLoop6}
	defer func() {
		if err != nil {
			t.networks, t.forwards, t.uplinks, t.noLoop6 = old.networks, old.forwards, old.uplinks, old.noLoop6
		}
	}()
	if repaired, err = t.verify(false); err != nil {
		return false, err
	}
	for _, n := range c.DelNetworks {
		if n, ok := t.networks[n]; ok {
			t.elements(t.conn.SetDeleteElements, networkElements(n))
			delete(t.networks, n.Bridge)
		}
	}
	for _, n := range c.AddNetworks {
		if was, ok := t.networks[n.Bridge]; ok {
			if was == n {
				continue
			}
			t.elements(t.conn.SetDeleteElements, networkElements(was))
		}
		t.elements(t.conn.SetAddElements, networkElements(n))
		t.networks[n.Bridge] = n
	}
	if c.Loopback6 != nil && *c.Loopback6 == t.noLoop6 {
		do := t.conn.SetAddElements
		if *c.Loopback6 {
			do = t.conn.SetDeleteElements
		}
		t.elements(do, loopbackElements())
		t.noLoop6 = !*c.Loopback6
	}
	for _, u := range c.AddUplinks {
		if _, ok := t.uplinks[u]; !ok {
			t.elements(t.conn.SetAddElements, uplinkElements(u))
			t.uplinks[u] = struct{}{}
		}
	}
	var del, add elementList
	for _, f := range c.DelForwards {
		if _, ok := t.forwards[f]; ok {
			del.add(f)
			delete(t.forwards, f)
		}
	}
	for _, f := range c.AddForwards {
		if _, ok := t.forwards[f]; !ok {
			add.add(f)
			t.forwards[f] = struct{}{}
		}
	}
	t.elements(t.conn.SetDeleteElements, del)
	t.elements(t.conn.SetAddElements, add)
	if err := t.flush("change"); err != nil {
		return repaired, err
	}
	return repaired, nil
}

// Check repairs the table if somebody has changed it. It makes none that was never
// made.
func (t *Table) Check() (repaired bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.made {
		return false, nil
	}
	return t.verify(false)
}

// Change is a step from one state of the table to the next.
type Change struct {
	AddNetworks []Network
	DelNetworks []string // by bridge
	AddForwards []Forward
	DelForwards []Forward
	AddUplinks  []string // interfaces between which nothing may be forwarded
	// Loopback6 says whether connections of the host to a published port of ::1
	// are translated. nil = as before; at first they are.
	Loopback6 *bool
}

// holds says whether c would change nothing. An attach asks that each time, so it
// is cheap for what an attach asks: a network that is there.
func (t *Table) holds(c Change) bool {
	for _, n := range c.AddNetworks {
		if was, ok := t.networks[n.Bridge]; !ok || was != n {
			return false
		}
	}
	return len(c.DelNetworks)+len(c.AddForwards)+len(c.DelForwards)+len(c.AddUplinks) == 0 &&
		(c.Loopback6 == nil || *c.Loopback6 != t.noLoop6)
}

// Adopt takes networks and forwards as already in effect, without touching the
// kernel: an engine that starts again says so what its records claim. The next
// Apply or Sweep compares and adds what is missing.
func (t *Table) Adopt(networks []Network, forwards []Forward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range networks {
		t.networks[n.Bridge] = n
	}
	for _, f := range forwards {
		t.forwards[f] = struct{}{}
	}
	t.made = t.made || len(networks)+len(forwards) > 0
	t.checked = false
}

// Sweep removes every element that nobody claims, and adds what is missing. It
// makes no table when nothing at all is claimed.
func (t *Table) Sweep() (repaired bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.networks)+len(t.forwards) == 0 {
		if there, err := t.exists(); err != nil || !there {
			return false, err
		}
	}
	return t.verify(true)
}

type state struct {
	networks map[string]Network
	forwards map[Forward]struct{}
	uplinks  map[string]struct{}
	noLoop6  bool
}

// verify makes the kernel's table what the memory says. Without prune it leaves
// elements it does not know: an engine that has just started may not have claimed
// them yet. Nothing is done when the rule set's generation is the known one.
func (t *Table) verify(prune bool) (repaired bool, err error) {
	if t.checked && !prune && t.current() {
		return false, nil
	}
	// Read before the table: a change that comes in between shows at the next look.
	if t.gen, err = t.generation(); err != nil {
		return false, err
	}
	whole, err := t.whole()
	if err != nil {
		return false, err
	}
	if !whole {
		if err := t.rebuild(); err != nil {
			return false, err
		}
		repaired, t.made, t.checked = t.made, true, true
		return repaired, nil
	}
	want := t.wanted()
	for _, s := range t.sets() {
		have, err := t.conn.GetSetElements(s)
		if err != nil {
			return false, fmt.Errorf("read set %s of nftables table %s: %w", s.Name, t.name, err)
		}
		// What an earlier run of the engine found out about the host holds.
		switch {
		case s.Name == setUplinks:
			t.adoptUplinks(have)
			want[s.Name] = append(want[s.Name], have...)
		case s.Name == setLoopback6 && len(have) > 0:
			t.noLoop6 = true
			want[s.Name] = have
		}
		missing, extra := diff(want[s.Name], have)
		if prune && len(extra) > 0 {
			t.elements(t.conn.SetDeleteElements, elementList{s.Name: extra})
		}
		if len(missing) > 0 {
			t.elements(t.conn.SetAddElements, elementList{s.Name: missing})
			repaired = true
		}
	}
	if err := t.flush("repair"); err != nil {
		return false, err
	}
	t.made, t.checked = true, true
	return repaired, nil
}

// adoptUplinks remembers what an earlier run of the engine found when it turned
// forwarding on; it cannot be found out again.
func (t *Table) adoptUplinks(have []nftables.SetElement) {
	for _, e := range have {
		t.uplinks[strings.TrimRight(string(e.Key), "\x00")] = struct{}{}
	}
}

// rebuild makes the table with all that is claimed, in one transaction, so that
// no packet sees half of it.
func (t *Table) rebuild() error {
	there, err := t.exists()
	if err != nil {
		return err
	}
	if there {
		t.conn.DelTable(t.table())
	}
	t.build()
	t.queued = true
	return t.flush("make")
}

// whole says whether the table is there with every chain, rule and set.
func (t *Table) whole() (bool, error) {
	there, err := t.exists()
	if err != nil || !there {
		return false, err
	}
	sets, err := t.conn.GetSets(t.table())
	if err != nil {
		return false, fmt.Errorf("list sets of nftables table %s: %w", t.name, err)
	}
	for _, s := range t.sets() {
		if !slices.ContainsFunc(sets, func(k *nftables.Set) bool { return k.Name == s.Name }) {
			return false, nil
		}
	}
	for _, c := range t.chains() {
		rules, err := t.conn.GetRules(t.table(), c.chain)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("list rules of nftables chain %s: %w", c.chain.Name, err)
		}
		if len(rules) != len(c.rules) {
			return false, nil
		}
	}
	return true, nil
}

func (t *Table) exists() (bool, error) {
	_, err := t.conn.ListTableOfFamily(t.name, nftables.TableFamilyINet)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for nftables table %s: %w", t.name, err)
	}
	return true, nil
}

// flush sends what is queued in one transaction. If nobody else changed a rule
// set since, its generation is one more than the last.
func (t *Table) flush(verb string) error {
	if err := t.conn.Flush(); err != nil {
		t.checked, t.queued = false, false
		return fmt.Errorf("%s nftables table %s: %w", verb, t.name, err)
	}
	if t.queued {
		t.gen++
	}
	t.queued = false
	return nil
}

// current says whether nobody has changed any rule set since the last flush. It
// is one short message, where reading the table back would be dozens.
func (t *Table) current() bool {
	gen, err := t.generation()
	return err == nil && gen == t.gen
}

func (t *Table) elements(do func(*nftables.Set, []nftables.SetElement) error, l elementList) {
	for _, s := range t.sets() {
		// One message holds 64 KiB; an attribute's length has 16 bits.
		for part := range slices.Chunk(l[s.Name], 256) {
			// Its only errors are those of sets without a name and of encoding, which
			// these cannot have.
			_ = do(s, part)
			t.queued = true
		}
	}
}

func (t *Table) wanted() elementList {
	l := elementList{}
	for _, n := range t.networks {
		l.merge(networkElements(n))
	}
	for u := range t.uplinks {
		l.merge(uplinkElements(u))
	}
	if t.noLoop6 {
		l.merge(loopbackElements())
	}
	for f := range t.forwards {
		l.add(f)
	}
	return l
}

// diff compares elements by key, last key and value.
func diff(want, have []nftables.SetElement) (missing, extra []nftables.SetElement) {
	wanted := make(map[string]struct{}, len(want))
	for _, e := range want {
		wanted[identity(e)] = struct{}{}
	}
	found := make(map[string]struct{}, len(have))
	for _, e := range have {
		found[identity(e)] = struct{}{}
		if _, ok := wanted[identity(e)]; !ok {
			extra = append(extra, e)
		}
	}
	for _, e := range want {
		if _, ok := found[identity(e)]; !ok {
			missing = append(missing, e)
		}
	}
	return missing, extra
}

func identity(e nftables.SetElement) string {
	last := e.KeyEnd
	if len(last) == 0 { // the kernel leaves it out where it is the first
		last = e.Key
	}
	return string(e.Key) + string(last) + string(e.Val)
}

// generation asks the kernel how often any rule set of the network namespace has
// been changed.
func (t *Table) generation() (uint32, error) {
	const getGen = nfSubsysTables<<8 | nftMsgGetGen
	req := nl.NewNetlinkRequest(getGen, 0)
	req.AddData(&nl.Nfgenmsg{})
	req.Sockets = map[int]*nl.SocketHandle{netlinkNetfilter: {Socket: t.look}}
	msgs, err := req.Execute(netlinkNetfilter, nfSubsysTables<<8|nftMsgNewGen)
	if err != nil {
		return 0, fmt.Errorf("ask for nftables generation: %w", err)
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("read nftables generation: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == nftaGenID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("no nftables generation in the kernel's answer")
}
