// Package ipam hands out the addresses of subnets. It is pure: no kernel, no
// files, no time. What is in use is rebuilt by its caller after a restart with
// Claim.
package ipam

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"
)

// Pool is the addresses of one subnet. Addresses are handed out in turn and not
// again at once, so that a neighbour's cached idea of an address, or a connection
// still tracked by the kernel, does not meet its next owner.
type Pool struct {
	subnet  netip.Prefix
	rng     netip.Prefix // addresses handed out without being asked for; inside subnet
	gateway netip.Addr

	mu   sync.Mutex
	used map[netip.Addr]struct{}
	next netip.Addr
}

// New makes a pool. An invalid rng means the whole subnet; an invalid gateway the
// first address of rng that a host may have.
func New(subnet, rng netip.Prefix, gateway netip.Addr) (*Pool, error) {
	if !subnet.IsValid() {
		return nil, fmt.Errorf("invalid subnet: %w", errdefs.ErrInvalidArgument)
	}
	subnet = subnet.Masked()
	if hostBits(subnet) < 2 {
		return nil, fmt.Errorf("subnet %s has no room for a gateway and a container: %w", subnet, errdefs.ErrInvalidArgument)
	}
	if !rng.IsValid() {
		rng = subnet
	}
	rng = rng.Masked()
	if rng.Bits() < subnet.Bits() || !subnet.Contains(rng.Addr()) {
		return nil, fmt.Errorf("invalid ip-range %s: it is not in subnet %s: %w", rng, subnet, errdefs.ErrInvalidArgument)
	}
	p := &Pool{subnet: subnet, rng: rng, used: map[netip.Addr]struct{}{}, next: rng.Addr()}
	if !gateway.IsValid() {
		gateway = rng.Addr()
		for p.reserved(gateway) {
			gateway = gateway.Next()
		}
	}
	if !subnet.Contains(gateway) {
		return nil, fmt.Errorf("invalid gateway %s: it is not in subnet %s: %w", gateway, subnet, errdefs.ErrInvalidArgument)
	}
	if p.reserved(gateway) {
		return nil, fmt.Errorf("invalid gateway %s: no host of %s may have it: %w", gateway, subnet, errdefs.ErrInvalidArgument)
	}
	p.gateway = gateway
	p.used[gateway] = struct{}{}
	return p, nil
}

// Subnet is what New was given, masked.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Gateway is the address of the host on this subnet.
func (p *Pool) Gateway() netip.Addr { return p.gateway }

// Next hands out a free address of the range: errdefs.ErrResourceExhausted when
// there is none.
func (p *Pool) Next() (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Of n+1 different addresses one is not among n used ones, so the search is
	// bounded by what is used; two more are the ones no host may have.
	a := p.next
	for range len(p.used) + 3 {
		if !p.rng.Contains(a) {
			a = p.rng.Addr()
		}
		if _, taken := p.used[a]; !taken && !p.reserved(a) {
			p.used[a] = struct{}{}
			p.next = a.Next()
			return a, nil
		}
		a = a.Next()
	}
	return netip.Addr{}, fmt.Errorf("no available IPv%d addresses on this network's address pool %s: %w", family(a), p.rng, errdefs.ErrResourceExhausted)
}

// Claim takes a certain address: errdefs.ErrInvalidArgument when it is not in the
// subnet, errdefs.ErrConflict when it is taken.
func (p *Pool) Claim(a netip.Addr) error {
	a = a.Unmap()
	if !p.subnet.Contains(a) || p.reserved(a) {
		return fmt.Errorf("no configured subnet contains IP address %s: %w", a, errdefs.ErrInvalidArgument)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.used[a]; taken {
		return fmt.Errorf("address %s is already in use: %w", a, errdefs.ErrConflict)
	}
	p.used[a] = struct{}{}
	return nil
}

// Release gives an address back. The gateway stays.
func (p *Pool) Release(a netip.Addr) {
	if a == p.gateway {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.used, a)
}

// Used counts the addresses taken, the gateway's included.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.used)
}

// reserved says whether no host may have a: the subnet's own address (in IPv6 the
// routers' anycast address), and the broadcast address of IPv4.
func (p *Pool) reserved(a netip.Addr) bool {
	return a == p.subnet.Addr() || a.Is4() && !p.subnet.Contains(a.Next())
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}
