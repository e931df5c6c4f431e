package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/network/firewall"
)

// Examine says what of the host pods' networks stand on. It changes nothing.
func Examine() []hull.Finding {
	return []hull.Finding{examineLinks(), examineRules(), examineFirewall(), examineForwarding(), examineBridged(), examineIPv6(), examineNames()}
}

// examineLinks makes a bridge and a cable, in a network namespace that ends with
// the thread.
func examineLinks() hull.Finding {
	f := hull.Finding{Subject: "interfaces", Verdict: hull.Fine, Says: "bridge, veth"}
	err := linux.InThread(func() error {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		h, err := netlink.NewHandle(netlinkRoute)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer h.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "b0"
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make a bridge: %w", err)
		}
		attrs.Name = "v0"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "v1"}); err != nil {
			return fmt.Errorf("make a veth pair: %w", err)
		}
		return nil
	})
	if err != nil {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, err.Error(), "containers have no network but --network none and host",
			"load the modules bridge and veth (modprobe bridge veth), and run the engine as root"
	}
	return f
}

func examineRules() hull.Finding {
	f := hull.Finding{Subject: "nftables", Verdict: hull.Fine, Says: "usable"}
	if err := firewall.Probe(); err != nil {
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, err.Error(), "containers have no network but --network none and host",
			"load the module nf_tables (modprobe nf_tables nft_chain_nat nft_masq)"
	}
	return f
}

// examineFirewall looks for rules of others that drop what is forwarded.
func examineFirewall() hull.Finding {
	f := hull.Finding{Subject: "host's firewall", Verdict: hull.Fine, Says: "lets forwarded packets through unless a rule of it says otherwise"}
	chains, err := firewall.Dropping()
	switch {
	case err != nil:
		f.Verdict, f.Says, f.Means, f.Next = hull.Limited, err.Error(), "whether other rules drop containers' packets is not known", "look at: nft list ruleset"
	case len(chains) > 0:
		f.Verdict, f.Says = hull.Limited, "drops forwarded packets in "+strings.Join(chains, ", ")
		f.Means = "published ports and the way out of containers work only where a rule of yours accepts them"
		f.Next = "accept there what you want: ct status dnat, and packets from the bridges of hull"
	}
	return f
}

func examineForwarding() hull.Finding {
	f := hull.Finding{Subject: "forwarding", Verdict: hull.Fine}
	const path = "/proc/sys/net/ipv4/ip_forward"
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b, rerr := os.ReadFile(path)
		if rerr == nil && strings.TrimSpace(string(b)) == "1" {
			f.Says = "on, and not ours to change"
			return f
		}
		f.Verdict, f.Says, f.Means, f.Next = hull.Broken, err.Error(), "containers reach nothing but their own network", "make /proc/sys/net writable, or set net.ipv4.ip_forward=1"
		return f
	}
	defer file.Close()
	f.Says = "on when the first container needs it"
	b := make([]byte, 1)
	if _, err := file.Read(b); err == nil && b[0] == '1' {
		f.Says = "on"
	}
	return f
}

func examineBridged() hull.Finding {
	f := hull.Finding{Subject: "br_netfilter", Verdict: hull.Fine, Says: "bridged packets do not go through the firewall"}
	sys, err := openOwnSysctls()
	if err != nil {
		return f
	}
	defer sys.close()
	if sys.bridgedFiltered("iptables") || sys.bridgedFiltered("ip6tables") {
		f.Verdict, f.Says = hull.Limited, "packets within a bridge go through the host's firewall"
		f.Means = "rules of the host's can part containers of one network, and ports are not published on ::1"
		f.Next = "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0, unless something else (Kubernetes) needs it"
	}
	return f
}

func examineIPv6() hull.Finding {
	f := hull.Finding{Subject: "IPv6", Verdict: hull.Fine, Says: "on"}
	if !haveIPv6() {
		f.Verdict, f.Says, f.Means, f.Next = hull.Limited, "the kernel has it switched off", "networks are IPv4 only", "boot without ipv6.disable=1"
	}
	return f
}

// examineNames looks at the name servers that containers are going to ask.
func examineNames() hull.Finding {
	f := hull.Finding{Subject: "name servers", Verdict: hull.Fine}
	text, from, err := files{resolv: &textFile{path: hostResolvConf}}.readResolvConf(false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Verdict, f.Says, f.Means, f.Next = hull.Limited, err.Error(), "containers resolve no names but each other's", "make the file readable"
		return f
	}
	servers, _, _ := splitResolvConf(text)
	usable := reachable(servers)
	f.Says = strings.Join(usable, ", ") + " (" + from + ")"
	if len(usable) == 0 {
		f.Verdict, f.Says = hull.Limited, "none in "+from+" that is not on the host's loopback"
		f.Means = "containers on the default network resolve no names of the world; those on networks of your own ask through the host"
		f.Next = "name a server in " + from + ", or give containers --dns"
	}
	return f
}
