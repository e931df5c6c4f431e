package dns

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// stamp tells one version of a file from another: the writer always puts a new
// file in its place.
type stamp struct {
	ino  uint64
	size int64
	time syscall.Timespec
}

// view is what the files say now.
type view struct {
	path string // of the Config

	mu    sync.Mutex
	read  uint64 // how often anything was
	seen  stamp
	conf  Config
	zones []zoneFile // of conf.Networks
	turn  uint32     // of the replicas
}

// zoneFile is a mapped zone.
type zoneFile struct {
	name, path string
	seen       stamp
	text       []byte
}

func stat(path string) (stamp, error) {
	var st syscall.Stat_t
	for {
		switch err := syscall.Stat(path, &st); {
		case err == nil:
			return stamp{st.Ino, st.Size, st.Mtim}, nil
		case err != syscall.EINTR:
			return stamp{}, &os.PathError{Op: "stat", Path: path, Err: err}
		}
	}
}

// openView reads the configuration at path.
func openView(path string) (*view, error) {
	v := &view{path: path}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.refreshConfig(); err != nil {
		return nil, err
	}
	return v, nil
}

// maxConfig bounds what is read of a configuration.
const maxConfig = 1 << 20

// refreshConfig needs mu.
func (v *view) refreshConfig() error {
	now, err := stat(v.path)
	if err != nil || now == v.seen {
		return err
	}
	if now.size > maxConfig {
		return fmt.Errorf("%s: %w", v.path, errConfig)
	}
	text, err := os.ReadFile(v.path)
	if err != nil {
		return err
	}
	c, err := parseConfig(text)
	if err != nil {
		return fmt.Errorf("%s: %w", v.path, err)
	}
	old := v.zones
	v.zones = nil
	for _, n := range c.Networks {
		v.zones = append(v.zones, zoneFile{name: n.Name, path: n.Zone})
	}
	for i := range old {
		old[i].close()
	}
	v.conf, v.seen = c, now
	v.read++
	return nil
}

// refresh needs mu. A file that cannot be read leaves what was known: the pod is
// on its way out, most likely.
func (v *view) refresh() {
	_ = v.refreshConfig()
	for i := range v.zones {
		if z := &v.zones[i]; z.changed() {
			_ = z.refresh()
			v.read++
		}
	}
}

// version is another number whenever what the files say may have changed.
func (v *view) version() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refresh()
	return v.read
}

func (z *zoneFile) changed() bool {
	now, err := stat(z.path)
	return err == nil && now != z.seen
}

func (z *zoneFile) refresh() error {
	f, err := os.Open(z.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a descriptor
		return err
	}
	var text []byte
	if st.Size > 0 {
		if text, err = syscall.Mmap(int(f.Fd()), 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED); err != nil { //nolint:gosec // a descriptor
			return err
		}
	}
	z.close()
	z.text, z.seen = text, stamp{st.Ino, st.Size, st.Mtim}
	return nil
}

func (z *zoneFile) close() {
	if z.text != nil {
		_ = syscall.Munmap(z.text)
		z.text = nil
	}
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.zones {
		v.zones[i].close()
	}
	v.zones = nil
}

// names is what the zones know of one name.
type names struct {
	known bool // the name is there, with whatever records
	addrs []netip.Addr
	ptr   string // with its network, without a dot at its end
}

// lookup finds a canonical name; addresses of both families, in turn.
func (v *view) lookup(name string) names {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refresh()
	found, ok := v.find(name, "")
	for at := strings.LastIndexByte(name, '.'); !ok && at > 0; at = strings.LastIndexByte(name[:at], '.') {
		found, ok = v.find(name[:at], name[at+1:])
	}
	if len(found.addrs) > 1 {
		v.turn++
		at := int(v.turn) % len(found.addrs)
		found.addrs = append(found.addrs[at:len(found.addrs):len(found.addrs)], found.addrs[:at]...)
	}
	return found
}

// find looks name up on one network, or on all of them: the pod's own names for
// others come first, then what everybody on the network knows. It needs mu.
func (v *view) find(name, network string) (names, bool) {
	for _, l := range v.conf.Links {
		if l.Alias != name || network != "" && network != l.Network {
			continue
		}
		if found, ok := v.search(l.Name, l.Network); ok {
			return found, true
		}
	}
	return v.search(name, network)
}

// search needs mu.
func (v *view) search(name, network string) (names, bool) {
	for i := range v.zones {
		z := &v.zones[i]
		if network != "" && !strings.EqualFold(network, z.name) {
			continue
		}
		var out names
		out.known = search(z.text, name, func(r record) {
			switch r.kind {
			case kind4, kind6:
				if a, err := netip.ParseAddr(r.value); err == nil {
					out.addrs = append(out.addrs, a)
				}
			case kindPTR:
				out.ptr = r.value + "." + z.name
			}
		})
		if out.known {
			return out, true
		}
	}
	return names{}, false
}

// reverse finds the name of an address.
func (v *view) reverse(a netip.Addr) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refresh()
	found, _ := v.search(a.Unmap().String(), "")
	return found.ptr
}

// upstreams are where other questions go, and whether names without a dot do.
func (v *view) upstreams() (list []Upstream, dotsOnly bool, netns string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.conf.Upstreams, v.conf.DotsOnly, v.conf.NetNS
}
