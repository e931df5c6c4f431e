package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// securityOptions is --security-opt, parsed.
type securityOptions struct {
	noNewPrivileges bool
	writableCgroups bool
	unconfinedPaths bool   // systempaths=unconfined
	seccomp         string // "" = default, "unconfined", "builtin", or a profile in JSON
	appArmor        string
	labels          []string
}

func parseSecurity(s hull.Security) (securityOptions, error) {
	o := securityOptions{appArmor: "docker-default"}
	for _, opt := range s.Options {
		if opt == "no-new-privileges" {
			o.noNewPrivileges = true
			continue
		}
		if opt == "writable-cgroups" {
			o.writableCgroups = true
			continue
		}
		k, v, ok := strings.Cut(opt, "=")
		if !ok {
			k, v, ok = strings.Cut(opt, ":") // the old separator
		}
		if !ok {
			return o, fmt.Errorf("invalid --security-opt 1: %q: %w", opt, errdefs.ErrInvalidArgument)
		}
		switch k {
		case "no-new-privileges":
			b, err := strconv.ParseBool(v)
			if err != nil {
				return o, fmt.Errorf("invalid --security-opt: %q: %w", opt, errdefs.ErrInvalidArgument)
			}
			o.noNewPrivileges = b
		case "writable-cgroups":
			if v != "true" && v != "false" {
				return o, fmt.Errorf("invalid --security-opt 2: %q: %w", opt, errdefs.ErrInvalidArgument)
			}
			o.writableCgroups = v == "true"
		case "seccomp":
			o.seccomp = v
			if v == "builtin" {
				o.seccomp = ""
			}
		case "apparmor":
			o.appArmor = v
		case "label":
			o.labels = append(o.labels, v)
		case "systempaths":
			if v != "unconfined" {
				return o, fmt.Errorf("invalid --security-opt: %q, only systempaths=unconfined exists: %w", opt, errdefs.ErrInvalidArgument)
			}
			o.unconfinedPaths = true
		default:
			return o, fmt.Errorf("invalid --security-opt 2: %q: %w", opt, errdefs.ErrInvalidArgument)
		}
	}
	return o, nil
}

// defaultCaps is Docker's default set (moby daemon/pkg/oci/caps).
var defaultCaps = []string{ //nolint:gochecknoglobals // a constant that Go cannot express
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCaps in the kernel's numbering (capabilities(7)).
var allCaps = []string{ //nolint:gochecknoglobals // a constant that Go cannot express
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
	"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capabilities is the bounding set: defaults plus adds minus drops, in kernel
// order. Names come with or without CAP_, in any case; ALL means all.
func capabilities(s hull.Security) ([]string, error) {
	add, err := normaliseCaps(s.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, err := normaliseCaps(s.CapDrop)
	if err != nil {
		return nil, err
	}
	base := defaultCaps
	switch {
	case s.Privileged || slices.Contains(add, "ALL"):
		base = allCaps
	case slices.Contains(drop, "ALL"):
		base = nil
	}
	var out []string
	for _, c := range allCaps {
		has := slices.Contains(base, c) || slices.Contains(add, c)
		if has && (s.Privileged || !slices.Contains(drop, c)) {
			out = append(out, c)
		}
	}
	return out, nil
}

func normaliseCaps(in []string) ([]string, error) {
	var out []string
	for _, c := range in {
		n := strings.ToUpper(c)
		if n == "ALL" || n == "CAP_ALL" {
			out = append(out, "ALL")
			continue
		}
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if !slices.Contains(allCaps, n) {
			return nil, fmt.Errorf("invalid capability: %q: %w", c, errdefs.ErrInvalidArgument)
		}
		out = append(out, n)
	}
	return out, nil
}

// capSet leaves the inheritable set empty (CVE-2022-24769).
func capSet(caps []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// profiles caches seccomp profiles, which depend on the capabilities only.
type profiles struct {
	mu    sync.Mutex
	known map[string]*specs.LinuxSeccomp
}

// load gives moby's default profile (profile "") or the given JSON, for caps.
func (p *profiles) load(caps []string, profile string) (*specs.LinuxSeccomp, error) {
	key := strings.Join(caps, ",")
	rs := &specs.Spec{Process: &specs.Process{Capabilities: capSet(caps)}, Linux: &specs.Linux{}}
	if profile != "" {
		s, err := seccomp.LoadProfile(profile, rs)
		if err != nil {
			return nil, fmt.Errorf("decoding seccomp profile: %w", errdefs.ErrInvalidArgument.WithMessage(err.Error()))
		}
		return s, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.known[key]; ok {
		return s, nil
	}
	s, err := seccomp.GetDefaultProfile(rs)
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile: %w", err)
	}
	if p.known == nil {
		p.known = map[string]*specs.LinuxSeccomp{}
	}
	p.known[key] = s
	return s, nil
}

// hostDevices lists /dev for --privileged, without terminals, shared memory and
// queues, which the container has of its own.
func hostDevices() ([]specs.LinuxDevice, error) {
	skip := []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
	return devicesBelow("/dev", skip)
}

// deviceAt is one device, or all below a directory (--device /dev/snd).
func deviceAt(p string) ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(p)
	if err != nil {
		return nil, err
	}
	d, ok, err := deviceInfo(real)
	if err != nil {
		return nil, err
	}
	if ok {
		d.Path = p
		return []specs.LinuxDevice{d}, nil
	}
	list, err := devicesBelow(real, nil)
	if errors.Is(err, syscall.ENOTDIR) || err == nil && len(list) == 0 {
		return nil, fmt.Errorf("%q: not a device node: %w", p, errdefs.ErrInvalidArgument)
	}
	return list, err
}

func devicesBelow(dir string, skip []string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []specs.LinuxDevice
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		switch {
		case slices.Contains(skip, e.Name()), e.Type()&os.ModeSymlink != 0:
		case e.IsDir():
			below, err := devicesBelow(p, nil)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		default:
			d, ok, err := deviceInfo(p)
			if err == nil && ok {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

func deviceInfo(p string) (specs.LinuxDevice, bool, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(p, &st); err != nil {
		return specs.LinuxDevice{}, false, &os.PathError{Op: "stat", Path: p, Err: err}
	}
	typ := ""
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFCHR:
		typ = "c"
	case syscall.S_IFBLK:
		typ = "b"
	default:
		return specs.LinuxDevice{}, false, nil
	}
	mode := os.FileMode(st.Mode & 0o777)
	// makedev(3)'s encoding.
	major := int64((st.Rdev>>8)&0xfff | (st.Rdev>>32)&^0xfff)
	minor := int64(st.Rdev&0xff | (st.Rdev>>12)&^0xff)
	return specs.LinuxDevice{Path: p, Type: typ, Major: major, Minor: minor, FileMode: &mode, UID: &st.Uid, GID: &st.Gid}, true, nil
}

// hostHasAppArmor says whether the kernel enforces AppArmor profiles.
//
//nolint:gochecknoglobals // constant, read when first used
var hostHasAppArmor = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y")
})
