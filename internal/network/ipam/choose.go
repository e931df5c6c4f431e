package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
)

// Choose finds a subnet that overlaps none of taken (the host's addresses and
// routes, other networks). In IPv4 the order is Docker's: 172.17.0.0/16 to
// 172.31.0.0/16, then the /20 blocks of 192.168.0.0/16.
func Choose(taken []netip.Prefix) (netip.Prefix, error) {
	for i := byte(17); i < 32; i++ {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i, 0, 0}), 16); Free(p, taken) {
			return p, nil
		}
	}
	for i := 0; i < 256; i += 16 {
		if p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 20); Free(p, taken) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all predefined address pools have been fully subnetted; give the network a --subnet: %w", errdefs.ErrResourceExhausted)
}

// Choose6 makes a unique local /64 (RFC 4193) of a name: the same name gives the
// same subnet, unless that is taken.
func Choose6(name string, taken []netip.Prefix) (netip.Prefix, error) {
	for try := range uint32(16) {
		h := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(name), try))
		var a [16]byte
		a[0] = 0xfd
		copy(a[1:8], h[:7])
		if p := netip.PrefixFrom(netip.AddrFrom16(a), 64); Free(p, taken) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free IPv6 subnet; give the network a --subnet: %w", errdefs.ErrResourceExhausted)
}

// Free says whether p overlaps none of taken. Default routes overlap nothing:
// every packet without a better route would.
func Free(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if t.Bits() > 0 && t.Overlaps(p) {
			return false
		}
	}
	return true
}
