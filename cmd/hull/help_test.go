package main

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// testPorts reads IP/PRIVATE/PUBLIC/PROTO.
func testPorts(specs ...string) []container.PortSummary {
	var list []container.PortSummary
	for _, s := range specs {
		f := strings.Split(s, "/")
		p := container.PortSummary{PrivatePort: number(f[1]), PublicPort: number(f[2]), Type: f[3]}
		if f[0] != "" {
			p.IP = netip.MustParseAddr(f[0])
		}
		list = append(list, p)
	}
	return list
}

func number(s string) uint16 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		panic(err)
	}
	return uint16(n)
}

func itoa(b byte) string { return strconv.Itoa(int(b)) }
