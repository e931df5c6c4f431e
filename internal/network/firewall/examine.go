package firewall

import (
	"fmt"

	"github.com/google/nftables"
)

// Probe says whether nftables can be used in the network namespace of the calling
// thread. It changes nothing.
func Probe() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	if _, err := c.ListTables(); err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	return nil
}

// Dropping lists the chains (family, table and chain) that drop forwarded packets
// which no rule of theirs accepts. They are other programs': ours never do.
func Dropping() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	families := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
	var out []string
	for _, ch := range chains {
		family, ok := families[ch.Table.Family]
		if !ok || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		out = append(out, family+" "+ch.Table.Name+" "+ch.Name)
	}
	return out, nil
}
