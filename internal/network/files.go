package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"hull/internal/dns"
	"hull/internal/hull"
)

// Where the host's own files are. The second resolv.conf is systemd-resolved's
// real one: its stub listens on a loopback that a container does not have.
const (
	hostResolvConf = "/etc/resolv.conf"
	realResolvConf = "/run/systemd/resolve/resolv.conf"
	hostHosts      = "/etc/hosts"
)

// hostGateway is how a user names the host's address in --add-host.
const hostGateway = "host-gateway"

// files writes what of /etc belongs to the network.
type files struct {
	log    *slog.Logger
	resolv *textFile // the host's resolv.conf
	pod    func(ref string) (hull.Pod, error)
}

// place is where a pod is, as its files say it.
type place struct {
	own   []netip.Addr // its addresses
	host  []netip.Addr // the host's, as the pod reaches them
	names bool         // it has a name server of its own
}

// place finds the host's addresses in the pod's networks, or in the default one.
func (s *Service) place(a *attachment) place {
	p := place{names: a.hasNames()}
	for _, e := range a.ends {
		for _, pre := range e.prefixes() {
			p.own = append(p.own, pre.Addr())
		}
		if gws := e.gateways(); len(p.host) == 0 && !e.network.rec.Internal && !e.network.shares() {
			p.host = gws
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.networks[stableID(s.cfg.Instance, Bridge)]; len(p.host) == 0 && n != nil && n.v4 != nil {
		p.host = []netip.Addr{n.v4.Gateway()}
	}
	return p
}

// write writes hosts, resolv.conf and hostname for a pod into runDir.
func (f files) write(ep *hull.Endpoint, p hull.Pod, at place, runDir string) error {
	hosts, err := f.hosts(p, at)
	if err != nil {
		return err
	}
	write := f.resolvConf
	if at.names {
		write = f.ownResolvConf
	}
	resolv, err := write(p.Network, ep.NetNS == "")
	if err != nil {
		return err
	}
	ep.Hosts, ep.ResolvConf, ep.HostnameFile = filepath.Join(runDir, "hosts"), filepath.Join(runDir, "resolv.conf"), filepath.Join(runDir, "hostname")
	for _, f := range []struct {
		path string
		data string
	}{
		{ep.Hosts, hosts},
		{ep.ResolvConf, resolv},
		{ep.HostnameFile, hostname(p, ep.NetNS == "") + "\n"},
	} {
		if err := writeFile(f.path, f.data); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file of a pod that does not run yet: nobody reads it before
// the attach is done, so that it needs no temporary name. The plain system calls
// are a third of what os.File takes, and stand in the way of every start.
func writeFile(path, data string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	for b := []byte(data); len(b) > 0 && err == nil; {
		var n int
		n, err = syscall.Write(fd, b)
		b = b[max(n, 0):]
		if errors.Is(err, syscall.EINTR) {
			err = nil
		}
	}
	if cerr := syscall.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func hostname(p hull.Pod, host bool) string {
	if p.Hostname != "" {
		return p.Hostname
	}
	if h, err := os.Hostname(); host && err == nil {
		return h
	}
	return p.ID[:min(12, len(p.ID))]
}

// hosts is the pod's /etc/hosts.
func (f files) hosts(p hull.Pod, at place) (string, error) {
	var b strings.Builder
	onHost := modeOf(p.Network) == Host
	if onHost {
		own, err := os.ReadFile(hostHosts)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the host's hosts: %w", err)
		}
		b.Write(own)
		if len(own) > 0 && own[len(own)-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n")
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, h := range p.Network.ExtraHosts {
		name, addr, err := extraHost(h)
		if err != nil {
			return "", err
		}
		if addr != hostGateway {
			fmt.Fprintf(&b, "%s\t%s\n", addr, name)
			continue
		}
		if len(at.host) == 0 {
			return "", invalid("unable to derive the IP value for host-gateway")
		}
		for _, gw := range at.host {
			fmt.Fprintf(&b, "%s\t%s\n", gw, name)
		}
	}
	links, err := f.linkHosts(p)
	if err != nil {
		return "", err
	}
	b.WriteString(links)
	if !onHost {
		name := hostname(p, false)
		if p.Domainname != "" {
			name += "." + p.Domainname
		}
		if short, _, ok := strings.Cut(name, "."); ok {
			name += " " + short
		}
		for _, addr := range at.own {
			fmt.Fprintf(&b, "%s\t%s\n", addr, name)
		}
	}
	return b.String(), nil
}

// extraHost splits "name:address". The address may be an IPv6 one, with or
// without brackets, or host-gateway.
func extraHost(s string) (name, addr string, err error) {
	name, addr, ok := strings.Cut(s, ":")
	if !ok || name == "" || strings.ContainsAny(name, notInWords) {
		return "", "", invalid("bad format for add-host: %q", s)
	}
	if addr == hostGateway {
		return name, addr, nil
	}
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
	if !plainAddr(addr) {
		return "", "", invalid("invalid IP address in add-host: %q", addr)
	}
	return name, addr, nil
}

// linkHosts are the lines of --link name[:alias], of which only the names are
// left in Docker too.
func (f files) linkHosts(p hull.Pod) (string, error) {
	var b strings.Builder
	if !predefined(modeOf(p.Network)) {
		return "", nil // there, they are names
	}
	for _, l := range p.Network.Links {
		ref, alias, ok := splitLink(l)
		if f.pod == nil || !ok {
			return "", invalid("bad format for links: %s", l)
		}
		other, err := f.pod(ref)
		if err != nil {
			return "", fmt.Errorf("could not get container for %s: %w", ref, err)
		}
		if !other.Status.Running {
			return "", invalid("cannot link to a non running container: /%s AS /%s/%s", other.Name, p.Name, alias)
		}
		on, ok := other.Status.Endpoint.Networks[modeOf(p.Network)]
		if !ok { // nothing of the other networks is reached from here
			return "", invalid("cannot link to /%s, as it does not belong to the default network", other.Name)
		}
		for _, line := range linkLines(other, on, alias) {
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

// resolvConf is the pod's /etc/resolv.conf: the host's, without name servers on
// loopback addresses that a container does not reach, and with what the user
// asked for in its place.
func (f files) resolvConf(n hull.NetworkSpec, onHost bool) (string, error) {
	own, from, err := f.readResolvConf(onHost)
	if err != nil {
		return "", err
	}
	if onHost && len(n.DNS)+len(n.DNSSearch)+len(n.DNSOptions) == 0 {
		return own, nil
	}
	servers, search, options := splitResolvConf(own)
	if !onHost {
		servers = reachable(servers)
	}
	if len(n.DNS) > 0 {
		servers = n.DNS
	}
	if len(n.DNSSearch) > 0 {
		// "." and "" are how a user says: none.
		search = slices.DeleteFunc(slices.Clone(n.DNSSearch), func(d string) bool { return d == "." || d == "" })
	}
	if len(n.DNSOptions) > 0 {
		options = n.DNSOptions
	}
	if len(servers) == 0 {
		// The host resolves by itself. As Docker: public servers are better than none.
		f.log.Warn("the host's resolv.conf has no name server that a container reaches, using public ones; say --dns for others", "file", from)
		servers = publicServers()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Generated by hull from %s\n", from)
	for _, a := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String(), nil
}

// turnToNames makes a running container use the name server it has got, unless
// somebody has written its resolv.conf since. In place: the container has the file
// itself mounted.
func (f files) turnToNames(p hull.Pod) error {
	path := p.Status.Endpoint.ResolvConf
	if path == "" {
		return nil
	}
	was, err := f.resolvConf(p.Network, false)
	if err != nil {
		return err
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != was {
		return err
	}
	text, err := f.ownResolvConf(p.Network, false)
	if err != nil {
		return err
	}
	return writeFile(path, text)
}

// publicServers are asked where the host names none.
func publicServers() []string { return []string{"8.8.8.8", "8.8.4.4"} }

// ownResolvConf is /etc/resolv.conf of a pod that has a name server of its own:
// everything but the server is as without. It says in Docker's words where the
// rest comes from.
func (f files) ownResolvConf(n hull.NetworkSpec, _ bool) (string, error) {
	own, from, err := f.readResolvConf(true)
	if err != nil {
		return "", err
	}
	servers, search, options := splitResolvConf(own)
	for i, a := range servers {
		if addr, err := netip.ParseAddr(a); err == nil && addr.IsLoopback() {
			servers[i] = "host(" + a + ")"
		}
	}
	overrides := []string{}
	dotsFrom := "host"
	if len(n.DNS) > 0 {
		servers, overrides = n.DNS, append(overrides, "nameservers")
	}
	if len(n.DNSSearch) > 0 {
		search, overrides = slices.DeleteFunc(slices.Clone(n.DNSSearch), func(d string) bool { return d == "." || d == "" }), append(overrides, "search")
	}
	if len(n.DNSOptions) > 0 {
		options, overrides, dotsFrom = n.DNSOptions, append(overrides, "options"), "override"
	}
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		// Names of containers have no dots, and none is to be asked for with a domain.
		options, dotsFrom = append(slices.Clone(options), "ndots:0"), "internal"
	}
	var b strings.Builder
	b.WriteString("# Generated by hull.\n# This file can be edited; hull will not make further changes once it\n# has been modified.\n\n")
	fmt.Fprintf(&b, "nameserver %s\n", dns.Address())
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	fmt.Fprintf(&b, "options %s\n\n", strings.Join(options, " "))
	fmt.Fprintf(&b, "# Based on host file: '%s' (internal resolver)\n# ExtServers: [%s]\n# Overrides: [%s]\n# Option ndots from: %s\n",
		from, strings.Join(servers, " "), strings.Join(overrides, " "), dotsFrom)
	return b.String(), nil
}

// textFile remembers a file's text while the file is the same.
type textFile struct {
	path string

	mu   sync.Mutex
	size int64
	time time.Time
	text string
}

// read returns the text; a missing file is empty.
func (f *textFile) read() (string, error) {
	st, err := os.Stat(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.time.IsZero() && st.Size() == f.size && st.ModTime().Equal(f.time) {
		return f.text, nil
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return "", err
	}
	f.size, f.time, f.text = st.Size(), st.ModTime(), string(b)
	return f.text, nil
}

// readResolvConf reads the host's file.
func (f files) readResolvConf(onHost bool) (text, from string, err error) {
	text, err = f.resolv.read()
	if err != nil {
		return "", "", fmt.Errorf("read the host's resolv.conf: %w", err)
	}
	if servers, _, _ := splitResolvConf(text); !onHost && len(servers) > 0 && len(reachable(servers)) == 0 {
		if r, err := os.ReadFile(realResolvConf); err == nil {
			return string(r), realResolvConf, nil
		}
	}
	return text, f.resolv.path, nil
}

func splitResolvConf(text string) (servers, search, options []string) {
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			servers = append(servers, f[1])
		case "search", "domain":
			search = f[1:]
		case "options":
			options = append(options, f[1:]...)
		}
	}
	return servers, search, options
}

// reachable drops servers on the host's loopback, and with a zone, which names an
// interface that is not the container's.
func reachable(servers []string) []string {
	var out []string
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsLoopback() && a.Zone() == "" {
			out = append(out, s)
		}
	}
	return out
}
