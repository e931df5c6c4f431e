package firewall

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// From linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h.
const (
	netlinkNetfilter = 12
	nfSubsysTables   = 10
	nftMsgNewGen     = 15
	nftMsgGetGen     = 16
	nftaGenID        = 1
)

// Protocol numbers, registers and bits, from linux/in.h, nf_tables.h and
// nf_conntrack_common.h.
const (
	protoTCP, protoUDP, protoSCTP = 6, 17, 132
	protoICMP, protoICMP6         = 1, 58

	reg1, reg2 = 1, 2 // 16 bytes each
	reg32      = 8    // the first of sixteen registers of 4 bytes, the same memory

	nfprotoIPv4, nfprotoIPv6 = 2, 10
	fibLocal                 = 2    // RTN_LOCAL
	ipsDstNAT                = 0x20 // IPS_DST_NAT
	ifNameSize               = 16
)

// Names of sets.
const (
	setBridges   = "bridges" // every network's bridge
	setHidden4   = "hidden4" // bridges whose addresses are hidden on leaving
	setHidden6   = "hidden6"
	setRouted4   = "routed4" // bridges whose addresses are known outside
	setRouted6   = "routed6"
	setOpen      = "open"     // bridges whose members may be reached at any port
	setEntries4  = "entries4" // (protocol . address . port) of members that may be reached by their own address
	setEntries6  = "entries6"
	setInternal  = "internal" // bridges that nothing enters or leaves
	setMembers   = "members"  // (bridge . bridge) of networks whose members reach each other
	setHairpin4  = "hairpin4" // (bridge . source address) of every network
	setHairpin6  = "hairpin6"
	setLoopback6 = "loopback6" // ::1 where the kernel cannot bring the answer back
	setUplinks   = "uplinks"   // the host's own interfaces, when this engine turned forwarding on
	mapPorts4    = "ports4"    // (protocol . address . port) -> (address . port)
	mapPorts6    = "ports6"
	mapAny4      = "any4" // (protocol . port) of all the host's addresses -> (address . port)
	mapAny6      = "any6"
	mapRanges4   = "ranges4" // (protocol . address . port) with intervals -> address, the port is kept
	mapRanges6   = "ranges6"
)

type chain struct {
	chain *nftables.Chain
	rules [][]expr.Any
}

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Name: t.name, Family: nftables.TableFamilyINet}
}

// sets are the table's sets and maps, in the order they are made.
func (t *Table) sets() []*nftables.Set {
	pair := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName)
	from := func(addr nftables.SetDatatype) nftables.SetDatatype {
		return nftables.MustConcatSetType(nftables.TypeIFName, addr)
	}
	key := func(addr nftables.SetDatatype) nftables.SetDatatype {
		return nftables.MustConcatSetType(nftables.TypeInetProto, addr, nftables.TypeInetService)
	}
	anywhere := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	target := func(addr nftables.SetDatatype) nftables.SetDatatype {
		return nftables.MustConcatSetType(addr, nftables.TypeInetService)
	}
	all := []*nftables.Set{
		{Name: setBridges, KeyType: nftables.TypeIFName},
		{Name: setHidden4, KeyType: nftables.TypeIFName},
		{Name: setHidden6, KeyType: nftables.TypeIFName},
		{Name: setRouted4, KeyType: nftables.TypeIFName},
		{Name: setRouted6, KeyType: nftables.TypeIFName},
		{Name: setOpen, KeyType: nftables.TypeIFName},
		{Name: setInternal, KeyType: nftables.TypeIFName},
		{Name: setUplinks, KeyType: nftables.TypeIFName},
		{Name: setLoopback6, KeyType: nftables.TypeIP6Addr},
		{Name: setMembers, KeyType: pair, Concatenation: true},
		{Name: setHairpin4, KeyType: from(nftables.TypeIPAddr), Interval: true, Concatenation: true},
		{Name: setHairpin6, KeyType: from(nftables.TypeIP6Addr), Interval: true, Concatenation: true},
		{Name: setEntries4, KeyType: key(nftables.TypeIPAddr), Interval: true, Concatenation: true},
		{Name: setEntries6, KeyType: key(nftables.TypeIP6Addr), Interval: true, Concatenation: true},
		// Without intervals: a hash table, where what has intervals takes a time that
		// grows with what is in it for each element, more than that for its removal.
		{Name: mapPorts4, KeyType: key(nftables.TypeIPAddr), DataType: target(nftables.TypeIPAddr), IsMap: true, Concatenation: true},
		{Name: mapPorts6, KeyType: key(nftables.TypeIP6Addr), DataType: target(nftables.TypeIP6Addr), IsMap: true, Concatenation: true},
		{Name: mapAny4, KeyType: anywhere, DataType: target(nftables.TypeIPAddr), IsMap: true, Concatenation: true},
		{Name: mapAny6, KeyType: anywhere, DataType: target(nftables.TypeIP6Addr), IsMap: true, Concatenation: true},
		{Name: mapRanges4, KeyType: key(nftables.TypeIPAddr), DataType: nftables.TypeIPAddr, IsMap: true, Interval: true, Concatenation: true},
		{Name: mapRanges6, KeyType: key(nftables.TypeIP6Addr), DataType: nftables.TypeIP6Addr, IsMap: true, Interval: true, Concatenation: true},
	}
	for i, s := range all {
		s.Table, s.ID = t.table(), uint32(i+1) //nolint:gosec // ten
	}
	return all
}

// chains are the table's chains with their rules, callees first.
//
//	raw          spoofed loopback addresses stop here
//	publish      what a published port translates to
//	prerouting   from outside and from containers -> publish
//	output       from the host itself -> publish
//	postrouting  masquerading
//	forward      isolation
//
// In a rule comes first what is cheapest to see and seldom holds: an address of
// loopback or a translation before a look into a set.
func (t *Table) chains() []chain {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, rules ...[]expr.Any) chain {
		accept := nftables.ChainPolicyAccept
		return chain{&nftables.Chain{Name: name, Table: t.table(), Type: kind, Hooknum: hook, Priority: prio, Policy: &accept}, rules}
	}
	loopback4, loopback6 := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")
	return []chain{
		{
			&nftables.Chain{Name: "publish", Table: t.table()},
			[][]expr.Any{
				dnat(mapPorts4, true, true, true), dnat(mapAny4, true, false, true), dnat(mapRanges4, true, true, false),
				dnat(mapPorts6, false, true, true), dnat(mapAny6, false, false, true), dnat(mapRanges6, false, true, false),
			},
		},
		// The bridges have route_localnet, for connections that the host makes to a
		// published port through 127.0.0.1. It must not let a container reach what
		// listens on the host's loopback.
		base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
			rule(addr(loopback4, false), in(expr.MetaKeyIIFNAME, setBridges), verdict(expr.VerdictDrop)),
			rule(addr(loopback6, false), in(expr.MetaKeyIIFNAME, setBridges), verdict(expr.VerdictDrop)),
		),
		// A port published on 127.0.0.1 is for the host alone: a neighbour can send
		// packets to that address, and a translated one is no longer a martian
		// (CVE-2025-54388 and older ones like it).
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
			rule(addr(loopback4, false), verdict(expr.VerdictReturn)),
			rule(addr(loopback6, false), verdict(expr.VerdictReturn)),
			rule(toHost(), jump("publish")),
		),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest,
			rule(destIn6(setLoopback6), verdict(expr.VerdictReturn)),
			rule(toHost(), jump("publish")),
		),
		base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
			// Between networks, and from the outside, the client's address is kept.
			rule(family(true), in(expr.MetaKeyIIFNAME, setHidden4), notIn(expr.MetaKeyOIFNAME, setBridges), masquerade()),
			rule(family(false), in(expr.MetaKeyIIFNAME, setHidden6), notIn(expr.MetaKeyOIFNAME, setBridges), masquerade()),
			// The answer to 127.0.0.1 would not find its way back.
			rule(addr(loopback4, true), in(expr.MetaKeyOIFNAME, setBridges), masquerade()),
			rule(addr(loopback6, true), in(expr.MetaKeyOIFNAME, setBridges), masquerade()),
			// A container that reaches itself or one of its own network through the
			// host: the answer would go the short way, past the translation. (By source
			// address and not by input interface, which a bridged packet has not here.)
			rule(translated(), sourceIn(setHairpin4, true), masquerade()),
			rule(translated(), sourceIn(setHairpin6, false), masquerade()),
		),
		base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
			rule(pairIn(setMembers), verdict(expr.VerdictAccept)),
			rule(established(), verdict(expr.VerdictAccept)),
			rule(in(expr.MetaKeyIIFNAME, setInternal), verdict(expr.VerdictDrop)),
			rule(in(expr.MetaKeyOIFNAME, setInternal), verdict(expr.VerdictDrop)),
			// Into a network only through a published port: neither from another network
			// nor by a route to the containers' addresses that a neighbour has set.
			rule(translated(), in(expr.MetaKeyOIFNAME, setBridges), verdict(expr.VerdictAccept)),
			// Or by the container's own address, where the user has said that it is known
			// outside: what is published, and ICMP.
			rule(in(expr.MetaKeyOIFNAME, setOpen), verdict(expr.VerdictAccept)),
			rule(in(expr.MetaKeyOIFNAME, setRouted4), entry(setEntries4, true), verdict(expr.VerdictAccept)),
			rule(in(expr.MetaKeyOIFNAME, setRouted6), entry(setEntries6, false), verdict(expr.VerdictAccept)),
			rule(in(expr.MetaKeyOIFNAME, setRouted4), family(true), proto(protoICMP), verdict(expr.VerdictAccept)),
			rule(in(expr.MetaKeyOIFNAME, setRouted6), family(false), proto(protoICMP6), verdict(expr.VerdictAccept)),
			rule(in(expr.MetaKeyOIFNAME, setBridges), verdict(expr.VerdictDrop)),
			// Forwarding is on for the containers' sake. It must not make the host a
			// router between the networks it is in.
			rule(in(expr.MetaKeyIIFNAME, setUplinks), in(expr.MetaKeyOIFNAME, setUplinks), verdict(expr.VerdictDrop)),
		),
	}
}

// build queues the whole table with what is wanted now.
func (t *Table) build() {
	t.conn.AddTable(t.table())
	want := t.wanted()
	for _, s := range t.sets() {
		_ = t.conn.AddSet(s, nil) // errors: see elements
	}
	t.elements(t.conn.SetAddElements, want)
	for _, c := range t.chains() {
		t.conn.AddChain(c.chain)
		for _, r := range c.rules {
			t.conn.AddRule(&nftables.Rule{Table: t.table(), Chain: c.chain, Exprs: r})
		}
	}
}

func rule(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

func jump(to string) []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}} }

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

func in(key expr.MetaKey, set string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Lookup{SourceRegister: reg1, SetName: set}}
}

func notIn(key expr.MetaKey, set string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Lookup{SourceRegister: reg1, SetName: set, Invert: true}}
}

// pairIn matches (input interface . output interface).
func pairIn(set string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg2},
		&expr.Lookup{SourceRegister: reg1, SetName: set},
	}
}

// sourceIn matches (output interface . source address).
func sourceIn(set string, v4 bool) []expr.Any {
	offset, n := uint32(source6), uint32(16)
	if v4 {
		offset, n = source4, 4
	}
	return append(family(v4),
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1},
		&expr.Payload{DestRegister: reg2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Lookup{SourceRegister: reg1, SetName: set},
	)
}

func destIn6(set string) []expr.Any {
	return append(family(false),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: dest6, Len: 16},
		&expr.Lookup{SourceRegister: reg1, SetName: set},
	)
}

// toHost matches packets to any of the host's own addresses.
func toHost() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(fibLocal)},
	}
}

func translated() []expr.Any { return ctBits(expr.CtKeySTATUS, ipsDstNAT) }

func established() []expr.Any {
	return ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// ctBits matches connections with any of bits set.
func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

func family(v4 bool) []expr.Any {
	p := byte(nfprotoIPv6)
	if v4 {
		p = nfprotoIPv4
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{p}},
	}
}

// Offsets of the addresses in the network header.
const (
	source4, dest4 = 12, 16
	source6, dest6 = 8, 24
)

// addr matches packets to (or from) the addresses of p.
func addr(p netip.Prefix, source bool) []expr.Any {
	n := uint32(p.Addr().BitLen() / 8) //nolint:gosec // 4 or 16
	var offset uint32
	switch v4 := p.Addr().Is4(); {
	case v4 && source:
		offset = source4
	case v4:
		offset = dest4
	case source:
		offset = source6
	default:
		offset = dest6
	}
	mask := make([]byte, n)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(family(p.Addr().Is4()),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: n, Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	)
}

// dnat looks (protocol . destination . port) up in a map and goes there; without
// at, (protocol . port). With port, the map also says which port.
func dnat(set string, v4, at, port bool) []expr.Any {
	fam, offset, words := uint32(nfprotoIPv6), uint32(dest6), uint32(4)
	if v4 {
		fam, offset, words = nfprotoIPv4, dest4, 1
	}
	match := append(family(v4), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32})
	next := uint32(reg32 + 1)
	if at {
		match = append(match, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4 * words})
		next += words
	}
	to := next + 1
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: to}
	if port {
		nat.RegProtoMin = to + words
	}
	return append(match,
		&expr.Payload{DestRegister: next, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg32, DestRegister: to, IsDestRegSet: true, SetName: set},
		nat,
	)
}

func proto(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{number}},
	}
}

// entry matches (protocol . destination . port).
func entry(set string, v4 bool) []expr.Any {
	offset, words := uint32(dest6), uint32(4)
	if v4 {
		offset, words = dest4, 1
	}
	return append(family(v4),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg32},
		&expr.Payload{DestRegister: reg32 + 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4 * words},
		&expr.Payload{DestRegister: reg32 + 1 + words, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg32, SetName: set},
	)
}

// elementList is elements by set.
type elementList map[string][]nftables.SetElement

func (l elementList) merge(o elementList) {
	for set, e := range o {
		l[set] = append(l[set], e...)
	}
}

func networkElements(n Network) elementList {
	name := ifName(n.Bridge)
	one := []nftables.SetElement{{Key: name}}
	l := elementList{setBridges: one}
	if !n.Isolated {
		l[setMembers] = []nftables.SetElement{{Key: append(ifName(n.Bridge), name...)}}
	}
	for set, p := range map[string]netip.Prefix{setHairpin4: n.Subnet4, setHairpin6: n.Subnet6} {
		if p.IsValid() {
			l[set] = []nftables.SetElement{{
				Key:    append(ifName(n.Bridge), p.Masked().Addr().AsSlice()...),
				KeyEnd: append(ifName(n.Bridge), last(p).AsSlice()...),
			}}
		}
	}
	for set, is := range map[string]bool{
		setHidden4: n.Hidden4, setHidden6: n.Hidden6, setRouted4: n.Routed4, setRouted6: n.Routed6, setOpen: n.Open, setInternal: n.Internal,
	} {
		if is {
			l[set] = one
		}
	}
	return l
}

func uplinkElements(name string) elementList {
	return elementList{setUplinks: {{Key: ifName(name)}}}
}

func loopbackElements() elementList {
	return elementList{setLoopback6: {{Key: netip.IPv6Loopback().AsSlice()}}}
}

func (l *elementList) add(f Forward) {
	if *l == nil {
		*l = elementList{}
	}
	if f.Routed {
		set := setEntries6
		if f.To.Is4() {
			set = setEntries4
		}
		(*l)[set] = append((*l)[set], nftables.SetElement{Key: portKey(f.Proto, f.To, f.First), KeyEnd: portKey(f.Proto, f.To, f.Last)})
		return
	}
	host, set := f.Host.Masked().Addr(), f.set()
	if set == mapAny4 || set == mapAny6 {
		host = netip.Addr{}
	}
	e := nftables.SetElement{Key: portKey(f.Proto, host, f.First), Val: f.To.AsSlice()}
	if set == mapRanges4 || set == mapRanges6 {
		e.KeyEnd = portKey(f.Proto, last(f.Host), f.Last)
	} else {
		e.Val = append(e.Val, portBytes(f.ToPort)...)
	}
	(*l)[set] = append((*l)[set], e)
}

// set is the map that f is in.
func (f Forward) set() string {
	name4, name6 := mapPorts4, mapPorts6
	switch {
	case f.Last > f.First:
		name4, name6 = mapRanges4, mapRanges6
	case f.Host.Bits() == 0:
		name4, name6 = mapAny4, mapAny6
	}
	if f.To.Is4() {
		return name4
	}
	return name6
}

// portKey is a concatenation, every part padded to 4 bytes. An invalid address is
// no part of it.
func portKey(proto string, a netip.Addr, port uint16) []byte {
	k := []byte{protoNumber(proto), 0, 0, 0}
	k = append(k, a.AsSlice()...)
	return append(k, portBytes(port)...)
}

func portBytes(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

func protoNumber(name string) byte {
	switch name {
	case "udp":
		return protoUDP
	case "sctp":
		return protoSCTP
	}
	return protoTCP
}

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func ifName(name string) []byte {
	b := make([]byte, ifNameSize)
	copy(b, name)
	return b
}
