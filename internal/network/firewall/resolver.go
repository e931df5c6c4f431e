package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
)

// resolverTable is the table in a pod's own network namespace.
const resolverTable = "hull-dns"

// LeadResolver leads port 53 of addr, in the network namespace at path, to port of
// the same address: what listens there takes port 53 from nobody.
//
// Headers are rewritten as they pass, both ways, without connection tracking: the
// namespace needs none, and a program that opens a socket for each question does
// not fill the machine's table of connections.
func LeadResolver(path string, addr netip.Addr, port uint16) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Name: resolverTable, Family: nftables.TableFamilyIPv4})
	accept := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw, Policy: &accept,
	})
	for _, r := range resolverRules(addr, port) {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: r})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("lead port 53 of %s to the name server: %w", addr, err)
	}
	return nil
}

func resolverRules(addr netip.Addr, port uint16) [][]expr.Any {
	const dns = 53
	const sourcePort, destPort = 0, 2 // offsets in both protocols' headers
	swap := func(proto byte, checksum, addrAt, portAt uint32, from, to uint16) []expr.Any {
		word := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
		return []expr.Any{
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: addrAt, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: addr.AsSlice()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{proto}},
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: portAt, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: word(from)},
			&expr.Notrack{},
			&expr.Immediate{Register: reg1, Data: word(to)},
			&expr.Payload{
				OperationType: expr.PayloadWrite, SourceRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: portAt, Len: 2,
				CsumType: expr.CsumTypeInet, CsumOffset: checksum,
			},
		}
	}
	var out [][]expr.Any
	for _, p := range []struct {
		proto    byte
		checksum uint32
	}{{protoUDP, 6}, {protoTCP, 16}} {
		out = append(out,
			swap(p.proto, p.checksum, dest4, destPort, dns, port),
			swap(p.proto, p.checksum, source4, sourcePort, port, dns),
		)
	}
	return out
}
